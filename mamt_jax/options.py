"""Options of training, environments and algorithms, read from dataclass fields and function parameters.

The command line and the Python API have the same options. The command line reads them from text, the API from values.
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
    """An option of training, of an environment or of an algorithm.

    Attributes:
        name: name of the field or parameter.
        kind: annotation: int, float, bool, str or a Literal.
        default: default value.
        help: help text.
        several: whether the option takes several values, one per run.
        functions: selectable functions by name, if the value is a function.
    """

    name: str
    kind: Any
    default: Any
    help: str
    several: bool = False
    functions: Mapping[str, Callable[..., Any]] | None = None


class Group(NamedTuple):
    """The options of training, of an environment or of an algorithm.

    Attributes:
        title: heading of the group in the help.
        prefix: prefix for names that an earlier group already uses.
        options: the options.
    """

    title: str
    prefix: str
    options: list[Option]


class OptionError(ValueError):
    """An option is not valid. The message says what is wrong, and which values are valid."""


def config_options(config: type, several: Callable[[dataclasses.Field], bool] = lambda field: False) -> list[Option]:
    """Convert the fields of a dataclass to options. The string below a field is its help.

    `several` decides for each field whether its option takes several values.
    """
    documented = {name: text for parent in reversed(config.__mro__) for name, text in _field_docs(parent).items()}
    fields = [field for field in dataclasses.fields(config) if field.init]
    return [
        Option(f.name, f.type, _default(f), documented.get(f.name, ""), several(f), f.metadata.get("functions")) for f in fields
    ]


def is_float_leaf(field: dataclasses.Field) -> bool:
    """Return whether a config field of an algorithm is a float leaf, in which runs may differ."""
    return field.type is float and field.metadata.get("pytree_node", True)


def function_options(function: Callable[..., Any]) -> list[Option]:
    """Convert the named parameters of a function to options. The Args section of its docstring is their help."""
    documented = _args_docs(inspect.getdoc(function) or "")
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [
        Option(p.name, p.annotation, None if p.default is p.empty else p.default, documented.get(p.name, "")) for p in named
    ]


def place(groups: Iterable[Group], taken: Collection[str] = ()) -> dict[str, tuple[str, Option]]:
    """Give each option a unique name. If an earlier option has the same name, the group's prefix is added.

    Returns:
        A dict from unique names to pairs of the group's prefix and the option.
    """
    places: dict[str, tuple[str, Option]] = {}
    for group in groups:
        for option in group.options:
            name = option.name if option.name not in {*taken, *places} else f"{group.prefix}_{option.name}"
            places[name] = (group.prefix, option)
    return places


def read_value(name: str, option: Option, value: Any) -> Any:
    """Convert a Python value to a value of the option, or a sequence to a list if the option takes several values.

    Raises:
        OptionError: if the value is not valid. The message is that of the command line.
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
    """Convert text to a value of the option's kind. A number may be negative only if the default is negative.

    Raises:
        ValueError: if the text is not valid.
    """
    try:
        value = _value(option, text)
    except (ValueError, SyntaxError, OverflowError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not valid: give {_expected(option)}.") from None
    if _is_number(value) and _is_number(option.default) and (math.isnan(value) or value < 0 <= option.default):
        raise ValueError(f"{text} is not valid: give a number of at least 0.")
    return value


def kind_in_words(option: Option) -> str:
    """Return the kind of value that an option takes, as the help shows it."""
    choices = option.functions or (get_args(option.kind) if get_origin(option.kind) is Literal else ())
    return "{" + ",".join(map(str, choices)) + "}" if choices else getattr(option.kind, "__name__", str(option.kind)).upper()


def default_in_words(option: Option) -> str:
    """Return the default of an option as the help shows it. A function is shown by its name."""
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
    """Read the string below each field from the source of a class, without its parents."""
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
    """Read the help of each parameter from the Args section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.split(r"^\s{4}(?=\w)", section[1], flags=re.MULTILINE) if section else []
    pairs = [entry.partition(":") for entry in entries if ":" in entry]
    return {name.split()[0].lstrip("*"): " ".join(text.split()) for name, _, text in pairs}
