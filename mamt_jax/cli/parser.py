"""Command-line parser: `argparse` with OptionError as its error, and with options from `mamt_jax.options`.

tyro has equally good help but is not used. It prints an error in a box and exits: no caller gets it as a sentence. It proposes
nothing for `--lr`. Keyword arguments in Python would need their own rules for the same options.
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
    """An ArgumentParser that raises OptionError, shows its usage in one line and accepts no abbreviated options."""

    def __init__(self, prog: str, usage: str = "[options]", **settings: Any) -> None:
        """Makes the parser of the command `prog`; `usage` follows its name in the usage line."""
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=110)
        super().__init__(prog, usage=f"{prog} {usage}", formatter_class=formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raises OptionError."""
        raise OptionError(message)


def dashed(arguments: Iterable[str]) -> list[str]:
    """Replaces underscores in option names by dashes, and old names of options by new ones, with a warning."""
    typed = [re.sub(r"^--[^=]+", lambda match: match[0].replace("_", "-"), each) for each in arguments]
    return list(itertools.chain(*map(_renamed, _by_option(typed))))


def _by_option(typed: Sequence[str]) -> list[list[str]]:
    """Splits words into groups, each an option and its values."""
    parts: list[list[str]] = [[]]
    for text in typed:
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            parts.append([name, value] if equals and name[2:].replace("-", "_") in RENAMED else [text])
        else:
            parts[-1].append(text)
    return parts


def _renamed(part: Sequence[str]) -> Sequence[str]:
    """Gives a renamed option its new name and unit, and prints a warning; returns any other option as it is."""
    old = part[0][2:].replace("-", "_") if part else ""
    if old not in RENAMED:
        return part
    name, factor = RENAMED[old]
    with suppress(ValueError):
        part = [part[0], *(value if factor is None else scaled(value, factor) for value in part[1:])]
    new = [f"--{name.replace('_', '-')}", *part[1:]]
    print(f"warning: --{old.replace('_', '-')} will be removed in the next release: give {' '.join(new)}.", file=sys.stderr)
    return new


def scaled(value: str, factor: float) -> str:
    """Multiplies a number, or both ends of a range LOW..HIGH; raises ValueError for any other text."""
    return "..".join(repr(float(end) * factor) for end in value.split(".."))


def add_options(parser: argparse.ArgumentParser, title: str, options: Mapping[str, Option]) -> None:
    """Adds options by flat name under a title. They have no defaults here: the result holds only what was typed."""
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
    """Parses arguments; for an unknown option it raises an OptionError that proposes the nearest one."""
    values, unknown = parser.parse_known_args(arguments)
    if not unknown:
        return vars(values)
    if not unknown[0].startswith("--"):
        raise OptionError(f"{unknown[0]!r} is not valid here: give options as --name value.")
    name = unknown[0].split("=")[0]
    known = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    raise OptionError(f"there is no option {name}{nearest(name, known)}: --help lists all options.")


def require_known(names: Iterable[str], known: Collection[str]) -> None:
    """Raises OptionError if `names` has an unknown option of `mamt sweep`; the message proposes the nearest one."""
    for name in names:
        if name not in known:
            raise OptionError(f"there is no option --{name} here{nearest(name, known)}: `mamt train --help` lists all options.")
