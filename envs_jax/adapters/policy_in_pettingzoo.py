"""Runs a trained policy in a PettingZoo environment, parallel or turn-based (AEC)."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
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
from envs_jax.environment import EnvSpec, Policy, takes

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

ParallelActor = Callable[..., dict[str, Any]]
AecActor = Callable[..., Any]


def parallel_actor(policy: Policy, spec: EnvSpec, seed: int | None = None) -> ParallelActor:
    """Turns a policy into a function from the observations of a ParallelEnv to actions.

    Args:
        policy: a policy from `mamt_jax.load_policy`.
        spec: spec of the environment in which the policy was trained, from `mamt_jax.load_spec`.
        seed: seed of sampled actions; None for the most likely actions.

    Returns:
        `act(observations, infos=None)`, which returns one action per observed agent. If the policy was trained in a PettingZoo
        environment, observations and actions belong to its spaces, exactly as in training. Otherwise observations may have any
        shape and are flattened, and an action is an int, or a float32 vector of the agent's own width. Action masks are read
        from the observation dicts or from `infos`. `act` raises ValueError if an agent, its observation or its action mask
        does not match the spec. A policy with a memory remembers all that `act` has seen: make a new `act` for each episode.
    """
    codec, numbered, numbers = make_codec(spec), _numbered(policy, seed), itertools.count()

    def act(observations: Mapping[str, Any], infos: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return _actions(codec, numbered, next(numbers), observations, infos or {})

    return act


def aec_actor(policy: Policy, spec: EnvSpec, seed: int | None = None) -> AecActor:
    """Turns a policy into a function from one agent's observation to its action, for `env.agent_iter()`.

    If every agent acts once per turn, the actions equal those of `parallel_actor` for the same observations and seed. The
    observations themselves may differ: in PettingZoo's Pursuit, unlike in training, they include the moves of earlier agents.

    Args:
        policy: as in `parallel_actor`.
        spec: as in `parallel_actor`.
        seed: as in `parallel_actor`.

    Returns:
        `act(agent, observation, info=None)`, which remembers and raises ValueError as the function of `parallel_actor` does.
    """
    codec, numbered, numbers = make_codec(spec), _numbered(policy, seed), defaultdict(itertools.count)

    def act(agent: str, observation: Any, info: Mapping[str, Any] | None = None) -> Any:
        number = next(numbers[agent])
        return _actions(codec, numbered, number, {agent: observation}, {agent: info or {}})[agent]

    return act


def _actions(
    codec: Codec, numbered: Callable[..., jax.Array], number: int, observations: Mapping[str, Any], infos: Mapping[str, Any]
) -> dict[str, Any]:
    """Actions of the observed agents. The rows of other agents are zero, which does not affect decentralized policies."""
    _check_agents(codec.spec, observations)
    joint = joint_observation(codec, observations, observations)
    masks = {"action_mask": joint_mask(codec, observations, infos, observations)} if codec.spec.has_action_masks else {}
    seen = np.array([name in observations for name in codec.spec.agent_names])
    return own_actions(codec, np.asarray(numbered(joint, number, seen, **masks)), observations)


def _check_agents(spec: EnvSpec, agents: Iterable[str]) -> None:
    for agent in agents:
        if agent not in spec.agent_names:
            raise ValueError(f"agent {agent!r} is not valid: the policy was trained for {', '.join(spec.agent_names)}.")


def _numbered(policy: Policy, seed: int | None) -> Callable[..., jax.Array]:
    """Returns (observation, number of the step, agents that are seen (n,)) -> action.

    With a seed, it samples actions in one jitted program for speed. It holds the hidden states of a policy with a memory, which
    change for the agents that are seen.
    """

    def choose(observation: Any, number: Any, **given: Any) -> Any:
        keys = [] if seed is None else [jax.random.fold_in(jax.random.key(seed), number)]
        return policy(observation, *keys, **given)

    choose = choose if seed is None else jax.jit(choose)
    if not takes(policy, "hidden_state"):
        return lambda observation, number, seen, **masks: choose(observation, number, **masks)
    hidden_state = None

    def remembering(observation: Any, number: Any, seen: np.ndarray, **masks: Any) -> jax.Array:
        nonlocal hidden_state
        action, after = choose(observation, number, hidden_state=hidden_state, **masks)
        before = jnp.zeros_like(after) if hidden_state is None else hidden_state
        hidden_state = jnp.where(seen[:, None], after, before)
        return action

    return remembering


def episode_returns(
    env: "ParallelEnv", act: ParallelActor, episodes: int, seed: int, episode_limit: int | None = None
) -> np.ndarray:
    """Plays whole episodes and returns their episode returns.

    Args:
        env: the environment to play in.
        act: observations of the agents in `env.agents` -> actions. It also receives their infos, if these contain masks.
        episodes: number of episodes.
        seed: seed of the first episode, from which the other seeds are derived.
        episode_limit: number of steps after which an episode is stopped; None for no limit.

    Returns:
        (episodes,), the sum of one agent's rewards over an episode, averaged over all agents.
    """
    totals = [sum(_rewards(env, act, episode_seed(seed, i), episode_limit)) for i in range(episodes)]
    return np.array(totals) / len(env.possible_agents)


def episode_pictures(env: "ParallelEnv", act: ParallelActor, seed: int, episode_limit: int | None = None) -> np.ndarray:
    """Plays one episode and returns the pictures of `env.render()` after reset and each step, (time, height, width, 3) uint8.

    Raises:
        ValueError: if `render()` returns no picture.
    """
    return np.stack([_picture(env) for _ in _rewards(env, act, seed, episode_limit)])


def _picture(env: "ParallelEnv") -> np.ndarray:
    picture = np.asarray(env.render())
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"render() of {type(env.unwrapped).__name__} returned an array of {picture.dtype} {picture.shape}, but a picture "
            f"of uint8 (height, width, 3) is expected."
        )
    return picture.copy()


def _rewards(env: "ParallelEnv", act: ParallelActor, seed: int, episode_limit: int | None) -> Iterator[float]:
    """Plays one episode; yields 0 after reset, and then the sum of all agents' rewards after each step."""
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
