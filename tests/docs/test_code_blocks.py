"""Code in the documentation does what the page says: Python runs on tiny models, commands parse to the last setting."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import openmplug
from documents import CHECKED, NOT_EXECUTED, NOT_OURS, PAGES, PARSED_ONLY, REPOSITORY, STAND_INS, Block, Command, blocks, commands

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [command for block in BLOCKS for command in commands(block)]
# Words that stand for the reader's own recipe.
PLACEHOLDERS = {"RECIPE", "NAME"}
SETTING = re.compile(r"^[a-z_]+(\.[a-z_]+)*=")


def cases(found: list[Any], name: Any = str) -> list[Any]:
    return [pytest.param(each, id=name(each)) for each in found]


# ---------------------------------------------------------------------------------------------------------------------- commands


def test_every_program_in_a_shell_block_is_checked_or_said_not_to_be() -> None:
    unknown = [str(command) for command in COMMANDS if command.strict and command.words[0] not in (*CHECKED, *NOT_OURS)]
    assert unknown == []


OPENMPLUG = [command for command in dict.fromkeys(COMMANDS) if command.openmplug() is not None]


def test_commands_are_found() -> None:
    assert len(OPENMPLUG) > 50
    assert {command.words[0] for command in COMMANDS} >= set(CHECKED)


@cache
def root() -> Any:
    """Return the command that all verbs hang on."""
    import typer

    from openmplug.cli.app import app

    return typer.main.get_command(app)


def lead(arguments: list[str]) -> tuple[list[str], Any, list[str]]:
    """Follow the verbs: return them, the command they lead to, and the other arguments."""
    command = root()
    verbs: list[str] = []
    while arguments and hasattr(command, "commands") and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"no command '{' '.join([*verbs, arguments[0]])}'"
        command = command.commands[arguments[0]]
        verbs, arguments = [*verbs, arguments[0]], arguments[1:]
    return verbs, command, [argument for argument in arguments if argument not in ("...", "…")]


@pytest.mark.parametrize("command", cases(OPENMPLUG))
def test_command_line(command: Command, at_desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb, option and value parses; recipes exist and take their settings; what has a dry run does it."""
    arguments = command.openmplug()
    assert arguments is not None
    verbs, parsed, rest = lead(arguments)
    if rest and rest[0] in PLACEHOLDERS and verbs[0] in ("train", "evaluate", "data", "recipes"):
        from openmplug.engine.catalog import list_recipes

        # A page on pre-training means a recipe of it.
        task = "pretrain/" if any(word.startswith("data.reader=shards") for word in rest) else "vqa/"
        rest[0] = next(name for name in list_recipes() if name.startswith(task))
    missing = [parameter for parameter in parsed.params if parameter.required and parameter.name == "output"]
    if missing and not {"--output", "-o"} & {*rest}:
        rest += ["--output", "OUT"]  # README's lines that go on with "..."
    parsed.make_context(parsed.name, list(rest))  # raises what the user would see
    if verbs[0] in ("train", "evaluate") or verbs in (["data", "check"], ["recipes", "show"]):
        check_recipe(rest)
    if any("--dry-run" in parameter.opts for parameter in parsed.params) and " ".join(verbs) not in PARSED_ONLY:
        with pytest.raises(SystemExit) as ended:
            root().main([*verbs, *rest, "--dry-run"])
        assert ended.value.code == 0, capsys.readouterr().err


def check_recipe(rest: list[str]) -> None:
    from openmplug.engine.recipe import load_recipe

    if not rest[0].endswith(".yaml"):  # one of the reader's own
        load_recipe(rest[0], [word for word in rest[1:] if SETTING.match(word)])


def test_exceptions_are_needed() -> None:
    """A line of a table that no page needs any more is taken out."""
    for verbs in PARSED_ONLY:
        command = root()
        for verb in verbs.split():
            command = command.commands[verb]
        assert any("--dry-run" in parameter.opts for parameter in command.params), verbs
    texts = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    assert [piece for page, piece in NOT_EXECUTED if piece not in texts.get(page, "")] == []
    assert [name for name in STAND_INS if not any(f'"{name}"' in text for text in texts.values())] == []


OTHERS = [command for command in dict.fromkeys(COMMANDS) if command.openmplug() is None and command.words[0] in CHECKED]


@pytest.mark.parametrize("command", cases(OTHERS))
def test_other_programs(command: Command) -> None:
    """Make targets, extras, scripts with their flags and test files exist."""
    program, *rest = command.words
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets
    elif program == "pip":
        for extras in re.findall(r"(?:openmplug|\.)\[([a-z,]+)\]", " ".join(rest)):
            known = re.findall(r"^([a-z]+) = \[", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
            assert set(extras.split(",")) <= set(known)
    elif program == "pytest":
        assert [word for word in rest if word.endswith(".py") and not (REPOSITORY / word).is_file()] == []
    elif program == "python" and rest[0] != "-m":
        script = REPOSITORY / rest[0]
        assert script.is_file()
        known = "".join(path.read_text(encoding="utf-8") for path in script.parent.glob("*.py"))
        assert [word for word in rest if word.startswith("--") and f'"{word}"' not in known] == []
    else:
        pytest.fail(f"nothing knows how to check: {command}")


# --------------------------------------------------------------------------------------------------------------- words in the text


@cache
def spans() -> list[tuple[str, str]]:
    """Return code that stands in sentences and tables, with its page."""
    found = []
    for page in PAGES:
        text = re.sub(r"^[ ]*```.*?^[ ]*```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found += [(page.name, " ".join(span.split())) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", cases(PAGES, lambda page: page.name))
def test_commands_in_sentences(page: Path) -> None:
    """Their verbs and flags exist; the rest may be left out there."""
    wrong = []
    for name, span in spans():
        if name == page.name and span.startswith("openmplug ") and "|" not in span:
            words = [word.strip("'\",") for word in span.split()[1:]]
            _, command, rest = lead(words)
            flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
            wrong += [f"{span}: {word}" for word in rest if word.startswith("-") and word.split("=")[0] not in flags]
    assert wrong == []


@cache
def known_keys() -> set[str]:
    """Return every key a recipe may have."""
    from openmplug.config import Settings
    from openmplug.engine.recipe import RunConfig
    from openmplug.models.families import FAMILIES
    from openmplug.tasks import TASKS

    def below(model: Any, prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            yield f"{prefix}{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                yield from below(field.annotation, f"{prefix}{name}.")

    keys = {*below(RunConfig, "")}
    for family in FAMILIES.values():
        keys |= {*below(family.config, "model.")}
    for task in TASKS.values():
        keys |= {*below(task.Settings, "settings.")}
    return keys


METHODS = {name for name in dir(openmplug.Model) if not name.startswith("_")}
FILE_ENDINGS = ("json", "jsonl", "md", "py", "yaml", "csv", "tar", "safetensors")


@pytest.mark.parametrize(
    "page", cases([page for page in PAGES if page.name not in ("CHANGELOG.md", "UPGRADING.md", "log.md")], lambda p: p.name)
)
def test_settings_in_sentences(page: Path) -> None:
    """A key in a sentence is one that a recipe takes; what changed once and what was tried once may name keys of its day."""
    keys = known_keys()
    sections = {key.split(".")[0] for key in keys if "." in key} - {"paper"}
    wrong = []
    for name, span in spans():
        match = re.match(r"^'?([a-z]+\.[a-z_.]+)(=|$|: )", span)
        if name == page.name and match and match[1].split(".")[0] in sections and not match[1].startswith("data.sources."):
            section, suffix = match[1].split(".")[0], match[1].rsplit(".", 1)[1]
            if section == "model" and suffix in METHODS:
                continue  # `model.match` is what Python calls
            if match[1] not in keys and suffix not in FILE_ENDINGS:
                wrong.append(span)
    assert wrong == []


# ------------------------------------------------------------------------------------------------------------------------- Python

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def kept_back(block: Block) -> str | None:
    """Return why a block is not run; None if it is."""
    return next((why for (page, piece), why in NOT_EXECUTED.items() if page == block.page.name and piece in block.text), None)


@pytest.mark.parametrize("page", cases(WITH_PYTHON, lambda page: page.name))
def test_python_runs(page: Path, at_desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run from top to bottom, as a reader would type them, with nothing defined before."""
    real, signature = openmplug.load, inspect.signature(openmplug.load)

    def load(*arguments: Any, **settings: Any) -> Any:
        signature.bind(*arguments, **settings)
        if arguments[0] in STAND_INS:
            return real("DIR", device="cpu")
        return real(*arguments, **{"device": "cpu", **settings})

    monkeypatch.setattr(openmplug, "load", load)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python" and kept_back(block) is None:
            # Lines are counted as in the page, so that an error points there.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", cases(PYTHON, lambda block: block.place))
def test_python_uses_what_exists(block: Block) -> None:
    """Names of openmplug, methods of a model and their keywords exist; also where a block is not run."""
    from openmplug.models.mplug2 import MPLUG2Config

    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "openmplug":
            assert find_spec(node.module) is not None
            module = __import__(node.module, fromlist=["*"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"om": openmplug, "openmplug": openmplug}.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), node.attr
            if node.value.id == "model":
                assert hasattr(openmplug.Model, node.attr) or node.attr in ("precision", "device", "network", "tokenizer"), node.attr
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            function = getattr(
                {"om": openmplug, "openmplug": openmplug, "model": openmplug.Model}.get(node.func.value.id), node.func.attr, None
            )
            if inspect.isfunction(function):
                taken = {*inspect.signature(function).parameters, *(MPLUG2Config.model_fields if function is openmplug.load else ())}
                assert {keyword.arg for keyword in node.keywords} - {None} <= taken


# ------------------------------------------------------------------------------------------------------------------ YAML and JSON


@pytest.mark.parametrize("block", cases([block for block in BLOCKS if block.language == "yaml"], lambda block: block.place))
def test_recipe_is_valid(block: Block, tmp_path: Path) -> None:
    from openmplug.engine.recipe import load_recipe

    if not re.search(r"^task:", block.text, re.MULTILINE):
        import yaml

        assert yaml.safe_load(block.text)  # no recipe: another program's file
        return
    path = tmp_path / "my_recipe.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert load_recipe(str(path)).task in block.text


@pytest.mark.parametrize("block", cases([block for block in BLOCKS if block.language == "json"], lambda block: block.place))
def test_json_is_valid(block: Block) -> None:
    assert [json.loads(line) for line in block.text.splitlines()] if "\n{" in block.text else json.loads(block.text)
