"""MADDPG's own parts: whose gradient goes where, and no bootstrap after a termination."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unlike_agents import CONTINUOUS, DISCRETE, observations, probe_batch

from mamt_jax.algorithms import actor_critic, maddpg, optimizers

CONFIG = maddpg.MADDPGConfig(hidden_size=8, reward_normalisation="none")


@pytest.mark.slow
def test_policy_gradient_is_each_agents_own_critic_by_finite_differences() -> None:
    parts = maddpg.build(CONTINUOUS, CONFIG)
    sgd = parts._replace(policy_optimizer=optimizers.per_agent(optax.sgd(1.0)))

    @jax.jit
    def run(key: jax.Array) -> Any:
        learner = actor_critic.init(lambda spec, config: sgd, CONTINUOUS, CONFIG, key)
        batch = actor_critic.prepare(CONFIG, learner, probe_batch(CONTINUOUS, jax.random.key(1), 16))
        moved, _, _ = maddpg.policy_step(sgd, learner, batch, jax.random.key(2))
        leaves, structure = jax.tree.flatten(learner.policy)
        keys = jax.random.split(jax.random.key(3), len(leaves))
        direction = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        direction = jax.tree.unflatten(structure, direction)

        def objectives(size: jax.Array) -> jax.Array:
            """Minus each agent's loss, its own policy moved alone, the others' actions as replayed."""
            policy = jax.tree.map(lambda leaf, step: leaf + size * step, learner.policy, direction)
            parameters = parts.policy.apply(policy, batch.observation)
            greedy, penalty = parts.distribution.mode(parameters), 1e-3 * parts.distribution.squared_norm(parameters)
            features = parts.distribution.features(batch.action)
            joint = jnp.stack([features.at[agent].set(greedy[agent]) for agent in range(3)])
            q = jax.vmap(parts.critic.apply, (0, None, 0))(learner.critic, batch.observation, joint)
            return (q - penalty).mean(1)

        up, down = jax.vmap(objectives)(jnp.array([1e-3, -1e-3]))
        along = jax.tree.map(
            lambda new, old, step: ((new - old) * step).reshape(3, -1).sum(1), moved, learner.policy, direction
        )
        return sum(jax.tree.leaves(along)), (up - down) / 2e-3

    slopes, numeric = run(jax.random.key(0))
    np.testing.assert_allclose(slopes, numeric, rtol=0.02, atol=4e-5)


def test_terminated_episodes_do_not_bootstrap() -> None:
    parts = maddpg.build(DISCRETE, CONFIG)

    @jax.jit
    def losses(key: jax.Array) -> jax.Array:
        learner = actor_critic.init(maddpg.build, DISCRETE, CONFIG, key)
        batch = probe_batch(DISCRETE, jax.random.key(1), 32)
        other = batch._replace(next_observation=observations(DISCRETE, jax.random.key(9), 32))
        running = other._replace(terminated=jnp.zeros_like(batch.terminated))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), batch, other, running)

        def loss(batch: Any) -> jax.Array:
            prepared = actor_critic.prepare(CONFIG, learner, batch)
            return maddpg.critic_step(CONFIG, parts, learner, prepared, jax.random.key(2))[1]

        return jax.vmap(loss)(stacked)

    loss, same, different = losses(jax.random.key(0))
    assert loss == same and loss != different


def test_sharing_leaves_the_state_as_it_is() -> None:
    """So that a checkpoint's names do not depend on `share_policy`."""
    states = [
        jax.eval_shape(lambda config=config: actor_critic.init(maddpg.build, DISCRETE, config, jax.random.key(0)))
        for config in (CONFIG, dataclasses.replace(CONFIG, share_policy=True))
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
