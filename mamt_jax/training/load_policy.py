"""A trained policy and its spec from a run's folder, without its environment."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.training.best import policy_leaves, policy_part
from mamt_jax.training.checkpoint import list_checkpoints, load_checkpoint, newest_usable
from mamt_jax.training.experiment import Experiment, experiment_from_json, make_configs
from mamt_jax.training.runs import run_keys, stack_configs
from mamt_jax.training.writers import BEST, CHECKPOINTS, CONFIG, FolderError, read_config, spec_from_json
from mamt_jax.types import LearnerState

Policy = Callable[..., jax.Array]
Which = Literal["latest", "best"]


class _Learner(NamedTuple):
    """The part of a file that a policy needs, under the name it has there."""

    learner_state: LearnerState


def load_policy(folder: str | Path, run: int = 0, which: Which = "latest") -> Policy:
    """The policies of all agents from a run's folder.

    Args:
        folder: the folder of a run of experiments/run.py.
        run: which of its runs, as metrics.jsonl numbers them.
        which: as they were at the latest checkpoint, or at the evaluation with the highest greedy return so far.

    Returns:
        A jitted function `policy(observation, key=None)` from observations (..., n, d), zero-padded to the widest agent, to
        actions (..., n) or (..., n, k): the mode of each policy, or with a key a sample.

    Raises:
        FolderError: if it is no such folder, or has no such run or no such policy.
        CheckpointError: if there is no checkpoint that can be used.
    """
    folder = Path(folder)
    experiment, spec = _read(folder)
    if not 0 <= run < len(experiment.runs):
        raise FolderError(f"run={run} is not valid: {folder} has runs 0 to {len(experiment.runs) - 1}.")
    if which not in get_args(Which):
        raise FolderError(f"which={which!r} is not valid: give one of {', '.join(get_args(Which))}.")
    algorithm = algorithms.make(experiment.algo, spec)
    configs = make_configs(algorithm, experiment)
    keys = run_keys([each["seed"] for each in experiment.runs])
    shapes = jax.eval_shape(jax.vmap(algorithm.init), stack_configs(configs), keys)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes)
    part = policy_part(shapes, policy_leaves(algorithm, spec, configs[run], one))
    (learner_states,) = _load(folder, which, _Learner(part))
    config, learner_state = configs[run], jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[run]), learner_states)

    @jax.jit
    def policy(observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        if key is None:
            return algorithm.greedy(config, learner_state, observation)
        return algorithm.act(config, learner_state, observation, key)

    return policy


def _load(folder: Path, which: Which, like: _Learner) -> _Learner:
    """A folder's latest or best policies; warns where the latest checkpoint is damaged and takes the one before."""
    if which == "best":
        if not (folder / BEST).exists():
            raise FolderError(f"{folder} has no {BEST}: it has not been evaluated since that was kept, take the latest policy.")
        return load_checkpoint(folder / BEST, like)[0]
    if (folder / BEST).exists() and not list_checkpoints(folder / CHECKPOINTS):
        raise FolderError(f"{folder} holds no checkpoint but its best policies: take those (which='best', or --policy best).")
    taken, (learner, _), refused = newest_usable(folder / CHECKPOINTS, lambda path: load_checkpoint(path, like))
    for error in refused.values():
        warnings.warn(f"{error} The policy is that of {taken.name}.", stacklevel=3)
    return learner


def load_spec(folder: str | Path) -> EnvSpec:
    """The spec of the environment in which a run was trained; raises FolderError if `folder` is no run's folder."""
    return _read(Path(folder))[1]


def _read(folder: Path) -> tuple[Experiment, EnvSpec]:
    content = read_config(folder)
    try:
        return experiment_from_json(content["experiment"]), spec_from_json(content["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{folder / CONFIG} cannot be used ({error}): restore it.") from error
