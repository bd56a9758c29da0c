"""best.npz: the policy of each run as it was at the evaluation with its highest greedy return so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms.contract import Algorithm
from mamt_jax.training.checkpoint import concatenate_archives, load_checkpoint, named_arrays, to_numpy, write_archive
from mamt_jax.types import Config, LearnerState


class Best(NamedTuple):
    """What the file holds; leading axis of runs.

    Attributes:
        eval_return: (R,) of that evaluation; -inf where it was not finite.
        env_steps: (R,) int64, when it was.
        learner_state: what `policy_part` leaves of it.
    """

    eval_return: np.ndarray
    env_steps: np.ndarray
    learner_state: LearnerState


def policy_leaves(algorithm: Algorithm, spec: EnvSpec, config: Config, learner_state: LearnerState) -> Any:
    """Which leaves of a learner state `act` or `greedy` reads: a tree of bools, found in their traced programs.

    Args:
        algorithm: whose.
        spec: of the environment.
        config: of one run.
        learner_state: of one run, arrays or shapes.
    """

    def both(learner_state: LearnerState, observation: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        exploring = algorithm.act(config, learner_state, observation, key)
        return algorithm.greedy(config, learner_state, observation), exploring

    observation = jax.ShapeDtypeStruct((spec.num_agents, spec.observation_size), jnp.float32)
    jaxpr = jax.make_jaxpr(both)(learner_state, observation, jax.eval_shape(jax.random.key, 0)).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars} | {id(each) for each in jaxpr.outvars}
    leaves, structure = jax.tree.flatten(learner_state)
    return jax.tree.unflatten(structure, [id(variable) in read for variable in jaxpr.invars[: len(leaves)]])


def policy_part(learner_state: LearnerState, leaves: Any) -> LearnerState:
    """A learner state with None for what no policy reads; `leaves` from `policy_leaves`."""
    return jax.tree.map(lambda leaf, read: leaf if read else None, learner_state, leaves)


def save_better(path: Path, learner_states: LearnerState, eval_returns: Sequence[float], env_steps: int) -> None:
    """Puts into the file those policies that did better than the ones there, or all if there is none.

    A run that was killed goes on from an earlier checkpoint and meets the same policies again; a better one stays, though its
    evaluation may not come back bit for bit on a GPU or with environments outside JAX.

    Args:
        path: the file.
        learner_states: of `policy_part`, leading axis of at least R runs, of which the first R count.
        eval_returns: R greedy returns of this evaluation.
        env_steps: when it was.

    Raises:
        CheckpointError: if the file there is damaged or of something else.
        OSError: if it cannot be written. The earlier one is then as it was.
    """
    returns = np.nan_to_num(np.array(eval_returns, np.float64), nan=-np.inf)
    policies = jax.tree.map(lambda leaf: to_numpy(leaf)[: len(returns)], learner_states)
    best = Best(returns, np.full(len(returns), env_steps), policies)
    if not path.exists():
        return write_archive(path, named_arrays(best), {})
    earlier, _ = load_checkpoint(path, best)
    better = returns > earlier.eval_return
    best = jax.tree.map(lambda new, old: np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old), best, earlier)
    if better.any():
        write_archive(path, named_arrays(best), {})


def merge_best(paths: Sequence[Path], path: Path) -> None:
    """Writes one file of the runs of several, in their order; raises CheckpointError if they do not fit together."""
    arrays, _ = concatenate_archives(paths)
    write_archive(path, arrays, {})
