"""What MA-PPO's update may not confuse."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from unlike_agents import DISCRETE, observations, probe_batch

from mamt_jax.algorithms import ippo, mappo, on_policy, ppo
from mamt_jax.types import Trajectory

STEPS, ENVS = 12, 4
CONFIG = mappo.MAPPOConfig(
    hidden_size=8, reward_normalisation="none", num_epochs=1, num_minibatches=2, lr_decay_updates=2, policy_learning_rate=1e-3
)
ALGORITHM = mappo.make(DISCRETE)
LEARNER = jax.jit(functools.partial(ALGORITHM.init, CONFIG))(jax.random.key(0))
UPDATE = jax.jit(functools.partial(ALGORITHM.update, CONFIG))


@functools.cache
def rollout() -> Trajectory:
    """A rollout of the fresh learner without terminations; cut off in a third of its steps."""

    @jax.jit
    def play() -> Trajectory:
        act = functools.partial(ALGORITHM.act, CONFIG, LEARNER)
        batch = probe_batch(DISCRETE, jax.random.key(1), STEPS * ENVS, act)
        batch = batch._replace(terminated=jnp.zeros_like(batch.terminated))
        truncated = jax.random.bernoulli(jax.random.key(2), 0.3, (STEPS, ENVS)).at[5].set(True)
        return Trajectory(jax.tree.map(lambda leaf: leaf.reshape(STEPS, ENVS, *leaf.shape[1:]), batch), truncated)

    return jax.tree.map(np.asarray, play())


def test_rows_keep_time_environment_and_agent_apart() -> None:
    parts = on_policy.build(DISCRETE, CONFIG)
    value = functools.partial(ppo.value_rollout, CONFIG, parts, LEARNER)
    together = jax.jit(value)(rollout())
    alone = jax.jit(jax.vmap(value, 1, 1))(jax.tree.map(lambda leaf: leaf[:, :, None], rollout()))

    def compare(joint: jax.Array, own: jax.Array) -> None:
        by_env = np.asarray(joint).reshape(3, STEPS, ENVS, *joint.shape[2:]).swapaxes(1, 2)
        np.testing.assert_allclose(by_env, own, atol=1e-5)

    jax.tree.map(compare, together, alone)


def test_truncation_bootstraps_from_the_true_successor_and_each_agents_step_is_its_own() -> None:
    transitions = rollout().transitions
    successor = transitions.next_observation.copy()
    successor[5] = observations(DISCRETE, jax.random.key(3), ENVS)
    reward = transitions.reward * np.array([-3.0, 1.0, 1.0], np.float32)
    one, other, changed = (
        UPDATE(LEARNER, rollout()._replace(transitions=each), jax.random.key(4))
        for each in (transitions, transitions._replace(next_observation=successor), transitions._replace(reward=reward))
    )
    assert one[1]["critic_loss"] != other[1]["critic_loss"]
    same = [
        jax.tree.map(lambda a, b, i=agent: np.allclose(a[i], b[i], atol=1e-6), one[0].policy, changed[0].policy)
        for agent in range(3)
    ]
    assert [all(jax.tree.leaves(each)) for each in same] == [False, True, True]


def test_ippo_values_an_agents_own_observation_alone() -> None:
    critics = {"mappo": mappo.build(DISCRETE, CONFIG).critic, "ippo": ippo.build(DISCRETE, CONFIG).critic}
    depends = {}
    for name, critic in critics.items():
        value = functools.partial(critic.apply, critic.init(jax.random.key(0)))
        observation = jnp.swapaxes(observations(DISCRETE, jax.random.key(1), 1), 0, 1)
        slope = jax.jit(jax.jacobian(value))(observation)  # (n, 1, n, 1, d)
        depends[name] = np.abs(slope[:, 0, :, 0]).max(-1) > 0
    np.testing.assert_array_equal(depends["mappo"], np.ones((3, 3), bool))
    np.testing.assert_array_equal(depends["ippo"], np.eye(3, dtype=bool))


def test_learning_rates_fall_to_zero_over_their_updates() -> None:
    learner, moves = LEARNER, []
    for number in range(3):
        before: Any = learner.policy
        learner, _ = UPDATE(learner, rollout(), jax.random.key(number))
        change = jax.tree.map(lambda new, old: np.abs(np.asarray(new) - np.asarray(old)).max(), learner.policy, before)
        moves.append(max(jax.tree.leaves(change)))
    rate = CONFIG.policy_learning_rate  # Adam's first steps are of its rate, times 1 and 3/4, then 1/2 and 1/4
    assert 1.2 * rate < moves[0] <= 1.75 * rate * 1.01 and 0 < moves[1] <= 0.75 * rate * 1.3 and moves[2] == 0


def test_normalised_values_reach_returns_of_any_size() -> None:
    transitions = rollout().transitions
    reward = 1000.0 * (1.0 + transitions.action)
    seen = rollout()._replace(transitions=transitions._replace(reward=reward.astype(np.float32)))

    def values(value_normalisation: bool) -> np.ndarray:
        """Values (n,) after 30 updates of the critics alone, for a horizon of one step."""
        config = dataclasses.replace(
            CONFIG,
            value_normalisation=value_normalisation,
            gamma=0.0,
            policy_learning_rate=0.0,
            critic_learning_rate=0.01,
            lr_decay_updates=0,
        )

        @jax.jit
        def learn(seen: Trajectory) -> jax.Array:
            def update(index: jax.Array, learner: Any) -> Any:
                return ALGORITHM.update(config, learner, seen, jax.random.fold_in(jax.random.key(1), index))[0]

            learner = jax.lax.fori_loop(0, 30, update, ALGORITHM.init(config, jax.random.key(0)))
            return ppo.value_rollout(config, on_policy.build(DISCRETE, config), learner, seen).value.mean(1)

        return np.asarray(learn(seen))

    expected = reward.mean((0, 1))
    assert (np.abs(values(True) / expected - 1) < 0.1).all()
    assert (values(False) < 0.1 * expected).all()
