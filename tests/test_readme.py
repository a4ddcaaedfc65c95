"""What the documentation tells people to type exists: commands, flags, recipes, settings, make targets, links, Python names."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
# Words that stand for the reader's own recipe; a recipe, a path or one of these must come first after train, evaluate and so on.
PLACEHOLDERS = {"RECIPE", "NAME"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of the fenced blocks of a page."""
    return [(match[1], match[2]) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def shell_lines(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, continued lines joined and comments cut off."""
    text = "\n".join(text.replace("\\\n", " ") for language, text in blocks(page) if language in ("", "sh", "bash", "console"))
    return [re.sub(r"\s+#.*$", "", line).strip().removeprefix("$ ") for line in text.splitlines()]


def commands(verb: str) -> list[Any]:
    lines = [(page, line) for page in PAGES for line in shell_lines(page) if line.split(" ", 1)[0] == verb]
    return [pytest.param(line, id=f"{page.name}:{line[:70]}") for page, line in dict.fromkeys(lines)]


def pages_with_python() -> list[Any]:
    return [
        pytest.param(text, id=f"{page.name}:{number}")
        for page in PAGES
        for number, (language, text) in enumerate(blocks(page))
        if language == "python"
    ]


@pytest.mark.parametrize("line", commands("openmplug"))
def test_command_exists_with_its_flags(line: str) -> None:
    import typer

    from openmplug.cli.app import app

    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command '{words[0]}'"
        command = command.commands[words.pop(0)]
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in flags]
    assert unknown == []
    if command.name in ("train", "evaluate", "check", "show") and words and not words[0].startswith("-"):
        check_recipe(words[0], [word for word in words[1:] if re.match(r"[a-z_]+(\.[a-z_]+)*=", word)])


def check_recipe(name: str, overrides: list[str]) -> None:
    """Fail unless the recipe is shipped (or the reader's own) and takes the settings."""
    from openmplug.engine.catalog import list_recipes
    from openmplug.engine.recipe import load_recipe

    if name in PLACEHOLDERS:
        load_recipe(list_recipes()[0], overrides)
    elif not name.endswith(".yaml"):
        load_recipe(name, overrides)


@pytest.mark.parametrize("line", commands("make"))
def test_make_target_exists(line: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(word for word in line.split()[1:] if "=" not in word) <= targets


@pytest.mark.parametrize("text", pages_with_python())
def test_python_snippet_uses_what_exists(text: str) -> None:
    import openmplug

    tree = ast.parse(text)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "openmplug"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            assert hasattr(openmplug, node.attr)
        if isinstance(node, ast.ImportFrom) and node.module == "openmplug":
            assert all(hasattr(openmplug, alias.name) for alias in node.names)


def recipes_in_pages() -> list[Any]:
    found = [(page, text) for page in PAGES for language, text in blocks(page) if language == "yaml"]
    return [pytest.param(text, id=f"{page.name}:{number}") for number, (page, text) in enumerate(found)]


@pytest.mark.parametrize("text", recipes_in_pages())
def test_recipe_in_a_page_is_valid(text: str, tmp_path: Path) -> None:
    from openmplug.engine.recipe import load_recipe

    path = tmp_path / "my_recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_recipe(str(path)).task in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_readme_names_the_two_commands() -> None:
    lines = shell_lines(REPOSITORY / "README.md")
    assert "make quickstart" in lines
    assert "make test" in lines
