"""Tables as Markdown."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head, *others = (" ".join(f"| {cell}" if cell else "|" for cell in row) + " |" for row in rows)
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *others])
