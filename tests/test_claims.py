"""Verdicts on the paper's claims follow from the intervals, and numbers from the runs that a claim names."""

import json

import numpy as np
import pytest

from analysis import claims
from analysis.results import RESULTS

MAMT = RESULTS / "tuned" / "rover_tower" / "mamt"


@pytest.mark.parametrize(
    ("low", "high", "differs", "said"),
    [
        (0.51, 0.9, True, "holds"),
        (0.1, 0.49, True, "the contrary holds"),
        (0.5, 0.9, True, "not significant"),
        (0.4, 0.6, False, "no significant difference"),
        (0.51, 0.9, False, "does not hold"),
    ],
)
def test_verdict(low: float, high: float, differs: bool, said: str):
    assert claims.verdict(low, high, differs) == said


def test_a_claim_is_in_the_table_with_the_numbers_of_its_runs():
    claim = claims.CLAIMS[0]
    more, less = (claims.of_runs(RESULTS / folder, claim.metric) for folder in (claim.more, claim.less))
    assert len(more) == len(less) == 10
    (row,) = [line for line in claims.claims_table([claim]).splitlines() if claim.text in line]
    assert f"{more.mean():.3g} ± {more.std(ddof=1):.2g}" in row
    assert f"{(more[:, None] > less[None]).mean():.2f} (" in row


def test_every_claim_rests_on_committed_runs():
    for claim in (*claims.CLAIMS, *claims.PAPER, *claims.ABLATIONS):
        assert (RESULTS / claim.more / "config.json").exists() and (RESULTS / claim.less / "config.json").exists(), claim


def test_deviation_between_agents_is_relative():
    fixed = claims.of_runs(MAMT.with_name("mamd"), claims.DEVIATION)
    assert claims.of_runs(MAMT, claims.DEVIATION).max() > 0.1 and np.allclose(fixed, 0, atol=1e-6)


def test_first_and_last_fifth_and_change_during_training():
    rows = [json.loads(line) for line in (MAMT / "metrics.jsonl").read_text().splitlines()]
    seed = [row for row in rows if row["run"] == 3 and row["updates"]]
    parts: dict[claims.Stage, list[dict]] = {
        "first": seed[:4],
        "last": [row for row in seed if row["episodes"] > 0.8 * seed[-1]["episodes"]],
    }
    for stage, part in parts.items():
        mean = np.mean([row["non_stationarity"] for row in part])
        assert claims.of_runs(MAMT, "non_stationarity", stage)[3] == pytest.approx(mean)
    values = np.array([[[1.0, 4.0], [3.0, 4.0]]])  # one run, two points, two agents: one of them changes
    np.testing.assert_allclose(claims.change(values), [0.5 / 3.0])
