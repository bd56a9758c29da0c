"""Every algorithm x every property: one row per algorithm and kind of action, one compiled program per row."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import CONTINUOUS, CONTINUOUS_DUO, DISCRETE, DUO, SMALL, observations, probe_data, probe_score

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.algorithms import actor_critic, maddpg, mappo, optimizers, registry
from mamt_jax.algorithms import parameter_sharing as sharing
from mamt_jax.algorithms.base import Algorithm, function_name, resolve_functions
from mamt_jax.algorithms.coordination import averaged_out, value_shortcut
from mamt_jax.algorithms.mamt import MAMTConfig
from mamt_jax.networks.attention_critic import SHARED
from mamt_jax.renamed import RENAMED, rename_warnings, with_new_names

RUNS, FEW = 2, 6
LEARNING = SMALL | {"policy_learning_rate": 1e-2, "critic_learning_rate": 1e-2, "tau": 0.1}
MIXED = dataclasses.replace(DISCRETE, name="spread3_mix")
KINDS = EnvSpec("kinds", ("a_0", "b_0", "a_1"), (4, 2, 4), (Discrete(3),) * 3, 5)
EXPECTED, MINIBATCHES = {"policy_gradient": "expected"}, {"num_epochs": 2, "num_minibatches": 2}
ROWS = {
    "maddpg": ("maddpg", DUO, {}),
}
SLOW = {
    "mamt": ("mamt", DISCRETE, {}),
    "maac": ("maac", DISCRETE, {}),
    "mamd": ("mamd", DISCRETE, {}),
    "maac expected": ("maac", DISCRETE, EXPECTED),
    "maac continuous": ("maac", CONTINUOUS, EXPECTED),
    "mamd continuous": ("mamd", CONTINUOUS, EXPECTED | {"epsilon": 10.0}),
    "mamd_op": ("mamd_op", MIXED, {}),
    "mamt continuous": ("mamt", CONTINUOUS, EXPECTED | {"epsilon": 10.0, "timescale": "decaying"}),
    "mamt functions": ("mamt", DISCRETE, {"coordination": "values", "divergence": "policies", "epsilon_space": "linear"}),
    "maddpg of three": ("maddpg", DISCRETE, {}),
    "maddpg continuous": ("maddpg", CONTINUOUS, {}),
    "mappo": ("mappo", DUO, MINIBATCHES),
    "mappo continuous": ("mappo", CONTINUOUS_DUO, MINIBATCHES | {"policy_learning_rate": 1e-3}),
    "mappo continuous of three": ("mappo", CONTINUOUS, MINIBATCHES),
    "ippo": ("ippo", DISCRETE, MINIBATCHES),
    "happo": ("happo", DISCRETE, MINIBATCHES),
    "hatrpo continuous": ("hatrpo", CONTINUOUS, MINIBATCHES),
    "lola": ("lola", DUO, {}),
    "lola continuous": ("lola", CONTINUOUS_DUO, {"policy_learning_rate": 1e-3, "lookahead": 0.0}),
}
ALL_ROWS = [*ROWS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


class Row(NamedTuple):
    """What a row trains: two runs, vmapped, by one jitted program."""

    spec: EnvSpec
    algorithm: Algorithm
    configs: Any
    init: Any
    train: Any
    traces: list[None]


def own_options(algorithm: Algorithm, options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that the algorithm has."""
    names = {field.name for field in dataclasses.fields(algorithm.config)}
    return {name: value for name, value in options.items() if name in names}


@functools.cache
def row(name: str) -> Row:
    """`init(configs, keys)` and `train(configs, learners, keys, number of updates) -> learners, last metrics`."""
    algo, spec, options = (ROWS | SLOW)[name]
    algorithm = registry.make(algo, spec)
    options = resolve_functions(algorithm.config, own_options(algorithm, LEARNING) | options)
    config = algorithm.config(**options)
    configs = jax.tree.map(lambda leaf: jnp.full(RUNS, leaf, jnp.float32), config)
    traces: list[None] = []

    def update(config: Any, learner: Any, key: jax.Array) -> Any:
        batch_key, update_key = jax.random.split(key)
        data = probe_data(spec, algorithm.data, batch_key, functools.partial(algorithm.act, config, learner))
        return algorithm.update(config, learner, data, update_key)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
    def train(config: Any, learner: Any, key: jax.Array, number: jax.Array) -> Any:
        traces.append(None)
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, config, learner, key)[1])

        def step(index: jax.Array, carry: Any) -> Any:
            return update(config, carry[0], jax.random.fold_in(key, index))

        return jax.lax.fori_loop(0, number, step, (learner, metrics))

    return Row(spec, algorithm, configs, jax.jit(jax.vmap(algorithm.init)), train, traces)


def keys(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), RUNS)


@pytest.mark.parametrize("name", ALL_ROWS)
def test_learns_the_probe_by_one_program_that_keeps_the_states_shape(name: str) -> None:
    spec, algorithm, configs, init, train, traces = row(name)
    size = "policy_learning_rate" if hasattr(configs, "policy_learning_rate") else "max_divergence"
    configs = configs.replace(**{size: getattr(configs, size) * jnp.array([1.0, 0.5])})
    before, half = init(configs, keys(0)), 150 if name in ROWS else 300
    middle, _ = train(configs, before, keys(1), half)
    after, metrics = train(configs, middle, keys(2), half)
    observation = observations(spec, jax.random.key(5), 500)
    greedy = jax.jit(jax.vmap(algorithm.greedy, (0, 0, None)))
    action = greedy(configs, after, observation)
    for run in range(RUNS):
        score = probe_score(spec, observation, action[run])
        assert (score > (0.9 if spec.discrete else -0.3)).all(), score
    assert len(traces) == 1, "training must be traced once"

    def facts(state: Any) -> Any:
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)

    assert facts(before) == facts(after)
    n = spec.num_agents
    for metric, value in metrics.items():
        assert value.shape[1:] in ((), (n,), (n, n)) and value.dtype == jnp.float32, metric
        assert (np.isfinite(value) | (np.isinf(value) & (metric == "epsilon"))).all(), metric
    assert not np.allclose(metrics["critic_loss"][0], metrics["critic_loss"][1]), "runs must differ"
    np.testing.assert_array_equal(greedy(configs, algorithm.policy(after), observation), action)


@pytest.mark.parametrize("name", ALL_ROWS)
def test_actions_are_the_agents_own_and_exploration_explores(name: str) -> None:
    spec, algorithm, configs, init, *_ = row(name)
    learners = init(configs, keys(0))
    observation = observations(spec, jax.random.key(6), 40).reshape(8, 5, spec.num_agents, -1)
    act = jax.jit(jax.vmap(algorithm.act, (0, 0, None, 0)))
    action, again = (np.asarray(act(configs, learners, observation, keys(seed))) for seed in (7, 8))
    assert action.shape == (RUNS, 8, 5, spec.num_agents) + (() if spec.discrete else (2,))
    assert not np.array_equal(action, again)
    if spec.discrete:
        assert action.dtype == jnp.int32 and (action < np.array(spec.action_sizes)).all()
    else:
        low, high = (np.array([getattr(space, end) for space in spec.action_spaces])[:, None] for end in ("low", "high"))
        assert ((action >= low) & (action <= high)).all() and not action[..., 1, 1].any()


@pytest.mark.parametrize(
    ("variant", "changes", "reference"),
    [
        ("mamd", {"epsilon": [jnp.inf, 0.01]}, "maac"),
        pytest.param("mamt", {"epsilon_learning_rate": [0.0, 1.0]}, "mamd", marks=pytest.mark.slow),
    ],
)
def test_variant_follows_what_it_extends(variant: str, changes: dict[str, Any], reference: str) -> None:
    """The first run of the variant has what makes it the reference, the second does not."""
    learnt = {}
    for name in (reference, variant):
        _, _, configs, init, train, _ = row(name)
        own = {field: jnp.array(value, jnp.float32) for field, value in changes.items() if name == variant}
        configs = configs.replace(**own)
        learner = init(configs, keys(0))
        if hasattr(learner, "base"):
            learner = learner.replace(base=row(reference).init(configs, keys(0)))
        learner, _ = train(configs, learner, keys(1), FEW)
        learner = getattr(learner, "base", learner)
        learnt[name] = learner.policy, learner.critic
    first, second = (jax.tree.map(lambda leaf, run=run: leaf[run], learnt) for run in range(RUNS))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), first[variant], first[reference])
    pairs = zip(*(jax.tree.leaves(second[name]) for name in (variant, reference)), strict=True)
    assert not all(np.allclose(a, b, atol=2e-5) for a, b in pairs)


@pytest.mark.slow
def test_smaller_trust_region_keeps_policies_closer_to_the_old_ones() -> None:
    _, _, configs, init, train, _ = row("mamd")
    sizes = jnp.array([0.05, 5.0])
    configs = configs.replace(epsilon=sizes, policy_learning_rate=jnp.full(RUNS, 1e-3, jnp.float32))
    init_keys, train_keys = (jax.vmap(jax.random.key)(jnp.full(RUNS, seed)) for seed in (0, 1))
    _, metrics = train(configs, init(configs, init_keys), train_keys, 60)
    small, large = metrics["kl_old"]
    assert (small < large / 2).all(), metrics["kl_old"]


@pytest.mark.slow
def test_unconstrained_agents_of_mamd_op_follow_maac() -> None:
    policies = []
    for name in ("maac", "mamd_op"):
        _, _, configs, init, train, _ = row(name)
        configs = configs.replace(reward_scale=jnp.ones(RUNS))
        learner, _ = train(configs, init(configs, keys(0)), keys(1), 1)
        policies.append(learner.policy["params"]["Dense_2"]["kernel"][0])
    free, mixed = policies
    np.testing.assert_allclose(free[1], mixed[1], atol=2e-6)
    assert not np.allclose(free[0], mixed[0], atol=1e-4) and not np.allclose(free[2], mixed[2], atol=1e-4)


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_policy_is_what_act_and_greedy_read_and_plain_configs_keep_types(name: str) -> None:
    spec = DUO if name == "lola" else MIXED
    algorithm = registry.make(name, spec)
    config = algorithm.config(**own_options(algorithm, SMALL))
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(algorithm.init, config, key)
    observation = jax.ShapeDtypeStruct((spec.num_agents, spec.observation_size), jnp.float32)

    def both(state: Any, observation: jax.Array, key: jax.Array) -> Any:
        return algorithm.act(config, state, observation, key), algorithm.greedy(config, state, observation)

    part = algorithm.policy(state)
    program = jax.make_jaxpr(both)(part, observation, key).jaxpr
    read = {id(variable) for equation in program.eqns for variable in equation.invars}
    kept = program.invars[: len(jax.tree.leaves(part))]
    assert kept and all(id(variable) in read for variable in kept), "policy keeps what nothing reads"
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((7, *leaf.shape), leaf.dtype), state)
    assert jax.tree.structure(algorithm.policy(stacked)) == jax.tree.structure(part)

    data = jax.eval_shape(
        lambda key, state: probe_data(spec, algorithm.data, key, functools.partial(algorithm.act, config, state)), key, state
    )
    after, _ = jax.eval_shape(algorithm.update, config, state, data, key)
    types = [[(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(each)] for each in (state, after)]
    assert types[0] == types[1]


@pytest.mark.parametrize(
    ("build", "config", "learnt"),
    [
        (mappo.build, mappo.MAPPOConfig(hidden_size=8, share_policy=True), "policy"),
        (maddpg.build, maddpg.MADDPGConfig(hidden_size=8, share_policy=True), "policy"),
        (actor_critic.actor_critic, actor_critic.ActorCriticConfig(hidden_size=8, share_policy=True), "policy"),
        (actor_critic.actor_critic, actor_critic.ActorCriticConfig(hidden_size=8, share_critic=True), "critic"),
    ],
)
def test_agents_that_share_stay_alike(build: Any, config: Any, learnt: str) -> None:
    parts = build(KINDS, config)
    network, optimizer = getattr(parts, learnt), getattr(parts, f"{learnt}_optimizer")

    @jax.jit
    def step(init_key: jax.Array, key: jax.Array) -> Any:
        params = network.init(init_key)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        gradient = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        return params, optimizers.descend(optimizer, jax.tree.unflatten(structure, gradient), optimizer.init(params), params)[0]

    found = step(jax.random.key(0), jax.random.key(1))
    params = [{name: leaf for name, leaf in each.items() if name != SHARED} for each in found]
    before, after = map(jax.tree.leaves, params)
    for leaf in after:
        np.testing.assert_array_equal(leaf[0], leaf[2])
    assert all(not np.allclose(new[0], old[0], atol=1e-5) for old, new in zip(before, after, strict=True))
    assert any(not np.allclose(leaf[0], leaf[1]) for leaf in after)


def test_shared_gradient_is_the_mean_over_each_kind() -> None:
    gradient = jnp.array([[1.0, 2.0], [5.0, 7.0], [3.0, -2.0]])
    np.testing.assert_array_equal(sharing.average_over_kinds(KINDS, gradient), [[2, 0], [5, 7], [2, 0]])


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("mamd_op", DISCRETE, ": dependent agents are known only for spread3_sep, spread3_mix, spread3_ful. Use mamd."),
        ("mamr", DISCRETE, "algo 'mamr' is not valid .did you mean 'mamt'"),
        ("lola", DISCRETE, "lola needs exactly 2 agents, but probe has 3"),
        ("nowhere:make", DISCRETE, "Algorithm 'nowhere:make' cannot be imported"),
        (":make", DISCRETE, "Algorithm ':make' cannot be imported"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, spec: EnvSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.make(name, spec)


def test_an_algorithm_is_a_name_a_path_a_factory_or_itself() -> None:
    factory = registry.ALGORITHMS["mappo"].make
    algorithm = factory(DISCRETE)
    for given in ("mappo", "mamt_jax.algorithms.mappo:make", factory, algorithm):
        assert registry.make(given, DISCRETE).config is algorithm.config
    assert registry.make(algorithm, DISCRETE) is algorithm
    looks = {(each.color, each.linestyle, each.marker) for each in registry.ALGORITHMS.values()}
    assert len(looks) == len(registry.ALGORITHMS)


def test_functions_of_a_config_have_names() -> None:
    path = "mamt_jax.algorithms.coordination:value_shortcut"
    field = {each.name: each for each in dataclasses.fields(MAMTConfig)}["coordination"]
    assert MAMTConfig().coordination is averaged_out
    for given in ("values", path, value_shortcut):
        options = resolve_functions(MAMTConfig, {"coordination": given, "epsilon": 1.0})
        assert options == {"coordination": value_shortcut, "epsilon": 1.0}
        assert function_name(field, options["coordination"]) == "values"
    assert function_name(field, own_options) == f"{__name__}:own_options"
    for wrong, sentence in (
        ("value", "coordination='value' is not valid .did you mean 'values'.*: give exact, values, or package.module:function"),
        ("no_module:f", "coordination 'no_module:f' cannot be imported"),
        (3, "coordination=3 is not valid"),
    ):
        with pytest.raises(ValueError, match=sentence):
            resolve_functions(MAMTConfig, {"coordination": wrong})


def test_old_names_become_new_ones() -> None:
    old = {"critic_regularisation": [2.0, 1.0], "policy_clip": 0.4, "gamma": 0.9}
    assert with_new_names(old) == {"attention_logit_coef": [0.002, 0.001], "max_policy_grad_norm": 0.4, "gamma": 0.9}
    assert with_new_names({"critic_regularisation": 1.0}) == {"attention_logit_coef": 1e-3}
    assert rename_warnings(old)[1].startswith("policy_clip=0.4 is now max_policy_grad_norm=0.4: ")
    assert len(rename_warnings(old)) == 2
    with pytest.raises(ValueError, match="policy_clip is the old name of max_policy_grad_norm: give only"):
        with_new_names({"policy_clip": 0.4, "max_policy_grad_norm": 0.5})
    configs = [registry.make(name, DUO if name == "lola" else MIXED).config for name in registry.ALGORITHMS]
    fields = {field.name for config in configs for field in dataclasses.fields(config)}
    assert {renamed.name for renamed in RENAMED.values()} <= fields | {"original_rules"} and not RENAMED.keys() & fields


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("maac", {"gamma": 1.5}, "gamma=1.5 is not valid: give a number from 0 to 1."),
        ("maac", {"adam_b1": 1.0}, "adam_b1=1.0 is not valid: give a number of at least 0 and below 1."),
        ("maac", {"adam_epsilon": 1e-50}, "adam_epsilon=1e-50 is not valid: give a finite number above 0."),
        ("maac", {"critic_weight_decay": float("inf")}, "critic_weight_decay=inf is not valid: give a finite number."),
        ("maac", {"max_policy_grad_norm": 0.0}, "max_policy_grad_norm=0.0 is not valid: give a number above 0, or inf"),
        ("maac", {"hidden_size": 0}, "hidden_size=0 is not valid: give a number above 0."),
        ("maac", {"num_heads": 3}, "hidden_size=128 must be a multiple of num_heads=3."),
        ("mamt", {"epsilon_max": 1e-3}, "epsilon_max=0.001 must be at least epsilon_min=0.01."),
        ("mamt", {"epsilon_delay": 0}, "epsilon_delay=0 is not valid"),
        ("mappo", {"lr_decay_updates": -1}, "lr_decay_updates=-1 is not valid: give a number of at least 0."),
        ("maddpg", {"exploration_noise": 0.0}, "exploration_noise=0.0 is not valid"),
    ],
)
def test_hyperparameters_out_of_bounds_are_named(name: str, options: dict[str, Any], sentence: str) -> None:
    algorithm = registry.make(name, MIXED)
    algorithm.validate(algorithm.config(max_policy_grad_norm=float("inf")))
    with pytest.raises(ValueError, match=sentence):
        algorithm.validate(algorithm.config(**options))
