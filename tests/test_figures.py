"""Runs are read from their folders, their statistics are right, and figures are drawn or say what is missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import RunPython
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from analysis.results import RESULTS
from mamt_jax.analysis import pairs, returns, style
from mamt_jax.analysis.catalogue import FIGURES, drawn_from
from mamt_jax.analysis.marl_eval import to_marl_eval
from mamt_jax.analysis.runs import curve, mean_over_agents, read_folder, read_folders
from mamt_jax.analysis.statistics import bootstrap, interquartile_mean, probability_of_improvement
from mamt_jax.cli import compare, figures
from mamt_jax.training.references import RETURNS, measured_references

ROOT = Path(__file__).parents[1]


def write_folder(
    folder: Path, algo: str, runs: list[dict], metrics: list[dict], env: str = "spread", **env_options: object
) -> Path:
    folder.mkdir(parents=True)
    experiment = {"env": env, "env_options": env_options or {"num_agents": 2}, "algo": algo, "runs": runs}
    config = {"experiment": experiment, "spec": {"agent_names": ["a", "b"]}, "references": {"random": -4.0, "scripted": 0.0}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return folder


@pytest.fixture
def maac(tmp_path: Path) -> Path:
    """Three seeds, evaluated before the first update and twice after it; the last seed is one evaluation behind."""
    rows = [
        {
            "run": run, "seed": run, "env_steps": 300 * point, "episodes": 12 * point, "updates": 12 * point,
            "train_return": None if point == 0 else -3.0 + point + run, "eval_return": 2.0 * point - run,
            "kl_old": [0.1 * point, None],
        }
        for point in range(4) for run in range(3) if (point, run) != (3, 2)
    ]  # fmt: skip
    return write_folder(tmp_path / "maac", "maac", [{"seed": run} for run in range(3)], rows)


def test_a_folder_is_read_up_to_where_all_seeds_are(maac: Path) -> None:
    (run,) = read_folder(maac)
    np.testing.assert_array_equal(run.episodes, [12, 24])
    np.testing.assert_array_equal(run.metrics["train_return"], [[-2, -1], [-1, 0], [0, 1]])
    assert run.metrics["kl_old"].shape == (3, 2, 2) and np.isnan(run.metrics["kl_old"][..., 1]).all()
    assert run.task.arguments == "--env spread --num-agents 2" and run.task.title == "Spread (2 agents)"


def test_settings_of_one_folder_and_folders_of_one_algorithm_are_told_apart(tmp_path: Path, maac: Path) -> None:
    rows = [{"run": run, "seed": 0, "env_steps": 300, "episodes": 12, "updates": 12, "train_return": -1.0} for run in range(2)]
    sweep = write_folder(tmp_path / "sweep", "mamd", [{"seed": 0, "epsilon": epsilon} for epsilon in (0.1, 10.0)], rows)
    slow = write_folder(tmp_path / "maac_slow", "maac", [{"seed": 0}], rows[:1])
    labels = [run.label for run in read_folders([sweep, maac, slow])]
    assert labels == ["mamd epsilon=0.1", "mamd epsilon=10", "maac", "maac_slow"]


def test_statistics_are_scipys_and_strata_stay_apart() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    tie = np.concatenate([x, y[:2]])
    expected = stats.mannwhitneyu(tie, y).statistic / (tie.size * y.size)
    assert probability_of_improvement(tie, y) == pytest.approx(expected)
    assert interquartile_mean(np.array([0.0, 1, 2, 100]), np.array([3.0, 4, 5, -100])) == pytest.approx(2.5)
    # Every stratum is constant: resampling within them changes nothing, resampling across them would.
    found = bootstrap(interquartile_mean, [np.full(4, 1.0), np.full(4, 3.0)])
    assert (found.value, found.low, found.high) == (2, 2, 2)


def test_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(1).normal(size=(200, 30))
    found = bootstrap(interquartile_mean, [samples])
    assert 0.88 < np.mean((found.low < 0) & (found.high > 0)) < 0.98
    alone = bootstrap(interquartile_mean, [samples[:, :1]])
    assert np.isnan(alone.low).all() and np.isnan(alone.high).all()


def test_a_missing_ingredient_is_named_with_the_command_that_makes_it(maac: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = maac.parent / "figures"
    choice = ["--figure", "learning_curves", "trust_regions", "coordination", "dilemma", "improvement"]
    assert figures.main(["--runs", str(maac), "--out", str(out), *choice]) == 0
    said = capsys.readouterr().err
    command = "mamt train --env spread --num-agents 2 --algo mamt --out runs/spread_num_agents_2-mamt"
    assert f"trust_regions: the runs in {maac} have no learnt trust regions: train with `{command}`." in said
    assert f"coordination: the runs in {maac} are left out: with two agents all coordination coefficients are 1" in said
    assert (
        "dilemma: there are no runs on Spread-3" in said
        and "--env spread3_sep spread3_mix spread3_ful --algo maac mamd mamd_op" in said
    )
    assert f"improvement: there are only runs of maac in {maac}" in said and "learning_curves" not in said
    assert [path.name for path in out.iterdir()] == ["learning_curves.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--runs is missing: give one or more folders of runs"),
        (["--runs", "nowhere"], "nowhere is not the folder of a run"),
        (["--runs", "nowhere", "--figure", "curves"], "--figure: invalid choice: 'curves'"),
    ],
)
def test_what_cannot_be_drawn_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_compared_with_the_references_of_its_task(maac: Path, tmp_path: Path) -> None:
    played = json.loads(RETURNS.read_text())["returns"]
    tasks = {
        ("spread", ()): "spread",
        ("spread", (("num_agents", 2),)): "spread",
        ("spread", (("num_agents", 3),)): "spread_n3",
        ("pursuit", (("shared_reward", False),)): "pursuit_local",
        ("multiwalker", (("original_rules", True),)): "multiwalker",
        ("pettingzoo/multiwalker", (("processes", 1),)): "multiwalker_original",
        ("pettingzoo/multiwalker", (("n_walkers", 2),)): None,
        ("spread:make", ()): None,
    }
    for (env, options), task in tasks.items():
        expected = task and {name: (each["return"], each["return_std_error"]) for name, each in played[task].items()}
        assert measured_references(env, dict(options)) == expected, (env, options)
    assert read_folder(maac)[0].references["random"].value == played["spread"]["random"]["return"]
    rows = [{"run": 0, "seed": 0, "env_steps": 300, "episodes": 12, "updates": 12, "train_return": -1.0}]
    other = write_folder(tmp_path / "other", "maac", [{"seed": 0}], rows, env="spread", num_agents=5)
    assert read_folder(other)[0].references["random"].value == -4.0, "its own, since no such task was measured"


def test_an_evaluation_without_a_value_is_in_no_curve(tmp_path: Path) -> None:
    """The last interval is too short for one of two seeds to end an episode."""
    points = [(12, -3.0, -5.0), (24, -1.0, -3.0), (24, None, 40.0)]
    rows = [
        {
            "run": run, "seed": run, "env_steps": 300 * number, "episodes": episodes, "updates": number,
            "train_return": values[run], "kl_old": [0.1, None if number == 3 else 0.2], "wall_seconds": number,
        }
        for number, (episodes, *values) in enumerate(points, 1) for run in range(2)
    ]  # fmt: skip
    folder = write_folder(tmp_path / "maac", "maac", [{"seed": 0}, {"seed": 1}], rows)
    (run,) = read_folder(folder)
    for metric, values in (("train_return", [[-3, -1], [-5, -3]]), ("kl_old", np.full((2, 2), 0.15))):
        found = mean_over_agents(curve(run, metric))
        np.testing.assert_array_equal(found.episodes, [12, 24])
        np.testing.assert_allclose(found.values, values)
    for against in compare.AGAINST:
        line = compare.draw([run], "train_return", against).axes[0].lines[0]
        assert np.shape(line.get_xdata()) == (2,) and np.isfinite(np.asarray(line.get_ydata())).all()


def test_algorithms_are_compared_on_the_tasks_that_both_have(tmp_path: Path) -> None:
    def folder(algo: str, env: str, value: float) -> Path:
        rows = [
            {"run": run, "seed": run, "env_steps": 300, "episodes": 12, "updates": 12, "train_return": value + run}
            for run in range(3)
        ]
        return write_folder(tmp_path / env / algo, algo, [{"seed": run} for run in range(3)], rows, env=env, num_agents=4)

    values = {"maac": {"a:e": -4.0, "b:e": -2.0, "c:e": -3.0}, "mamt": {"b:e": -4.0, "d:e": 9.0}}
    runs = read_folders([folder(algo, env, value) for algo, tasks in values.items() for env, value in tasks.items()])
    scores, chances = returns.improvement(runs)[""].axes
    points = [line for line in scores.lines if line.get_marker() in ("o", "D")]
    # On b:e alone; random earns -4 there and the scripted policy 0.
    assert [np.asarray(line.get_xdata()).item() for line in points] == [pytest.approx(0.75), pytest.approx(0.25)]
    assert [text.get_text() for text in scores.get_yticklabels()] == ["mamt: 1"]
    assert [text.get_text() for text in chances.get_yticklabels()] == ["mamt: 1"]
    title = scores.figure.get_suptitle()
    assert title.startswith("Tasks: 1 b:e") and not any(env in title for env in ("a:e", "c:e", "d:e"))
    assert returns.chance(*(returns.by_label(runs)[label] for label in ("mamt", "maac"))).value == pytest.approx(0.5 / 9)


def test_marl_eval_layout(maac: Path) -> None:
    (algorithms,) = to_marl_eval(read_folder(maac))["spread"].values()
    seed = algorithms["maac"]["seed_1"]
    assert list(algorithms["maac"]) == ["seed_0", "seed_1", "seed_2"]
    assert seed["step_0"] == {"step_count": 300, "return": [1.0], "training_return": [-1.0]}
    assert seed["absolute_metrics"] == {"return": [3.0], "training_return": [0.0]}


def test_figures_of_agents_and_pairs_are_drawn(tmp_path: Path) -> None:
    names = ["policy_divergence_of_agents", "trust_regions", "coordination", "coordination_over_time", "attention"]
    folders = [str(RESULTS / "spread3_mix" / "mamt")]
    arguments = ["--out", str(tmp_path), "--format", "svg", "--figure", *names, "--marl-eval", str(tmp_path / "runs.json")]
    assert figures.main(["--runs", *folders, *arguments]) == 0
    suffixes = {"policy_divergence_of_agents": "_spread3_mix"}
    assert {path.name for path in tmp_path.glob("*.svg")} == {f"{name}{suffixes.get(name, '')}.svg" for name in names}
    assert json.loads((tmp_path / "runs.json").read_text()) == to_marl_eval(read_folders([Path(folders[0])]))


def test_two_agents_are_left_out_where_all_is_one_by_definition() -> None:
    two, three = (read_folders([RESULTS / task / "mamd", RESULTS / task / "mamt"]) for task in ("spread", "spread3_mix"))
    for name in ("coordination", "coordination_over_time", "attention"):
        assert not drawn_from(name, two)
        assert {run.task for run in drawn_from(name, two + three)} == {three[0].task}


def test_numbers_of_axes_and_of_seeds(maac: Path) -> None:
    values = {0: "0", 0.004: "0.004", 0.5: "0.5", 1: "1", 500: "500", 2500: "2.5k", 1_000_000: "1M", -3_000_000: "-3M"}
    assert {value: style.short(value).replace("\N{MINUS SIGN}", "-") for value in values} == values
    (run,) = read_folder(maac)
    alone = run._replace(seeds=(0,))
    found = [returns.seeds_text(runs) for runs in ([alone], [alone, alone], [run], [run, alone])]
    assert found == ["1 seed", "1 seed", "3 seeds", "1 to 3 seeds"]


@pytest.mark.parametrize("count", range(1, 10))
def test_no_row_of_panels_is_half_empty(count: int) -> None:
    rows = pairs.rows_of(count)
    assert sum(rows) == count and max(rows) <= 3 and max(rows) - min(rows) <= 1


def test_legends_cover_no_data_and_panels_have_titles_and_few_lines() -> None:
    spread = read_folders(sorted(path.parent for path in (RESULTS / "spread_n3").glob("*/metrics.jsonl")))
    agents = read_folders([RESULTS / task / "mamt" for task in ("spread_n3", "spread3_mix", "rover_tower")])
    assert len(spread) + 3 > style.MOST_LINES, "so that it is split"
    shown = {"learning_curves": spread} | dict.fromkeys(("trust_regions", "coordination_over_time"), agents)
    for name, runs in shown.items():
        (figure,) = FIGURES[name].draw(drawn_from(name, runs)).values()
        FigureCanvasAgg(figure).draw()
        panels = [axes for axes in figure.axes if axes.axison]
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        boxes = [axes.get_window_extent() for axes in panels]
        assert legends and not any(legend.get_window_extent().count_overlaps(boxes) for legend in legends), name
        for axes in panels:
            assert axes.get_title() and "\n" not in axes.get_ylabel()
            assert len([line for line in axes.lines if not str(line.get_label()).startswith("_")]) <= style.MOST_LINES


@pytest.mark.slow
def test_committed_figures_are_drawn(tmp_path: Path, run_python: RunPython) -> None:
    run_python(ROOT / "experiments" / "figures.py", "--out", tmp_path, cwd=tmp_path)
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")}
    assert drawn == {path.relative_to(RESULTS) for path in RESULTS.rglob("*.png")}
