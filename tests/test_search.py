"""`mamt sweep` with `--sampler random` and `tpe`: what is asked for, groups, scores and resuming."""

import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import PROBE, SMALL, experiment_of
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from mamt_jax.cli import search, sweep
from mamt_jax.cli import train as run
from mamt_jax.cli.launchers import Task
from mamt_jax.cli.parser import Parser, dashed
from mamt_jax.options import Option
from mamt_jax.training import launch
from mamt_jax.training.experiment import Experiment, build, experiment_to_json
from mamt_jax.training.merge import is_finished
from mamt_jax.training.metrics import STOPPED
from mamt_jax.training.run_folder import read_rows, replace_rows, write_json

RANDOM = [*PROBE, *SMALL, "--sampler", "random"]
TPE = [*PROBE, *SMALL, "--sampler", "tpe"]
RATES = ["--learning-rate", "0.1..0.5"]
SIZES = ["--size", "1", "2"]

Stop = Callable[[Task], str | None]


def write_run(task: Task) -> None:
    """What training leaves behind: five evaluations of each run, the last of which returns the learning rate."""
    write_json(task.folder / "config.json", {"experiment": experiment_to_json(task.experiment)})
    rows = []
    for number, own in enumerate(task.experiment.runs):
        value = own.get("learning_rate", 0.25) + own["seed"]
        for step in range(5):
            rows.append({"run": number, "env_steps": step, "eval_return": value if step == 4 else 0.0})
    replace_rows(task.folder / "metrics.jsonl", rows)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[Task]]:
    """The tasks of each launch; nothing is compiled."""
    return stub_training(monkeypatch)


def stub_training(
    monkeypatch: pytest.MonkeyPatch, fails: Stop = lambda task: None, write: Callable[[Task], None] = write_run
) -> list[list[Task]]:
    """Replaces training by `write(task)`, but for tasks of which `fails(task)` says what went wrong; returns the launches."""
    launches: list[list[Task]] = []

    def train(tasks: Sequence[Task], console: Console, cpus: float, gpus: float) -> dict[Path, str]:
        launches.append([])
        for task in tasks:
            launches[-1].append(task)
            failure = fails(task)
            if failure is not None:
                return {task.folder: failure}
            task.folder.mkdir(parents=True, exist_ok=True)
            write(task)
        return {}

    monkeypatch.setattr(sweep, "LAUNCHERS", {"local": train})
    monkeypatch.setattr(search, "is_finished", lambda folder: (folder / "metrics.jsonl").exists())
    return launches


def trials_of(out: Path) -> list[FrozenTrial]:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(out / search.JOURNAL)))
    return optuna.load_study(study_name=None, storage=storage).trials


def experiments(launches: list[list[Task]]) -> list[Experiment]:
    return [task.experiment for tasks in launches for task in tasks]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (float, "0.01..0.05", FloatDistribution(0.01, 0.05)),
        (float, "1e-4..1e-2", FloatDistribution(1e-4, 1e-2, log=True)),
        (float, "0.07..0.7", FloatDistribution(0.07, 0.7, log=True)),  # 10 * 0.07 is more than 0.7 in float64
        (float, "0..1", FloatDistribution(0.0, 1.0)),
        (float, "2..3", FloatDistribution(2.0, 3.0)),
        (int, "2..9", IntDistribution(2, 9)),
        (int, "8..1e2", IntDistribution(8, 100, log=True)),
        (int, "0..1,000", IntDistribution(0, 1000)),
    ],
)
def test_ranges_are_whole_or_not_and_logarithmic_over_a_decade(kind: type, text: str, expected: BaseDistribution):
    option = Option("option", kind, kind(1), "")
    found = search.read_values("option", option, [text])
    assert found is not None and search.distribution(found) == expected


def test_a_range_may_be_negative_where_the_default_is():
    found = search.read_values("shift", Option("shift", float, -1.0, ""), ["-2..-0.5"])
    assert found == search.Range(-2.0, -0.5)
    assert search.is_range("-2..-0.5")


def test_a_negative_number_is_read_as_a_value():
    parser = Parser("mamt train")
    parser.add_argument("--shift", type=float)
    for value in (-1e-05, 1e-05):
        assert parser.parse_args(search.typed("shift", str(value))).shift == value


@pytest.mark.parametrize(("option", "text"), [(Option("path", str, "a", ""), "../b..c"), (Option("size", int, 1, ""), "4")])
def test_one_value_is_not_searched(option: Option, text: str):
    assert search.read_values(option.name, option, [text]) is None


def test_values_given_one_by_one_are_choices():
    found = search.read_values("size", Option("size", int, 1, ""), ["4", "8", "4"])
    assert found is not None and search.distribution(found) == CategoricalDistribution(("4", "8"))


def test_ranges_under_an_old_name_are_in_the_new_unit(capsys: pytest.CaptureFixture[str]):
    assert dashed(["--critic-regularisation", "1..10"]) == ["--attention-logit-coef", "0.001..0.01"]
    assert "give --attention-logit-coef 0.001..0.01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RANDOM, *RATES], "--sampler random needs --trials: give the number of trials"),
        ([*RANDOM, *RATES, "--trials", "0"], "--trials: '0' is not valid: give a whole number from 1"),
        ([*PROBE, "--trials", "4"], "--trials 4 is not valid with --sampler grid"),
        ([*PROBE, "--batch", "4"], "--batch 4 is not valid with --sampler grid"),
        ([*PROBE, *RATES], "--learning-rate 0.1..0.5 is not valid with --sampler grid: give values one by one, or --sampler"),
        ([*PROBE, "--sampler", "annealing"], "--sampler: invalid choice: 'annealing' (choose from"),
        ([*TPE, *RATES, "--trials", "4", "--runs-per-task", "2"], "--runs-per-task 2 is not valid with --sampler tpe"),
        ([*TPE, "--trials", "4"], "--sampler tpe has nothing to search: give an option several values, or a range"),
        (
            [*TPE, "--trials", "4", "--learning-rate", "0.5..0.1"],
            "--learning-rate 0.5..0.1 is not valid: give a range LOW..HIGH",
        ),
        (
            [*TPE, "--trials", "4", "--learning-rate", "0.1..inf"],
            "--learning-rate 0.1..inf is not valid: give a range LOW..HIGH",
        ),
        ([*TPE, "--trials", "4", "--learning-rate", "low..0.1"], "--learning-rate low..0.1: 'low' is not valid: give a number"),
        (
            [*TPE, "--trials", "4", "--learning-rate", "-1..0.1"],
            "--learning-rate -1..0.1: -1 is not valid: give a number of at",
        ),
        ([*TPE, "--trials", "4", "--size", "1..2.5"], "--size 1..2.5: '2.5' is not valid: give a whole number"),
        (
            [*TPE, "--trials", "4", *RATES, "0.7"],
            "--learning-rate 0.1..0.5 0.7 is not valid: give one range LOW..HIGH, or values",
        ),
        ([*TPE, "--trials", "4", *SIZES, "many"], "--size: 'many' is not valid: give a whole number"),
        ([*TPE, "--trials", "4", "--batch-size", "32..500"], "batch_size=500 is larger than buffer_size=200"),
        ([*TPE, "--trials", "4", "--num-agents", "0..2"], "num_agents=0 is not valid"),
        (
            [*TPE, "--trials", "4", *RATES, "--learnin-rate", "1"],
            "no option --learnin-rate here (did you mean 'learning-rate'?)",
        ),
        ([*TPE, "--trials", "4", *RATES, "--config", "runs"], "there is no option --config here"),
        ([*TPE, "--trials", "4", *RATES, "--seed", "0", "1"], "--seed 0 1 is not valid with --sampler tpe: give one value"),
        ([*TPE, "--trials", "4", *RATES, "--seeds", "1..2"], "--seeds 1..2 is not valid with --sampler tpe: give one value"),
        ([*TPE, "--trials", "4", *RATES, "--seed", "first"], "--seed: 'first' is not valid: give a whole number"),
        (
            ["--env", "spread", "--algo", "maac", "--sampler", "tpe", "--trials", "4", "--share-policy", "0..1"],
            "--share-policy 0..1 is not valid: only numbers have a range",
        ),
        (
            ["--env", "spread", "--sampler", "tpe", "--trials", "4", "--algo", "maac", "mamt"],
            "--algo maac mamt is not valid with --sampler tpe: give one value",
        ),
    ],
)
def test_a_search_that_cannot_be_does_not_begin(arguments: list[str], message: str, trained, tmp_path: Path, capsys):
    assert sweep.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir()) and not trained


def test_optuna_is_an_extra(tmp_path: Path, trained, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep.main([*RANDOM, *RATES, "--trials", "2", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: --sampler random needs Optuna: install it with `pip install -e '.[optuna]'`.\n"


def test_trials_that_differ_in_float_fields_share_a_folder(trained, tmp_path: Path):
    arguments = [*RANDOM, *RATES, "--temperature", "0.1", "0.2", "--size", "1", "2", "--seeds", "2", "--seed", "3"]
    assert sweep.main([*arguments, "--trials", "12", "--out", str(tmp_path)]) == 0
    assert len(trained) == 1, "random trials are trained all at once"
    found = experiments(trained)
    assert [each.algo_options for each in sorted(found, key=str)] == [{"size": 1}, {"size": 2}]
    runs = {(run["seed"], run["learning_rate"], run["temperature"]) for each in found for run in each.runs}
    trials = trials_of(tmp_path)
    drawn = {(trial.params["learning-rate"], float(trial.params["temperature"])) for trial in trials}
    assert len(drawn) == 12 and runs == {(seed, *point) for point in drawn for seed in (3, 4)}
    assert [trial.value for trial in trials] == pytest.approx([trial.params["learning-rate"] + 3.5 for trial in trials])


def test_tpe_trains_one_trial_at_a_time_and_learns_from_each(trained, tmp_path: Path):
    assert sweep.main([*TPE, "--learning-rate", "0.01..1", "--trials", "30", "--out", str(tmp_path / "tpe")]) == 0
    assert [len(tasks) for tasks in trained] == [1] * 30
    assert sweep.main([*RANDOM, "--learning-rate", "0.01..1", "--trials", "30", "--out", str(tmp_path / "random")]) == 0
    tpe, drawn = ([trial.params["learning-rate"] for trial in trials_of(tmp_path / name)] for name in ("tpe", "random"))
    assert np.mean(tpe[15:]) > 2 * np.mean(drawn[15:]), "the score is the learning rate"


def test_a_batch_is_trained_at_once(trained, tmp_path: Path):
    assert sweep.main([*TPE, *RATES, "--batch", "3", "--trials", "7", "--out", str(tmp_path)]) == 0
    assert [[len(task.experiment.runs) for task in tasks] for tasks in trained] == [[3], [3], [1]]


def test_a_float_of_the_preset_gives_way(tmp_path: Path):
    axes = {"env": ["spread"], "algo": ["maac"], "tau": ["0.005..0.05"], "hidden-size": ["8", "16"]}
    found = search.read_search(axes, "random")
    assert "tau" in experiment_of(["--env", "spread", "--algo", "maac"]).algo_options
    experiment = search.experiment_of(found, {"tau": 0.03, "hidden-size": "16"})
    (config,) = build(experiment).configs
    assert (config.tau, config.hidden_size) == (0.03, 16)  # type: ignore[attr-defined]
    assert "tau" not in experiment.algo_options and experiment.runs == ({"seed": 0, "tau": 0.03},)


def test_what_is_proposed_again_is_not_trained_again(trained, tmp_path: Path):
    arguments = [*RANDOM, *SIZES, "--seeds", "2", "--out", str(tmp_path)]
    assert sweep.main([*arguments, "--batch", "3", "--trials", "9"]) == 0
    tasks = [task for tasks in trained for task in tasks]
    assert len({task.folder for task in tasks}) == 2 and all(len(task.experiment.runs) == 2 for task in tasks)
    assert {trial.value for trial in trials_of(tmp_path)} == {0.75}
    assert len(trials_of(tmp_path)) == 9


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([[7.0, 1.0]], 1.0),
        ([[9.0, 9.0, 9.0, 9.0, 1.0]], 1.0),
        ([[9.0, 9.0, 9.0, 9.0, 1.0, 2.0]], 1.5),
        ([[0.0, 1.0], [0.0, 4.0]], 2.5),
        ([[0.0, 1.0], [0.0, None]], math.nan),
        ([[0.0, 1.0], []], math.nan),
    ],
)
def test_the_score_is_the_mean_of_the_last_fifth(returns: list[list[float | None]], expected: float):
    rows = [{"run": run, "eval_return": value} for run, values in enumerate(returns) for value in values]
    assert search.score([*rows, {"run": 2, "eval_return": 100.0}], range(len(returns))) == pytest.approx(expected, nan_ok=True)


def test_a_run_that_stopped_has_no_score():
    rows = [{"run": 0, "eval_return": 1.0}, {"run": 0, "eval_return": 1.0, STOPPED: 40}]
    assert math.isnan(search.score(rows, [0]))


def stop_high_rates(task: Task) -> None:
    """What training leaves behind where runs with a learning rate above 0.3 stopped."""
    write_run(task)
    rows = read_rows(task.folder / "metrics.jsonl")
    stopped = {"eval_return": None, STOPPED: 20}
    high = [number for number, own in enumerate(task.experiment.runs) if own["learning_rate"] > 0.3]
    replace_rows(task.folder / "metrics.jsonl", [row | stopped if row["run"] in high else row for row in rows])


def test_trials_with_a_stopped_run_fail_and_the_best_of_the_others_is_shown(tmp_path: Path, monkeypatch, capsys):
    stub_training(monkeypatch, write=stop_high_rates)
    assert sweep.main([*RANDOM, *RATES, "--trials", "8", "--out", str(tmp_path / "some")]) == 0
    trials = trials_of(tmp_path / "some")
    states = {trial.params["learning-rate"] > 0.3: trial.state for trial in trials}
    assert states == {True: TrialState.FAIL, False: TrialState.COMPLETE}
    output = capsys.readouterr().out
    best = max((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value or 0)
    assert f"--learning-rate {best.params['learning-rate']!r}" in output.splitlines()[-1]
    scores = [float(line.split("│")[1]) for line in output.splitlines() if line.startswith("│")]
    assert scores == sorted(scores, reverse=True) and len(scores) == sum(trial.value is not None for trial in trials)
    assert sweep.main([*RANDOM, "--learning-rate", "0.4..0.5", "--trials", "2", "--out", str(tmp_path / "all")]) == 2
    assert "error: all trials failed" in capsys.readouterr().err


def test_trials_that_cannot_be_built_fail_and_the_others_are_trained(trained, tmp_path: Path, capsys):
    sizes = ["--batch-size", "16..64", "--buffer-size", "200", "32"]
    assert sweep.main([*RANDOM, *sizes, "--trials", "8", "--out", str(tmp_path)]) == 0
    for trial in trials_of(tmp_path):
        fits = trial.params["batch-size"] <= int(trial.params["buffer-size"])
        assert trial.state == (TrialState.COMPLETE if fits else TrialState.FAIL)
    assert {trial.state for trial in trials_of(tmp_path)} == {TrialState.COMPLETE, TrialState.FAIL}
    assert "cannot be trained: batch_size=" in capsys.readouterr().out


def test_trials_whose_training_never_began_fail_and_the_search_goes_on(tmp_path: Path, monkeypatch, capsys):
    stub_training(monkeypatch, lambda task: "It needs too much memory." if task.experiment.algo_options["size"] == 2 else None)
    assert sweep.main([*TPE, *SIZES, "--trials", "6", "--out", str(tmp_path)]) == 0
    states = {trial.params["size"]: trial.state for trial in trials_of(tmp_path)}
    assert states == {"1": TrialState.COMPLETE, "2": TrialState.FAIL}
    assert "It needs too much memory." in capsys.readouterr().out


@pytest.mark.parametrize("sampler", [RANDOM, TPE])
def test_a_stopped_search_goes_on_and_ends_as_if_it_had_not_stopped(sampler: list[str], tmp_path: Path, monkeypatch, capsys):
    arguments = [*sampler, *RATES, *SIZES, "--batch", "4", "--trials", "10"]
    whole = stub_training(monkeypatch)
    assert sweep.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    begun: list[Path] = []

    def stop_the_second_twice(task: Task) -> str | None:
        begun.append(task.folder)
        return "stopped by signal 15" if len(begun) in (2, 3) else None

    stub_training(monkeypatch, stop_the_second_twice)
    for _ in range(2):
        assert sweep.main([*arguments, "--out", str(tmp_path / "parts")]) == 2
        assert "stopped by signal 15" in capsys.readouterr().err
    assert sweep.main([*arguments, "--out", str(tmp_path / "parts")]) == 0
    assert begun[1] == begun[2] == begun[3], "what was stopped is resumed"
    assert len(begun) == 2 + len(experiments(whole)), "what was trained is not trained again"
    one, other = ([(trial.params, trial.value) for trial in trials_of(tmp_path / name)] for name in ("whole", "parts"))
    assert one == other and len(one) == 10


def test_a_task_that_broke_down_in_training_is_tried_again(tmp_path: Path, monkeypatch, capsys):
    def break_down(task: Task) -> str:
        task.folder.mkdir(parents=True)
        write_json(task.folder / "config.json", {"experiment": experiment_to_json(task.experiment)})
        return "The disk is full."

    stub_training(monkeypatch, break_down)
    assert sweep.main([*RANDOM, *RATES, "--trials", "3", "--out", str(tmp_path)]) == 2
    assert "000: The disk is full." in capsys.readouterr().err
    assert {trial.state for trial in trials_of(tmp_path)} == {TrialState.RUNNING}
    stub_training(monkeypatch)
    assert sweep.main([*RANDOM, *RATES, "--trials", "3", "--out", str(tmp_path)]) == 0
    assert {trial.state for trial in trials_of(tmp_path)} == {TrialState.COMPLETE}


def test_more_trials_are_added_to_those_that_are_there(trained, tmp_path: Path):
    arguments = [*RANDOM, *RATES, "--out", str(tmp_path)]
    for number in (3, 3, 5):
        assert sweep.main([*arguments, "--trials", str(number)]) == 0
    assert [len(each.runs) for each in experiments(trained)] == [3, 2]
    rates = [trial.params["learning-rate"] for trial in trials_of(tmp_path)]
    assert len(set(rates)) == 5
    assert sweep.main([*RANDOM, *RATES, "--trials", "5", "--out", str(tmp_path / "at_once")]) == 0
    assert [trial.params["learning-rate"] for trial in trials_of(tmp_path / "at_once")] == rates
    assert sweep.main([*RANDOM, *RATES, "--trials", "5", "--seed", "1", "--out", str(tmp_path / "other")]) == 0
    assert not {trial.params["learning-rate"] for trial in trials_of(tmp_path / "other")} & set(rates)


def test_a_folder_of_another_search_is_refused(trained, tmp_path: Path, capsys):
    assert sweep.main([*RANDOM, *RATES, "--trials", "2", "--out", str(tmp_path)]) == 0
    assert sweep.main([*TPE, *RATES, "--trials", "3", "--out", str(tmp_path)]) == 0
    assert sweep.main([*RANDOM, *RATES, "--temperature", "0.1", "--trials", "4", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} holds a search with another --temperature: give the same options" in capsys.readouterr().err
    (first, _) = experiments(trained)
    folder = tmp_path / "trials" / "000"
    (folder / "metrics.jsonl").unlink()
    write_json(folder / "config.json", {"experiment": experiment_to_json(dataclasses.replace(first, runs=first.runs[:1]))})
    cut_journal(tmp_path, '"values":[')
    assert sweep.main([*RANDOM, *RATES, "--trials", "3", "--out", str(tmp_path)]) == 2
    assert f"{folder} holds other runs" in capsys.readouterr().err
    assert len(experiments(trained)) == 2


def cut_journal(out: Path, text: str) -> None:
    """Removes the first line of a journal that holds a text, and all that follow."""
    lines = (out / search.JOURNAL).read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if text in line)
    (out / search.JOURNAL).write_text("".join(lines[:first]))


def test_a_trial_that_was_only_half_proposed_fails_and_the_others_are_trained(trained, tmp_path: Path, capsys):
    arguments = [*RANDOM, *RATES, "--temperature", "0.1..0.3", "--trials", "3", "--out", str(tmp_path)]
    assert sweep.main(arguments) == 0
    cut_journal(tmp_path, '"param_name":"temperature"')
    assert sweep.main(arguments) == 0
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert "Trial 0 cannot be trained: the process that proposed it was killed" in capsys.readouterr().out


def test_a_journal_that_was_cut_short_is_read(trained, tmp_path: Path, capsys):
    arguments = [*RANDOM, *RATES, "--trials", "3", "--out", str(tmp_path)]
    assert sweep.main(arguments) == 0
    before = [(trial.params, trial.value) for trial in trials_of(tmp_path)]
    journal = tmp_path / search.JOURNAL
    journal.write_bytes(journal.read_bytes()[:-10])  # in the last score
    (tmp_path / f"{search.JOURNAL}.lock").touch()  # as a killed process leaves it
    began = time.monotonic()
    assert sweep.main(arguments) == 0
    assert time.monotonic() - began < 25, "Optuna waits 30 seconds before it breaks a lock"
    assert [(trial.params, trial.value) for trial in trials_of(tmp_path)] == before
    assert len(experiments(trained)) == 2
    journal.write_text("mine\n\n")
    capsys.readouterr()
    assert sweep.main(arguments) == 2
    assert f"error: {journal} cannot be read" in capsys.readouterr().err


def test_the_command_that_is_shown_makes_the_best_trial(trained, tmp_path: Path, capsys):
    rest = ["--temperature", "0.3", "--num-agents", "2..4", "--seeds", "2"]
    assert sweep.main([*RANDOM, *RATES, *SIZES, *rest, "--trials", "4", "--out", str(tmp_path)]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("with: ")[2])
    best = max(trials_of(tmp_path), key=lambda trial: trial.value or 0)
    assert command[:2] == ["mamt", "train"]
    shown = experiment_of(command[2:])
    (own,) = [
        each for each in experiments(trained) if best.params["learning-rate"] in {run["learning_rate"] for run in each.runs}
    ]
    of_best = [run for run in own.runs if run["learning_rate"] == best.params["learning-rate"]]
    expected = build(dataclasses.replace(own, runs=tuple(of_best)))
    assert build(shown).configs == expected.configs
    assert (shown.training, shown.env_options) == (own.training, own.env_options)
    assert [run["seed"] for run in shown.runs] == [run["seed"] for run in of_best]


@pytest.mark.slow
def test_a_search_trains_stops_goes_on_and_repeats_its_best(tmp_path: Path, monkeypatch, capsys):
    begun: list[str] = []

    def stop_the_second(session: Any, console: Console, resume: bool = False) -> int | None:
        begun.append(session.folder.name)
        return 15 if len(begun) == 2 else train(session, console, resume)

    train = launch.train
    monkeypatch.setattr(launch, "train", stop_the_second)
    every = ["--evaluation-interval", "10"]
    searched = ["--learning-rate", "0.001..0.5", "--size", "1..2", "--seeds", "2", "--evaluation-policy", "sampled"]
    arguments = [*RANDOM, *searched, *every, "--trials", "4", "--out", str(tmp_path / "out")]
    assert sweep.main(arguments) == 2
    assert sweep.main(arguments) == 0
    assert begun == [begun[0], begun[1], begun[1]]
    output = capsys.readouterr().out
    trials = trials_of(tmp_path / "out")
    assert len(trials) == 4 and {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert all(is_finished(folder) for folder in (tmp_path / "out" / "trials").iterdir())
    command = shlex.split(output.splitlines()[-1].partition("with: ")[2])
    assert run.main([*command[2:], "--out", str(tmp_path / "best")]) == 0
    rows = read_rows(tmp_path / "best" / "metrics.jsonl")
    assert len(rows) == 2 * 9
    last = [row["eval_return"] for row in rows[-4:]]  # two of the nine evaluations of each run
    scores = [trial.value or 0 for trial in trials]
    assert max(scores) == pytest.approx(np.mean(last), rel=1e-5) and len(set(scores)) == 4
    assert sweep.main(arguments) == 0 and len(begun) == 4, "all is done, but for the best by hand"
