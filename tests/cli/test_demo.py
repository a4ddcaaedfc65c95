from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from cli.command import run
from openmplug.checkpoints import shipped


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "gradio":
            raise ImportError("No module named 'gradio'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'openmplug[demo]'" in run("demo").error(5)


def test_an_old_gradio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "4.44.0"

    monkeypatch.setitem(__import__("sys").modules, "gradio", Old)
    assert "the page needs gradio 6, and 4.44.0 is here" in run("demo").error(5)


def test_without_weights_it_says_what_to_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class New:
        __version__ = "6.31.0"

    monkeypatch.setitem(__import__("sys").modules, "gradio", New)
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    assert "came without weights; pass --model DIR" in run("demo").error(4)
    assert "does not exist" in run("demo", "--model", tmp_path / "nothing").error(4)
    assert "--port" in run("demo", "--port", "70000").error(2)
