"""Wrappers: functions from an Environment to an Environment.

Compose them as `episode_statistics(auto_reset(env))`: the statistics must be outermost to survive the reset. Both wrappers keep
the spec, the scripted policy and the dependence between agents.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var
from jax.extend.core.primitives import broadcast_in_dim_p

from envs_jax.batching import batchwise
from envs_jax.environment import Environment, EnvState, Noise, TimeStep

FEW = 16  # parts into which a batch is split


class AutoResetNoise(NamedTuple):
    """Noise of a step that may start a new episode: the inner environment's noise, and the key for `reset_key`."""

    noise: Noise
    key: jax.Array


def reset_key(key: jax.Array) -> jax.Array:
    """Key of the next episode's reset. It is derived only if an episode starts."""
    return jax.random.fold_in(key, 1)


def auto_reset(env: Environment) -> Environment:
    """Adds automatic reset: the step that ends an episode also starts the next one.

    After such a step `observation`, `action_mask` and `active` belong to the start of the next episode. `final_observation`,
    `final_action_mask`, `reward`, `terminated`, `truncated` and `metrics` belong to the old one. The state is that of the inner
    environment.

    Under any number of nested `vmap`s, a step in which no environment is done computes no reset.
    """

    def reset(key: jax.Array) -> tuple[EnvState, TimeStep]:
        state, timestep = env.reset(key)
        return state, timestep._replace(final_action_mask=timestep.action_mask)

    def sample_noise(key: jax.Array, state: EnvState) -> AutoResetNoise:
        return AutoResetNoise(env.sample_noise(jax.random.fold_in(key, 0), state), key)

    def opening(key: jax.Array) -> tuple[EnvState, jax.Array, jax.Array, jax.Array | None]:
        state, timestep = env.reset(reset_key(key))
        return state, timestep.observation, timestep.action_mask, timestep.active

    def transition(state: EnvState, action: jax.Array, noise: AutoResetNoise) -> tuple[EnvState, TimeStep]:
        state, timestep = env.transition(state, action, noise.noise)
        shown = (state, timestep.observation, timestep.action_mask, timestep.active)
        state, observation, action_mask, active = replace_where(opening, timestep.done, noise.key, shown)
        return state, timestep._replace(
            observation=observation, action_mask=action_mask, active=active, final_action_mask=timestep.action_mask
        )

    return env._replace(reset=reset, transition=transition, sample_noise=sample_noise)


def replace_where(make: Callable[[jax.Array], Any], wanted: jax.Array, key: jax.Array, old: Any) -> Any:
    """Returns `make(key)` where `wanted`, else `old`. In a batch, `make` runs only for wanted elements, a few at a time.

    Under `vmap` a `cond` would compute both branches. Instead, every `vmap` is folded into one leading batch axis. Two
    programs, or two rows of one program, may give results that differ in the last bits. Each element is therefore always made
    by the same row of the same program, and does not depend on which other elements are wanted.
    """

    def of_batch(wanted: jax.Array, key: jax.Array, old: Any) -> Any:
        few = -(-len(wanted) // FEW)
        slot = jnp.arange(few)

        def replace_few(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            left, old = carry
            turn = left.argmax(0)
            row = jnp.where(left.any(0), turn * few + slot, len(wanted))
            new = jax.vmap(make)(key[jnp.minimum(row, len(wanted) - 1)])
            replaced = jax.tree.map(lambda old, new: old.at[row].set(new, mode="drop"), old, new)
            return left.at[turn, slot].set(False), replaced

        left = jnp.pad(wanted, (0, FEW * few - len(wanted))).reshape(FEW, few)
        return jax.lax.while_loop(lambda carry: carry[0].any(), replace_few, (left, old))[1]

    return batchwise(of_batch)(wanted, key, old)


def infer_spec(env: Environment) -> Environment:
    """Infers `has_action_masks` and `ends_together` from the traced programs of `env`, and completes the spec with them.

    Without action masks, rollouts, memories and networks omit them. If all agents end together, they omit `active`. If the
    programs do not prove that all agents end together, the agents are assumed to end individually.
    """
    spec = env.spec

    def show(key: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
        reset_key, step_key = jax.random.split(key)
        state, first = env.reset(reset_key)
        _, after = env.step(step_key, state, action)
        active = (timestep.active for timestep in (first, after) if timestep.active is not None)
        return after.terminated, first.action_mask, after.action_mask, *active

    shape, dtype = ((), jnp.int32) if spec.discrete else ((spec.action_size,), jnp.float32)
    action = jax.ShapeDtypeStruct((spec.num_agents, *shape), dtype)
    program = jax.make_jaxpr(show)(jax.eval_shape(lambda: jax.random.key(0)), action)
    terminated, *masks = program.jaxpr.outvars[:3]
    constants = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    own = all(isinstance(mask, Var) and np.array_equal(constants.get(mask, ()), spec.action_mask) for mask in masks)
    one_flag = any(
        equation.outvars == [terminated] and equation.primitive is broadcast_in_dim_p and not equation.invars[0].aval.shape
        for equation in program.jaxpr.eqns
    )
    return env._replace(
        spec=dataclasses.replace(
            spec,
            has_action_masks=spec.has_action_masks or (spec.discrete and not own),
            ends_together=one_flag and len(program.jaxpr.outvars) == 3,
        )
    )


@flax.struct.dataclass
class EpisodeStatistics:
    """Statistics of the current episode, including its last step.

    Attributes:
        done: () bool, whether the last step ended the episode. The other fields then describe the whole episode.
        episode_return: (n,), sum of each agent's rewards up to its own end.
        episode_length: () int32, number of steps.
        metrics: dict of scalars, each task metric: its last value if `EnvSpec.last_metrics` names it, else its mean over the
            steps.
        active: (n,) bool, agents that act in the next step. If `done`, this is the first step of the next episode.
    """

    done: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    metrics: dict[str, jax.Array]
    active: jax.Array


@flax.struct.dataclass
class StatisticsState:
    """State of `episode_statistics`: the inner state, and the statistics of the current or just completed episode."""

    env_state: EnvState
    statistics: EpisodeStatistics


def no_statistics(timestep: TimeStep) -> EpisodeStatistics:
    """Statistics of an episode before its first step."""
    zero = jnp.zeros((), timestep.reward.dtype)
    return EpisodeStatistics(
        done=jnp.zeros((), bool),
        episode_return=jnp.zeros_like(timestep.reward),
        episode_length=jnp.zeros((), jnp.int32),
        metrics=dict.fromkeys(timestep.metrics, zero),
        active=jnp.ones_like(timestep.terminated) if timestep.active is None else timestep.active,
    )


def add_step(statistics: EpisodeStatistics, timestep: TimeStep, last_metrics: tuple[str, ...] = ()) -> EpisodeStatistics:
    """Adds a step to the statistics. If they are `done`, the new step is the first of the next episode.

    Args:
        statistics: statistics of the steps before.
        timestep: result of the new step.
        last_metrics: as in `EnvSpec`.
    """
    started = jax.tree.map(lambda new, old: jnp.where(statistics.done, new, old), no_statistics(timestep), statistics)
    length = started.episode_length + 1
    acted = statistics.active
    return EpisodeStatistics(
        done=timestep.done,
        episode_return=started.episode_return + jnp.where(acted, timestep.reward, 0.0),
        episode_length=length,
        metrics={
            name: new if name in last_metrics else started.metrics[name] + (new - started.metrics[name]) / length
            for name, new in timestep.metrics.items()
        },
        active=timestep.next_active(acted),
    )


def episode_statistics(env: Environment) -> Environment:
    """Adds `state.statistics`, an `EpisodeStatistics` that describes a whole episode whenever its `done` is True.

    The first step after that starts new statistics. A training scan sums over the steps with `done`, for example
    `jnp.where(statistics.done, statistics.episode_return.mean(), 0)`. The inner state is `state.env_state`.
    """

    def reset(key: jax.Array) -> tuple[StatisticsState, TimeStep]:
        env_state, timestep = env.reset(key)
        return StatisticsState(env_state, no_statistics(timestep)), timestep

    def sample_noise(key: jax.Array, state: StatisticsState) -> Noise:
        return env.sample_noise(key, state.env_state)

    def transition(state: StatisticsState, action: jax.Array, noise: Noise) -> tuple[StatisticsState, TimeStep]:
        env_state, timestep = env.transition(state.env_state, action, noise)
        return StatisticsState(env_state, add_step(state.statistics, timestep, env.spec.last_metrics)), timestep

    inner_scripted, inner_dependence = env.scripted, env.dependence

    def scripted(key: jax.Array, state: StatisticsState) -> jax.Array:
        assert inner_scripted is not None
        return inner_scripted(key, state.env_state)

    def dependence(state: StatisticsState) -> jax.Array:
        assert inner_dependence is not None
        return inner_dependence(state.env_state)

    return env._replace(
        reset=reset,
        transition=transition,
        sample_noise=sample_noise,
        scripted=None if inner_scripted is None else scripted,
        dependence=None if inner_dependence is None else dependence,
    )
