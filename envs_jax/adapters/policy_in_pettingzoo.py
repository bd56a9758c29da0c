"""A trained policy in an environment of PettingZoo, parallel or agent by agent."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from envs_jax.adapters.pettingzoo_episodes import (
    Agents,
    change_agents,
    check_agents,
    check_reset,
    check_step,
    episode_seed,
)
from envs_jax.adapters.space_codec import Codec, find_mask, joint_mask, joint_observation, make_codec, own_actions
from envs_jax.environment import EnvSpec, Policy

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

ParallelActor = Callable[..., dict[str, Any]]
AecActor = Callable[..., Any]


def parallel_actor(policy: Policy, spec: EnvSpec, seed: int | None = None) -> ParallelActor:
    """The policy as a function from the observations of a ParallelEnv to its actions.

    Args:
        policy: of `mamt_jax.load_policy`.
        spec: of the environment in which it was trained, `mamt_jax.load_spec`.
        seed: of sampled actions; without one they are the most likely.

    Returns:
        `act(observations, infos=None)`, one action for every agent among the observations. A policy that was trained in an
        environment of PettingZoo takes its observations and gives actions of its spaces, exactly as in training. Any other
        takes observations of any shape, which are flattened, and gives an int, or a float32 vector of the agent's own width.
        Action masks are found in the observation dicts or in `infos`. It raises ValueError if an agent, its observation or
        its action mask is not the spec's.
    """
    codec, numbered, numbers = make_codec(spec), _numbered(policy, seed), itertools.count()

    def act(observations: Mapping[str, Any], infos: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return _actions(codec, numbered, next(numbers), observations, infos or {})

    return act


def aec_actor(policy: Policy, spec: EnvSpec, seed: int | None = None) -> AecActor:
    """The policy as a function from one agent's observation to its action, for `env.agent_iter()`.

    Agents that all act in turn get the actions that `parallel_actor` gives to the same observations under the same seed. What
    they see is up to the environment: pettingzoo's Pursuit shows, unlike in training, the moves of those before them.

    Args:
        policy: as in `parallel_actor`.
        spec: as in `parallel_actor`.
        seed: as in `parallel_actor`.

    Returns:
        `act(agent, observation, info=None)`; it raises ValueError as `parallel_actor`'s does.
    """
    codec, numbered, numbers = make_codec(spec), _numbered(policy, seed), defaultdict(itertools.count)

    def act(agent: str, observation: Any, info: Mapping[str, Any] | None = None) -> Any:
        number = next(numbers[agent])
        return _actions(codec, numbered, number, {agent: observation}, {agent: info or {}})[agent]

    return act


def _actions(
    codec: Codec, numbered: Callable[..., jax.Array], number: int, observations: Mapping[str, Any], infos: Mapping[str, Any]
) -> dict[str, Any]:
    """Actions of the observed agents; the rows of others are zero, which is nothing to a decentralised policy."""
    _check_agents(codec.spec, observations)
    joint = joint_observation(codec, observations, observations)
    masks = {"action_mask": joint_mask(codec, observations, infos, observations)} if codec.spec.has_action_masks else {}
    return own_actions(codec, np.asarray(numbered(joint, number, **masks)), observations)


def _check_agents(spec: EnvSpec, agents: Iterable[str]) -> None:
    for agent in agents:
        if agent not in spec.agent_names:
            raise ValueError(f"agent {agent!r} is not known to the policy: it was trained for {', '.join(spec.agent_names)}.")


def _numbered(policy: Policy, seed: int | None) -> Callable[..., jax.Array]:
    """(observation, number of the step) -> action, sampled under a seed; one program, since a step on the host is short."""
    if seed is None:
        return lambda observation, number, **masks: policy(observation, **masks)
    return jax.jit(
        lambda observation, number, **masks: policy(observation, jax.random.fold_in(jax.random.key(seed), number), **masks)
    )


def episode_returns(
    env: "ParallelEnv", act: ParallelActor, episodes: int, seed: int, episode_limit: int | None = None
) -> np.ndarray:
    """Returns of whole episodes.

    Args:
        env: where to play.
        act: who plays, observations of the living agents -> actions; it is given their infos, too, if there are masks in them.
        episodes: how many.
        seed: of the first episode; those of the others are derived from it.
        episode_limit: steps after which an episode is over in any case.

    Returns:
        (episodes,): the sum of one agent's rewards over an episode, mean over all agents.
    """
    totals = [sum(_rewards(env, act, episode_seed(seed, i), episode_limit)) for i in range(episodes)]
    return np.array(totals) / len(env.possible_agents)


def episode_pictures(env: "ParallelEnv", act: ParallelActor, seed: int, episode_limit: int | None = None) -> np.ndarray:
    """What `env.render()` shows of one episode, its beginning included, (time, height, width, 3) uint8.

    Raises:
        ValueError: if it shows no pictures.
    """
    return np.stack([_picture(env) for _ in _rewards(env, act, seed, episode_limit)])


def _picture(env: "ParallelEnv") -> np.ndarray:
    picture = np.asarray(env.render())
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"render() of {type(env.unwrapped).__name__} shows {picture.dtype} of shape {picture.shape}, which is no picture: "
            f"(height, width, 3) uint8 is expected."
        )
    return picture.copy()


def _rewards(env: "ParallelEnv", act: ParallelActor, seed: int, episode_limit: int | None) -> Iterator[float]:
    """The rewards of all agents together, 0 after reset and then step by step, until an episode is over."""
    observations, infos = check_reset(env.reset(seed=seed))
    known = tuple(env.possible_agents)
    agents, steps = Agents(check_agents(env, known)), itertools.count()
    yield 0.0
    while agents.living and next(steps) != episode_limit:
        seen = {agent: observations[agent] for agent in agents.listed if agent in agents.living or agent in observations}
        masked = {agent: infos[agent] for agent in seen if find_mask(None, infos.get(agent)) is not None}
        result = env.step(act(seen, masked) if masked else act(seen))
        observations, rewards, terminations, truncations, infos = check_step(result)
        agents = change_agents(agents, terminations, truncations, check_agents(env, known)).after
        yield sum(rewards.values())
