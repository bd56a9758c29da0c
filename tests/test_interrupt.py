"""Ctrl-C and SIGTERM before training has begun, twice in training, and in processes that wait for others."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROBE, SMALL

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "run.py"
PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def begin(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ | PATHS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout
    seen = []
    while not seen or words not in seen[-1]:
        seen.append(process.stdout.readline())
        assert seen[-1], "".join(seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, "Playing the reference policies"), (signal.SIGTERM, "compiled the initial state")]
)
def test_before_training_nothing_is_left(number: int, moment: str, tmp_path: Path):
    with begin(SCRIPT, *PROBE, *SMALL, "--compilation-cache", "none", "--out", tmp_path / "new" / "out") as process:
        read_until(process, moment)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in output
    assert output.splitlines()[-1].startswith(f"Stopped by {signal.Signals(number).name}. Nothing was trained")
    assert not list(tmp_path.iterdir())


def test_the_second_signal_ends_a_process_whose_main_thread_is_busy():
    program = """if True:
        import hashlib, multiprocessing, time
        from mamt_jax.training.interrupt import deferred_signals, exit_at_once
        exit_at_once()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -15, "a forked child has its signals back"
        with deferred_signals(lambda number: print("deferred", number, flush=True)) as stopped:
            print("busy", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # as a compilation, it runs no handler before it returns"""
    with begin("-W", "ignore", "-c", program) as process:
        read_until(process, "busy")
        process.send_signal(signal.SIGTERM)
        read_until(process, "deferred 15")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "Stopped by SIGINT.\n")


@pytest.mark.slow
def test_processes_that_share_runs_all_write_their_checkpoints(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    folder, long = tmp_path / "out", ["--episodes", "2400", "--checkpoint-minutes", "60", "--evaluation-interval", "80"]
    arguments = [SCRIPT, *PROBE, *SMALL, *long, "--seeds", "2", "--out", folder, "--distributed", address, "2"]
    first, second = (begin(*arguments, str(index)) for index in range(2))
    with first, second:
        deadline = time.monotonic() + 200
        for process, part, count in ((second, "001", 1), (first, "000", 2)):
            while len(list(folder.glob(f"parts/{part}/checkpoints/iteration_*.npz"))) < count:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
            second.send_signal(signal.SIGSTOP)
        time.sleep(1)  # the first has done its part and waits
        first.send_signal(signal.SIGTERM)
        second.send_signal(signal.SIGTERM)
        read_until(first, "waits up to 60 s for the checkpoints of the other processes")
        second.send_signal(signal.SIGCONT)
        outputs = [process.communicate(timeout=100)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [143, 143], outputs
    assert list(folder.glob("parts/001/checkpoints/iteration_*.npz"))
    assert "Stopped. Continue with" in outputs[1] and not (folder / ".lock").exists()
