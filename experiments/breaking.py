"""Ways to break training, each once and by chance; what came of it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.watched_runs import (
    NUM_ENVS,
    RUN,
    Bench,
    begin,
    finish,
    logs,
    lost_intervals,
    resume,
    same_end,
    train,
    wait_for_evaluation,
)
from mamt_jax.training.checkpoint import FORMAT, list_checkpoints
from mamt_jax.training.writers import CHECKPOINTS, METRICS, read_rows


class Outcome(NamedTuple):
    """What came of a trial; None where there was nothing of the kind.

    Attributes:
        said: whether what was wrong was said in a sentence.
        resumed: whether `--resume` came to the end of training.
        same: whether that end is the undisturbed one bit for bit.
        lost: evaluation intervals that were trained again.
    """

    said: bool | None
    resumed: bool | None
    same: bool | None
    lost: int | None


Break = Callable[[Bench, np.random.Generator, Path], Outcome]
"""(what to compare with, chance, an empty folder) -> the outcome."""


def killed(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """SIGKILL at any moment after the first evaluation."""
    process = begin(bench, where)
    wait_for_evaluation(bench, process, where, int(random.integers(1, bench.intervals - 1)))
    time.sleep(random.uniform(0, bench.seconds))
    process.kill()
    process.join()
    return _go_on(bench, where)


def killed_while_saving(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """SIGKILL after any number of bytes of any checkpoint but the first."""
    number, share = int(random.integers(1, bench.intervals)), float(random.uniform())
    process = begin(bench, where, dying=(number, share))
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"it was to be killed, and ended with {process.exitcode}")
    return _go_on(bench, where)


def disk_full(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """A file system with no room left from any evaluation on, for a while or until training ends."""

    def fill() -> None:
        with (where / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    return _without_disk(bench, random, where, fill, (where / "filler").unlink, "No space left on device")


def read_only(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """A file system that is remounted read-only at any evaluation, for a while or until training ends."""

    def remount(how: str) -> None:
        while subprocess.run(["mount", "-o", f"remount,{how}", where], capture_output=True).returncode:
            time.sleep(0.001)  # a file was open just then

    return _without_disk(bench, random, where, lambda: remount("ro"), lambda: remount("rw"), "Read-only file system")


def _without_disk(
    bench: Bench,
    random: np.random.Generator,
    where: Path,
    block: Callable[[], None],
    unblock: Callable[[], None],
    complaint: str,
) -> Outcome:
    with _mounted(where):
        process = begin(bench, where)
        wait_for_evaluation(bench, process, where, int(random.integers(1, bench.intervals - 4)))
        block()
        for_a_while, complaints = random.integers(2), int(random.integers(1, 7))
        if for_a_while:
            while process.is_alive() and logs(where).count(complaint) < complaints:
                time.sleep(0.002)
            unblock()
        if finish(process) == 0:
            return Outcome(complaint in logs(where), None, same_end(bench, where), 0)
        refused = for_a_while or resume(bench, where) == 2
        if not for_a_while:
            unblock()
        return _go_on(bench, where, said=bool(refused) and complaint in logs(where))


@contextmanager
def _mounted(where: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def unwritable(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """--out is a file, or in one; permissions do not bind root."""
    file = where / "file"
    file.write_text("in the way")
    code = train(bench, where, folder=file / "run" if random.integers(2) else file)
    return Outcome(code == 2 and "error: --out" in logs(where), None, None, 0)


def truncated(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """The newest of two checkpoints cut short anywhere."""
    path = _half_way(bench, where)
    os.truncate(path, int(random.integers(path.stat().st_size)))
    return _go_on(bench, where, said="is damaged")


def flipped(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """One bit of the newest of two checkpoints turned, anywhere; what zip does not read may be harmless."""
    path = _half_way(bench, where)
    content = bytearray(path.read_bytes())
    content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)
    return _go_on(bench, where, said="going on from")


def other_version(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """The newest checkpoint, or both, of a later format."""
    _half_way(bench, where)
    paths = list_checkpoints(where / RUN / CHECKPOINTS)
    chosen = paths[-int(random.integers(1, 3)) :]
    for path in chosen:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        record = json.loads(str(arrays.pop("record"))) | {"format": FORMAT + 1}
        np.savez(path, **arrays, record=np.array(json.dumps(record)))
    complaint = f"is of format {FORMAT + 1}"
    if len(chosen) < len(paths):
        return _go_on(bench, where, said=complaint)
    return Outcome(resume(bench, where) == 2 and complaint in logs(where), None, None, None)


def nan_rewards(bench: Bench, random: np.random.Generator, where: Path) -> Outcome:
    """A reward of nan in one or two of the runs, at any steps."""
    seeds = random.choice(bench.runs, random.integers(1, 3), replace=False)
    places = {int(seed): (int(random.integers(bench.rounds)), int(random.integers(bench.vector_steps))) for seed in seeds}
    code = train(bench, where, "--places", str(tuple((seed, *place) for seed, place in places.items())))
    last = {row["run"]: row for row in read_rows(where / RUN / METRICS)}
    steps = {seed: NUM_ENVS * (bench.vector_steps * number + step + 1) for seed, (number, step) in places.items()}
    exact = {run: row.get("stopped_at") for run, row in last.items()} == {run: steps.get(run) for run in last}
    said = all(f"(seed {seed}) stopped at environment step {step:,}:" in logs(where) for seed, step in steps.items())
    others = [run for run in range(bench.runs) if run not in places]
    return Outcome(exact and said, None, code == 0 and same_end(bench, where, others), 0)


def _half_way(bench: Bench, where: Path) -> Path:
    """A folder of a run that was stopped half-way; returns its newest checkpoint."""
    shutil.copytree(bench.half_way, where / RUN)
    return list_checkpoints(where / RUN / CHECKPOINTS)[-1]


def _go_on(bench: Bench, where: Path, said: str | bool | None = None) -> Outcome:
    """Resumes to the end. `said` is what must have been said, or whether it was, or None where there is nothing to say."""
    *_, earlier, newest = [None, *list_checkpoints(where / RUN / CHECKPOINTS)]
    resumed = resume(bench, where) == 0
    refused = newest.with_suffix(".unusable").exists()
    if isinstance(said, str):
        said = said in logs(where) if refused else None  # a flipped bit may be one that nobody reads
    rounds = int((earlier if refused else newest).stem.removeprefix("round_"))
    return Outcome(said, resumed, resumed and same_end(bench, where), lost_intervals(bench, where, rounds))


FAULTS: dict[str, Break] = {
    "kill -9": killed,
    "kill -9 during a checkpoint": killed_while_saving,
    "disk full": disk_full,
    "disk turned read-only": read_only,
    "unwritable --out": unwritable,
    "checkpoint cut short": truncated,
    "checkpoint with a flipped bit": flipped,
    "checkpoint of another version": other_version,
    "nan rewards": nan_rewards,
}
MOUNTING = (disk_full, read_only)
"""Those that need a file system of their own."""
