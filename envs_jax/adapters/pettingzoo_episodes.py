"""Plays episodes of one PettingZoo environment and converts its steps to the fields of a TimeStep.

Everything that the environment returns is checked. A failed check raises SpaceError.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from envs_jax.adapters.space_codec import Codec, SpaceError, joint_mask, joint_observation, own_actions

Row = dict[str, Any]
"""Fields of a TimeStep of one environment, as a dict of arrays."""
_RESULTS = ("observations", "rewards", "terminations", "truncations", "infos")


class Agents(NamedTuple):
    """Agents that take part.

    Attributes:
        listed: `env.agents`, in its order. The environment needs an action for each of them.
        ended: agents in `listed` that have terminated or been truncated.
    """

    listed: tuple[str, ...]
    ended: frozenset[str] = frozenset()

    @property
    def living(self) -> tuple[str, ...]:
        """Agents in `listed` that have not ended."""
        return tuple(agent for agent in self.listed if agent not in self.ended) if self.ended else self.listed


class Change(NamedTuple):
    """Effect of a step on the agents.

    Attributes:
        after: agents that take part after the step.
        terminated: agents that the step terminated.
        truncated: agents that the step truncated and did not terminate.
    """

    after: Agents
    terminated: frozenset[str]
    truncated: frozenset[str]


def episode_seed(seed: int, episode: int) -> int:
    """Reset seed of an episode, numbered from 0, in an environment whose first seed is `seed`."""
    return int(seed if episode == 0 else np.random.SeedSequence(seed, spawn_key=(episode,)).generate_state(1)[0])


def change_agents(
    before: Agents, terminations: Mapping[str, Any], truncations: Mapping[str, Any], listed: tuple[str, ...]
) -> Change:
    """Reads the flags of the agents that were alive before a step; raises SpaceError if one left without an end."""
    living = before.living
    terminated = frozenset([agent for agent in living if flag_of(agent, "termination", terminations)])
    truncated = frozenset([agent for agent in living if flag_of(agent, "truncation", truncations)]) - terminated
    ended = before.ended | terminated | truncated
    for agent in living:
        if agent not in ended and agent not in listed:
            raise SpaceError(f"{agent} is missing from agents after a step that neither terminated nor truncated it.")
    return Change(Agents(listed, ended & set(listed)), terminated, truncated)


class Episodes:
    """An environment with automatic reset. Each method returns a Row.

    The values of the first reset and the first step must also be finite.
    """

    def __init__(self, env: Any, codec: Codec, metrics: tuple[str, ...]) -> None:
        """Stores the environment, which is not reset yet."""
        self.env, self._codec, self._spec, self._metrics = env, codec, codec.spec, metrics
        self._seed = self._episode = self._steps = 0
        self._agents = Agents(())
        self._checked = False

    def reset(self, seed: int) -> Row:
        """Starts the first episode of a seed."""
        self._seed, self._episode = seed, -1
        shown = self._begin()
        if not self._checked:
            check_finite("observation after reset", self._spec.agent_names, shown["observation"])
        nothing = np.zeros(self._spec.num_agents, np.float32)
        final = {"final_observation": shown["observation"], "final_action_mask": shown["action_mask"]}
        rest = {"reward": nothing, "terminated": nothing, "truncated": False, "metrics": [0.0] * len(self._metrics)}
        return shown | final | rest

    def step(self, action: np.ndarray) -> Row:
        """Steps all agents with the action (n,) or (n, k). If this ends the episode, the next one starts."""
        before, names = self._agents, self._spec.agent_names
        acting = before.living
        result = self.env.step(own_actions(self._codec, action, before.listed))
        self._steps += 1
        observations, rewards, terminations, truncations, infos = check_step(result)
        change = change_agents(before, terminations, truncations, check_agents(self.env, names))
        living = change.after.living
        over = not living or self._steps >= self._spec.episode_limit
        lasting = [agent for agent in names if agent in living or (over and agent in change.truncated)]
        ended = [agent for agent in acting if agent not in lasting and observations.get(agent) is not None]
        final = {
            "final_observation": joint_observation(self._codec, observations, [*lasting, *ended]),
            "final_action_mask": joint_mask(self._codec, observations, infos, lasting),
        }
        reward = np.array([reward_of(agent, rewards, agent in acting) for agent in names])
        if not self._checked:
            self._checked = True
            check_finite("observation after a step", names, final["final_observation"])
            check_finite("reward", names, reward)
        row = final | {
            "reward": reward,
            "terminated": [agent not in lasting for agent in names],
            "truncated": over and bool(lasting),
            "metrics": [_mean(name, infos, acting) for name in self._metrics],
        }
        if over:
            return row | self._begin()
        self._agents = change.after
        now = {"observation": final["final_observation"], "action_mask": final["final_action_mask"]}
        return row | now | {"active": self._active()}

    def _begin(self) -> Row:
        """Starts the next episode; returns its first observation, action mask and active agents."""
        self._episode, self._steps = self._episode + 1, 0
        observations, infos = check_reset(self.env.reset(seed=episode_seed(self._seed, self._episode)))
        self._agents = Agents(check_agents(self.env, self._spec.agent_names))
        living = self._agents.living
        if not living:
            raise SpaceError("agents is empty after reset: it must list the agents that act in the first step.")
        return {
            "observation": joint_observation(self._codec, observations, living),
            "action_mask": joint_mask(self._codec, observations, infos, living),
            "active": self._active(),
        }

    def _active(self) -> list[bool]:
        living = self._agents.living
        return [agent in living for agent in self._spec.agent_names]


def _mean(name: str, infos: Mapping[str, Any], agents: tuple[str, ...]) -> float:
    try:
        return float(sum(infos[agent][name] for agent in agents) / len(agents))
    except (KeyError, TypeError):
        raise SpaceError(f"The metric {name!r} is missing: the infos of {', '.join(agents)} must contain it.") from None


def check_environment_type(env: Any) -> None:
    """Raises SpaceError unless `env` has the interface of PettingZoo's ParallelEnv."""
    kind = type(env).__name__
    if any(each.__name__ == "AECEnv" for each in type(env).__mro__):
        raise SpaceError(f"{kind} is turn-based (an AECEnv): wrap it in pettingzoo.utils.aec_to_parallel.")
    missing = [
        name for name in ("reset", "step", "observation_space", "action_space") if not callable(getattr(env, name, None))
    ]
    if missing:
        raise SpaceError(f"{kind} is not a PettingZoo ParallelEnv: it has no {', '.join(missing)}.")
    parameters = inspect.signature(env.reset).parameters.values()
    if not any(each.name == "seed" or each.kind is each.VAR_KEYWORD for each in parameters):
        raise SpaceError(f"{kind}.reset takes no seed: define it as reset(self, seed=None, options=None).")
    agents = getattr(env, "possible_agents", None)
    names = list(agents) if isinstance(agents, Iterable) else []
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise SpaceError(
            f"{kind} has possible_agents={agents!r}, which is not valid: it must list the name of every agent exactly once."
        )
    if not isinstance(getattr(env, "metadata", None), Mapping):
        raise SpaceError(f'{kind} has no metadata: give its class metadata = {{"name": "..."}}.')


def check_reset(result: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Checks the result of `reset`; returns observations and infos."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise SpaceError(f"reset must return two values (observations, infos), but it returned {_count(result)}.")
    return _dicts(("observations", "infos"), result)


def check_step(result: Any) -> tuple[Mapping[str, Any], ...]:
    """Checks the result of `step`; returns observations, rewards, terminations, truncations and infos."""
    if not isinstance(result, tuple) or len(result) != 5:
        raise SpaceError(f"step must return five values ({', '.join(_RESULTS)}), but it returned {_count(result)}.")
    return _dicts(_RESULTS, result)


def _count(result: Any) -> str:
    return f"{len(result)}" if isinstance(result, tuple) else f"one value of type {type(result).__name__}"


def _dicts(names: tuple[str, ...], result: tuple) -> tuple:
    for name, value in zip(names, result, strict=True):
        if type(value) is not dict and not isinstance(value, Mapping):
            raise SpaceError(f"{name} must be a dict over the agents, but they are of type {type(value).__name__}.")
    return result


def check_agents(env: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """Checks and returns the agents that `env` lists now."""
    listed = getattr(env, "agents", None)
    if not isinstance(listed, list | tuple):
        raise SpaceError(f"agents={listed!r} is not valid: the environment must list the agents that act in the next step.")
    for agent in listed:
        if agent not in known:
            raise SpaceError(f"agents lists {agent!r}, but possible_agents contains only {', '.join(known)}.")
    return tuple(listed)


def reward_of(agent: str, rewards: Mapping[str, Any], required: bool) -> float:
    """Reward of one agent, 0 if it is missing and not required; raises SpaceError if it is not a number."""
    if agent not in rewards and not required:
        return 0.0
    value = rewards.get(agent)
    if type(value) is float:
        return value
    number = np.asarray(value)
    if number.dtype.kind not in "biuf" or number.size != 1:
        raise SpaceError(f"The reward of {agent} is not valid: a number is expected, but it is {value!r}.")
    return float(number.item())


def flag_of(agent: str, name: str, flags: Mapping[str, Any]) -> bool:
    """Termination or truncation flag of one agent; raises SpaceError if it is neither True nor False."""
    value = flags.get(agent)
    if value is True or value is False:
        return value
    number = np.asarray(value)
    if number.dtype.kind not in "biuf" or number.size != 1 or number.item() not in (0, 1):
        raise SpaceError(f"The {name} of {agent} is not valid: True or False is expected, but it is {value!r}.")
    return bool(number.item())


def check_finite(what: str, agents: tuple[str, ...], values: np.ndarray) -> None:
    """Raises SpaceError if a value of any agent, (n, ...), is NaN or infinite."""
    bad = ~np.isfinite(values.reshape(len(agents), -1)).all(1)
    if bad.any():
        i = int(bad.argmax())
        value = values[i][~np.isfinite(values[i])].flat[0] if values[i].ndim else values[i]
        raise SpaceError(f"The {what} of {agents[i]} is not valid: finite numbers are expected, but it contains {value}.")
