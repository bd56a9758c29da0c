"""Validates options and names. An error message says what is wrong and what would be right."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any


def _require(valid: bool, option: str, value: Any, expected: str) -> None:
    if not valid:
        raise ValueError(f"{option}={value!r} is not valid: {option} must be {expected}.")


_LARGEST = 2**31 - 1
_MOST = 1000
_INFINITE = 2.0**128


def require_count(option: str, value: Any, most: int = _LARGEST) -> None:
    """Raises ValueError unless `value` is an integer from 1 to `most`."""
    valid = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    _require(valid, option, value, f"a positive integer of at most {most}")


def require_size(option: str, value: Any) -> None:
    """Raises ValueError unless `value` is an integer from 1 to 1000, such as a number of agents or the side of a map."""
    require_count(option, value, _MOST)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _INFINITE


def require_number(option: str, value: Any) -> None:
    """Raises ValueError unless `value` is a number that is finite as float32."""
    _require(_is_number(value), option, value, "a number")


def require_share(option: str, value: Any) -> None:
    """Raises ValueError unless `value` is a number from 0 to 1."""
    _require(_is_number(value) and 0 <= value <= 1, option, value, "a number from 0 to 1")


def require_switch(option: str, value: Any) -> None:
    """Raises ValueError unless `value` is True or False."""
    _require(isinstance(value, bool), option, value, "True or False")


def require_choice(option: str, value: Any, known: Iterable[str]) -> None:
    """Raises ValueError unless `value` is one of the words `known`."""
    known = list(known)
    _require(value in known, option, value, f"one of {', '.join(known)}")


def require_each(require: Callable[[str, Any], None], **options: Any) -> None:
    """Calls `require` for each of the `options`."""
    for option, value in options.items():
        require(option, value)


def one_line(error: BaseException) -> str:
    """Message of an exception in one line without a full stop. Its type comes first, unless it is a ValueError."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
    kind = "" if isinstance(error, ValueError) and text else type(error).__name__
    return ": ".join(part for part in (kind, text) if part)


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggests known names for a misspelt or abbreviated `name`, such as " (did you mean 'spread'?)"; empty if none fits.

    An abbreviation has the initials of a name's last words: "lr" fits `policy_learning_rate`.
    """
    letters, known = re.sub(r"[^a-z]", "", name.lower()), list(known)
    meant = [each for each in known if len(letters) > 1 and _initials(each).endswith(letters)]
    found = meant or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def _initials(name: str) -> str:
    """First letters of the words in a name."""
    return "".join(word[0] for word in re.findall(r"[a-z]+", name.lower()))
