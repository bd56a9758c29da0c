"""Every algorithm x every property: one row an algorithm and kind of action, one compiled program a row."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import CONTINUOUS, CONTINUOUS_DUO, DISCRETE, DUO, SMALL, observations, probe_batch, probe_data, probe_score

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import mamd, registry
from mamt_jax.algorithms.base import Algorithm

RUNS, UPDATES, BATCH = 2, 300, 64
LEARNING = SMALL | {"policy_learning_rate": 1e-2, "critic_learning_rate": 1e-2, "tau": 0.1}
DISCRETE_OP = dataclasses.replace(DISCRETE, name="spread3_mix")
ROWS = {
    "maac": ("maac", DISCRETE, {}),
    "maac expected": ("maac", DISCRETE, {"policy_gradient": "expected"}),
    "maac continuous": ("maac", CONTINUOUS, {"policy_gradient": "expected"}),
    "mamd": ("mamd", DISCRETE, {}),
    "mamd continuous": ("mamd", CONTINUOUS, {"policy_gradient": "expected", "epsilon": 10.0}),
    "mamd_op": ("mamd_op", DISCRETE_OP, {}),
    "mamt": ("mamt", DISCRETE, {}),
    "mamt continuous": ("mamt", CONTINUOUS, {"epsilon": 10.0, "policy_gradient": "expected", "timescale": "decaying"}),
    "maddpg": ("maddpg", DISCRETE, {}),
    "maddpg continuous": ("maddpg", CONTINUOUS, {}),
    "mappo": ("mappo", DISCRETE, {"num_epochs": 2, "num_minibatches": 2}),
    "mappo continuous": ("mappo", CONTINUOUS, {"num_epochs": 2, "num_minibatches": 2}),
    "lola": ("lola", DUO, {}),
    "lola continuous": ("lola", CONTINUOUS_DUO, {"policy_learning_rate": 1e-3, "lookahead": 0.0}),
}


class Trained(NamedTuple):
    """One row after training, and what was seen on the way."""

    spec: EnvSpec
    algorithm: Algorithm
    configs: Any
    before: Any
    after: Any
    metrics: Any
    traces: int


def own_options(algorithm: Algorithm, options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that the algorithm has."""
    names = {field.name for field in dataclasses.fields(algorithm.config)}
    return {name: value for name, value in options.items() if name in names}


@pytest.fixture(scope="module", params=ROWS)
def trained(request) -> Trained:
    """Two runs with different learning rates and seeds, vmapped, trained twice by one jitted program."""
    name, spec, options = ROWS[request.param]
    algorithm = registry.make(name, spec)
    config = algorithm.config(**own_options(algorithm, LEARNING) | options)
    rates = config.policy_learning_rate * jnp.array([1.0, 0.5])
    configs = jax.tree.map(lambda leaf: jnp.full(RUNS, leaf, jnp.float32), config).replace(policy_learning_rate=rates)
    traces = 0

    def step(config, key, learner, number):
        batch_key, update_key = jax.random.split(jax.random.fold_in(key, number))
        data = probe_data(spec, algorithm.data, batch_key, functools.partial(algorithm.act, config, learner))
        return algorithm.update(config, learner, data, update_key)

    @jax.jit
    @jax.vmap
    def train(config, learner, key):
        nonlocal traces
        traces += 1
        return jax.lax.scan(functools.partial(step, config, key), learner, jnp.arange(UPDATES))

    before = jax.jit(jax.vmap(algorithm.init))(configs, jax.random.split(jax.random.key(0), RUNS))
    middle, _ = train(configs, before, jax.random.split(jax.random.key(1), RUNS))
    after, metrics = train(configs, middle, jax.random.split(jax.random.key(2), RUNS))
    return Trained(spec, algorithm, configs, before, after, metrics, traces)


def test_learns_the_probe(trained: Trained) -> None:
    observation = observations(trained.spec, jax.random.key(5), 500)
    for run in range(RUNS):
        config, learner = jax.tree.map(lambda x, run=run: x[run], (trained.configs, trained.after))
        score = probe_score(trained.spec, observation, jax.jit(trained.algorithm.greedy)(config, learner, observation))
        assert (score > (0.9 if trained.spec.discrete else -0.3)).all(), score


def test_one_trace(trained: Trained) -> None:
    assert trained.traces == 1


def test_state_keeps_structure_shapes_and_dtypes(trained: Trained) -> None:
    def facts(state: Any) -> Any:
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)

    assert facts(trained.before) == facts(trained.after)


def test_runs_differ_and_metrics_are_finite_float_arrays_of_agents(trained: Trained) -> None:
    n = trained.spec.num_agents
    for name, metric in trained.metrics.items():
        assert metric.shape[2:] in ((), (n,), (n, n)) and metric.dtype == jnp.float32, name
        finite = np.isfinite(metric) | (np.isinf(metric) & (name == "epsilon"))
        assert finite.all(), name
    assert not np.allclose(trained.metrics["critic_loss"][0], trained.metrics["critic_loss"][1])


def test_actions_are_the_agents_own_and_exploration_explores(trained: Trained) -> None:
    spec = trained.spec
    config, learner = jax.tree.map(lambda x: x[0], (trained.configs, trained.before))
    observation = observations(spec, jax.random.key(6), 40).reshape(8, 5, spec.num_agents, -1)
    action = trained.algorithm.act(config, learner, observation, jax.random.key(7))
    again = trained.algorithm.act(config, learner, observation, jax.random.key(8))
    greedy = trained.algorithm.greedy(config, learner, observation)
    assert action.shape == greedy.shape == (8, 5, spec.num_agents) + (() if spec.discrete else (2,))
    assert not np.array_equal(action, again)
    if spec.discrete:
        assert action.dtype == jnp.int32 and (np.asarray(action) < np.array(spec.action_sizes)).all()
    else:
        low, high = (np.array([getattr(space, end) for space in spec.action_spaces])[:, None] for end in ("low", "high"))
        action = np.asarray(action)
        assert ((action >= low) & (action <= high)).all() and not action[..., 1, 1].any()


def run_updates(name: str, spec: EnvSpec, number: int, **options: Any) -> Any:
    """(policies, critics) of `number` updates of one run."""
    algorithm = registry.make(name, spec)
    config = algorithm.config(**LEARNING, **options)
    learner = algorithm.init(config, jax.random.key(0))
    if name == "mamt":
        fresh = mamd.make(spec).init(config, jax.random.key(0))
        learner = learner.replace(base=fresh)
    update = jax.jit(algorithm.update)
    for step in range(number):
        batch = probe_batch(spec, jax.random.key(2 * step + 1), BATCH)
        learner, _ = update(config, learner, batch, jax.random.key(2 * step + 2))
    actor_critic = learner.base if name == "mamt" else learner
    return actor_critic.policy, actor_critic.critic


@pytest.mark.parametrize(
    ("variant", "options", "reference", "reference_options"),
    [("mamd", {"epsilon": float("inf")}, "maac", {}), ("mamt", {"epsilon_learning_rate": 0.0}, "mamd", {})],
)
def test_variant_follows_what_it_is_made_of(variant, options, reference, reference_options) -> None:
    expected = run_updates(reference, DISCRETE, 6, **reference_options)
    followed = run_updates(variant, DISCRETE, 6, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), followed, expected)
    other = run_updates(variant, DISCRETE, 6, **(options | {"epsilon": 0.01}))
    assert not all(np.allclose(a, b, atol=2e-5) for a, b in zip(*map(jax.tree.leaves, (other, expected)), strict=True))


def test_unconstrained_agents_of_mamd_op_are_maacs() -> None:
    free, mixed = (run_updates(name, DISCRETE_OP, 1, reward_scale=1.0)[0] for name in ("maac", "mamd_op"))
    free, mixed = (policy["params"]["Dense_2"]["kernel"] for policy in (free, mixed))
    np.testing.assert_allclose(free[1], mixed[1], atol=2e-6)
    assert not np.allclose(free[0], mixed[0], atol=1e-4) and not np.allclose(free[2], mixed[2], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("mamd_op", DISCRETE, "knows who depends on whom only in spread3_sep, spread3_mix, spread3_ful, not in probe"),
        ("mamr", DISCRETE, "did you mean mamt"),
        ("lola", DISCRETE, "lola looks ahead at one other agent, and probe has 3 agents"),
        ("nowhere:make", DISCRETE, "cannot be imported"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, spec: EnvSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.make(name, spec)


@pytest.mark.parametrize("name", ["maac", "mamd", "mamt", "maddpg", "mappo"])
def test_plain_numbers_as_config_do_not_change_the_states_types(name: str) -> None:
    algorithm = registry.make(name, DISCRETE)
    config = algorithm.config(**own_options(algorithm, SMALL))
    before = jax.eval_shape(algorithm.init, config, jax.random.key(0))
    act = functools.partial(algorithm.act, config, algorithm.init(config, jax.random.key(0)))
    batch = jax.eval_shape(lambda key: probe_data(DISCRETE, algorithm.data, key, act), jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.update, config, before, batch, jax.random.key(0))
    types = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)] for state in (before, after)]
    assert types[0] == types[1]
