"""Small trainings in processes of their own, which may be broken, and what they should have come to."""

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import run
from mamt_jax.training import checkpoint
from mamt_jax.training.checkpoint import latest_checkpoint, list_checkpoints
from mamt_jax.training.writers import CHECKPOINTS, CONFIG, METRICS, read_rows, whole_file

NUM_ENVS = 4
ARGUMENTS = [
    *["--env", "experiments.fragile:fragile", "--env_num_envs", str(NUM_ENVS), "--algo", "maddpg", "--hidden_size", "8"],
    *["--seeds", "4", "--episodes", "2400", "--num_envs", str(NUM_ENVS), "--buffer_size", "5000", "--batch_size", "64"],
    *["--evaluation_interval", "200", "--evaluation_episodes", "8", "--checkpoint_minutes", "0"],
]
RUN = "run"
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["experiments.run"])


class Bench(NamedTuple):
    """What trials are compared with.

    Attributes:
        cache: folder of compiled programs.
        undisturbed: folder of a run that nothing happened to.
        half_way: folder of a run that was stopped, with two checkpoints.
        rounds: of the whole run.
        vector_steps: of a round.
        intervals: evaluations but for the first.
        runs: how many there are.
        seconds: that an interval takes.
    """

    cache: Path
    undisturbed: Path
    half_way: Path
    rounds: int = 0
    vector_steps: int = 0
    intervals: int = 0
    runs: int = 0
    seconds: float = 0.0


def make_bench(where: Path) -> Bench:
    """The undisturbed run and the one stopped half-way, in `where`."""
    bench = Bench(where / "cache", where / "undisturbed" / RUN, where / "half_way" / RUN)
    for folder in (bench.undisturbed.parent, bench.half_way.parent):
        folder.mkdir()
    assert train(bench, bench.undisturbed.parent) == 0, logs(bench.undisturbed.parent)
    schedule, rows = json.loads((bench.undisturbed / CONFIG).read_text())["schedule"], read_rows(bench.undisturbed / METRICS)
    intervals = schedule["total_rounds"] // schedule["evaluation_rounds"]
    runs = 1 + max(row["run"] for row in rows)
    seconds = (rows[-1]["wall_seconds"] - rows[2 * runs]["wall_seconds"]) / (intervals - 2)
    bench = bench._replace(
        rounds=schedule["total_rounds"],
        vector_steps=schedule["vector_steps"],
        intervals=intervals,
        runs=runs,
        seconds=seconds,
    )
    process = begin(bench, bench.half_way.parent)
    wait_for_evaluation(bench, process, bench.half_way.parent, intervals // 2)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert finish(process) == 128 + signal.SIGTERM, logs(bench.half_way.parent)
    assert len(list_checkpoints(bench.half_way / CHECKPOINTS)) == 2
    return bench


def begin(
    bench: Bench, where: Path, arguments: Sequence[str] | None = None, dying: tuple[int, float] | None = None
) -> BaseProcess:
    """Starts training in `where`/run, or what `arguments` say; with `dying` it kills itself, see `die_while_saving`."""
    arguments = [*ARGUMENTS, "--out", str(where / RUN)] if arguments is None else arguments
    number = len(list(where.parent.glob(f"{where.name}.*.log")))
    log = where.parent / f"{where.name}.{number}.log"
    process = _PROCESSES.Process(target=_main, args=([*arguments, "--compilation_cache", str(bench.cache)], log, dying))
    process.start()
    return process


def train(bench: Bench, where: Path, *more: str, folder: Path | None = None) -> int:
    """Trains to the end with more arguments; returns the exit code."""
    return finish(begin(bench, where, [*ARGUMENTS, *more, "--out", str(folder or where / RUN)]))


def resume(bench: Bench, where: Path) -> int:
    """Goes on with `where`/run to the end; returns the exit code."""
    return finish(begin(bench, where, ["--resume", str(where / RUN)]))


def finish(process: BaseProcess) -> int:
    """Waits for a process; returns its exit code."""
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _main(arguments: Sequence[str], log: Path, dying: tuple[int, float] | None) -> None:
    file = log.open("w", buffering=1)
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file
    if dying:
        _die_while_saving(*dying)
    code = run.main(arguments)
    file.flush()
    os._exit(code)  # at once, or the forked process would wait for threads of the server


def _die_while_saving(number: int, share: float) -> None:
    """Makes this process kill itself within checkpoint `number`, from 0, after a share of the size of the one before."""
    done = [0]

    class Mortal:
        def __init__(self, file: Any, num_bytes: int) -> None:
            self.file, self.left = file, num_bytes

        def write(self, data: Any) -> int:
            part = memoryview(data).cast("B")[: self.left]
            self.left -= self.file.write(part)
            if len(part) < memoryview(data).nbytes:
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return len(part)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    class Saving:
        def __init__(self, path: Path) -> None:
            self.whole, self.folder = whole_file(path), path.parent

        def __enter__(self) -> Any:
            file = self.whole.__enter__()
            done[0] += self.folder.name == CHECKPOINTS
            if self.folder.name != CHECKPOINTS or done[0] != number + 1:
                return file
            return Mortal(file, int(share * latest_checkpoint(self.folder).stat().st_size))

        def __exit__(self, *error: Any) -> bool | None:
            return self.whole.__exit__(*error)

    checkpoint.whole_file = Saving  # type: ignore[assignment]


def wait_for_evaluation(bench: Bench, process: BaseProcess, where: Path, number: int) -> None:
    """Returns once evaluation `number`, from 0, of all runs is in metrics.jsonl."""
    path = where / RUN / METRICS
    while not path.exists() or path.read_bytes().count(b"\n") < (number + 1) * max(1, bench.runs):
        assert process.is_alive(), logs(where)
        time.sleep(0.002)


def logs(where: Path) -> str:
    """All that was printed about a trial."""
    return "".join(path.read_text() for path in sorted(where.parent.glob(f"{where.name}.*.log")))


def lost_intervals(bench: Bench, where: Path, rounds: int) -> int:
    """Evaluations that the first session got to after `rounds`, where it is gone on from."""
    done = len(re.findall(r" · updates +[\d,]+ · return ", (where.parent / f"{where.name}.0.log").read_text())) - 1
    return max(0, done - rounds * bench.intervals // bench.rounds)


def same_end(bench: Bench, where: Path, runs: Sequence[int] | None = None) -> bool:
    """Whether these runs came to the end of the undisturbed ones: checkpoints bit for bit, and rows but for the clock."""
    chosen = list(range(bench.runs) if runs is None else runs)

    def rows(folder: Path) -> list[dict[str, Any]]:
        return [row | {"wall_seconds": 0} for row in read_rows(folder / METRICS) if row["run"] in chosen]

    def state(folder: Path) -> dict[str, bytes]:
        with np.load(latest_checkpoint(folder / CHECKPOINTS)) as archive:
            return {name: archive[name][chosen].tobytes() for name in archive.files if name != "record"}

    return rows(where / RUN) == rows(bench.undisturbed) and state(where / RUN) == state(bench.undisturbed)
