"""Options on a command line: `argparse`, whose errors are OptionErrors and whose options come from `mamt_jax.options`.

Not tyro, whose help is as good: it prints what is wrong in a box and exits, so that no caller gets the error as a sentence, it
proposes nothing for `--lr`, and Python's keyword arguments would need rules of their own for the same options.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from envs_jax.validation import nearest
from mamt_jax.options import Option, OptionError, convert, default_in_words, kind_in_words
from mamt_jax.renamed import RENAMED


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises OptionError, shows its usage in one line and abbreviates nothing."""

    def __init__(self, prog: str, usage: str = "[options]", **settings: Any) -> None:
        """`usage` is what follows the command."""
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=110)
        super().__init__(prog, usage=f"{prog} {usage}", formatter_class=formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raises OptionError."""
        raise OptionError(message)


def dashed(arguments: Iterable[str]) -> list[str]:
    """Option names with dashes in place of underscores, and new names in place of old ones, about which it warns."""
    typed = [re.sub(r"^--[^=]+", lambda match: match[0].replace("_", "-"), each) for each in arguments]
    return list(itertools.chain(*map(_renamed, _by_option(typed))))


def _by_option(typed: Sequence[str]) -> list[list[str]]:
    """Each option with the values after it."""
    parts: list[list[str]] = [[]]
    for text in typed:
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            parts.append([name, value] if equals and name[2:].replace("-", "_") in RENAMED else [text])
        else:
            parts[-1].append(text)
    return parts


def _renamed(part: Sequence[str]) -> Sequence[str]:
    """An option, its values in the new unit where it has a new name."""
    old = part[0][2:].replace("-", "_") if part else ""
    if old not in RENAMED:
        return part
    name, factor = RENAMED[old]
    with suppress(ValueError):
        part = [part[0], *(value if factor is None else scaled(value, factor) for value in part[1:])]
    new = [f"--{name.replace('_', '-')}", *part[1:]]
    print(f"warning: --{old.replace('_', '-')} will be removed in the next release: give {' '.join(new)}", file=sys.stderr)
    return new


def scaled(value: str, factor: float) -> str:
    """A number or a range LOW..HIGH, multiplied; raises ValueError for anything else."""
    return "..".join(repr(float(end) * factor) for end in value.split(".."))


def add_options(parser: argparse.ArgumentParser, title: str, options: Mapping[str, Option]) -> None:
    """Adds options by flat name under a title, none with a default, so that only what was typed is seen."""
    section = parser.add_argument_group(title)
    for name, option in options.items():
        section.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=partial(_converted, option),
            default=argparse.SUPPRESS,
            metavar=kind_in_words(option),
            help=f"{option.help} (default {default_in_words(option)})".replace("%", "%%").strip(),
            nargs="+" if option.several else None,
        )


def _converted(option: Option, text: str) -> Any:
    try:
        return convert(option, text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Parses; raises OptionError that proposes the nearest option for one that does not exist."""
    values, unknown = parser.parse_known_args(arguments)
    if not unknown:
        return vars(values)
    if not unknown[0].startswith("--"):
        raise OptionError(f"{unknown[0]!r} belongs to no option: options look like --name value.")
    name = unknown[0].split("=")[0]
    known = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    raise OptionError(f"there is no option {name}{nearest(name, known)}: --help lists all.")


def require_known(names: Iterable[str], known: Collection[str]) -> None:
    """Raises OptionError that proposes the nearest option for a name of `mamt sweep` that is none."""
    for name in names:
        if name not in known:
            raise OptionError(f"there is no option --{name} here{nearest(name, known)}: mamt train --help lists all of a pair.")
