"""What MkDocs asks while it builds the site: pages that are made, pages that lie outside docs/, links between them.

The Markdown in docs/ and at the root of the repository is written for whoever reads it there, with links that work there. Here the
same text becomes a site: the files at the root become pages, and every link is followed by the file it means.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from site_pages import command_line, recipe_keys, recipe_list, weights

REPOSITORY = Path(__file__).resolve().parent.parent

BORROWED = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "UPGRADING.md": "upgrading.md",
    "LICENSE": "licence.md",
}
"""A file at the root of the repository -> the page it becomes."""

MADE: dict[str, Callable[[], str]] = {
    "reference/commands.md": command_line.page,
    "reference/recipe_keys.md": recipe_keys.page,
    "reference/recipes.md": recipe_list.page,
}
"""A page -> what makes it of the code."""

PARTS: dict[str, Callable[[], str]] = {"sizes": weights.sizes, "released": weights.released, "measured": weights.measured}
"""``<!-- made: NAME -->`` in a page -> what stands in its place."""

PENDING = {"serving.md", "export.md"}
"""Pages the navigation names already and docs/ may lack; each can be taken out once it is there."""

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_PART = re.compile(r"<!-- made: ([a-z]+) -->")
_FENCED = re.compile(r"(^[ ]*```.*?^[ ]*```[ ]*$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Leave pages that are still to be written out of the navigation."""
    absent = {name for name in PENDING if not (REPOSITORY / "docs" / name).is_file()}
    config.nav = _without(config.nav, absent)
    return config


def _without(nav: list[Any], absent: set[str]) -> list[Any]:
    """Return a navigation without some pages, and without sections that have none left."""
    kept: list[Any] = []
    for entry in nav:
        if isinstance(entry, str):
            kept += [] if entry in absent else [entry]
            continue
        [(title, target)] = entry.items()
        if isinstance(target, list):
            rest = _without(target, absent)
            kept += [{title: rest}] if rest else []
        elif target not in absent:
            kept.append({title: target})
    return kept


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie at the root of the repository, and those that are made of the code."""
    for source, page in BORROWED.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        if source == "LICENSE":
            text = f"# Licence\n\n```text\n{text.rstrip()}\n```\n"
        files.append(File.generated(config, page, content=text))
    for page, make in MADE.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put made parts into a page and turn links between files of the repository into links between pages."""
    markdown = _PART.sub(lambda match: PARTS[match[1]](), markdown)
    sources = {page_name: source for source, page_name in BORROWED.items()}
    # Where the text lies in the repository, from which its links are to be followed.
    place = (
        posixpath.dirname(sources[page.file.src_uri]) if page.file.src_uri in sources else posixpath.join("docs", page.file.src_uri, "..")
    )
    here = posixpath.dirname(page.file.src_uri)

    def follow(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        meant = posixpath.normpath(posixpath.join(place, target))
        to = BORROWED.get(meant) or (meant.removeprefix("docs/") if meant.startswith("docs/") else None)
        if to is None:
            return match[0]  # leads out of the site: the strict build says so
        return f"{match[1]}{posixpath.relpath(to, here or '.')}{match[3] or ''}{match[4]}"

    # Code is not searched for links.
    pieces = _FENCED.split(markdown)
    return "".join(piece if number % 2 else _LINK.sub(follow, piece) for number, piece in enumerate(pieces))
