"""Uniform replay on the device: iterations are added as a whole, and transitions are sampled.

Each observation is stored once, in the narrowest type that its environment allows. The next observation of a step is the
observation of the following step in the same environment. Only the final observations of truncated episodes are stored
separately. A million rows of Pursuit take 1.27 GB; whole transitions take 9.5 GB (flashbax's item buffer).
Assembling transitions costs little. On 2 CPU cores, adding 300 rows and sampling 12 batches of 1024 (8 agents with observations
of size 13) takes 2.8 to 4.2 ms per run (flashbax: 2.3 to 2.7 ms), for 1 to 10 runs and up to a million rows.
All runs write an iteration to the same position. Under `vmap` this stays an in-place update of a slice, whereas a separate
position for each run would become a scatter.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.sharding import split_rows
from mamt_jax.types import LaterRewards, Transition

NOTHING, FOLLOWING = -1, 0


class Storage(NamedTuple):
    """Stored transitions: R iterations of T steps in E environments.

    Attributes:
        observation: (R, T, E, n, d).
        action: (R, T, E, n) or (R, T, E, n, k).
        reward: (R, T, E, n).
        terminated: (R, T, E, n).
        successor: (R, T, E) int8, where the next observation is. `FOLLOWING`: in the next step. k > 0: it is the k-th final
            observation of the environment in this iteration. `NOTHING`: there is no next step.
        final_observation: (R, K, E, n, d), observations at which time limits ended episodes.
        active: (R, T, E, n); None in environments whose agents end together.
        action_mask: (R, T, E, n, A), masks at `observation`; None in environments without action masks.
        final_action_mask: (R, K, E, n, A), masks at `final_observation`; None in environments without action masks.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    successor: jax.Array
    final_observation: jax.Array
    active: jax.Array | None
    action_mask: jax.Array | None
    final_action_mask: jax.Array | None


class Replay(NamedTuple):
    """A replay memory as pure functions of its storage, which is a `Storage` or another pytree.

    Attributes:
        init: () -> empty storage.
        add: (storage, transitions (T, E, ...), truncated (T, E), iterations () int32 added before) -> storage, in which the new
            iteration replaces the oldest.
        sample: (storage, key, observation (E, n, d) after the latest iteration, iterations () int32 added so far[, action mask
            (E, n, A) after the latest iteration]) -> a batch of transitions, drawn uniformly with replacement. The
            `next_observation` of a step that ended an episode by termination is zero: nothing may bootstrap from it.
    """

    init: Callable[[], Any]
    add: Callable[[Any, Transition, jax.Array, jax.Array], Any]
    sample: Callable[..., Any]


def most_truncations(num_steps: int, episode_limit: int) -> int:
    """The largest number of truncations of one environment in `num_steps` steps."""
    return math.ceil(num_steps / episode_limit)


def empty_storage(spec: EnvSpec, steps: tuple[int, ...], num_finals: int) -> Storage:
    """Empty storage for `steps` = (R, T, E, n), with K = `num_finals`."""
    finals = (steps[0], num_finals, *steps[2:])
    action = jnp.int8 if spec.discrete and spec.action_size <= 127 else jnp.int32 if spec.discrete else jnp.float32
    masked = spec.has_action_masks
    return Storage(
        observation=jnp.zeros((*steps, spec.observation_size), spec.observation_dtype),
        action=jnp.zeros(steps if spec.discrete else (*steps, spec.action_size), action),
        reward=jnp.zeros(steps, jnp.float32),
        terminated=jnp.zeros(steps, bool),
        successor=jnp.zeros(steps[:-1], jnp.int8),
        final_observation=jnp.zeros((*finals, spec.observation_size), spec.observation_dtype),
        active=None if spec.ends_together else jnp.zeros(steps, bool),
        action_mask=jnp.zeros((*steps, spec.action_size), bool) if masked else None,
        final_action_mask=jnp.zeros((*finals, spec.action_size), bool) if masked else None,
    )


def follow(
    successor: jax.Array, first: jax.Array, env: jax.Array, end: jax.Array, n_steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Follows the episodes of some steps, on a ring of `size` steps whose latest step is before `end`.

    Args:
        successor: (size, E), as in `Storage`.
        first: (B,), indices of the first steps.
        env: (B,), indices of their environments.
        end: (), index after the latest step.
        n_steps: N, number of steps to follow, including the first.

    Returns:
        (B,) indices of the last steps; (N - 1, B) indices of the steps after the first; (N - 1, B, 1) bool, whether these steps
            exist in the episode.
    """
    size = len(successor)

    def walk(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        step, goes_on = carry
        next_step = (step + 1) % size
        goes_on &= (successor[step, env] == FOLLOWING) & (next_step != end)
        step = jnp.where(goes_on, next_step, step)
        return (step, goes_on), (step, goes_on)

    (last, _), (steps, goes_on) = jax.lax.scan(walk, (first, jnp.ones(first.shape, bool)), None, length=n_steps - 1)
    return last, steps, goes_on[..., None]


def add_iteration(storage: Storage, transitions: Transition, truncated: jax.Array, iterations: jax.Array) -> Storage:
    """Adds an iteration, as described in `Replay.add`."""
    kept, num_steps, num_envs = storage.successor.shape
    num_finals = storage.final_observation.shape[1]
    chex.assert_shape(truncated, (num_steps, num_envs))
    number = jnp.cumsum(truncated, 0)
    successor = jnp.where(truncated, number, jnp.where(transitions.terminated.all(-1), NOTHING, FOLLOWING))
    # Each environment has at most one k-th truncation, which argmax finds.
    kth = truncated[None] & (number[None] == jnp.arange(1, num_finals + 1)[:, None, None])
    step = jnp.argmax(kth, 1)[..., None, None]
    new = Storage(
        observation=transitions.observation,
        action=transitions.action,
        reward=transitions.reward,
        terminated=transitions.terminated,
        successor=successor,
        final_observation=jnp.take_along_axis(transitions.next_observation, step, 0),
        active=transitions.active,
        action_mask=transitions.action_mask,
        final_action_mask=jax.tree.map(lambda mask: jnp.take_along_axis(mask, step, 0), transitions.next_action_mask),
    )

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(old, new.astype(old.dtype), iterations % kept, 0)

    return jax.tree.map(write, storage, new)


def sample_batch(
    batch_size: int,
    n_steps: int,
    storage: Storage,
    key: jax.Array,
    observation: jax.Array,
    iterations: jax.Array,
    action_mask: jax.Array | None = None,
) -> Transition:
    """Samples transitions of `n_steps` steps, as described in `Replay.sample`."""
    kept, num_steps, num_envs, num_agents = storage.reward.shape
    num_finals, size = storage.final_observation.shape[1], kept * num_steps
    chex.assert_shape(observation, (num_envs, *storage.observation.shape[3:]))
    index = jax.random.randint(key, (batch_size,), 0, jnp.minimum(iterations, kept) * num_steps * num_envs)
    ring = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), storage)  # (steps, E, ...); devices may divide E
    (first, env), end = jnp.divmod(index, num_envs), iterations * num_steps % size
    step, steps, goes_on = follow(ring.successor, first, env, end, n_steps)
    next_step = (step + 1) % size
    is_latest = next_step == end
    successor = ring.successor[step, env].astype(jnp.int32)
    final_step = step // num_steps * num_finals + jnp.maximum(successor - 1, 0)
    acts = True if ring.active is None else ring.active[steps, env]
    later = LaterRewards(ring.reward[steps, env], jnp.broadcast_to(goes_on & acts, (*steps.shape, num_agents)))

    def led_to(seen: jax.Array, latest: jax.Array, final: jax.Array) -> jax.Array:
        """The values after the steps (B, n, ...): of the next step, of the environments now, or at the end of episodes."""
        following = jnp.where(is_latest[:, None, None], latest[env], seen[next_step, env].astype(latest.dtype))
        at_end = final[final_step, env].astype(latest.dtype)
        kind = successor[:, None, None]
        return jnp.where(kind > 0, at_end, jnp.where(kind == NOTHING, jnp.zeros_like(following), following))

    batch = Transition(
        observation=ring.observation[first, env].astype(jnp.float32),
        action=ring.action[first, env].astype(jnp.int32 if jnp.issubdtype(ring.action.dtype, jnp.integer) else jnp.float32),
        reward=ring.reward[first, env],
        next_observation=led_to(ring.observation, observation, ring.final_observation),
        terminated=ring.terminated[first, env] | (goes_on & ring.terminated[steps, env]).any(0),
        active=jax.tree.map(lambda leaf: leaf[first, env], ring.active),
        action_mask=jax.tree.map(lambda leaf: leaf[first, env], ring.action_mask),
        next_action_mask=jax.tree.map(led_to, ring.action_mask, action_mask, ring.final_action_mask),
        later=None if n_steps == 1 else jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), later),
    )
    return split_rows(batch)


def uniform_replay(
    spec: EnvSpec,
    num_iterations: int,
    num_steps: int,
    num_envs: int,
    batch_size: int,
    num_finals: int | None = None,
    n_steps: int = 1,
) -> Replay:
    """A ring of `num_iterations` iterations of `num_steps` steps of `num_envs` environments.

    Args:
        spec: spec of the environments.
        num_iterations: R of `Storage`.
        num_steps: T of `Storage`.
        num_envs: E of `Storage`.
        batch_size: transitions in a batch.
        num_finals: K of `Storage`; by default the result of `most_truncations`.
        n_steps: largest number of steps in a transition. It has fewer if its episode ends or the latest step is reached.
    """
    num_finals = num_finals or most_truncations(num_steps, spec.episode_limit)
    steps = num_iterations, num_steps, num_envs, spec.num_agents
    return Replay(
        init=partial(empty_storage, spec, steps, num_finals),
        add=add_iteration,
        sample=partial(sample_batch, batch_size, n_steps),
    )
