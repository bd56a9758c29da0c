"""Tables of Multi-Walker here beside the original, step by step."""

from collections.abc import Sequence
from typing import Any

from mamt_jax.analysis.markdown import markdown


def steps_table(content: dict[str, Any]) -> str:
    """Shares of what ends a step within 1 mm and 1 mrad of the original."""
    rows: list[Sequence[str]] = [
        ("solver", "velocity sweeps", "the original's", "policy", "steps", "bodies", "walkers", "whole states", "flags")
    ]
    for row in content["steps"]:
        sweeps, shares = row["ours"]["velocity_sweeps"], [f"{row[name]:.0%}" for name in ("bodies", "walkers", "whole_states")]
        rows.append(
            (
                row["ours"]["solver"],
                f"{sweeps:,}",
                f"{row['original_velocity_sweeps']:,}",
                row["policy"],
                f"{row['states']:,}",
                *shares,
                f"{row['flags']:.1%}",
            )
        )
    return markdown(rows)


def endurance_table(content: dict[str, Any]) -> str:
    """What random actions lead to at worst."""
    largest = ("largest overlap, m", "fastest, m/s", "fastest spin, rad/s")
    rows: list[Sequence[str]] = [("random actions", "steps", "not finite", "overlap over 0.1 m", *largest)]
    for side, found in content["endurance"].items():
        worst = (f"{found[name]['largest']:.3g}" for name in ("overlap", "speed", "spin"))
        rows.append((side, f"{found['steps']:,}", f"{found['not_finite']}", f"{found['overlap_over_0.1']:.2%}", *worst))
    return markdown(rows)


def tables(content: dict[str, Any]) -> list[str]:
    """Both."""
    return [steps_table(content), endurance_table(content)]
