"""The paper's figures from run folders; without options, every figure and table of README and docs from the committed results.

python experiments/figures.py
python experiments/figures.py --runs runs/maac runs/mamt --out figures
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.analysis import results, theory, two_samples
from experiments.analysis.tables import STATISTICS, tables
from mamt_jax.analysis import catalogue, style
from mamt_jax.analysis.marl_eval import to_marl_eval
from mamt_jax.analysis.runs import Run, read_folders
from mamt_jax.training.references import RETURNS
from mamt_jax.training.run_folder import FolderError

__all__ = ["tables"]
THEORY = "theory"


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*catalogue.FIGURES, THEORY)
    parser.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help="run folders (default: the committed results)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where figures go (default figures, with --runs)")
    parser.add_argument("--figure", nargs="+", choices=names, metavar="NAME", help=f"which to draw: {', '.join(names)}")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of the figures (default png)")
    parser.add_argument("--marl-eval", type=Path, metavar="FILE", help="write the runs' returns as JSON for marl-eval, too")
    return parser.parse_args(arguments)


def draw_paper(names: Sequence[str], runs: Sequence[Run], out: Path, file_format: str) -> list[str]:
    """Draws what can be drawn; returns a sentence for everything that is missing."""
    sentences = []
    for name in names:
        if name == THEORY:
            sentences += draw_theory(out / f"{THEORY}.{file_format}")
            continue
        sentences += [f"{name}: {sentence}" for sentence in catalogue.missing(name, runs)]
        if catalogue.drawn_from(name, runs):
            for stem, figure in catalogue.draw(name, runs).items():
                style.save(figure, out / f"{stem}.{file_format}")
                print(f"{out / f'{stem}.{file_format}'}  {catalogue.FIGURES[name].paper}")
    return sentences


def draw_theory(path: Path) -> list[str]:
    """Draws what `theory.py` computed; a sentence where it has not been run."""
    if not (results.RESULTS / f"{THEORY}.json").exists():
        return [f"{THEORY}: no {THEORY}.json under experiments/results: it comes from `python experiments/theory.py`."]
    style.save(theory.draw(results.read_result(THEORY)), path)
    print(f"{path}  Fig. 8")
    return []


def redraw_results() -> None:
    """The two-panel figure of each environment, and Multi-Walker beside the original."""
    references = json.loads(RETURNS.read_text())["returns"]
    for name in results.shown_environments():
        figure = results.draw(results.RESULTS / name, results.ENVIRONMENTS[name], references[name])
        style.save(figure, results.RESULTS / f"{name}.png")
    style.save(two_samples.draw(results.read_result(STATISTICS)["policies"]), results.RESULTS / f"{STATISTICS}.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = read_options(arguments)
    everything = options.runs is None and options.figure is None and options.out is None
    try:
        runs = results.committed_runs() if options.runs is None else read_folders(options.runs)
    except FolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    default = results.RESULTS / "figures" if options.runs is None else Path("figures")
    names = options.figure or [*catalogue.FIGURES, *([THEORY] if options.runs is None else [])]
    sentences = draw_paper(names, runs, options.out or default, options.format)
    if options.marl_eval:
        options.marl_eval.write_text(json.dumps(to_marl_eval(runs), indent=1) + "\n")
    if everything:
        redraw_results()
        print("\n\n".join(tables()))
    elif sentences:
        print("\n".join(sentences), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
