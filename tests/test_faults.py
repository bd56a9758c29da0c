"""The documentation shows what experiments/faults.py found, and nothing worse than promised is in it."""

import json
from pathlib import Path

from experiments.faults import RESULT, table

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"


def test_the_table_is_that_of_the_result():
    assert table(json.loads(RESULT.read_text())) in PAGE.read_text()


def test_every_trial_came_to_the_undisturbed_end():
    for name, counts in json.loads(RESULT.read_text())["faults"].items():
        assert counts["trials"] > 0 and counts["tracebacks"] == 0, name
        for field in ("said", "resumed", "same"):
            assert counts[field][0] == counts[field][1], f"{name}: {field}"
