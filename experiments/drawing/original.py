"""The original MAAC, its authors' PyTorch code, beside ours."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.drawing.markdown import markdown

ORIGINAL = "maac_original.csv"
"""Its curve on Rover-Tower, one seed."""
BIN = 240
WINDOW = 500


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


def smoothed(episodes: np.ndarray, values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Means of values (R, T) over the `WINDOW` episodes up to each of `ends`, (R, len(ends))."""
    within = (episodes > ends[:, None] - WINDOW) & (episodes <= ends[:, None])  # (ends, T)
    return values @ within.T / within.sum(1)


def smoothed_table(original: Path, ours: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Training returns over windows of `WINDOW` episodes, the original's beside ours with the lowest and the highest seed."""
    last = min(int(episodes[-1]) for episodes, _ in ours.values())
    ends = np.arange(WINDOW, last + 1, WINDOW)
    episodes, returns = original_batches(original)
    rows = [(f"MAAC, mean over {WINDOW} episodes", *(f"to {end:,}" for end in ends))]
    rows.append(("the original", *(f"{value:.1f}" for value in smoothed(episodes, returns[None], ends)[0])))
    for name, (episodes, values) in ours.items():
        seeds = smoothed(episodes, values, ends).T
        rows.append(
            (f"{name}, {len(values)} seeds", *(f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})" for each in seeds))
        )
    return markdown(rows)
