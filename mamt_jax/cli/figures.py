"""Draws the paper's figures from runs. If runs lack what a figure shows, it prints the command that makes it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mamt_jax.analysis.catalogue import FIGURES, save_figures
from mamt_jax.analysis.marl_eval import to_marl_eval
from mamt_jax.analysis.runs import read_folders
from mamt_jax.cli.parser import Parser
from mamt_jax.options import OptionError
from mamt_jax.training.run_folder import FolderError


def make_parser() -> Parser:
    """The options of `mamt figures`."""
    parser = Parser("mamt figures", "--runs DIR [DIR ...] [options]", description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help="folders of the runs")
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR", help="folder of the figures (default figures)"
    )
    names = ", ".join(FIGURES)
    parser.add_argument(
        "--figure",
        nargs="+",
        choices=FIGURES,
        default=[*FIGURES],
        metavar="NAME",
        help=f"figures to draw, out of {names} (default all)",
    )
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="file format (default png)")
    parser.add_argument("--marl-eval", type=Path, metavar="FILE", help="write the returns of the runs as JSON for marl-eval")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        values = make_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
        if values.runs is None:
            raise OptionError("--runs is missing: give one or more folders of runs, such as --runs runs/A runs/B.")
        runs = read_folders(values.runs)
    except (OptionError, FolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sentence in save_figures(values.figure, runs, values.out, values.format):
        print(sentence, file=sys.stderr)
    if values.marl_eval:
        values.marl_eval.write_text(json.dumps(to_marl_eval(runs), indent=1) + "\n")
        print(f"Wrote {values.marl_eval}")
    return 0
