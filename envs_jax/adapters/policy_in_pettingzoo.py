"""A trained policy in an environment of PettingZoo, parallel or agent by agent."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from envs_jax.environment import Discrete, EnvSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

Policy = Callable[..., jax.Array]
"""What `mamt_jax.load_policy` returns: (observation (n, d), key or None) -> action (n,) or (n, k)."""

Action = int | np.ndarray
ParallelActor = Callable[[Mapping[str, Any]], dict[str, Action]]
AecActor = Callable[[str, Any], Action]


def parallel_actor(policy: Policy, spec: EnvSpec, seed: int | None = None) -> ParallelActor:
    """The policy as a function from the observations of a ParallelEnv to its actions.

    Args:
        policy: of `mamt_jax.load_policy`.
        spec: of the environment in which it was trained, `mamt_jax.load_spec`.
        seed: of sampled actions; without one they are the most likely.

    Returns:
        `act(observations)`, one action for every agent in the dict: an int, or a float32 vector of the agent's own width.
        Observations may have any shape: they are flattened. It raises ValueError if an agent or the size of its
        observation is not the spec's.
    """
    numbered, numbers = _numbered(policy, seed), itertools.count()

    def act(observations: Mapping[str, Any]) -> dict[str, Action]:
        action = np.asarray(numbered(_joint(spec, observations), next(numbers)))
        return {agent: _own(spec, _place(spec, agent), action) for agent in observations}

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
        `act(agent, observation)`; it raises ValueError as `parallel_actor`'s does.
    """
    numbered, numbers = _numbered(policy, seed), defaultdict(itertools.count)

    def act(agent: str, observation: Any) -> Action:
        joint = _joint(spec, {agent: observation})
        return _own(spec, _place(spec, agent), np.asarray(numbered(joint, next(numbers[agent]))))

    return act


def episode_returns(env: "ParallelEnv", act: ParallelActor, episodes: int, seed: int) -> np.ndarray:
    """Returns of whole episodes.

    Args:
        env: where to play.
        act: who plays, observations of the living agents -> actions.
        episodes: how many.
        seed: of the first episode; the others go on with its stream.

    Returns:
        (episodes,): the sum of one agent's rewards over an episode, mean over all agents.
    """
    seeds = itertools.chain([seed], itertools.repeat(None, episodes - 1))
    return np.array([_episode_return(env, act, each) for each in seeds])


def _episode_return(env: "ParallelEnv", act: ParallelActor, seed: int | None) -> float:
    observations, _ = env.reset(seed=seed)
    total = 0.0
    while env.agents:
        observations, rewards, *_ = env.step(act({agent: observations[agent] for agent in env.agents}))
        total += sum(rewards.values())
    return total / len(env.possible_agents)


def _numbered(policy: Policy, seed: int | None) -> Callable[[np.ndarray, int], jax.Array]:
    """(observation, number of the step) -> action, sampled under a seed; one program, since a step on the host is short."""
    if seed is None:
        return lambda observation, number: policy(observation)
    return jax.jit(lambda observation, number: policy(observation, jax.random.fold_in(jax.random.key(seed), number)))


def _joint(spec: EnvSpec, observations: Mapping[str, Any]) -> np.ndarray:
    """(n, d); the rows of agents that are not there are zero, which is nothing to a decentralised policy."""
    joint = np.zeros((spec.num_agents, spec.observation_size), np.float32)
    for agent, observation in observations.items():
        i = _place(spec, agent)
        joint[i, : spec.observation_sizes[i]] = _flat(spec, i, observation)
    return joint


def _place(spec: EnvSpec, agent: str) -> int:
    if agent not in spec.agent_names:
        raise ValueError(f"agent {agent!r} is not known to the policy: it was trained for {', '.join(spec.agent_names)}.")
    return spec.agent_names.index(agent)


def _flat(spec: EnvSpec, i: int, observation: Any) -> np.ndarray:
    array = np.asarray(observation, np.float32)
    if array.size != spec.observation_sizes[i]:
        raise ValueError(
            f"the observation of {spec.agent_names[i]} has shape {array.shape}, {array.size} entries, which is not valid: "
            f"the policy was trained on {spec.observation_sizes[i]}."
        )
    return array.ravel()


def _own(spec: EnvSpec, i: int, action: np.ndarray) -> Action:
    space = spec.action_spaces[i]
    return int(action[i]) if isinstance(space, Discrete) else action[i, : space.size].astype(np.float32)
