"""The original MAAC, its authors' PyTorch code, beside ours."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mamt_jax.analysis.markdown import markdown

ORIGINAL = "maac_original.csv"
"""Its curve on Rover-Tower, one seed."""
BIN = 240
WINDOW = 500
ENDS = np.array([500, 1000, 2000, 3000, 4000, 6000, 8000, 10000, 12000, 14000])


def original_batches(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Episodes so far and training returns of every batch of episodes."""
    with path.open() as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    episodes, returns = (np.array([float(row[name]) for row in rows]) for name in ("episodes", "mean_episode_return"))
    return episodes, returns


def original_curve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Its training returns, mean over `BIN` episodes."""
    episodes, returns = original_batches(path)
    width = BIN // int(episodes[0])
    binned = returns[: len(returns) // width * width].reshape(-1, width).mean(1)
    return BIN * (np.arange(len(binned)) + 1), binned


def smoothed(episodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of values (R, T) over the `WINDOW` episodes up to each of `ENDS`, (R, len(ENDS)); nan where there are none."""
    within = (episodes > ENDS[:, None] - WINDOW) & (episodes <= ENDS[:, None])  # (ends, T)
    count = within.sum(1)
    return np.where(count > 0, values @ within.T / np.maximum(count, 1), np.nan)


def smoothed_table(original: Path, ours: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Training returns over windows of `WINDOW` episodes, the original's beside ours with the lowest and the highest seed."""
    rows = [(f"MAAC, mean over {WINDOW} episodes", *(f"to {end:,}" for end in ENDS))]
    episodes, returns = original_batches(original)
    rows.append(("the original", *(f"{value:.1f}" for value in smoothed(episodes, returns[None])[0])))
    for name, (episodes, values) in ours.items():
        seeds = smoothed(episodes, values).T
        cells = [
            f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})" if np.isfinite(each).all() else "" for each in seeds
        ]
        rows.append((f"{name}, {len(values)} seeds", *cells))
    return markdown(rows)
