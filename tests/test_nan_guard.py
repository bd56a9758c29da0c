"""A run whose numbers are no longer finite stops alone, where it says; the others go on bit for bit."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import experiment_of
from rich.console import Console

from mamt_jax.training import launch as train
from mamt_jax.training.checkpoint import latest_checkpoint
from mamt_jax.training.merge import is_finished
from mamt_jax.training.nan_guard import NonFiniteError, find_halt, no_halt
from mamt_jax.training.policies import load_policy
from mamt_jax.training.rollout import Rollout
from mamt_jax.training.run_folder import read_rows
from mamt_jax.types import Transition

ROOT = Path(__file__).parents[1]

# Rounds of 5 steps of 4 environments; 30 iterations, an evaluation after every 10.
ARGUMENTS = [
    *["--env", "fragile:fragile", "--env_num_envs", "4", "--algo", "probe:make", "--seeds", "3"],
    *["--episodes", "24", "--num-envs", "4", "--update-interval", "10", "--num-updates", "2", "--buffer-size", "200"],
    *["--batch-size", "32", "--evaluation-interval", "8", "--evaluation-episodes", "4", "--checkpoint-minutes", "0"],
]
SENTENCE = f"Run 1 (seed 1) stopped at environment step {13 * 20 + (3 + 1) * 4}: a reward or an observation was not finite."


def train_with(places: tuple, folder: Path, *arguments: str) -> str:
    """Trains with nan in these places; returns what was printed."""
    what = experiment_of([*ARGUMENTS, "--places", str(places), *arguments])
    console = Console(file=io.StringIO(), soft_wrap=True)
    assert train.start(what, folder, console, references={}) is None
    return printed(console)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def last_state(folder: Path) -> dict[str, Any]:
    with np.load(latest_checkpoint(folder / "checkpoints")) as archive:
        return {name: archive[name] for name in archive.files if name != "record"}


def rows_of(folder: Path, *runs: int) -> list[dict[str, Any]]:
    return [row | {"wall_seconds": 0} for row in read_rows(folder / "metrics.jsonl") if row["run"] in runs]


@pytest.mark.slow
def test_one_run_breaks_and_the_others_do_not_notice(tmp_path: Path):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    train_with((), whole)
    assert train_with(((1, 13, 3),), halted).count(SENTENCE) == 1
    expected, found = last_state(whole), last_state(halted)
    assert expected.keys() == found.keys() and len(found) > 10
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name][[0, 2]], value[[0, 2]], err_msg=name)
    assert rows_of(halted, 0, 2) == rows_of(whole, 0, 2)
    before, after = rows_of(halted, 1)[:2], rows_of(halted, 1)[2:]
    assert before == rows_of(whole, 1)[:2]
    assert [(row["env_steps"], row["stopped_at"]) for row in after] == [(400, 276), (600, 276)]
    assert all(row["eval_return"] is None and row["loss"] is None and row["updates"] == 4 * 12 for row in after)
    learnt = [value[1] for name, value in found.items() if name.startswith(".learner_state") and value.dtype == np.float32]
    assert all(np.isfinite(value).all() for value in learnt) and len(learnt) == 1
    assert load_policy(halted, run=1)(jnp.ones((2, 5))).shape == (2,)

    newest = latest_checkpoint(halted / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"is damaged .* iteration_\d+\.npz is used instead"):
        load_policy(halted)
    console = Console(file=io.StringIO(), soft_wrap=True)
    assert train.resume(halted, console) is None
    assert printed(console).count(SENTENCE) == 1
    assert f"It was renamed to {newest.stem}.unusable. Training continues from iteration_" in printed(console)
    jax.tree.map(np.testing.assert_array_equal, last_state(halted), found)
    assert rows_of(halted, 1) == before + after


@pytest.mark.slow
def test_training_is_over_where_all_runs_have_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "part_size", lambda session, plan, processes: 1)
    sentence = SENTENCE.replace("Run 1", "All runs have stopped. Run 0")
    assert sentence in train_with(((1, 13, 3),), tmp_path, "--seed", "1", "--seeds", "2"), "in the first wave of two"
    rows = {run: rows_of(tmp_path, run) for run in (0, 1)}
    assert [row["env_steps"] for row in rows[0]] == [0, 200, 600] and rows[0][-1]["stopped_at"] == 276
    assert [row["env_steps"] for row in rows[1]] == [0, 200, 400, 600] and rows[1][-1]["eval_return"] is not None
    assert is_finished(tmp_path) and (tmp_path / "learning_curve.png").stat().st_size > 0
    with pytest.raises(NonFiniteError, match="All runs have stopped. Run 0 "):
        train.resume(tmp_path / "parts" / "000", Console(quiet=True))


def test_what_counts_as_broken():
    zeros = jnp.zeros((3, 2, 2))
    transitions = Transition(zeros[..., None], zeros, zeros, zeros[..., None], zeros)
    seen = Rollout(transitions, jnp.zeros((3, 2)), None)  # type: ignore[arg-type]
    learnt = {"value": jnp.zeros(2), "bound": jnp.array(jnp.inf), "count": jnp.zeros((), jnp.int32), "key": jax.random.key(0)}

    def places(observation: Any = zeros, **after: Any) -> tuple[int, int]:
        rollout = seen._replace(transitions=transitions._replace(observation=observation[..., None]))
        found = find_halt(no_halt(), rollout, learnt, learnt | after, jnp.int32(7))
        return int(found.iteration), int(found.step)

    assert places()[0] == -1, "a bound that was infinite from the start is none"
    assert places(bound=jnp.ones(()))[0] == -1
    assert places(value=jnp.array([0.0, jnp.nan])) == places(value=jnp.array([0.0, -jnp.inf])) == (7, 3)
    assert places(bound=jnp.array(jnp.nan)) == (7, 3)
    assert places(observation=zeros.at[1, 0, 1].set(jnp.inf)) == (7, 1)
    earlier = dataclasses.replace(no_halt(), iteration=jnp.int32(2))
    later = find_halt(earlier, seen, learnt, learnt | {"value": jnp.array([0.0, jnp.nan])}, jnp.int32(7))
    assert later.iteration == 2
