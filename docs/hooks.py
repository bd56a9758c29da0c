"""MkDocs hooks: add the READMEs as pages, replace lines `{{ name words }}` by tables, and add the pictures of results."""

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PRETRAINED = "mamt_jax/pretrained/README.md"
TABLE = re.compile(r"^\{\{ (\w+)((?: \S+)*) \}\}$", re.MULTILINE)


PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    PRETRAINED: "pretrained.md",
}
"""Files outside docs -> their pages on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages outside docs, and the pictures of results under the paths that the README gives them."""
    for place, page in PAGES.items():
        text = (ROOT / place).read_text().replace("](../../docs/", "](").replace("](docs/", "](")
        files.append(File.generated(config, page, content=with_places(text, "")))
    for picture in sorted((ROOT / "experiments" / "results").rglob("*.png")):
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    return files


def with_places(text: str, up: str) -> str:
    """Replaces the links of a page by links within the site. `up` is the path from the page to the repository's root."""
    for place, page in {**PAGES, "experiments/": "experiments/"}.items():
        text = text.replace(f"]({up}{place}", f"]({page}")
    return text


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces lines `{{ name words }}` by tables, and links to files outside docs by links within the site."""
    return TABLE.sub(lambda found: make_table(found[1], *found[2].split()), with_places(markdown, "../"))


def on_post_build(config: Any) -> None:
    """Write the tutorial as a notebook, which Jupyter and Colab open."""
    jupytext.write(jupytext.read(ROOT / "docs" / "tutorial.py"), Path(config["site_dir"]) / "tutorial" / "tutorial.ipynb")


def make_table(name: str, *words: str) -> str:
    """Makes the table of a line `{{ name words }}`."""
    sys.path[:0] = [path for path in (str(ROOT / "docs"), str(ROOT / "experiments")) if path not in sys.path]
    import tables  # pyright: ignore[reportMissingImports]

    from analysis.tables import TABLES

    return {**TABLES, **tables.TABLES}[name](*words)
