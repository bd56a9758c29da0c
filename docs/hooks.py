"""READMEs are pages of the site, and pictures of results are taken from where they lie."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PRETRAINED = "mamt_jax/pretrained/README.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the READMEs, and the pictures of results under the path that the README gives them."""
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](").replace(f"]({PRETRAINED})", "](pretrained.md)")
    pretrained = (ROOT / PRETRAINED).read_text().replace("](../../docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    files.append(File.generated(config, "pretrained.md", content=pretrained))
    for picture in sorted((ROOT / "experiments" / "results").rglob("*.png")):
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pages beside the README reach it, results and trained policies by one folder up, which the site does not have."""
    places = {"../experiments/": "experiments/", f"../{PRETRAINED})": "pretrained.md)", "../README.md": "index.md"}
    for place, page in places.items():
        markdown = markdown.replace(f"]({place}", f"]({page}")
    return markdown
