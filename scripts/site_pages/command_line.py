"""The command line on one page, made of the typer app: what ``--help`` says of every verb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from site_pages.tables import cell, code, table

_HEAD = """# Command line

Every verb, as `--help` says it; made of the commands themselves. Settings of a recipe go after it as `a.b=c`:
[recipe keys](recipe_keys.md). Exit codes: 0 done, 2 usage, 3 data, 4 model, 5 environment, 130 and 143 interrupted. `--debug` shows the
trace of an error, `openmplug --version` the version.
"""


def commands(command: Any, path: tuple[str, ...] = ("openmplug",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something by itself, with the words that lead to it."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            if not below.hidden:
                yield from commands(below, (*path, name))
    else:
        yield path, command


def page() -> str:
    """Return the page."""
    import typer

    from openmplug.cli.app import app

    parts = [_HEAD]
    group = ""
    for path, command in commands(typer.main.get_command(app)):
        if path[1] != group:
            group = path[1]
            parts.append(f"## {group}\n")
            if len(path) > 2:
                parts.append(f"{_group_help(app, group)}\n")
        parts.append(_section(path, command))
    return "\n".join(parts)


def _group_help(app: Any, name: str) -> str:
    import typer

    words: str = typer.main.get_command(app).commands[name].help or ""
    return words


def _section(path: tuple[str, ...], command: Any) -> str:
    context = command.make_context(path[-1], [], resilient_parsing=True)
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    heading = f"### {' '.join(path[1:])}\n\n" if len(path) > 2 else ""
    records = [(parameter, parameter.get_help_record(context)) for parameter in command.params]
    rows = [[code(_short(record[0])), cell(record[1].replace("<", "&lt;"))] for _, record in records if record is not None]
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    return f"{heading}```text\n{usage}\n```\n\n{text}\n\n{table(('argument or option', 'means'), rows)}"


def _short(name: str) -> str:
    """Return an option as ``--help`` names it, its kind of value in one word: ``--workers N`` for ``--workers <int range>``."""
    if not name.startswith("-"):
        return name.split(" <")[0]
    for kind, letter in (
        ("<int range>", "N"),
        ("<int>", "N"),
        ("<float range>", "X"),
        ("<float>", "X"),
        ("<str>", "TEXT"),
        ("<path>", "PATH"),
    ):
        name = name.replace(kind, letter)
    return name.split(" <")[0]
