"""What the README and the documentation show."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "mamt_jax" / "pretrained" / "README.md"]
FILES = {"meeting": "own_environment.md", "independent_q": "own_algorithm.md"}
"""Name of a file -> the page whose only block of Python it is."""
SETTING_UP = re.compile(r"^python3 -m venv .* && pip install [^&]+ && ")
TESTING = "ruff check"
"""How the line goes on that `.ci/run` types."""


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def write_files(folder: Path) -> None:
    """The documentation's own environment and own algorithm, as a reader would save them."""
    for name, page in FILES.items():
        (code,) = blocks(ROOT / "docs" / page, "python")
        (folder / f"{name}.py").write_text(code)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's shell blocks and in its sentences, where those are complete."""
    for block in blocks(page, "bash"):
        lines = [SETTING_UP.sub("", line) for line in block.splitlines() if line]
        yield from (shlex.split(line, comments=True) for line in lines if not line.startswith(TESTING))
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for sentence in re.findall(r"`((?:mamt|python\s+experiments/)[^`]+)`", text):
        words = shlex.split(sentence)
        if (words[0] == "python" or len(words) > 2) and not any(word.isupper() for word in words):
            yield words
