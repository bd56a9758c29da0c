"""Each setting of conftest.py and pyproject.toml bites."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import RunPython
from jax.errors import KeyReuseError


def test_rank_promotion_raises():
    with pytest.raises(ValueError, match="rank_promotion"):
        _ = jnp.ones((2, 3)) + jnp.ones(3)


def test_a_reused_key_raises():
    def twice(key: jax.Array) -> jax.Array:
        return jax.random.normal(key) + jax.random.normal(key)

    with pytest.raises(KeyReuseError):
        twice(jax.random.key(0))
    with pytest.raises(KeyReuseError):
        jax.jit(twice)(jax.random.key(0))


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="hostile"):
        warnings.warn("hostile", stacklevel=1)


def test_there_are_two_devices():
    assert jax.device_count() >= 2


@pytest.mark.slow
def test_compiled_programs_are_kept(run_python: RunPython, tmp_path: Path):
    program = "import jax; jax.jit(lambda x: x + 1)(1.0)"
    run_python("-c", program, JAX_COMPILATION_CACHE_DIR=str(tmp_path), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert list(tmp_path.glob("jit_*-cache"))
