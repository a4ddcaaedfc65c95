"""The command itself: fast help, exit codes, one line per error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import openmplug
from cli.command import run
from openmplug.cli import info
from openmplug.cli.app import error_line
from openmplug.errors import DataError, EnvironmentProblem, ModelError, UsageError

VERBS = [
    "info",
    "recipes list",
    "recipes show",
    "results add",
    "results page",
    "data check",
    "data make shapes",
    "data make moving",
    "train",
    "evaluate",
]
VERBS += ["predict vqa", "predict caption", "predict match", "quickstart"]


def test_help_is_fast() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "openmplug", "--help"], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # Seconds of work, the least of several: on a busy machine the clock would measure the others.
    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("code", ["import openmplug", "import openmplug.cli.app"])
def test_nothing_heavy_is_imported_for_the_front_door_and_help(code: str) -> None:
    heavy = "[name for name in ('torch', 'numpy', 'pydantic', 'PIL', 'rich', 'yaml') if name in sys.modules]"
    result = subprocess.run([sys.executable, "-c", f"{code}, sys; print({heavy})"], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in openmplug.__all__:
        assert getattr(openmplug, name) is not None
    assert "load" in dir(openmplug)
    with pytest.raises(AttributeError, match="module 'openmplug' has no attribute 'loda'"):
        _ = openmplug.loda


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    outcome = run(*verb.split(), "--help")
    assert outcome.code == 0
    assert "Usage:" in outcome.out
    assert "--debug" in outcome.out


@pytest.mark.parametrize("group", ["", "data", "data make", "predict", "results"])
def test_a_group_alone_shows_its_help(group: str) -> None:
    outcome = run(*group.split())
    assert outcome.code == 0
    assert "Commands:" in outcome.out


def test_version() -> None:
    assert run("--version").out == f"openmplug {openmplug.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], r"No such command 'trian'. .*See: openmplug --help"),
        (["train"], r"Missing argument 'RECIPE'. See: openmplug train --help"),
        (["--bogus"], r"No such option: --bogus. .*See: openmplug --help"),
        (["train", "vqa/shapes_mplug_tiny", "--output", "x", "--batch-size", "0"], r"Invalid value for '--batch-size'"),
        (["train", "vqa/shapes_mplug_tiny", "optim.lr", "--output", "x"], r"'optim.lr' is not a setting; write it as name=value"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], message: str) -> None:
    import re

    assert re.search(message, run(*arguments).error(2).replace("root", "openmplug"))


def disk_full() -> OSError:
    return OSError(28, "No space left on device", "/data/x")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UsageError("a"), "a", 2),
        (DataError("b"), "b", 3),
        (ModelError("c"), "c", 4),
        (EnvironmentProblem("d"), "d", 5),
        (disk_full(), "cannot use '/data/x': No space left on device", 5),
        (MemoryError("x"), "out of memory (x); a smaller --batch-size or --dtype bf16 helps", 5),
        (KeyError("k"), "KeyError: 'k'; this is a bug; --debug shows the trace", 1),
    ],
)
def test_each_kind_of_error_has_its_code(
    error: Exception, line: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_line(error) == (line, code)

    def fail() -> None:
        raise error

    monkeypatch.setattr(info, "gather", fail)
    assert run("info").error(code) == f"error: {line}"
    shown = run("info", "--debug")
    assert shown.code == code
    assert "Traceback" in shown.err + capsys.readouterr().err


def test_line_breaks_in_a_message_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("one\n  two")

    monkeypatch.setattr(info, "gather", fail)
    assert run("info").error(1) == "error: RuntimeError: one two; this is a bug; --debug shows the trace"


def test_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "gather", interrupt)
    assert run("info").error(130) == "error: interrupted"


def test_exit_code_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "openmplug", "recipes", "show", "vqa/none"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown recipe 'vqa/none'")
    assert result.stdout == ""


def test_info() -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["openmplug"] == openmplug.__version__
    assert facts["packages"]["torch"]
    assert facts["devices"][0]["name"] == "cpu"
    assert facts["image_formats"]["JPEG"]
    assert facts["optional"]["serve"]["install"] == "pip install 'openmplug[serve]'"
    text = run("info").out
    assert "torch" in text
    assert all(len(line) <= 80 for line in text.splitlines())
