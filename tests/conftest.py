"""Hostile settings, in place before jax starts: what passes here passes under the gentler ones of users.

They are environment variables, so that a test's subprocesses run under them too.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mamt_jax.training.experiment import Experiment

RunPython = Callable[..., subprocess.CompletedProcess[str]]

_FLAGS = {
    "--xla_force_host_platform_device_count": "2",
    "--xla_cpu_use_fusion_emitters": "false",  # a third less time to compile, of which tests spend most
}
_ROOT = Path(__file__).parents[1]

for _name, _value in _FLAGS.items():
    if _name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_name}={_value}".strip()
for _name, _value in {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEBUG_KEY_REUSE": "true",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiles in less than half the time
    "JAX_COMPILATION_CACHE_DIR": str(_ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}.items():
    os.environ.setdefault(_name, _value)

import mamt_jax  # noqa: E402  it adds to XLA_FLAGS, which must be complete before the first test starts jax

PROBE = ["--env", "probe:symbols", "--algo", "probe:make"]
OPTIONS: dict[str, Any] = {
    "episodes": 60,
    "num_envs": 4,
    "update_interval": 10,
    "num_updates": 2,
    "buffer_size": 200,
    "batch_size": 32,
    "evaluation_interval": 20,
    "evaluation_episodes": 20,
}
SMALL = [text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def experiment_of(arguments: Sequence[str]) -> "Experiment":
    """The experiment that arguments of `mamt train` describe."""
    from mamt_jax.cli import train
    from mamt_jax.cli.parser import dashed

    experiment = train.read_arguments(dashed(arguments)).experiment
    assert experiment is not None
    return experiment


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: two seeds times two learning rates, three agents. Only to be read."""
    import probe

    folder, rates = tmp_path_factory.mktemp("run") / "out", [0.1, 0.5]
    own = {"seed": 3, "learning_rate": rates, "num_agents": 3}
    return mamt_jax.train(probe.symbols, probe.make, out=folder, seeds=2, log=["tensorboard"], **own, **OPTIONS).folder


@pytest.fixture
def run_python() -> RunPython:
    """`run_python(*arguments, code=0, cwd=repository, timeout=300, **environment)`: Python, its exit code checked."""

    def run(*arguments: str | Path, code: int = 0, cwd: Path = _ROOT, timeout: float = 300, **environment: str):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == code, f"exit code {done.returncode} of {command}\n{done.stdout}\n{done.stderr}"
        return done

    return run
