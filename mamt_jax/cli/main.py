"""Entry point of `mamt COMMAND`, which runs the module of the command."""

import importlib
import sys
from collections.abc import Sequence

from mamt_jax.cli.early_exit import exit_while_importing

COMMANDS = {
    "train": "train agents in an environment",
    "sweep": "train every combination of environments, algorithms, seeds and options, or search among them",
    "evaluate": "evaluate a trained policy, film an episode, export the policy",
    "compare": "compare runs in a table and a plot",
    "figures": "draw the paper's figures from runs",
    "list": "list environments, algorithms, presets and trained policies",
}
MODULES = {"list": "listing"}


def usage() -> str:
    """The text that `mamt --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: mamt COMMAND [options]", "", *lines, "", "`mamt COMMAND --help` lists a command's options."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}: give one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    exit_while_importing()
    from mamt_jax.cli.devices import use_every_core
    from mamt_jax.training.interrupt import exit_at_once

    command = importlib.import_module(f"mamt_jax.cli.{MODULES.get(name, name)}")
    exit_at_once()
    use_every_core()
    return command.main(rest)
