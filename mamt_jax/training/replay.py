"""Uniform replay on the device: whole iterations go in, transitions come out.

An observation is stored once, in the narrowest type that its environment allows: what a step led to is what the next step of
the same environment saw, and only what a time limit cut off is kept apart. A million rows of Pursuit take 1.27 GB where whole
transitions take 9.5 GB (flashbax's item buffer); putting such a transition together again costs little: on 2 CPU cores, adding
300 rows and sampling 12 batches of 1024 (8 agents of 13 observations) takes 2.8 to 4.2 ms a run against flashbax's 2.3 to 2.7,
for 1 to 10 runs and up to a million rows. An iteration goes to a place that all runs share: under `vmap` that stays a slice
updated in place, where a place per run would become a scatter.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.types import LaterRewards, Transition

NOTHING, FOLLOWING = -1, 0


class Storage(NamedTuple):
    """What is stored: R iterations of T steps of E environments.

    Attributes:
        observation: (R, T, E, n, d).
        action: (R, T, E, n) or (R, T, E, n, k).
        reward: (R, T, E, n).
        terminated: (R, T, E, n).
        successor: (R, T, E) int8, what the step led to: `FOLLOWING`, what the next step saw; k > 0, the k-th of its
            environment's final observations in that iteration; `NOTHING`, no step at all.
        final_observation: (R, K, E, n, d), where time limits cut episodes.
        active: (R, T, E, n); None in environments whose agents end together.
        action_mask: (R, T, E, n, A), stored as observations are; None in environments without action masks.
        final_action_mask: (R, K, E, n, A), likewise.
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
    """A replay memory as pure functions over its `Storage`, or whatever else `init` makes.

    Attributes:
        init: () -> empty storage.
        add: (storage, transitions (T, E, ...), truncated (T, E), iterations () int32 added before) -> storage; it replaces the
            oldest iteration.
        sample: (storage, key, observation (E, n, d) where the latest iteration ended, iterations () int32 added so far, action
            mask (E, n, A) there where there are any) -> a batch of transitions drawn uniformly with replacement. The
            `next_observation` of a step that ended an episode by termination is zero: nothing may bootstrap from it.
    """

    init: Callable[[], Any]
    add: Callable[[Any, Transition, jax.Array, jax.Array], Any]
    sample: Callable[..., Any]


def most_truncations(num_steps: int, episode_limit: int) -> int:
    """How often an environment can be truncated within an iteration."""
    return math.ceil(num_steps / episode_limit)


def empty_storage(spec: EnvSpec, steps: tuple[int, ...], num_finals: int) -> Storage:
    """Storage of `steps` (R, T, E, n) that holds nothing, with K = `num_finals`."""
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
    successor: jax.Array, first: jax.Array, env: jax.Array, num_envs: int, end: jax.Array, size: int, n_steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The steps of the same episodes after some, on a ring of `size` steps whose latest one is before `end`.

    Args:
        successor: (size * E,), of `Storage`.
        first: (B,), numbers of the steps to begin at.
        env: (B,), their environments.
        num_envs: E.
        end: ().
        size: of the ring.
        n_steps: N, steps in all.

    Returns:
        (B,) the last steps; (N - 1, B) the rows of those after the first; (N - 1, B, 1) bool, whether they are there.
    """

    def walk(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        step, goes_on = carry
        next_step = (step + 1) % size
        goes_on &= (successor[step * num_envs + env] == FOLLOWING) & (next_step != end)
        step = jnp.where(goes_on, next_step, step)
        return (step, goes_on), (step * num_envs + env, goes_on)

    (last, _), (rows, goes_on) = jax.lax.scan(walk, (first, jnp.ones(first.shape, bool)), None, length=n_steps - 1)
    return last, rows, goes_on[..., None]


def add_iteration(storage: Storage, transitions: Transition, truncated: jax.Array, iterations: jax.Array) -> Storage:
    """`Replay.add`."""
    kept, num_steps, num_envs = storage.successor.shape
    num_finals = storage.final_observation.shape[1]
    chex.assert_shape(truncated, (num_steps, num_envs))
    number = jnp.cumsum(truncated, 0)
    successor = jnp.where(truncated, number, jnp.where(transitions.terminated.all(-1), NOTHING, FOLLOWING))
    # The k-th truncation of each environment: there is one at most, so that argmax finds it.
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
    """`Replay.sample`, of transitions of `n_steps` steps."""
    kept, num_steps, num_envs, num_agents = storage.reward.shape
    num_finals, size = storage.final_observation.shape[1], kept * num_steps
    chex.assert_shape(observation, (num_envs, *storage.observation.shape[3:]))
    index = jax.random.randint(key, (batch_size,), 0, jnp.minimum(iterations, kept) * num_steps * num_envs)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), storage)
    (first, env), end = jnp.divmod(index, num_envs), iterations * num_steps % size
    step, rows, goes_on = follow(flat.successor, first, env, num_envs, end, size, n_steps)
    next_step = (step + 1) % size
    is_latest = next_step == end
    successor = flat.successor[step * num_envs + env].astype(jnp.int32)
    final_step = step // num_steps * num_finals + jnp.maximum(successor - 1, 0)
    acts = True if flat.active is None else flat.active[rows]
    later = LaterRewards(flat.reward[rows], jnp.broadcast_to(goes_on & acts, (*rows.shape, num_agents)))

    def led_to(seen: jax.Array, latest: jax.Array, final: jax.Array) -> jax.Array:
        """What the steps led to (B, n, ...), of what the steps saw, the environments show now, and episodes ended with."""
        following = jnp.where(is_latest[:, None, None], latest[env], seen[next_step * num_envs + env].astype(latest.dtype))
        at_end = final[final_step * num_envs + env].astype(latest.dtype)
        kind = successor[:, None, None]
        return jnp.where(kind > 0, at_end, jnp.where(kind == NOTHING, jnp.zeros_like(following), following))

    return Transition(
        observation=flat.observation[index].astype(jnp.float32),
        action=flat.action[index].astype(jnp.int32 if jnp.issubdtype(flat.action.dtype, jnp.integer) else jnp.float32),
        reward=flat.reward[index],
        next_observation=led_to(flat.observation, observation, flat.final_observation),
        terminated=flat.terminated[index] | (goes_on & flat.terminated[rows]).any(0),
        active=jax.tree.map(lambda leaf: leaf[index], flat.active),
        action_mask=jax.tree.map(lambda leaf: leaf[index], flat.action_mask),
        next_action_mask=jax.tree.map(led_to, flat.action_mask, action_mask, flat.final_action_mask),
        later=None if n_steps == 1 else jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), later),
    )


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
        spec: of the environments.
        num_iterations: R of `Storage`.
        num_steps: T.
        num_envs: E.
        batch_size: transitions in a batch.
        num_finals: K of `Storage`; by default what `most_truncations` says.
        n_steps: that a transition has at most; it has fewer where its episode ends or the latest step is reached.
    """
    num_finals = num_finals or most_truncations(num_steps, spec.episode_limit)
    steps = num_iterations, num_steps, num_envs, spec.num_agents
    return Replay(
        init=partial(empty_storage, spec, steps, num_finals),
        add=add_iteration,
        sample=partial(sample_batch, batch_size, n_steps),
    )
