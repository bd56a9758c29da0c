"""The environment contract: pure functions over arrays with an agent axis, zero-padded to the widest agent."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.native_spaces import NativeSpace
from envs_jax.scene import Scene

EnvState = Any
Noise = Any
Policy = Callable[..., Any]
"""A policy: (observation (..., n, d), key) -> action (..., n) int32 or (..., n, k) float32.

A policy with a parameter `action_mask` also receives it, (..., n, A) bool, if the environment masks actions. A policy with a
parameter `state` also receives the environment's state. A policy with a parameter `hidden_state` has a memory: it returns
(action, hidden state), and receives the hidden state in the next step. None begins an episode; so do arrays of 0.
"""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Integer actions from 0 to `num_actions` - 1, int32. `idle` is the action that does nothing, if there is one."""

    num_actions: int
    idle: int = 0


@dataclasses.dataclass(frozen=True)
class Box:
    """Real actions of shape (`size`,), float32, with every component between `low` and `high`."""

    size: int
    low: float = -1.0
    high: float = 1.0


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """Static description of an environment. It is hashable and may be a static argument of `jax.jit`.

    Attributes:
        name: name of the environment in results.
        agent_names: one name per agent, such as "agent_0".
        observation_sizes: observation width of each agent, before padding.
        action_spaces: action space of each agent; all discrete or all boxes.
        episode_limit: number of steps after which an episode is truncated.
        observation_dtype: the narrowest dtype that holds every observation exactly, for replay memories. Environments return
            float32 observations in any case.
        has_action_masks: whether `TimeStep.action_mask` may differ from the property `action_mask`. Training infers this for
            environments that run in JAX. Adapters declare it.
        ends_together: whether all agents act until the episode ends. Then all entries of `TimeStep.terminated` are the same,
            and `TimeStep.active` is None. Training infers this from the programs of environments that run in JAX.
        native_action_spaces: action space of each agent in the original library, for an environment outside JAX; () for any
            other environment.
        native_observation_spaces: observation space of each agent in the original library, for an environment outside JAX; ()
            for any other environment.
        last_metrics: names of the metrics whose last value an episode reports. For all other metrics it reports the mean over
            its steps.
    """

    name: str
    agent_names: tuple[str, ...]
    observation_sizes: tuple[int, ...]
    action_spaces: tuple[Discrete | Box, ...]
    episode_limit: int
    observation_dtype: str = "float32"
    has_action_masks: bool = False
    ends_together: bool = False
    native_action_spaces: tuple[NativeSpace, ...] = ()
    native_observation_spaces: tuple[NativeSpace, ...] = ()
    last_metrics: tuple[str, ...] = ()

    @property
    def num_agents(self) -> int:
        """Number of agents, n."""
        return len(self.agent_names)

    @property
    def discrete(self) -> bool:
        """Whether actions are integers; otherwise they are real vectors."""
        return isinstance(self.action_spaces[0], Discrete)

    @property
    def observation_size(self) -> int:
        """Width of the padded observation, d."""
        return max(self.observation_sizes)

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """Number of actions (discrete) or action width (box) of each agent."""
        return tuple(s.num_actions if isinstance(s, Discrete) else s.size for s in self.action_spaces)

    @property
    def action_size(self) -> int:
        """Largest entry of `action_sizes`, A."""
        return max(self.action_sizes)

    @property
    def observation_mask(self) -> np.ndarray:
        """Which observation entries are not padding, (n, d) bool."""
        return np.arange(self.observation_size) < np.array(self.observation_sizes)[:, None]

    @property
    def action_mask(self) -> np.ndarray:
        """Which actions, or components of a box, each agent has, (n, A) bool."""
        return np.arange(self.action_size) < np.array(self.action_sizes)[:, None]


class TimeStep(NamedTuple):
    """Result of a reset or a step for the agents.

    Attributes:
        observation: (n, d) float32, zero beyond an agent's own width.
        reward: (n,) float32, zeros at reset.
        terminated: (n,) bool, whether the agent's task has ended, in which case there is no value to bootstrap from. It stays
            True until the episode ends. Actions and rewards of an agent after its own end are ignored.
        truncated: () bool, whether the time limit ended the episode, in which case learners bootstrap from
            `final_observation`.
        action_mask: (n, A) bool, the actions that are allowed now.
        final_observation: (n, d) float32, the observation to which this step led. It equals `observation` except after an
            automatic reset: then `observation` starts the next episode, and `final_observation` ends the old one.
        metrics: task metrics of this step, a dict of scalars.
        final_action_mask: (n, A) bool, the action mask that belongs to `final_observation`. None means `action_mask`.
        active: (n,) bool, the agents that act in the next step. None means all agents at the start of an episode, and then
            those that have not terminated. It is required if agents can appear during an episode.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    action_mask: jax.Array
    final_observation: jax.Array
    metrics: dict[str, jax.Array]
    final_action_mask: jax.Array | None = None
    active: jax.Array | None = None

    @property
    def done(self) -> jax.Array:
        """Whether the episode is over, () bool: all agents have terminated, or the time limit is reached."""
        return self.truncated | self.terminated.all(-1)

    def next_active(self, active: Any) -> Any:
        """Agents that act in the next step, (..., n) bool, given those that acted in this one, in JAX or numpy arrays."""
        return self.done[..., None] | (active & ~self.terminated) if self.active is None else self.active


def make_timestep(
    spec: EnvSpec,
    observation: jax.Array,
    reward: jax.Array | None = None,
    terminated: jax.Array | None = None,
    truncated: jax.Array | None = None,
    action_mask: jax.Array | None = None,
    metrics: dict[str, jax.Array] | None = None,
) -> TimeStep:
    """Makes a TimeStep. Omitted fields default to a running episode: zero reward, no end, all own actions allowed."""
    n = spec.num_agents
    return TimeStep(
        observation=observation,
        reward=jnp.zeros(n, observation.dtype) if reward is None else reward,
        terminated=jnp.zeros(n, bool) if terminated is None else terminated,
        truncated=jnp.zeros((), bool) if truncated is None else truncated,
        action_mask=jnp.asarray(spec.action_mask) if action_mask is None else action_mask,
        final_observation=observation,
        metrics={} if metrics is None else metrics,
    )


def check_action(spec: EnvSpec, action: jax.Array) -> None:
    """Raises ValueError unless `action` is (n,) integers, or (n, k) real numbers if actions are continuous."""
    shape, dtype = jnp.shape(action), jnp.result_type(action)
    expected = (spec.num_agents,) if spec.discrete else (spec.num_agents, spec.action_size)
    kinds = (jnp.integer,) if spec.discrete else (jnp.integer, jnp.floating)
    if shape != expected or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise ValueError(
            f"action is {dtype} {shape}, which is not valid: {spec.name} takes {'int32' if spec.discrete else 'float32'} "
            f"{expected}, with one row per agent."
        )


def describe(kind: str, spec: EnvSpec) -> str:
    """One-line description of an environment: its name and sizes."""
    actions = f"{_span(spec.action_sizes)} {'' if spec.discrete else 'continuous '}actions"
    sizes = f"{_span(spec.observation_sizes)} observations, {spec.episode_limit} steps"
    return f'{kind}("{spec.name}": {spec.num_agents} agents, {actions}, {sizes})'


def _span(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter called `name`."""
    return name in inspect.signature(function).parameters


def takes_action_mask(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter `action_mask`, `*args` or `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    return any(each.name == "action_mask" or each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters)


def no_noise(key: jax.Array, state: EnvState) -> tuple[()]:
    """`sample_noise` of an environment whose steps are deterministic."""
    del key, state
    return ()


class Environment(NamedTuple):
    """A stochastic game as a tuple of pure functions. Randomness (`sample_noise`) is separated from dynamics (`transition`).

    Attributes:
        spec: static description.
        reset: key -> (state, timestep).
        transition: (state, action (n,) int32 or (n, k) float32, noise) -> (state, timestep), without automatic reset.
        sample_noise: (key, state) -> noise, all random numbers of a step.
        scripted: (key, state) -> action, a reference policy that sees the state; None if there is none.
        scene: state -> Scene, a drawing of the state, computed on the host. It may take options. None if there is no drawing.
        dependence: state -> (n, n) bool, whether the return of agent i depends on the actions of agent j in this episode. The
            diagonal is False. None if this is not known.
    """

    spec: EnvSpec
    reset: Callable[[jax.Array], tuple[EnvState, TimeStep]]
    transition: Callable[[EnvState, jax.Array, Noise], tuple[EnvState, TimeStep]]
    sample_noise: Callable[[jax.Array, EnvState], Noise] = no_noise
    scripted: Callable[[jax.Array, EnvState], jax.Array] | None = None
    scene: Callable[..., Scene] | None = None
    dependence: Callable[[EnvState], jax.Array] | None = None

    def __repr__(self) -> str:
        """Name and sizes."""
        return describe("Environment", self.spec)

    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        """Draws noise with `key` and applies `transition`; raises ValueError for an action of another shape or dtype."""
        check_action(self.spec, action)
        return self.transition(state, action, self.sample_noise(key, state))


class HostBatch(NamedTuple):
    """E open environments outside JAX, with numpy arrays and automatic reset as in `wrappers.auto_reset`.

    Attributes:
        reset: (E,) seeds -> TimeStep with a leading axis E; starts a new episode in every environment.
        step: action (E, n) or (E, n, k) -> TimeStep with a leading axis E.
        close: () -> None; releases all resources.
    """

    reset: Callable[[np.ndarray], TimeStep]
    step: Callable[[np.ndarray], TimeStep]
    close: Callable[[], None]


class HostEnvironment(NamedTuple):
    """An environment outside JAX, which is stepped on the host.

    Attributes:
        spec: static description.
        open: number of environments -> HostBatch.
        metrics: names of the task metrics in its time steps.
        with_pictures: () -> the environment of the original library, whose `render()` returns (height, width, 3) uint8. It
            raises ValueError if the environment cannot draw. None if no drawing is available.
    """

    spec: EnvSpec
    open: Callable[[int], HostBatch]
    metrics: tuple[str, ...] = ()
    with_pictures: Callable[[], Any] | None = None

    def __repr__(self) -> str:
        """Name and sizes."""
        return describe("HostEnvironment", self.spec)


class HostError(RuntimeError):
    """Raised if an environment outside JAX fails; the message contains the cause."""


EnvironmentFactory = Callable[..., Environment | HostEnvironment]
Metrics = Mapping[str, jax.Array]
