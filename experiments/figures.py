"""Draws the figures of the README and the documentation from the committed results, or prints one of their tables.

python experiments/figures.py
python experiments/figures.py --table runs pursuit

`mamt figures` draws the paper's figures from other runs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import dependence, multiwalker, results, theory, time_to_return
from analysis.tables import TABLES
from mamt_jax.analysis import style
from mamt_jax.analysis.catalogue import FIGURES, save_figures


def draw_all(out: Path) -> None:
    """Draws the paper's figures, Fig. 8, time to a return, one figure per environment, and the comparison of Multi-Walker."""
    save_figures([*FIGURES], results.committed_runs(), out / "figures")
    style.save(theory.draw(results.read_result("theory")), out / "figures" / "theory.png")
    style.save(dependence.draw(results.read_result("dependence")), out / "figures" / "dependence.png")
    style.save(time_to_return.draw(time_to_return.read_benchmark()), out / "time_to_return.png")
    references = results.read_returns()
    for name in results.shown_environments():
        figure = results.draw(results.RESULTS / name, results.ENVIRONMENTS[name], references[name])
        style.save(figure, out / f"{name}.png")
    style.save(multiwalker.draw(results.read_result("multiwalker_statistics")["policies"]), out / "multiwalker_statistics.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all figures, or prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=results.RESULTS, metavar="DIR", help="folder of the figures (default experiments/results)"
    )
    names = f"print a table instead of drawing: one of {', '.join(TABLES)}, followed by its arguments"
    parser.add_argument("--table", nargs="+", metavar="WORD", help=names)
    asked = parser.parse_args(arguments)
    if not asked.table:
        return draw_all(asked.out)
    name, *words = asked.table
    if name not in TABLES:
        parser.error(f"there is no table {name}: give one of {', '.join(TABLES)}.")
    print(TABLES[name](*words))


if __name__ == "__main__":
    main()
