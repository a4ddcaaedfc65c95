"""Pages lead somewhere: links, the navigation of the site, what is drawn and made of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from documents import PAGES, REPOSITORY, blocks, commands

DOCS = REPOSITORY / "docs"


def linked(page: Path) -> list[str]:
    """Return the targets of a page's links that stay in the repository."""
    text = re.sub(r"^[ ]*```.*?^[ ]*```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as both GitHub and the site make them."""
    text = re.sub(r"^[ ]*```.*?^[ ]*```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for target in linked(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def test_readme_names_the_two_commands() -> None:
    lines = [" ".join(command.words) for block in blocks(REPOSITORY / "README.md") for command in commands(block)]
    assert "make quickstart" in lines
    assert "make test" in lines


# ------------------------------------------------------------------------------------------------------------------------ the site


def navigation() -> list[str]:
    """Return the pages that mkdocs.yml names, in order."""

    def walk(entries: list[Any]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            for target in entry.values() if isinstance(entry, dict) else [entry]:
                found += walk(target) if isinstance(target, list) else [target]
        return found

    return walk(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def hooked(name: str) -> set[str]:
    """Return the keys of a table of scripts/site_hooks.py, which needs MkDocs to be imported."""
    text = (REPOSITORY / "scripts" / "site_hooks.py").read_text(encoding="utf-8")
    found = re.search(rf"^{name}\b[^=]*= \{{(.*?)\}}", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r'"([a-z_/]+\.md)"', found[1]))


def test_navigation_names_every_page_once() -> None:
    named = navigation()
    assert len(named) == len(set(named))
    here = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "results" not in path.relative_to(DOCS).parts[:-1]}
    made = hooked("BORROWED") | hooked("MADE")
    assert here <= set(named), "add the new page to nav in mkdocs.yml"
    assert set(named) - here - made <= hooked("PENDING")


def test_index_leads_to_every_page() -> None:
    missing = {path.name for path in DOCS.glob("*.md")} - {target.split("#")[0] for target in linked(DOCS / "index.md")} - {"index.md"}
    assert missing == set()


def test_what_the_site_makes_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb, option, key and recipe is on its page, with words beside it."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    from site_pages import command_line, recipe_keys, recipe_list, weights

    from openmplug.engine.catalog import list_recipes

    page = command_line.page()
    assert "### predict caption" in page and "| `--max-failures N` | With skip: stop when more could not be read" in page
    assert "[default: error]" in page and "{RECIPE} [A.B=C]..." in page
    keys = recipe_keys.page()
    assert (
        "| `optim.lr` | Peak learning rate of everything but the vision tower.<br><small>number &gt; 0; default `0.0001`</small> |".replace(
            "&gt;", ">"
        )
        in keys.replace("&gt;", ">")
    )
    assert "### settings of task vqa" in keys and "`model.universal_layers`" in keys
    assert all(f"`{name}`" in recipe_list.page() for name in list_recipes())
    assert "`mplug2-large`" in weights.sizes() and "mplug.en.base.pth" in weights.released() and "easy_vqa" in weights.measured()


def test_every_key_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without words on the page lacks them in the docstring of its model."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    from site_pages import recipe_keys

    bare = re.findall(r"^\| `([a-z_.]+)` \| <small>", recipe_keys.page(), re.MULTILINE)
    assert [key for key in bare if not key.startswith("model.")] == []


def test_drawings_are_what_the_script_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    from draw_architecture import DRAWINGS, PICTURES

    old = [name for name, draw in DRAWINGS.items() if (PICTURES / name).read_text(encoding="utf-8") != draw()]
    assert old == [], "run: python scripts/draw_architecture.py"


@pytest.mark.slow
def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """The strict build refuses broken links and anchors; no page fetches a font, a script or a picture over the network."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    loaded = re.compile(
        r'<(?:script|img|iframe|source)[^>]+src="(https?:)?//|<link[^>]+rel="(?:stylesheet|preconnect|icon)"[^>]+href="(https?:)?//'
    )
    assert [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.css"))
    assert not re.search(r"url\(\W?https?:", styles)
