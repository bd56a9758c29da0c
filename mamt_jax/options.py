"""Options of training, of an environment and of an algorithm, from dataclass fields and function parameters.

The command line and Python read the same options: one from text, the other from values.
"""

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin


class Option(NamedTuple):
    """One option.

    Attributes:
        name: of the field or parameter.
        kind: its annotation: int, float, bool, str or a Literal.
        default: its default.
        help: what it is for.
        several: whether it takes several values, each for a run of its own.
        functions: by name, where its value is a function.
    """

    name: str
    kind: Any
    default: Any
    help: str
    several: bool = False
    functions: Mapping[str, Callable[..., Any]] | None = None


class Group(NamedTuple):
    """Options of one origin.

    Attributes:
        title: above them in the help.
        prefix: before a name that an earlier group has taken.
        options: the options.
    """

    title: str
    prefix: str
    options: list[Option]


class OptionError(ValueError):
    """An option that cannot be right; says what is wrong and what would be right."""


def config_options(config: type, several: Callable[[dataclasses.Field], bool] = lambda field: False) -> list[Option]:
    """The fields of a dataclass, with the string below each as help. `several` picks those that take several values."""
    documented = {name: text for parent in reversed(config.__mro__) for name, text in _field_docs(parent).items()}
    fields = [field for field in dataclasses.fields(config) if field.init]
    return [
        Option(f.name, f.type, _default(f), documented.get(f.name, ""), several(f), f.metadata.get("functions")) for f in fields
    ]


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


def place(groups: Iterable[Group], taken: Collection[str] = ()) -> dict[str, tuple[str, Option]]:
    """One flat name for each option: its own, or with the prefix of its group where an earlier one has that.

    Returns:
        For each name the prefix of its group and the option.
    """
    places: dict[str, tuple[str, Option]] = {}
    for group in groups:
        for option in group.options:
            name = option.name if option.name not in {*taken, *places} else f"{group.prefix}_{option.name}"
            places[name] = (group.prefix, option)
    return places


def read_value(name: str, option: Option, value: Any) -> Any:
    """A value from Python as the option takes it: a list where it takes several and gets several.

    Raises:
        OptionError: if it is not valid, in the sentence of the command line.
    """
    if option.several and isinstance(value, Sequence) and not isinstance(value, str):
        return [read_value(name, option._replace(several=False), each) for each in value]
    if callable(value) or not isinstance(value, int | float | str | None):
        return tuple(value) if isinstance(value, list) else value
    try:
        return convert(option, f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value))
    except ValueError as error:
        raise OptionError(f"{name}: {error}") from None


def convert(option: Option, text: str) -> Any:
    """From text to a value of the option's kind; a number may be negative only where the default is.

    Raises:
        ValueError: one sentence.
    """
    try:
        value = _value(option, text)
    except (ValueError, SyntaxError, OverflowError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not valid: give {_expected(option)}.") from None
    if _is_number(value) and _is_number(option.default) and (math.isnan(value) or value < 0 <= option.default):
        raise ValueError(f"{text} is not valid: give a number of at least 0.")
    return value


def kind_in_words(option: Option) -> str:
    """The kind of value that an option takes, as the help shows it."""
    choices = option.functions or (get_args(option.kind) if get_origin(option.kind) is Literal else ())
    return "{" + ",".join(map(str, choices)) + "}" if choices else getattr(option.kind, "__name__", str(option.kind)).upper()


def default_in_words(option: Option) -> str:
    """An option's default as the help shows it: of a function its name."""
    names = [name for name, function in (option.functions or {}).items() if function is option.default]
    return str(names[0] if names else option.default)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(option: Option, text: str) -> Any:
    kind, default = option.kind, option.default
    if option.functions is not None:
        return text if text in option.functions or re.fullmatch(r"[\w.]+:\w+", text) else _refuse()
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


def _expected(option: Option) -> str:
    if option.functions is not None:
        return f"one of {', '.join(option.functions)}, or package.module:function"
    if get_origin(option.kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(option.kind)))
    return {int: "a whole number", float: "a number", bool: "True or False"}.get(option.kind, f"a value of type {option.kind}")


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
