"""Reference policies: random, do-nothing and, if the environment has one, scripted."""

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, Discrete, Environment, EnvSpec, EnvState, HostEnvironment, Policy


def sample_action(spec: EnvSpec, key: jax.Array, action_mask: jax.Array) -> jax.Array:
    """Draws a uniformly random allowed action per agent: (..., n) int32, or (..., n, k) float32 within each agent's box.

    Args:
        spec: the environment's spec.
        key: random key, consumed.
        action_mask: (..., n, A) bool, allowed actions. Excluded components of a box are zero.
    """
    if spec.discrete:
        number = jnp.cumsum(action_mask, axis=-1)  # take the k-th allowed action, with uniform k
        k = jnp.floor(jax.random.uniform(key, action_mask.shape[:-1], jnp.float32) * number[..., -1])
        return jnp.argmax(action_mask & (number == k[..., None] + 1), axis=-1).astype(jnp.int32)
    uniform = jax.random.uniform(key, action_mask.shape, jnp.float32)
    low, high = (jnp.broadcast_to(bound, action_mask.shape) for bound in _bounds(spec))
    return jnp.where(action_mask, low + (high - low) * uniform, 0.0)


def idle_action(spec: EnvSpec) -> np.ndarray:
    """Idle action of each discrete space, (n,) int32, or the vector in each box that is nearest to zero, (n, k) float32."""
    if spec.discrete:
        return np.array([space.idle for space in spec.action_spaces if isinstance(space, Discrete)], np.int32)
    return np.where(spec.action_mask, np.clip(np.float32(0.0), *_bounds(spec)), np.float32(0.0))


def _bounds(spec: EnvSpec) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of all boxes, (n, k) float32 each."""
    boxes = [space for space in spec.action_spaces if isinstance(space, Box)]
    low, high = (np.array([getattr(box, side) for box in boxes], np.float32)[:, None] for side in ("low", "high"))
    shape = (spec.num_agents, spec.action_size)
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def random_policy(env: Environment | HostEnvironment) -> Policy:
    """Policy that is uniform over the allowed actions of each agent, or over all its actions if no mask is given."""
    spec = env.spec

    def act(observation: jax.Array, key: jax.Array, action_mask: jax.Array | None = None) -> jax.Array:
        own = jnp.broadcast_to(spec.action_mask, (*observation.shape[:-2], *spec.action_mask.shape))
        return sample_action(spec, key, own if action_mask is None else action_mask)

    return act


def do_nothing_policy(env: Environment | HostEnvironment) -> Policy:
    """Policy that takes the idle action, or the first allowed one if idle is masked; in a box, the vector nearest to zero."""
    spec = env.spec
    idle = idle_action(spec)

    def act(observation: jax.Array, key: jax.Array, action_mask: jax.Array | None = None) -> jax.Array:
        del key
        action = jnp.broadcast_to(idle, (*observation.shape[:-2], *idle.shape))
        if not spec.discrete or action_mask is None:
            return action
        allowed = jnp.take_along_axis(action_mask, action[..., None], -1)[..., 0]
        return jnp.where(allowed, action, action_mask.argmax(-1).astype(jnp.int32))

    return act


def scripted_policy(env: Environment) -> Policy:
    """Policy of the environment's `scripted`, which sees the state; raises ValueError if there is none."""
    scripted = env.scripted
    if scripted is None:
        raise ValueError(
            f"{env.spec.name} has no scripted policy: give its Environment a function `scripted`, (key, state) -> action."
        )

    def act(observation: jax.Array, key: jax.Array, state: EnvState) -> jax.Array:
        batch = observation.shape[:-2]
        if not batch:
            return scripted(key, state)
        mapped = scripted
        for _ in batch:
            mapped = jax.vmap(mapped)
        return mapped(jax.random.split(key, batch), state)

    return act


def reference_policies(env: Environment | HostEnvironment) -> dict[str, Policy]:
    """All reference policies by name: `random`, `do_nothing` and, if the environment has one, `scripted`."""
    policies = {"random": random_policy(env), "do_nothing": do_nothing_policy(env)}
    if isinstance(env, HostEnvironment) or env.scripted is None:
        return policies
    return policies | {"scripted": scripted_policy(env)}
