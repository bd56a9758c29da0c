"""Runs that are trained apart, in waves, by several processes or in a sweep, and put together."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
import pytest
from conftest import PROBE, SMALL, RunPython, experiment_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mamt_jax.cli import distributed, sweep
from mamt_jax.cli import train as run
from mamt_jax.training import launch as train
from mamt_jax.training.merge import even_sizes, merge_folders
from mamt_jax.training.policies import load_policy
from mamt_jax.training.run_folder import FolderError, read_rows

ROOT = Path(__file__).parents[1]

FOUR_RUNS = [*PROBE, *SMALL, "--seeds", "2", "--learning-rate", "0.1", "0.5"]
PATHS = {"PYTHONPATH": str(ROOT / "tests")}


def results(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder but for the time they took, as close as runs in other company come."""
    rows = [row | {"wall_seconds": 0.0} for row in read_rows(folder / "metrics.jsonl")]
    return sorted(rows, key=lambda row: (row["seed"], row["run"], row["env_steps"]))


def assert_same_results(one: Path, other: Path) -> None:
    assert len(results(one)) == len(results(other)) > 0
    for row, expected in zip(results(one), results(other), strict=True):
        assert row.keys() == expected.keys()
        for name in set(expected) - {"run"}:
            found, due = (np.array(each[name], float) for each in (row, expected))  # None, of what there is none, becomes nan
            np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-6, err_msg=name)
    for folder in (one, other):
        highest = [max(row["eval_return"] for row in rows_of_run) for rows_of_run in by_run(folder)]
        with np.load(folder / "best.npz") as best:
            np.testing.assert_array_equal(best[".eval_return"], highest)


def by_run(folder: Path) -> list[list[dict[str, Any]]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [[row for row in rows if row["run"] == number] for number in range(1 + max(row["run"] for row in rows))]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs side by side."""
    folder = tmp_path_factory.mktemp("together") / "out"
    assert run.main([*FOUR_RUNS, "--out", str(folder)]) == 0
    return folder


@given(number=st.integers(1, 200), largest=st.integers(1, 50))
def test_pieces_are_few_and_even(number: int, largest: int):
    sizes = even_sizes(number, largest)
    assert sum(sizes) == number and len(sizes) == -(-number // largest)
    assert max(sizes) <= largest and max(sizes) - min(sizes) <= 1


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_done_in_waves(together: Path, tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / "out"
    monkeypatch.setattr(train, "runs_that_fit", lambda plan, capacity, available: 3)
    assert run.main([*FOUR_RUNS, "--out", str(folder)]) == 0
    assert "Waves     2 of up to 2 runs, because not all runs fit into memory" in capsys.readouterr().out
    assert_same_results(folder, together)
    assert json.loads((folder / "config.json").read_text())["experiment"]["runs"][3] == {"seed": 1, "learning_rate": 0.5}
    observation = jax.nn.one_hot(np.array([[0, 1], [2, 0]]), 3)
    np.testing.assert_array_equal(load_policy(folder, run=3)(observation), load_policy(together, run=3)(observation))
    assert (folder / "learning_curve.png").exists()


@pytest.mark.slow
def test_waves_go_on_where_they_were_stopped(together: Path, tmp_path: Path, monkeypatch):
    folder, begun = tmp_path / "out", []
    monkeypatch.setattr(train, "runs_that_fit", lambda plan, capacity, available: 2)

    def stop_in_the_second(session: Any, console: Any, resume: bool = False) -> int | None:
        begun.append(session.folder.name)
        return 15 if len(begun) == 2 else whole(session, console, resume)

    whole = train.train
    monkeypatch.setattr(train, "train", stop_in_the_second)
    assert run.main([*FOUR_RUNS, "--out", str(folder)]) == 128 + 15
    assert not (folder / "metrics.jsonl").exists()
    assert run.main(["--resume", str(folder)]) == 0
    assert begun == ["000", "001", "001"]
    assert_same_results(folder, together)
    assert run.main(["--resume", str(folder)]) == 0
    assert len(begun) == 3


@pytest.mark.slow
def test_folders_of_other_seeds_and_values_are_merged(together: Path, tmp_path: Path, capsys):
    for rate in ("0.1", "0.5"):
        arguments = [*PROBE, *SMALL, "--seeds", "2", "--learning-rate", rate]
        assert run.main([*arguments, "--out", str(tmp_path / rate)]) == 0
    assert sweep.main(["--merge", str(tmp_path / "0.1"), str(tmp_path / "0.5"), "--out", str(tmp_path / "all")]) == 0
    assert_same_results(tmp_path / "all", together)
    assert run.main([*PROBE, *SMALL, "--size", "2", "--out", str(tmp_path / "other")]) == 0
    with pytest.raises(FolderError, match="other holds another experiment than .*together"):
        merge_folders([together, tmp_path / "other"], tmp_path / "none")
    assert sweep.main(["--merge", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_trains_what_is_missing_and_no_more(together: Path, tmp_path: Path, monkeypatch, capsys):
    trained: list[int] = []
    monkeypatch.setattr(train, "train", lambda session, *rest: trained.append(len(session.keys)) or whole(session, *rest))
    whole = sys.modules["mamt_jax.training.loop"].train
    arguments = [*PROBE, *SMALL, "--learning-rate", "0.1", "0.5", "--size", "1", "2", "--out", str(tmp_path)]
    assert sweep.main([*arguments, "--seeds", "1"]) == 0
    assert trained == [2, 2]
    assert sweep.main([*arguments, "--seeds", "2", "--runs-per-task", "2"]) == 0
    assert trained == [2, 2, 2, 2]
    assert sweep.main([*arguments, "--seeds", "2"]) == 0
    assert trained == [2, 2, 2, 2]
    assert "probe-symbols-probe-make-size=2" in capsys.readouterr().out
    merged = tmp_path / "probe-symbols-probe-make-size=1"
    assert [(row["seed"], row["env_steps"]) for row in results(merged)] == [
        (row["seed"], row["env_steps"]) for row in results(together)
    ]


@pytest.mark.slow
def test_parts_that_never_began_are_replaced(tmp_path: Path):
    experiment = experiment_of([*PROBE, *SMALL, "--seeds", "3"])
    group, parts = sweep.Group(tmp_path, experiment), tmp_path / "parts"
    (parts / "000").mkdir(parents=True)
    begun = dataclasses.replace(experiment, runs=experiment.runs[:1])
    train.start(begun, parts / "001", Console(quiet=True))
    tasks = sweep.open_tasks(group, runs_per_task=1)
    assert [task.folder.name for task in tasks] == ["000", "002"]
    assert [each["seed"] for task in tasks for each in task.experiment.runs] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learnin-rate", "1"], "there is no option --learnin-rate here (did you mean 'learning-rate'?)"),
        (["--learning-rate"], "--learning-rate has no value"),
        (["--evaluation-episodes", "20", "surplus"], "--evaluation-episodes: 'surplus' is not valid: give a whole number"),
        (["--batch-size", "32", "500"], "batch_size=500 is larger than buffer_size=200"),
        (["--size", "many"], "--size: 'many' is not valid: give a whole number"),
        (["--resume", "folder"], "--resume is not an option of mamt sweep"),
        (["--launcher", "cluster"], "--launcher: invalid choice: 'cluster'"),
        (["--algo", "probe:make", "absent:make"], "'absent:make' cannot be imported"),
    ],
)
def test_a_sweep_that_cannot_be_does_not_begin(arguments: list[str], message: str, tmp_path: Path, capsys):
    assert sweep.main(["--out", str(tmp_path / "out"), *PROBE, *SMALL, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_share_the_runs(together: Path, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    folder, script = tmp_path / "out", ROOT / "experiments" / "run.py"
    common = [sys.executable, str(script), *FOUR_RUNS, "--out", str(folder), "--distributed", address, "2"]
    processes = [
        subprocess.Popen(
            [*common, str(index)], env=os.environ | PATHS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Process   1 of 2, 2 parts of up to 2 runs" in outputs[1]
    assert_same_results(folder, together)


@pytest.mark.parametrize(
    ("hosts", "num_devices", "expected"),
    [
        ("aaaa", 4, [[0], [1], [2], [3]]),
        ("aabb", 2, [[0], [1], [0], [1]]),
        ("aab", 8, [[0, 2, 4, 6], [1, 3, 5, 7], None]),
        ("abab", 3, [[0, 2], [0, 2], [1], [1]]),
        ("aaa", 2, [[0], [1], [0]]),
        ("aa", 0, [None, None]),
    ],
)
def test_processes_on_one_host_have_devices_of_their_own(hosts: str, num_devices: int, expected: list[list[int] | None]):
    assert [distributed.own_devices(index, list(hosts), num_devices) for index in range(len(hosts))] == expected


@pytest.mark.parametrize(("already", "used"), [(None, "1"), ("3", "all")])
def test_devices_that_a_cluster_has_shared_out_stay_so(already: str | None, used: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if already:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", already)
    monkeypatch.setattr(distributed, "num_gpus", lambda: 2)
    try:
        distributed.use_own_devices(1, ["a", "a"])
        assert jax.config.read("jax_cuda_visible_devices") == used
    finally:
        jax.config.update("jax_cuda_visible_devices", "all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distributed"], "--distributed needs --out"),
        (
            ["--out", "new", "--distributed", "here", "2", "0"],
            "--distributed here 2 0 is not valid",
        ),
        (["--out", "new", "--distributed", "localhost:1", "2", "2"], "INDEX 2 is not valid: give a number from 0 to 1"),
    ],
)
def test_a_place_that_cannot_be_is_named(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main([*PROBE, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_devices_share_the_runs(together: Path, tmp_path: Path, run_python: RunPython):
    program = f"""if True:
        import probe
        from mamt_jax.cli import train as run
        assert run.main({[*FOUR_RUNS, "--out", "OUT"]}) == 0
        print(probe.TRACES)"""
    traces = []
    for devices in (1, 4):  # and 2, in this process
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        folder = tmp_path / str(devices)
        output = run_python("-c", program.replace("OUT", str(folder)), XLA_FLAGS=flags, **PATHS).stdout
        assert f"Device    cpu (cpu), {devices} of {devices}\n" in output
        assert_same_results(folder, together)
        traces.append(output.splitlines()[-1])
    # One device trains with the trace of its memory plan. Several need one more, under shard_map.
    assert traces == ["{'update': 1, 'transition': 6}", "{'update': 2, 'transition': 6}"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["mamt", "mappo"])
def test_eight_devices_share_a_run(algo: str, tmp_path: Path, run_python: RunPython):
    options = ["--env", "spread", "--algo", algo, "--preset", "paper", "--num-envs", "16", "--update-interval", "64"]
    options += ["--episodes", "48", "--evaluation-interval", "16", "--evaluation-episodes", "8"]
    options += [] if algo == "mappo" else ["--batch-size", "32", "--num-updates", "1"]
    options += ["--hidden-size", "16", "--seed", "3"]
    program = f"""if True:
        from mamt_jax.cli import train as run
        for devices in ("1", "8"):
            assert run.main([*{options}, "--devices-per-run", devices, "--out", {str(tmp_path)!r} + "/" + devices]) == 0"""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    output = run_python("-c", program, XLA_FLAGS=flags, **PATHS).stdout
    assert "Device    cpu (cpu), 1 of 8\n" in output and "Device    cpu (cpu), 8 of 8\n" in output
    one, eight = (results(tmp_path / devices) for devices in ("1", "8"))
    assert one[-1]["updates"] > 10
    for row, expected in zip(eight, one, strict=True):
        for name, due in expected.items():
            np.testing.assert_allclose(np.array(row[name], float), np.array(due, float), rtol=1e-3, atol=1e-4, err_msg=name)


def ray_workers() -> list[psutil.Process]:
    """Those that train."""
    named = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    return [process for process in named if process.info["cmdline"][0].startswith("ray::train_task")]


@pytest.mark.slow
def test_what_a_killed_worker_began_goes_on_elsewhere(tmp_path: Path):
    long = ["--episodes", "2400", "--evaluation-interval", "80", "--evaluation-episodes", "4", "--checkpoint-minutes", "0"]
    arguments = [*PROBE, *SMALL, *long, "--seeds", "2", "--runs-per-task", "1"]
    script, environment = "sweep", os.environ | PATHS
    command = [sys.executable, "-m", "mamt_jax", script, *arguments, "--launcher", "ray", "--out", str(tmp_path / "out")]
    parts, deadline = tmp_path / "out" / "probe-symbols-probe-make" / "parts", time.monotonic() + 240
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        begun = [parts / name / "metrics.jsonl" for name in ("000", "001")]
        while not all(path.exists() and path.read_text().count("\n") > 4 for path in begun):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        ray_workers()[0].kill()
        assert all(path.read_text().count("\n") < 31 for path in begun), "they were not in the middle of their work"
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert run.main([*PROBE, *SMALL, *long, "--seeds", "2", "--out", str(tmp_path / "together")]) == 0
    assert_same_results(parts.parent, tmp_path / "together")
