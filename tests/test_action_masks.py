"""Action masks from the environment to every policy: nobody ever takes a masked action, and masks change what is learnt."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL as QUICK
from hypothesis import given, settings
from hypothesis import strategies as st
from unlike_agents import DISCRETE, DUO, SMALL, observations, probe_batch

from envs_jax import Discrete, Environment, EnvSpec, make, make_timestep, random_policy, reference_policies
from envs_jax.environment import TimeStep
from envs_jax.rollout import evaluate_policies
from envs_jax.wrappers import infer_spec
from mamt_jax import export_policy, load_policy, load_spec
from mamt_jax.algorithms import registry
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.cli import train as run
from mamt_jax.distributions import categorical, entropy
from mamt_jax.training.run_folder import METRICS, read_rows
from mamt_jax.types import Trajectory, Transition

SLOW = pytest.mark.slow
ALGORITHMS = [
    "mappo",
    *(pytest.param(name, marks=SLOW) for name in ("maac", "mamd", "mamd_op", "mamt", "maddpg", "lola", "hatrpo")),
]


def gates(num_agents: int = 2, episode_limit: int = 4) -> Environment:
    """Each agent sees a number from 0 to 3 and may do anything but that; what is masked pays 9, the action after it 1.

    Args:
        num_agents: how many.
        episode_limit: steps before truncation.
    """
    spec = EnvSpec(
        "gates", tuple(f"a_{i}" for i in range(num_agents)), (4,) * num_agents, (Discrete(4),) * num_agents, episode_limit
    )

    def show(state: tuple[jax.Array, jax.Array], reward: jax.Array | None, broken: jax.Array) -> TimeStep:
        seen = jax.nn.one_hot(state[0], 4)
        return make_timestep(
            spec, seen, reward, truncated=state[1] >= episode_limit, action_mask=seen == 0, metrics={"masked": broken}
        )

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (num_agents,), 0, 4)

    def reset(key: jax.Array) -> tuple[Any, TimeStep]:
        state = draw(key), jnp.zeros((), jnp.int32)
        return state, show(state, None, jnp.zeros(()))

    def transition(state: Any, action: jax.Array, noise: jax.Array) -> tuple[Any, TimeStep]:
        reward = 9.0 * (action == state[0]) + 1.0 * (action == (state[0] + 1) % 4)
        after = noise, state[1] + 1
        return after, show(after, reward, (action == state[0]).astype(jnp.float32).mean())

    return Environment(spec, reset, transition, lambda key, state: draw(key))


def data_of(algorithm: Algorithm, spec: EnvSpec, key: jax.Array, mask: jax.Array, act: Any) -> Transition | Trajectory:
    """32 rows or a rollout of 4 steps of 8 environments under a mask, played by `act`."""
    batch_key, act_key = jax.random.split(key)
    batch = probe_batch(spec, batch_key, 32)
    batch = batch._replace(action=act(batch.observation, act_key, mask), action_mask=mask, next_action_mask=mask[::-1])
    if algorithm.data == "replay":
        return batch
    return Trajectory(jax.tree.map(lambda leaf: leaf.reshape(4, 8, *leaf.shape[1:]), batch), jnp.zeros((4, 8), bool))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_algorithm_takes_a_masked_action_before_or_after_it_has_learnt(name: str) -> None:
    spec = DUO if name == "lola" else dataclasses.replace(DISCRETE, name="spread3_mix")
    algorithm = registry.make(name, spec)
    own = {field.name for field in dataclasses.fields(algorithm.config)}
    wanted = SMALL | {"policy_learning_rate": 0.3, "num_minibatches": 1}
    config = algorithm.config(**{option: value for option, value in wanted.items() if option in own})

    @jax.jit
    def learn(learner: Any, key: jax.Array, mask: jax.Array) -> Any:
        data_key, update_key = jax.random.split(key)
        data = data_of(algorithm, spec, data_key, mask, lambda *seen: algorithm.act(config, learner, *seen))
        return algorithm.update(config, learner, data, update_key)

    @jax.jit
    def choose(learner: Any, observation: jax.Array, key: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        return algorithm.act(config, learner, observation, key, mask), algorithm.greedy(config, learner, observation, mask)

    learners = [algorithm.init(config, jax.random.key(0))]
    for number in range(6):
        mask = jax.random.bernoulli(jax.random.key(number), 0.4, (32, *spec.action_mask.shape))
        learner, metrics = learn(learners[-1], jax.random.key(number + 10), mask)
        learners.append(learner)
        nets = getattr(learner, "base", learner)
        finite = jax.tree.map(lambda leaf: np.isfinite(leaf).all(), (metrics | {"epsilon": 0.0}, nets.policy, nets.critic))
        assert all(jax.tree.leaves(finite)), finite

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**31 - 1), st.sampled_from([0, 1, 6]), st.floats(0.0, 1.0), st.sampled_from([1.0, 1e3, 1e30]))
    def property_(seed: int, learnt: int, share: float, size: float) -> None:
        keys = jax.random.split(jax.random.key(seed), 3)
        observation = size * observations(spec, keys[0], 32)
        mask = jax.random.bernoulli(keys[1], share, (32, *spec.action_mask.shape)) & spec.action_mask[None]
        allowed = mask | (~mask.any(-1, keepdims=True) & spec.action_mask[None])  # where nothing is allowed, anything is
        for action in choose(learners[learnt], observation, keys[2], mask):
            assert np.take_along_axis(np.asarray(allowed), np.asarray(action)[..., None], -1).all()

    property_()


def test_masked_distributions_are_those_of_the_remaining_actions() -> None:
    logits = jnp.array(np.random.default_rng(0).normal(size=(1, 9, 4)), jnp.float32)
    mask = jnp.array([True, False, True, True])[None, None]
    few, all_ = categorical((3,)), categorical((4,))
    kept = [0, 2, 3]
    restricted = all_.restrict(logits, jnp.broadcast_to(mask, logits.shape))
    candidates, expected = (d.candidates(x, jax.random.key(0)) for d, x in ((all_, restricted), (few, logits[..., kept])))
    np.testing.assert_allclose(candidates.probability[..., kept], expected.probability, rtol=1e-6)
    assert not candidates.probability[..., 1].any()
    np.testing.assert_allclose(entropy(candidates), entropy(expected), rtol=1e-5)
    np.testing.assert_allclose(
        all_.kl(restricted, all_.restrict(-logits, jnp.broadcast_to(mask, logits.shape))),
        few.kl(logits[..., kept], -logits[..., kept]),
        rtol=1e-5,
    )
    np.testing.assert_allclose(all_.squared_norm(restricted) * 4, few.squared_norm(logits[..., kept]) * 3, rtol=1e-5)


def test_masks_are_found_in_the_programs_of_an_environment() -> None:
    assert infer_spec(gates()).spec.has_action_masks
    for name in ("spread", "matrix_game"):
        assert not infer_spec(make(name)).spec.has_action_masks


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["maac", "mappo"])
def test_training_evaluation_and_export_heed_masks(tmp_path: Path, algo: str) -> None:
    options = [
        "--env",
        "test_action_masks:gates",
        "--algo",
        algo,
        *QUICK,
        "--hidden-size",
        "16",
        "--out",
        str(tmp_path / "out"),
    ]
    extra = ["--num-heads", "2"] if algo == "maac" else ["--num-minibatches", "1", "--num-epochs", "1"]
    assert run.main([*options, *extra]) == 0
    rows = read_rows(tmp_path / "out" / METRICS)
    assert all(row[name] in (0, None) for row in rows for name in ("task/masked", "train_task/masked"))

    policy, spec = load_policy(tmp_path / "out"), load_spec(tmp_path / "out")
    assert spec.has_action_masks
    seen = jnp.broadcast_to(jnp.eye(4)[:, None], (4, 2, 4))
    for key in (None, jax.random.key(0)):
        assert (policy(seen, key, seen == 0) != seen.argmax(-1)).all()
    called = jax.export.deserialize(bytearray(export_policy(tmp_path / "out", sample=True))).call
    assert (called(seen, seen == 0, np.uint32(3)) != seen.argmax(-1)).all()
    with pytest.raises(ValueError, match="action_mask=None is not valid: gates masks actions"):
        policy(seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SMAX", "hanabi"])
def test_available_actions_of_jaxmarl_are_heeded(name: str) -> None:
    pytest.importorskip("jaxmarl")
    keys = jax.random.split(jax.random.key(0), 16)
    with jax.numpy_rank_promotion("allow"):  # JaxMARL promotes ranks
        env = make(f"jaxmarl/{name}", episode_limit=80)
        _, first = jax.jit(jax.vmap(env.reset))(keys)
    algorithm, mask = registry.make("mappo", env.spec), first.action_mask
    config = algorithm.config()
    learner = algorithm.init(config, jax.random.key(1))
    choices = (
        algorithm.act(config, learner, first.observation, jax.random.key(2), mask),
        algorithm.greedy(config, learner, first.observation, mask),
        random_policy(env)(first.observation, jax.random.key(3), mask),
    )
    assert not mask.all()
    for action in choices:
        assert jnp.take_along_axis(mask, action[..., None], -1).all()


def test_reference_policies_heed_masks() -> None:
    env = gates()
    for name, earned in evaluate_policies(env, reference_policies(env), jax.random.key(0), 50).items():
        assert earned["metrics"]["masked"] == 0, name


def test_an_algorithm_without_masks_is_refused_where_there_are_some() -> None:
    assert run.main(["--env", "test_action_masks:gates", "--algo", "probe:make", *QUICK, "--out", "unused"]) == 2
