"""From "pettingzoo/NAME" to an environment in processes."""

import importlib
from functools import partial
from typing import Any

from pettingzoo import ParallelEnv

from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.adapters.multiwalker import multiwalker
from envs_jax.adapters.pettingzoo_checks import check_environment_type
from envs_jax.environment import EnvironmentFactory, HostEnvironment
from envs_jax.validation import one_line


def find_factory(name: str) -> EnvironmentFactory:
    """Multi-Walker for "multiwalker", else what the module `name` makes with its `parallel_env`.

    Raises:
        ValueError: if there is no such module, or it makes no parallel environment.
    """
    if name == "multiwalker":
        return multiwalker
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ValueError(
            f"Environment {f'pettingzoo/{name}'!r} cannot be imported ({one_line(error)}): give a module with a parallel_env, "
            f"as pettingzoo/mpe2.simple_spread_v3 or pettingzoo/pettingzoo.sisl.pursuit.pursuit."
        ) from error
    if not hasattr(module, "parallel_env"):
        raise ValueError(f"Environment {f'pettingzoo/{name}'!r} is not valid: the module {name} has no parallel_env.")

    def factory(episode_limit: int | None = None, options: dict | None = None, processes: int | None = None) -> HostEnvironment:
        """Builds the environment.

        Args:
            episode_limit: steps after which an episode is truncated, if it is not over before; None for its own max_cycles.
            options: passed to its parallel_env, as {'N': 5}.
            processes: processes to share out the environments among, the CPU cores if None.
        """
        make_env = partial(_make, name, options or {})
        try:
            limit = _max_cycles(make_env()) if episode_limit is None else episode_limit
            return from_pettingzoo(make_env, limit, processes=processes)
        except Exception as error:
            raise ValueError(
                f"Environment {f'pettingzoo/{name}'!r} cannot be made with {options=}: {one_line(error)}."
            ) from error

    return factory


def _make(module: str, options: dict[str, Any], **more: Any) -> ParallelEnv:
    return importlib.import_module(module).parallel_env(**{**options, **more})


def _max_cycles(env: ParallelEnv) -> int:
    """The time limit that an environment, or the simulator inside, says it has."""
    check_environment_type(env)
    inner = [env.unwrapped, getattr(env.unwrapped, "env", None)]
    found = [getattr(each, limit) for each in inner for limit in ("max_cycles", "max_steps") if hasattr(each, limit)]
    env.close()
    if not found:
        raise ValueError("it does not say when it truncates, give episode_limit.")
    return int(found[0])
