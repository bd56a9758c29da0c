"""Between what an environment outside JAX shows and takes, by agent, and the joint arrays of policies.

Training (`from_pettingzoo`) and deployment (`policy_in_pettingzoo`) both convert by these functions.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from envs_jax.adapters import space_codec
from envs_jax.adapters.space_codec import SpaceError
from envs_jax.environment import Box, Discrete, EnvSpec
from envs_jax.native_spaces import NativeSpace

MASK = "action_mask"
"""The key of action masks in observation dicts and in infos."""


class Codec(NamedTuple):
    """The conversions of each agent.

    Attributes:
        spec: of the environment.
        flatten: its observation -> (its own width,).
        decode: a row of the joint action -> the environment's own action.
        read_mask: its action mask -> (number of its actions,) bool; only agents of whom the environment gives one.
        place: its row in joint arrays.
        action_mask: (n, A) bool, which actions each has.
    """

    spec: EnvSpec
    flatten: dict[str, Callable[[Any], np.ndarray]]
    decode: dict[str, Callable[[np.ndarray], Any]]
    read_mask: dict[str, Callable[[Any], np.ndarray]]
    place: dict[str, int]
    action_mask: np.ndarray


def make_codec(spec: EnvSpec) -> Codec:
    """The conversions of a spec.

    Where it has no native spaces, observations may have any shape of the right size, and actions are an int or a float32
    vector of the agent's own width.
    """
    names, actions = spec.agent_names, spec.native_action_spaces
    place = {name: i for i, name in enumerate(names)}
    if not actions:
        flatten = {name: _any_shape(size) for name, size in zip(names, spec.observation_sizes, strict=True)}
        decode = {name: _plain(space) for name, space in zip(names, spec.action_spaces, strict=True)}
        own = zip(names, spec.action_sizes, strict=True)
        masks = {name: space_codec.mask_reader(space_codec.NativeDiscrete(size)) for name, size in own}
        return Codec(spec, flatten, decode, masks if spec.has_action_masks else {}, place, spec.action_mask)
    return Codec(
        spec,
        {name: space_codec.flattener(each) for name, each in zip(names, spec.native_observation_spaces, strict=True)},
        {name: space_codec.decoder(each) for name, each in zip(names, actions, strict=True)},
        {name: space_codec.mask_reader(each) for name, each in zip(names, actions, strict=True) if is_masked(each)},
        place,
        spec.action_mask,
    )


def is_masked(space: NativeSpace) -> bool:
    """Whether the environment says which actions of this space are allowed."""
    return getattr(space, "masked", False)


def _any_shape(size: int) -> Callable[[Any], np.ndarray]:
    def flatten(observation: Any) -> np.ndarray:
        array = space_codec.numbers(observation)
        if array.size != size:
            raise SpaceError(f"it has shape {array.shape}, {array.size} entries; the policy was trained on {size}.")
        return array.ravel().astype(np.float32, copy=False)

    return flatten


def _plain(space: Discrete | Box) -> Callable[[np.ndarray], Any]:
    if isinstance(space, Discrete):
        return int
    return lambda action: action[: space.size].astype(np.float32)


def joint_observation(codec: Codec, observations: Mapping[str, Any], agents: Iterable[str]) -> np.ndarray:
    """(n, d) float32: the rows of `agents`, zeros elsewhere; raises SpaceError that names the agent."""
    spec = codec.spec
    joint = np.zeros((spec.num_agents, spec.observation_size), np.float32)
    for agent in agents:
        if agent not in observations:
            raise SpaceError(
                f"The observation of {agent} is missing: every agent that acts next, or that was truncated, must have one; "
                f"there are those of {', '.join(map(str, observations)) or 'nobody'}."
            )
        i = codec.place[agent]
        try:
            joint[i, : spec.observation_sizes[i]] = codec.flatten[agent](observations[agent])
        except SpaceError as error:
            raise SpaceError(f"The observation of {agent} is not valid: {error}") from error
    return joint


def joint_mask(codec: Codec, observations: Mapping[str, Any], infos: Mapping[str, Any], agents: Iterable[str]) -> np.ndarray:
    """(n, A) bool: which actions each of `agents` may take; all of their own for the others. Raises SpaceError."""
    joint = codec.action_mask.copy()
    for agent in agents:
        mask = find_mask(observations.get(agent), infos.get(agent))
        read = codec.read_mask.get(agent)
        if read is None:
            if mask is not None and codec.spec.discrete:
                raise SpaceError(f"{agent} has an action_mask, which its first observation and info did not have.")
            continue
        i = codec.place[agent]
        if mask is None:
            raise SpaceError(f"The action_mask of {agent} is missing: it is neither in its observation nor in its info.")
        try:
            joint[i, : codec.spec.action_sizes[i]] = read(mask)
        except SpaceError as error:
            raise SpaceError(f"The action_mask of {agent} is not valid: {error}") from error
    return joint


def find_mask(observation: Any, info: Any) -> Any:
    """The action mask in an observation dict or in an info; None where there is none."""
    for place in (observation, info):
        if (type(place) is dict or isinstance(place, Mapping)) and place.get(MASK) is not None:
            return place[MASK]
    return None


def own_actions(codec: Codec, action: np.ndarray, agents: Iterable[str]) -> dict[str, Any]:
    """The environment's own actions of `agents` from a joint one, (n,) or (n, k)."""
    return {agent: codec.decode[agent](action[codec.place[agent]]) for agent in agents}
