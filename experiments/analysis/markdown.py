"""Formats tables as Markdown."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as a table; the first row is the header."""
    head, *others = (" ".join(f"| {cell}" if cell else "|" for cell in row) + " |" for row in rows)
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *others])
