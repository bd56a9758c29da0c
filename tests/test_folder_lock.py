"""Who may write in a run's folder, and what is left of a folder in which nothing was trained."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mamt_jax.training.folder_lock import clear_folder, group_hosts, hold_folder, hold_new_folder, let_go, others_hold
from mamt_jax.training.run_folder import CHECKPOINTS, CONFIG, LOCK, METRICS, FolderError, append_rows, check_unused

ROOT = Path(__file__).parents[1]
PROGRAM = """if True:
    import sys, time
    from pathlib import Path
    from mamt_jax.training.folder_lock import hold_folder, let_go
    with hold_folder(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])) as hold:
        print("held", flush=True)
        sys.stdin.readline()
        let_go(hold)
        print("let go", flush=True)
        time.sleep(600)"""


@contextmanager
def another_process(folder: Path, index: int = 0, count: int = 1) -> Iterator[subprocess.Popen[str]]:
    """One that holds `folder`; a line to it makes it let go."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(index), str(count)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_folder_has_one_process_which_is_named(tmp_path: Path):
    with another_process(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        who = rf"{tmp_path} is in use by process {process.pid} on {socket.gethostname()} since 20\d\d-.*: wait"
        for hold in (hold_folder, hold_new_folder):
            with pytest.raises(FolderError, match=who), hold(tmp_path):
                pass
        with pytest.raises(FolderError, match=who):
            clear_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK], "a killed process leaves its lock behind"
    check_unused(tmp_path)
    with hold_new_folder(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_threads_of_one_process_count_as_others(tmp_path: Path):
    refused: list[FolderError] = []

    def try_to_hold() -> None:
        try:
            with hold_folder(tmp_path / ".." / tmp_path.name):
                pass
        except FolderError as error:
            refused.append(error)

    with hold_folder(tmp_path):
        thread = threading.Thread(target=try_to_hold)
        thread.start()
        thread.join()
    assert f"in use by process {os.getpid()}" in str(refused[0])
    try_to_hold()
    assert len(refused) == 1


def test_a_crew_shares_a_folder_and_keeps_others_out(tmp_path: Path):
    with another_process(tmp_path, 0, 2) as process:
        for index, count in ((0, 1), (0, 2), (0, 3)):
            with pytest.raises(FolderError, match=f"in use by process {process.pid}"), hold_folder(tmp_path, index, count):
                pass
        with hold_folder(tmp_path, 1, 2) as hold:
            assert others_hold(hold) and group_hosts(hold) == [socket.gethostname()] * 2
            assert process.stdin and process.stdout
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "let go\n" and not others_hold(hold)
            let_go(hold)
    assert not list(tmp_path.iterdir()), "the last one removes the lock"


def test_a_new_folder_goes_unless_something_was_trained(tmp_path: Path):
    def fail(folder: Path, *names: str) -> None:
        with pytest.raises(KeyboardInterrupt), hold_new_folder(folder):
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).touch()
            append_rows(folder / METRICS, [{"env_steps": 0}])
            raise KeyboardInterrupt

    fail(tmp_path / "a" / "b" / "c", CONFIG)
    assert not list(tmp_path.iterdir())
    (empty := tmp_path / "empty").mkdir()
    fail(empty, CONFIG)
    assert not list(empty.iterdir())
    fail(tmp_path / "own", CONFIG, "notes.txt")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["notes.txt"]
    fail(tmp_path / "trained", CONFIG, f"{CHECKPOINTS}/iteration_000000000.npz")
    assert sorted(path.name for path in (tmp_path / "trained").iterdir()) == [CHECKPOINTS, CONFIG, METRICS]
    with (
        pytest.raises(FolderError, match="is not empty: continue its run with --resume"),
        hold_new_folder(tmp_path / "trained"),
    ):
        pass
    assert (tmp_path / "trained" / CONFIG).exists() and not (tmp_path / "trained" / LOCK).exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mamt_jax.training.folder_lock.fcntl", None)
    with hold_folder(tmp_path) as hold:
        assert not hold.works and not others_hold(hold)
    assert not list(tmp_path.iterdir())
