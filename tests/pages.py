"""What the README and the documentation show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "pretrained" / "README.md"]
FILES = {"meeting": "-> Environment", "independent_q": "-> Algorithm"}
"""Name of a whole file that the README shows -> how it is told from its other blocks."""


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def write_files(folder: Path) -> None:
    """The README's own environment and own algorithm, as a reader would save them."""
    for name, sign in FILES.items():
        (code,) = [block for block in blocks(README, "python") if sign in block]
        (folder / f"{name}.py").write_text(code)
