"""Initial parameters of new runs that are not random, but come from a folder of earlier runs."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.training.checkpoint import (
    concatenate_archives,
    list_checkpoints,
    load_checkpoint,
    named_arrays,
    named_leaves,
    newest_usable,
    write_archive,
)
from mamt_jax.training.experiment import Built, Experiment, make_configs, plain_value
from mamt_jax.training.merge import INIT_FROM, OF_EACH_RUN, read_experiment
from mamt_jax.training.policies import load_spec
from mamt_jax.training.run_folder import BEST, CHECKPOINTS, INITIAL, FolderError, read_config
from mamt_jax.types import Config, LearnerState


class Source(NamedTuple):
    """A folder of runs from whose parameters new runs begin.

    Attributes:
        name: the folder as the user gave it.
        folder: path of the folder.
        best: whether the best policies are used instead of the latest checkpoint.
        experiment: the experiment that was trained there.
        spec: spec of the environment in which it was trained.
    """

    name: str
    folder: Path
    best: bool
    experiment: Experiment
    spec: EnvSpec


class Parameters(NamedTuple):
    """Initial parameters of new runs.

    Attributes:
        arrays: arrays by path in the learner state, with a leading axis of the source's runs.
        record: entry of config.json about them. "runs" and "env_steps" hold, for each new run, the run of the source and the
            environment steps after which its parameters were saved.
        notes: sentences for the user.
    """

    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def part(self, start: int, stop: int) -> "Parameters":
        """The parameters of the new runs with numbers `start` to `stop` - 1."""
        return self._replace(record={**self.record, **{name: self.record[name][start:stop] for name in OF_EACH_RUN}})


class _Learner(NamedTuple):
    """The part of a file that holds a learner state; the field has the name that it has in the file."""

    learner_state: LearnerState


class _Age(NamedTuple):
    """The part of best.npz that holds the environment steps at which each policy was evaluated."""

    env_steps: Any


def open_source(name: str, folder: Path) -> Source:
    """Opens the latest checkpoint of a folder of runs, or its best policies.

    The best policies are used if `folder` is the path of best.npz, or if there is no checkpoint.

    Raises:
        FolderError: if this is not a folder of runs, or if it holds neither.
    """
    best = folder.name == BEST
    folder = folder.parent if best else folder
    experiment, spec = read_experiment(folder), load_spec(folder)
    if not list_checkpoints(folder / CHECKPOINTS):
        best = True
    if best and not (folder / BEST).exists():
        raise FolderError(
            f"{folder} holds neither a checkpoint nor {BEST}: give the folder of a run that has started training."
        )
    return Source(name, folder, best, experiment, spec)


def static_fields(source: Source, config: type) -> dict[str, Any]:
    """The values of an algorithm config's static fields, such as network sizes, with which a source was trained.

    Fields that the config of the source does not have are left out.
    """
    theirs = make_configs(algorithms.make(source.experiment.algo, source.spec), source.experiment)[0]
    fields = [field for field in dataclasses.fields(config) if not field.metadata.get("pytree_node", True)]
    return {field.name: plain_value(field, getattr(theirs, field.name)) for field in fields if hasattr(theirs, field.name)}


def read_parameters(source: Source, built: Built) -> Parameters:
    """Reads the parameters of a source from which the runs of `built` begin.

    New run k begins from the source's run number k modulo the number of its runs.

    Raises:
        ValueError: if they do not fit; the message names what does not fit.
        CheckpointError: if the file of the source cannot be used.
    """
    _check_spec(source, built.env.spec)
    algorithm, config = built.algorithm, built.configs[0]
    theirs = algorithms.make(source.experiment.algo, source.spec)
    their_configs = make_configs(theirs, source.experiment)
    wanted = wanted_part(algorithm, config, policies=source.best)
    notes = _check_fields(source, algorithm, config, their_configs[0], named_leaves(wanted).keys())
    _check_leaves(source, wanted, jax.eval_shape(theirs.init, their_configs[0], jax.eval_shape(jax.random.key, 0)))
    number = len(their_configs)
    like = _Learner(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype), wanted))
    if source.best:
        path, (learner, _) = source.folder / BEST, load_checkpoint(source.folder / BEST, like)
        ages = load_checkpoint(path, _Age(jax.ShapeDtypeStruct((number,), np.int64)))[0].env_steps.tolist()
        notes.append(
            f"{BEST} holds only policies: all other parameters, such as those of critics, are initialised as in a new run."
        )
    else:
        path, (learner, record), refused = newest_usable(source.folder / CHECKPOINTS, lambda path: load_checkpoint(path, like))
        ages = [record["iterations"] * read_config(source.folder)["schedule"]["transitions"]] * number
        notes += [f"{error} {path.name} is used instead." for error in refused.values()]
    arrays = named_arrays(learner.learner_state)
    runs = [run % number for run in range(len(built.configs))]
    record = {
        "folder": source.name,
        "file": path.name,
        "parameters": "policies" if source.best else "all",
        "sha256": fingerprint(arrays),
        "runs": runs,
        "env_steps": [ages[run] for run in runs],
    }
    return Parameters(arrays, record, tuple(notes))


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 hash of arrays and their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def save_parameters(folder: Path, parameters: Parameters) -> None:
    """Writes initial parameters into a folder of parts; raises OSError if they cannot be written."""
    write_archive(folder / INITIAL, dict(parameters.arrays), {})


def saved_parameters(folder: Path) -> Parameters | None:
    """Reads the parameters that `save_parameters` wrote; None if the runs of the folder began from random parameters.

    Raises:
        CheckpointError: if the file cannot be used.
    """
    record = read_config(folder).get(INIT_FROM)
    if record is None:
        return None
    return Parameters(concatenate_archives([folder / INITIAL])[0], record)


def parameter_leaves(learner_state: LearnerState) -> Any:
    """Which leaves of a learner state were learned, as a pytree of bools: all except optimizer states, counters and keys.

    An optimizer state is an object of optax, or is in a field whose name contains "optimizer" or "opt_state". Counters are
    integer scalars.
    """

    def is_optimizer(path: Any, node: Any) -> bool:
        name = jax.tree_util.keystr(path).lower()
        return type(node).__module__.startswith("optax") or "optimizer" in name or "opt_state" in name

    def learnt(path: Any, node: Any) -> Any:
        if is_optimizer(path, node):
            return jax.tree.map(lambda _: False, node)
        counter = node.ndim == 0 and jnp.issubdtype(node.dtype, jnp.integer)
        return not counter and not jnp.issubdtype(node.dtype, jax.dtypes.prng_key)

    return jax.tree_util.tree_map_with_path(
        learnt, learner_state, is_leaf=lambda node: type(node).__module__.startswith("optax")
    )


def wanted_part(algorithm: Algorithm, config: Config, policies: bool) -> LearnerState:
    """The shapes of the parameters in one run's learner state that a source provides, and None for all other leaves.

    With `policies` these are the parameters of the policies, otherwise all parameters.
    """
    shapes = jax.eval_shape(algorithm.init, config, jax.eval_shape(jax.random.key, 0))
    part = algorithm.policy(shapes) if policies else shapes
    return jax.tree.map(lambda leaf, learnt: leaf if learnt else None, part, parameter_leaves(part))


def begin_from(parameters: Parameters, learner_states: LearnerState, num_runs: int) -> LearnerState:
    """Fresh learner states, with a leading axis of padded runs, whose parameters are replaced by the initial ones.

    If only policies are given, fields that an algorithm initialises as copies of them, such as target networks, become copies
    of the given policies.
    """
    places = {name: name for name in parameters.arrays} | find_copies(learner_states, parameters.arrays.keys())
    runs = [parameters.record["runs"][min(run, num_runs - 1)] for run in range(len(jax.tree.leaves(learner_states)[0]))]

    def choose(path: Any, fresh: jax.Array) -> Any:
        place = places.get(jax.tree_util.keystr(path))
        if place is None:
            return fresh
        array = parameters.arrays[place][np.array(runs)]
        return array.view(fresh.dtype) if array.dtype.kind == "V" else array  # NumPy reads bfloat16 as plain bytes

    return jax.tree_util.tree_map_with_path(choose, learner_states)


def find_copies(learner_state: LearnerState, taken: Collection[str]) -> dict[str, str]:
    """Finds fields that are copies of fields with leaves in `taken`: path of a leaf in the copy -> path in the original.

    A copy has the same structure and the same values, and these are not all constant, as those of new biases are.
    """
    fields: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, leaf in jax.tree.leaves_with_path(learner_state):
        keys = [jax.tree_util.keystr((key,)) for key in path]
        for depth in range(1, len(keys) + 1):
            fields.setdefault(tuple(keys[:depth]), {})["".join(keys[depth:])] = leaf
    held = {field for field, leaves in fields.items() if any("".join(field) + rest in taken for rest in leaves)}
    copies = {}
    for field in held:
        for other in fields.keys() - held:
            if other[:-1] == field[:-1] and _are_copies(fields[field], fields[other]):
                names = [rest for rest in fields[field] if "".join(field) + rest in taken]
                copies |= {"".join(other) + rest: "".join(field) + rest for rest in names}
    return copies


def _are_copies(one: Mapping[str, jax.Array], other: Mapping[str, jax.Array]) -> bool:
    """Whether two fields hold the same values, and some leaf is not constant."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return False
    if any(one[name].dtype != other[name].dtype or jnp.issubdtype(one[name].dtype, jax.dtypes.prng_key) for name in one):
        return False
    pairs = [(np.asarray(one[name]), np.asarray(other[name])) for name in one]
    return all((a == b).all() for a, b in pairs) and any((a != a.flat[0]).any() for a, _ in pairs)


def _check_spec(source: Source, spec: EnvSpec) -> None:
    """Raises ValueError that names the first difference between the environments in agents or spaces."""
    theirs, name = source.spec, f"--init-from {source.name} does not fit {spec.name}"
    if theirs.num_agents != spec.num_agents:
        raise ValueError(f"{name}: its policies are for {theirs.num_agents} agents, but {spec.name} has {spec.num_agents}.")
    for what, ours, other in (
        ("observations of size", spec.observation_sizes, theirs.observation_sizes),
        ("actions of kind and size", *([_kind(space) for space in each.action_spaces] for each in (spec, theirs))),
    ):
        for agent, here, there in zip(spec.agent_names, ours, other, strict=True):
            if here != there:
                raise ValueError(f"{name}: for {agent} it was trained with {what} {there}, but {spec.name} has {here}.")


def _kind(space: Any) -> str:
    """The kind and the size of an action space."""
    sizes = [value for name, value in dataclasses.asdict(space).items() if name not in ("low", "high", "idle")]
    return " ".join(map(str, [type(space).__name__, *sizes]))


def _check_fields(source: Source, algorithm: Algorithm, config: Config, theirs: Config, wanted: Collection[str]) -> list[str]:
    """Checks the fields of an algorithm config against those with which a source was trained.

    Args:
        source: the source of the parameters.
        algorithm: algorithm of the new runs.
        config: config of the new runs.
        theirs: config of the source.
        wanted: paths of the parameters that are used.

    Returns:
        Notes about float fields whose new values have no effect.

    Raises:
        ValueError: if a static field would give other initial parameters; the message names it.
    """
    notes = []

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # it runs once or twice
    def init(config: Config) -> dict[str, jax.Array]:
        leaves = named_leaves(algorithm.init(config, jax.random.key(0)))
        return {name: leaf for name, leaf in leaves.items() if name in wanted}

    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        ours, other = getattr(config, field.name), getattr(theirs, field.name, None)
        if other is None or ours == other:
            continue
        here, there = (init(each) for each in (config, dataclasses.replace(config, **{field.name: other})))  # type: ignore[type-var]
        if here.keys() == there.keys() and all(np.array_equal(here[name], there[name]) for name in here):
            continue
        if not field.metadata.get("pytree_node", True):
            ours, other = (plain_value(field, value) for value in (ours, other))
            raise ValueError(
                f"--init-from {source.name} does not fit {field.name}={ours}: it was trained with {field.name}={other}. "
                f"Leave out --{field.name.replace('_', '-')}."
            )
        notes.append(
            f"{field.name}={ours} does not change the initial parameters, which were learned with {field.name}={other}."
        )
    return notes


def _check_leaves(source: Source, wanted: LearnerState, theirs: LearnerState) -> None:
    """Raises ValueError that names the first parameter that a source lacks or has with another shape or dtype."""
    there = named_leaves(theirs)
    for name, leaf in named_leaves(wanted).items():
        other = there.get(name)
        if other is None or (other.shape, other.dtype) != (leaf.shape, leaf.dtype):
            found = "is missing" if other is None else f"has shape {list(other.shape)}, but {list(leaf.shape)} is expected"
            only = "" if source.best else f", or use only its policies with --init-from {source.name}/{BEST}"
            raise ValueError(
                f"--init-from {source.name} does not fit: its {name} {found}. It was trained by {source.experiment.algo_name}: "
                f"give --algo {source.experiment.algo_name}{only}."
            )
