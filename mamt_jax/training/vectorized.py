"""Many runs of training as one program: vmapped over runs (seeds x hyperparameters) and sharded over the local devices.

The devices form a mesh with two axes. Runs are divided along `runs`. If there are fewer runs than devices, several devices
share a run along `envs`: each has a part of the run's environments, of its replay memory and of every batch.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from envs_jax.environment import Environment
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.sharding import ENVS, RUNS
from mamt_jax.training.config import Schedule, TrainingConfig
from mamt_jax.training.trainer import Evaluation, RunState, make_run, reset_sums
from mamt_jax.types import Config


class Runs(NamedTuple):
    """The programs of training. All arguments and results except iteration numbers have a leading axis of runs.

    Attributes:
        init: (configs, keys) -> states.
        advance: (configs, states, first iteration, number of iterations) -> states. Donates `states`.
        evaluate: (configs, states, iteration) -> {"asked": Evaluation, "sampled": Evaluation}.
        reset_sums: states -> states with all sums set to zero. Donates `states`.
        sharding: sharding of the axis of runs over the devices.
        state_sharding: sharding of the states, as a prefix of their tree.
        begin: (states, iterations done) -> states from which `advance` can continue; called once before it.
        close: () -> None; releases the resources of environments outside JAX.
    """

    init: jax.stages.Wrapped
    advance: Callable[..., RunState]
    evaluate: Callable[..., dict[str, Evaluation]]
    reset_sums: jax.stages.Wrapped
    sharding: Sharding
    state_sharding: Any
    begin: Callable[[RunState, int], RunState] = lambda states, iterations: states
    close: Callable[[], None] = lambda: None


def stack_configs(configs: Sequence[Config]) -> Config:
    """Stacks configs into one whose numeric leaves have a leading axis of runs; static fields must be equal in all."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *configs)


def run_keys(seeds: Sequence[int]) -> jax.Array:
    """One random key per seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def make_runs(env: Environment, algorithm: Algorithm, config: TrainingConfig, schedule: Schedule, num_runs: int) -> Runs:
    """The jitted programs that train `num_runs` runs side by side; `num_runs` is a result of `padded_runs`."""
    run = make_run(env, algorithm, config, schedule)

    def advance(configs: Config, states: RunState, first: jax.Array, count: jax.Array) -> RunState:
        vectorised = jax.vmap(run.iteration, in_axes=(0, 0, None))
        return jax.lax.fori_loop(first, first + count, lambda index, states: vectorised(configs, states, index), states)

    sharding = runs_sharding(num_runs, devices_per_run(num_runs, config))
    states = state_sharding(sharding)
    return Runs(
        init=jit_init(run.init, sharding, states),
        advance=jax.jit(shard(advance, sharding, by_run=2, shared=2), donate_argnums=1, out_shardings=states),
        evaluate=jax.jit(shard(jax.vmap(run.evaluate, in_axes=(0, 0, None)), sharding, by_run=2, shared=1)),
        reset_sums=jax.jit(shard(reset_sums, sharding, by_run=1), donate_argnums=0, out_shardings=states),
        sharding=sharding,
        state_sharding=states,
    )


def jit_init(init_run: Callable[[Config, jax.Array], RunState], sharding: Sharding, states: Any = None) -> jax.stages.Wrapped:
    """Makes `Runs.init` from the `init` of one run. It maps sequentially, which compiles faster than `vmap`.

    Its result has the sharding of states that are read from a checkpoint. The same compiled programs accept both.
    """
    init = partial(jax.lax.map, lambda run: init_run(*run))
    return jax.jit(shard(lambda configs, keys: init((configs, keys)), sharding, by_run=2), out_shardings=states or sharding)


def even_shares(num_runs: int, num_devices: int) -> tuple[int, int]:
    """How many devices to use, and how many runs on each: the smallest equal shares, on the fewest devices."""
    share = math.ceil(num_runs / num_devices)
    return math.ceil(num_runs / share), share


def padded_runs(num_runs: int) -> int:
    """The number of runs after padding, with which all devices in use have the same number of runs."""
    return math.prod(even_shares(num_runs, len(jax.local_devices())))


def devices_per_run(num_runs: int, config: TrainingConfig) -> int:
    """How many devices share a run: the most of those that are left over which divide the environments equally.

    CPU cores share a run only if `devices_per_run` asks for it, because a run then depends on their number in its last digits.
    """
    devices = jax.local_devices()
    wanted = config.devices_per_run or (1 if devices[0].platform == "cpu" else len(devices))
    used, _ = even_shares(num_runs, len(devices))
    return max(n for n in range(1, min(wanted, len(devices) // used) + 1) if config.num_envs % n == 0)


def runs_sharding(num_runs: int, per_run: int = 1) -> Sharding:
    """The sharding of the axis of `num_runs` runs, a result of `padded_runs`, over the local devices, `per_run` for each run.

    One device has no mesh. What is traced outside the program, such as the memory plan, then serves the program, too.
    """
    devices = jax.local_devices()
    used, _ = even_shares(num_runs, len(devices))
    if used * per_run == 1:
        return SingleDeviceSharding(devices[0])
    if per_run == 1:
        return NamedSharding(Mesh(np.array(devices[:used]), (RUNS,)), PartitionSpec(RUNS))
    mesh = Mesh(np.array(devices[: used * per_run]).reshape(used, per_run), (RUNS, ENVS))
    return NamedSharding(mesh, PartitionSpec(RUNS))


def state_sharding(sharding: Sharding) -> Any:
    """The sharding of states whose axis of runs has this sharding, as a prefix of their tree."""
    if not isinstance(sharding, NamedSharding) or ENVS not in sharding.mesh.axis_names:
        return sharding
    parts: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(RunState)), sharding)
    parts["env_batch"] = NamedSharding(sharding.mesh, PartitionSpec(RUNS, ENVS))  # (runs, E, ...)
    parts["replay"] = NamedSharding(sharding.mesh, PartitionSpec(RUNS, None, None, ENVS))  # (runs, R, T, E, ...)
    return RunState(**parts)


def pad_runs(tree: Any, num_runs: int) -> Any:
    """Repeats the last run of a leading axis of runs until there are `num_runs`."""
    return jax.tree.map(lambda leaf: leaf[np.minimum(np.arange(num_runs), len(leaf) - 1)], tree)


def shard(function: Callable, sharding: Sharding, by_run: int, shared: int = 0) -> Callable:
    """Runs `function` on all devices. Its first `by_run` arguments have an axis of runs, and its last `shared` have none.

    Devices that share a run are left to XLA, which divides the work where `split_rows` and the states say so.
    """
    if not isinstance(sharding, NamedSharding):
        return function
    specs = (sharding.spec,) * by_run + (PartitionSpec(),) * shared
    return jax.shard_map(
        function, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, axis_names={RUNS}, check_vma=False
    )
