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
Policy = Callable[..., jax.Array]
"""(observation (..., n, d), key) -> action (..., n) int32 or (..., n, k) float32.

A policy with a parameter `action_mask` is also given that, (..., n, A) bool, where the environment masks actions. A policy with
a parameter `state` is also given the environment's state.
"""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 to `num_actions` - 1, int32; `idle` is the one that does nothing, where there is one."""

    num_actions: int
    idle: int = 0


@dataclasses.dataclass(frozen=True)
class Box:
    """Real actions of shape (`size`,), each between `low` and `high`, float32."""

    size: int
    low: float = -1.0
    high: float = 1.0


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What is fixed about an environment. Hashable, so it may be a static argument.

    Attributes:
        name: the name under which results are filed.
        agent_names: one name an agent, `word_0`-like.
        observation_sizes: each agent's own observation width, before padding.
        action_spaces: each agent's own action space; all discrete or all boxes.
        episode_limit: steps after which an episode is truncated.
        observation_dtype: the narrowest type that holds every observation exactly, for whoever stores many. What
            environments show is float32 all the same.
        has_action_masks: whether `TimeStep.action_mask` may differ from `action_mask` below. Training finds this out by
            itself for environments that run in JAX; adapters declare it.
        ends_together: whether all agents act until the episode ends. Then all entries of `TimeStep.terminated` are the same,
            and `TimeStep.active` is None. Training infers this from the programs of environments that run in JAX.
        native_action_spaces: the action space of each agent as an environment outside JAX has it, () for any other.
        native_observation_spaces: likewise of observations.
        last_metrics: names of the metrics of which an episode reports the last value. Of all others it reports the mean over
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
        """Whether actions are integers (else real vectors)."""
        return isinstance(self.action_spaces[0], Discrete)

    @property
    def observation_size(self) -> int:
        """Width of the padded observation, d."""
        return max(self.observation_sizes)

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """Each agent's number of actions (discrete) or action width (box)."""
        return tuple(s.num_actions if isinstance(s, Discrete) else s.size for s in self.action_spaces)

    @property
    def action_size(self) -> int:
        """The largest of `action_sizes`: A."""
        return max(self.action_sizes)

    @property
    def observation_mask(self) -> np.ndarray:
        """(n, d) bool: which observation entries are real."""
        return np.arange(self.observation_size) < np.array(self.observation_sizes)[:, None]

    @property
    def action_mask(self) -> np.ndarray:
        """(n, A) bool: which actions (or action components) an agent has."""
        return np.arange(self.action_size) < np.array(self.action_sizes)[:, None]


class TimeStep(NamedTuple):
    """What a step shows to the agents.

    Attributes:
        observation: (n, d) float32, zero beyond an agent's own width.
        reward: (n,) float32; zeros at reset.
        terminated: (n,) bool, the task has ended for that agent: nothing to bootstrap from. It stays True to the end of the
            episode; what the agent does and earns after its own end counts for nothing.
        truncated: () bool, the time limit cut the episode: bootstrap from `final_observation`.
        action_mask: (n, A) bool, the actions allowed now.
        final_observation: (n, d), what this step led to. Equals `observation`, except after an automatic reset, where
            `observation` opens the next episode and this still closes the last one.
        metrics: task metrics of this step, a dict of scalars.
        final_action_mask: (n, A) bool, to `action_mask` what `final_observation` is to `observation`. None is `action_mask`.
        active: (n,) bool, the agents that act in the next step. None: all at the start of an episode, and from then on those
            that have not terminated. An environment in which agents are born during an episode has to say it.
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
        """() bool: the episode is over, for every agent or by the clock."""
        return self.truncated | self.terminated.all(-1)

    def next_active(self, active: Any) -> Any:
        """(..., n) bool: who acts in the next step, after one in which `active` did; arrays of JAX or of numpy."""
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
    """A TimeStep whose omitted fields are those of a running episode: no reward, no end, every own action allowed."""
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
    """Raises ValueError unless `action` is (n,) integers, or (n, k) real numbers where actions are continuous."""
    shape, dtype = jnp.shape(action), jnp.result_type(action)
    expected = (spec.num_agents,) if spec.discrete else (spec.num_agents, spec.action_size)
    kinds = (jnp.integer,) if spec.discrete else (jnp.integer, jnp.floating)
    if shape != expected or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise ValueError(
            f"action is {dtype} {shape}, which is not valid: {spec.name} takes {'int32' if spec.discrete else 'float32'} "
            f"{expected}, a row for each of its agents."
        )


def describe(kind: str, spec: EnvSpec) -> str:
    """An environment in one line: its name and sizes."""
    actions = f"{_span(spec.action_sizes)} {'' if spec.discrete else 'continuous '}actions"
    sizes = f"{_span(spec.observation_sizes)} observations, {spec.episode_limit} steps"
    return f'{kind}("{spec.name}": {spec.num_agents} agents, {actions}, {sizes})'


def _span(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter called `name`."""
    return name in inspect.signature(function).parameters


def takes_action_mask(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter called `action_mask`, or takes any."""
    parameters = inspect.signature(function).parameters.values()
    return any(each.name == "action_mask" or each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters)


def no_noise(key: jax.Array, state: EnvState) -> tuple[()]:
    """`sample_noise` of an environment whose steps draw nothing."""
    del key, state
    return ()


class Environment(NamedTuple):
    """A stochastic game as a tuple of pure functions; chance (`sample_noise`) apart from law (`transition`).

    Attributes:
        spec: static facts.
        reset: key -> (state, timestep).
        transition: (state, action (n,) int32 or (n, k), noise) -> (state, timestep). No automatic reset inside.
        sample_noise: (key, state) -> noise.
        scripted: (key, state) -> action, a reference policy that sees the state; None where nobody wrote one.
        scene: state -> Scene, what there is to see, on the host; None where nobody drew it. May take options.
    """

    spec: EnvSpec
    reset: Callable[[jax.Array], tuple[EnvState, TimeStep]]
    transition: Callable[[EnvState, jax.Array, Noise], tuple[EnvState, TimeStep]]
    sample_noise: Callable[[jax.Array, EnvState], Noise] = no_noise
    scripted: Callable[[jax.Array, EnvState], jax.Array] | None = None
    scene: Callable[..., Scene] | None = None

    def __repr__(self) -> str:
        """Name and sizes."""
        return describe("Environment", self.spec)

    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        """`transition` under noise drawn with `key`; raises ValueError for an action of another shape or dtype."""
        check_action(self.spec, action)
        return self.transition(state, action, self.sample_noise(key, state))


class HostBatch(NamedTuple):
    """E opened environments outside JAX, which reset themselves as `wrappers.auto_reset` does; arrays are numpy's.

    Attributes:
        reset: (E,) seeds -> TimeStep with a leading axis E; every environment begins anew.
        step: action (E, n) or (E, n, k) -> TimeStep with a leading axis E.
        close: () -> None; what they take is given back.
    """

    reset: Callable[[np.ndarray], TimeStep]
    step: Callable[[np.ndarray], TimeStep]
    close: Callable[[], None]


class HostEnvironment(NamedTuple):
    """An environment outside JAX, which the host steps.

    Attributes:
        spec: static facts.
        open: number of environments -> HostBatch.
        metrics: names of the task metrics of its time steps.
        with_pictures: () -> the environment itself, of its own library, whose `render()` returns (height, width, 3) uint8;
            raises ValueError if it draws none. None where nobody can draw it.
    """

    spec: EnvSpec
    open: Callable[[int], HostBatch]
    metrics: tuple[str, ...] = ()
    with_pictures: Callable[[], Any] | None = None

    def __repr__(self) -> str:
        """Name and sizes."""
        return describe("HostEnvironment", self.spec)


class HostError(RuntimeError):
    """An environment outside JAX that broke; says what it said last."""


EnvironmentFactory = Callable[..., Environment | HostEnvironment]
Metrics = Mapping[str, jax.Array]
