"""Trained policies without their environment: from a run's folder, from the package, or exported for plain JAX."""

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.export
import jax.numpy as jnp

from envs_jax.environment import EnvSpec, takes
from envs_jax.validation import nearest
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.algorithms.base import Algorithm, as_policy
from mamt_jax.options import OptionError
from mamt_jax.training.checkpoint import list_checkpoints, load_checkpoint, newest_usable
from mamt_jax.training.experiment import Experiment, experiment_from_json, make_configs
from mamt_jax.training.run_folder import BEST, CHECKPOINTS, CONFIG, FolderError, read_config, spec_from_json
from mamt_jax.training.vectorized import run_keys, stack_configs
from mamt_jax.types import Config, LearnerState

PRETRAINED = Path(__file__).parents[1] / "pretrained"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Policy = Callable[..., Any]
Which = Literal["latest", "best"]


class _Learner(NamedTuple):
    """The part of a file that holds the policies; the field has the name that it has in the file."""

    learner_state: LearnerState


def load_policy(folder: str | Path, run: int = 0, which: Which = "latest") -> Policy:
    """Loads the policies of all agents from the folder of a run.

    Args:
        folder: the folder of a run.
        run: number of the run in the folder, as in metrics.jsonl.
        which: "latest" for the latest checkpoint, "best" for the evaluation with the highest return.

    Returns:
        A jitted function `policy(observation, key=None, action_mask=None)`. It maps observations (..., n, d), zero-padded to
            the widest agent, to actions (..., n) or (..., n, k). It returns the mode of each policy, or a sample if a key is
            given. A policy that was trained with action masks requires one, (..., n, A) bool, and takes no masked action. A
            policy that was trained with a memory is `policy(observation, key=None, action_mask=None, hidden_state=None)`. It
            returns (action, hidden state (..., n, h)); give the hidden state back with the next observation, and None when an
            episode begins. The function raises ValueError for an argument of another shape or dtype.

    Raises:
        FolderError: if this is not a folder of runs, or if the run or the policy is missing.
        CheckpointError: if no checkpoint can be used.
    """
    folder = Path(folder)
    experiment, spec = _read(folder)
    if not 0 <= run < len(experiment.runs):
        raise FolderError(f"run={run} is not valid: {folder} has runs 0 to {len(experiment.runs) - 1}.")
    if which not in get_args(Which):
        raise FolderError(f"which={which!r} is not valid: give one of {', '.join(get_args(Which))}.")
    algorithm = algorithms.make(experiment.algo, spec)
    configs = make_configs(algorithm, experiment)
    learner_states = load_learner_states(folder, which, algorithm, configs)
    return make_policy(algorithm, configs[run], jax.tree.map(lambda leaf: jnp.asarray(leaf[run]), learner_states), spec)


def load_learner_states(folder: Path, which: Which, algorithm: Algorithm, configs: Sequence[Config]) -> LearnerState:
    """Loads the part of the learner states that `Algorithm.policy` keeps, with a leading axis of runs.

    Args:
        folder: the folder of the runs.
        which: "latest" or "best", as in `load_policy`.
        algorithm: the algorithm of the runs.
        configs: one config per run.

    Raises:
        FolderError: if the folder does not hold these policies.
        CheckpointError: if no checkpoint can be used.
    """
    keys = run_keys([0] * len(configs))  # only their shape is used
    shapes = jax.eval_shape(jax.vmap(algorithm.init), stack_configs(configs), keys)
    return _load(folder, which, _Learner(algorithm.policy(shapes))).learner_state


def make_policy(algorithm: Algorithm, config: Config, learner_state: LearnerState, spec: EnvSpec) -> Policy:
    """Makes one function of the policies in a learner state, as `load_policy` returns it."""

    @jax.jit
    def choose(
        observation: jax.Array, key: jax.Array | None, masks: tuple[jax.Array, ...], hidden: dict[str, jax.Array]
    ) -> Any:
        if key is None:
            return algorithm.greedy(config, learner_state, observation, *masks, **hidden)
        return algorithm.act(config, learner_state, observation, key, *masks, **hidden)

    def checked(observation: Any, key: Any, action_mask: Any, hidden: dict[str, Any]) -> Any:
        observation = check_observation(spec, observation)
        check_key(key)
        hidden = {name: check_hidden_state(algorithm, config, observation, value) for name, value in hidden.items()}
        return choose(observation, key, check_action_mask(spec, observation, action_mask), hidden)

    return as_policy(algorithm, config, checked)


def acting(policy: Policy, sample: bool) -> Callable[..., Any]:
    """Adapts a policy for playing episodes: it samples actions, or returns the mode whatever the key is."""

    @functools.wraps(policy)  # callers read its signature
    def act(observation: jax.Array, key: jax.Array, action_mask: jax.Array | None = None, **given: Any) -> Any:
        return policy(observation, key if sample else None, action_mask, **given)

    return act


def check_observation(spec: EnvSpec, observation: Any) -> jax.Array:
    """`observation` as float32; raises ValueError unless it holds real numbers in shape (..., n, d)."""
    observation = _as_array("observation", observation)
    if not jnp.issubdtype(observation.dtype, jnp.floating) and not jnp.issubdtype(observation.dtype, jnp.integer):
        raise ValueError(f"observation is {observation.dtype}, which is not valid: give real numbers, float32.")
    expected = (spec.num_agents, spec.observation_size)
    if observation.shape[-2:] != expected:
        raise ValueError(
            f"observation has shape {observation.shape}, which is not valid: give (..., {expected[0]}, {expected[1]}), with "
            f"one row for each of {_listed(spec)}, zero-padded to the widest agent."
        )
    return observation.astype(jnp.float32)


def check_hidden_state(algorithm: Algorithm, config: Config, observation: jax.Array, hidden_state: Any) -> jax.Array:
    """`hidden_state` as float32; raises ValueError unless it fits to the observation (..., n, d)."""
    hidden_state, expected = _as_array("hidden_state", hidden_state), algorithm.hidden_state(config, observation.shape[:-2])
    assert expected is not None
    if hidden_state.shape != expected.shape or not jnp.issubdtype(hidden_state.dtype, jnp.floating):
        raise ValueError(
            f"hidden_state is {hidden_state.dtype} {hidden_state.shape}, which is not valid: give the float32 {expected.shape} "
            "that the policy returned with the action before, or None when an episode begins."
        )
    return hidden_state.astype(jnp.float32)


def check_key(key: Any) -> None:
    """Raises ValueError unless `key` is None or a single key of `jax.random`."""
    if key is None:
        return
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", jnp.dtype(object))
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not typed and not (dtype == jnp.uint32 and shape == (2,)):
        found = f"{key.dtype} {key.shape}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"key is {found}, which is not valid: give one key, jax.random.key(seed), or None for the mode.")


def check_action_mask(spec: EnvSpec, observation: jax.Array, action_mask: Any) -> tuple[jax.Array, ...]:
    """The action mask as a tuple of arguments for `act`, empty without masks; raises ValueError if it does not fit."""
    if action_mask is None:
        if spec.has_action_masks:
            raise ValueError(f"action_mask=None is not valid: {spec.name} masks actions. Give its action_mask (..., n, A).")
        return ()
    mask, expected = _as_array("action_mask", action_mask), (*observation.shape[:-1], spec.action_size)
    if not spec.discrete:
        raise ValueError(f"action_mask is not valid: the actions of {spec.name} are continuous. Leave it out.")
    if mask.shape != expected:
        raise ValueError(f"action_mask has shape {mask.shape}, which is not valid: give {expected}, to match the observation.")
    if not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.integer)):
        raise ValueError(f"action_mask is {mask.dtype}, which is not valid: give bool, True where an action is allowed.")
    return (mask.astype(bool) & jnp.asarray(spec.action_mask).reshape((1,) * (mask.ndim - 2) + spec.action_mask.shape),)


def _as_array(name: str, value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not valid: give an array of numbers ({str(error).partition(chr(10))[0]}).") from error


def _listed(spec: EnvSpec) -> str:
    names = spec.agent_names
    return ", ".join(names if len(names) <= 6 else [*names[:5], "..."])


def _load(folder: Path, which: Which, like: _Learner) -> _Learner:
    """Loads the latest or best policies of a folder; warns if the latest checkpoint is damaged, and uses the one before."""
    if which == "best":
        if not (folder / BEST).exists():
            raise FolderError(f"{folder} has no {BEST}: no evaluation has written it. Use the latest policy.")
        return load_checkpoint(folder / BEST, like)[0]
    if (folder / BEST).exists() and not list_checkpoints(folder / CHECKPOINTS):
        raise FolderError(f"{folder} holds no checkpoint, only its best policies: use them (which='best', or --policy best).")
    taken, (learner, _), refused = newest_usable(folder / CHECKPOINTS, lambda path: load_checkpoint(path, like))
    for error in refused.values():
        warnings.warn(f"{error} {taken.name} is used instead.", stacklevel=4)
    return learner


def load_spec(folder: str | Path) -> EnvSpec:
    """The spec of the environment in which a run was trained; raises FolderError if `folder` is not the folder of a run."""
    return _read(Path(folder))[1]


def _read(folder: Path) -> tuple[Experiment, EnvSpec]:
    content = read_config(folder)
    try:
        return experiment_from_json(content["experiment"]), spec_from_json(content["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{folder / CONFIG} cannot be used ({error}): restore it.") from error


def pretrained_names() -> list[str]:
    """The names of the trained policies in the package, each "environment/algorithm"."""
    return sorted(path.parent.relative_to(PRETRAINED).as_posix() for path in PRETRAINED.glob(f"*/*/{CONFIG}"))


def pretrained_folder(name: str, option: str = "--pretrained ") -> Path:
    """The folder of a trained policy in the package; raises OptionError, which begins with `option`, if there is none."""
    names = pretrained_names()
    if name not in names:
        raise OptionError(f"{option}{name} does not exist{nearest(name, names)}: give one of {', '.join(names)}.")
    return PRETRAINED / name


def export_policy(folder: str | Path, run: int = 0, which: Which = "latest", sample: bool = False) -> bytes:
    """Exports a policy from the folder of a run with its weights, serialised by `jax.export`.

    `jax.export.deserialize(content).call` takes a float32 observation (B, n, d) of any batch size B, zero-padded to the widest
    agent, and returns actions (B, n) int32 or (B, n, k) float32. If the environment masks actions, a mask (B, n, A) bool
    follows the observation. A policy with a memory then takes its hidden states (B, n, h), which are 0 when an episode begins,
    and returns (actions, hidden states). It runs on CPUs, GPUs and TPUs.

    Args:
        folder: the folder of a run.
        run: number of the run in the folder, as in metrics.jsonl.
        which: "latest" or "best", as in `load_policy`.
        sample: whether actions are sampled instead of being the mode. `call` then takes a seed as its last argument, a uint32
            scalar.

    Raises:
        FolderError: if this is not a folder of runs, or if the run or the policy is missing.
        CheckpointError: if no checkpoint can be used.
    """
    policy, spec = load_policy(folder, run, which), load_spec(folder)
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {"observation": jax.ShapeDtypeStruct((batch, spec.num_agents, spec.observation_size), jnp.float32)}
    if spec.has_action_masks:
        shapes["action_mask"] = jax.ShapeDtypeStruct((batch, spec.num_agents, spec.action_size), bool)
    if takes(policy, "hidden_state"):
        _, shapes["hidden_state"] = jax.eval_shape(lambda shown: policy(**shown), shapes)
    if sample:
        shapes["seed"] = jax.ShapeDtypeStruct((), jnp.uint32)

    def choose(*arguments: jax.Array) -> Any:
        given = dict(zip(shapes, arguments, strict=True))
        key = jax.random.key(given.pop("seed")) if sample else None
        return policy(key=key, **given)

    return bytes(jax.export.export(jax.jit(choose), platforms=PLATFORMS)(*shapes.values()).serialize())
