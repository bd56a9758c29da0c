"""Command-line options made from dataclass fields and function parameters: one flat `--name value` each."""

import argparse
import ast
import dataclasses
import difflib
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from mamt_jax.algorithms.base import function_name


class Option(NamedTuple):
    """One option.

    Attributes:
        name: of the field or parameter.
        kind: its annotation: int, float, bool, str or a Literal.
        default: its default.
        help: what it is for.
        many: whether it takes several values.
    """

    name: str
    kind: Any
    default: Any
    help: str
    many: bool = False


class Group(NamedTuple):
    """Options of one origin.

    Attributes:
        title: above them in the help.
        prefix: put before a name that an earlier group has taken.
        options: the options.
    """

    title: str
    prefix: str
    options: list[Option]


class OptionError(ValueError):
    """A command line that cannot be right; says what is wrong and what would be right."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises OptionError."""

    def error(self, message: str) -> NoReturn:
        """Raises OptionError."""
        raise OptionError(message)


def config_options(config: type, several: Callable[[dataclasses.Field], bool] = lambda field: False) -> list[Option]:
    """The fields of a dataclass, with the string below each as help. `several` picks those that take several values."""
    documented = {name: text for parent in reversed(config.__mro__) for name, text in _field_docs(parent).items()}
    fields = [field for field in dataclasses.fields(config) if field.init]
    return [Option(f.name, *_kind_and_default(f), documented.get(f.name, ""), several(f)) for f in fields]


def _kind_and_default(field: dataclasses.Field) -> tuple[Any, Any]:
    """A field's annotation and default; for one that holds a function the names of its functions."""
    if "functions" in field.metadata:
        return Literal[tuple(field.metadata["functions"])], function_name(field, _default(field))
    return field.type, _default(field)


def is_float_leaf(field: dataclasses.Field) -> bool:
    """Whether runs may differ in this field of an algorithm's config."""
    return field.type is float and field.metadata.get("pytree_node", True)


def function_options(function: Callable[..., Any]) -> list[Option]:
    """The named parameters of a function, with the Args section of its docstring as help."""
    documented = _args_docs(inspect.getdoc(function) or "")
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [
        Option(p.name, p.annotation, None if p.default is p.empty else p.default, documented.get(p.name, "")) for p in named
    ]


def add_groups(parser: argparse.ArgumentParser, groups: Iterable[Group]) -> dict[str, tuple[str, str]]:
    """Adds options, none with a default, so that only what was typed is seen.

    Returns:
        For each destination the prefix of its group and the option's own name.
    """
    places: dict[str, tuple[str, str]] = {}
    taken = set(vars(parser.parse_known_args([])[0]))
    for group in groups:
        section = parser.add_argument_group(group.title)
        for option in group.options:
            name = option.name if option.name not in taken | set(places) else f"{group.prefix}_{option.name}"
            places[name] = (group.prefix, option.name)
            section.add_argument(
                f"--{name}",
                type=converter(option),
                default=argparse.SUPPRESS,
                metavar=_metavar(option.kind),
                help=f"{option.help} (default {option.default})".replace("%", "%%").strip(),
                nargs="+" if option.many else None,
            )
    return places


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses; raises OptionError that proposes the nearest option for one that does not exist."""
    values, unknown = parser.parse_known_args(arguments)
    if not unknown:
        return values
    if not unknown[0].startswith("--"):
        raise OptionError(f"{unknown[0]!r} belongs to no option: options look like --name value.")
    name = unknown[0].split("=")[0]
    known = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    raise OptionError(f"there is no option {name}: {nearest(name, known)}--help lists all.")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that proposes the nearest of `known`, empty if none is near."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]}? " if close else ""


def underscored(arguments: Iterable[str]) -> list[str]:
    """Option names with dashes inside, made to have underscores."""
    return [re.sub(r"^--[^=]+", lambda match: "--" + match[0][2:].replace("-", "_"), each) for each in arguments]


def converter(option: Option) -> Callable[[str], Any]:
    """From text to a value of the option's kind; a number may be negative only where the default is."""

    def convert(text: str) -> Any:
        try:
            value = _value(option.kind, option.default, text)
        except (ValueError, SyntaxError, OverflowError, MemoryError, RecursionError):
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: give {_expected(option.kind)}.") from None
        if _is_number(value) and _is_number(option.default) and (math.isnan(value) or value < 0 <= option.default):
            raise argparse.ArgumentTypeError(f"{text} is not valid: give a number of at least 0.")
        return value

    return convert


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(kind: Any, default: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}.get(text) or _refuse()
    if text == "None" and (default is None or type(None) in get_args(kind)):
        return None
    if kind is bool or isinstance(default, bool):
        choice = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower())
        return _refuse() if choice is None else choice
    if kind is int or (type(default) is int and kind is not float):
        return int(float(text)) if re.fullmatch(r"\d+(\.0*)?[eE]\+?\d+", text) else int(text.replace(",", ""))
    if kind is float or type(default) is float:
        return float(text)
    if kind is str or isinstance(default, str):
        return text
    return ast.literal_eval(text)


def _refuse() -> NoReturn:
    raise ValueError


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return {int: "a whole number", float: "a number", bool: "True or False"}.get(kind, f"a value of type {kind}")


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    return getattr(kind, "__name__", str(kind)).upper()


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _field_docs(config: type) -> Mapping[str, str]:
    """The string below each field in a class's own source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(config)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    documented = {}
    for field, below in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            documented[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return documented


def _args_docs(docstring: str) -> Mapping[str, str]:
    """The Args section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.split(r"^\s{4}(?=\w)", section[1], flags=re.MULTILINE) if section else []
    pairs = [entry.partition(":") for entry in entries if ":" in entry]
    return {name.split()[0].lstrip("*"): " ".join(text.split()) for name, _, text in pairs}
