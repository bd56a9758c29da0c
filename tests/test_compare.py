"""`mamt compare` on committed runs."""

from pathlib import Path

import pytest

from analysis.results import final, read_run
from mamt_jax.cli import compare

ROOT = Path(__file__).parents[1]

RESULTS = ROOT / "experiments" / "results"
MAAC, MAPPO, TAUS = (
    RESULTS / "rover_tower" / "maac",
    RESULTS / "rover_tower" / "mappo",
    RESULTS / "multiwalker_original" / "maac_tau",
)


def cells(printed: str) -> dict[str, list[str]]:
    """The rows of a printed table by their first column."""
    lines = [line.strip("│┃").replace("┃", "│").split("│") for line in printed.splitlines() if line[0] in "│┃"]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_folders_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("COLUMNS", "160")
    plot = tmp_path / "new" / "plot.png"
    arguments = [str(MAAC), str(MAPPO), "--metric", "task/rovers_on_goal", "--against", "wall_seconds", "--plot", str(plot)]
    assert compare.main(arguments) == 0
    table = cells(capsys.readouterr().out)
    assert table[""] == ["maac", "mappo"] and table["runs"] == ["3", "3"] and table["env_steps"] == ["100,200", "1,001,600"]
    finals = [final(read_run(folder), "train_return") for folder in (MAAC, MAPPO)]
    assert table["train_return"] == [f"{each.mean():.4g} ± {each.std(ddof=1):.2g}" for each in finals]
    assert table["gamma"] == ["0.99", "0.95"] and table["algo"] == ["maac", "mappo"] and "env" not in table
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_settings_of_a_folder_stand_apart():
    one, two = compare.read_runs([TAUS])
    assert (one.label, two.label) == ("maac_tau tau=0.002", "maac_tau tau=0.01")
    assert compare.differences([one, two]) == {"tau": ["0.002", "0.01"]}
    assert (one.numbers, two.numbers) == ((0,), (1,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(ROOT)], "is not the folder of a run, because it has no config.json"),
        (
            [str(MAAC), "--metric", "eval_retrun"],
            "--metric eval_retrun is not valid: maac has no such metric (did you mean 'eval_return'?)",
        ),
        ([str(MAAC), "--against", "time"], "--against: invalid choice: 'time'"),
    ],
)
def test_what_cannot_be_compared_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert compare.main(arguments) == 2
    assert message in capsys.readouterr().err
