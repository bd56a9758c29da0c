"""What a PettingZoo environment has to show to be understood: each check raises SpaceError with one sentence."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from envs_jax.adapters.space_codec import SpaceError

_RESULTS = ("observations", "rewards", "terminations", "truncations", "infos")


def check_environment_type(env: Any) -> None:
    """Raises SpaceError unless `env` has what PettingZoo's ParallelEnv has."""
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
            f"{kind} has possible_agents={agents!r}, which is not valid: it must list the names of all agents, each once."
        )
    if not isinstance(getattr(env, "metadata", None), Mapping):
        raise SpaceError(f'{kind} has no metadata: give its class metadata = {{"name": "..."}}.')


def check_reset(result: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Observations and infos from what `reset` returned."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise SpaceError(f"reset must return two values (observations, infos), it returned {_count(result)}.")
    return _dicts(("observations", "infos"), result)


def check_step(result: Any) -> tuple[Mapping[str, Any], ...]:
    """Observations, rewards, terminations, truncations and infos from what `step` returned."""
    if not isinstance(result, tuple) or len(result) != 5:
        raise SpaceError(f"step must return five values ({', '.join(_RESULTS)}), it returned {_count(result)}.")
    return _dicts(_RESULTS, result)


def _count(result: Any) -> str:
    return f"{len(result)}" if isinstance(result, tuple) else f"one value of type {type(result).__name__}"


def _dicts(names: tuple[str, ...], result: tuple) -> tuple:
    for name, value in zip(names, result, strict=True):
        if type(value) is not dict and not isinstance(value, Mapping):
            raise SpaceError(f"{name} must be a dict over the agents, they are of type {type(value).__name__}.")
    return result


def check_agents(env: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """The agents that `env` lists now."""
    listed = getattr(env, "agents", None)
    if not isinstance(listed, list | tuple):
        raise SpaceError(f"agents={listed!r} is not valid: the environment must list the agents that act in the next step.")
    for agent in listed:
        if agent not in known:
            raise SpaceError(f"agents lists {agent!r}, who is not among possible_agents: {', '.join(known)}.")
    return tuple(listed)


def reward_of(agent: str, rewards: Mapping[str, Any], required: bool) -> float:
    """One agent's reward, 0 where it is missing and not required."""
    if agent not in rewards and not required:
        return 0.0
    value = rewards.get(agent)
    if type(value) is float:
        return value
    number = np.asarray(value)
    if number.dtype.kind not in "biuf" or number.size != 1:
        raise SpaceError(f"The reward of {agent} is not valid: a number is expected, it is {value!r}.")
    return float(number.item())


def flag_of(agent: str, name: str, flags: Mapping[str, Any]) -> bool:
    """Whether one agent has terminated or been truncated."""
    value = flags.get(agent)
    if value is True or value is False:
        return value
    number = np.asarray(value)
    if number.dtype.kind not in "biuf" or number.size != 1 or number.item() not in (0, 1):
        raise SpaceError(f"The {name} of {agent} is not valid: True or False is expected, it is {value!r}.")
    return bool(number.item())


def check_finite(what: str, agents: tuple[str, ...], values: np.ndarray) -> None:
    """Raises SpaceError if one of an agent's values, (n, ...), is NaN or infinite."""
    bad = ~np.isfinite(values.reshape(len(agents), -1)).all(1)
    if bad.any():
        i = int(bad.argmax())
        value = values[i][~np.isfinite(values[i])].flat[0] if values[i].ndim else values[i]
        raise SpaceError(f"The {what} of {agents[i]} is not valid: finite numbers are expected, there is {value}.")
