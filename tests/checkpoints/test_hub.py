"""Names on the hub, names of folders, and what is said where neither is there."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from openmplug.checkpoints import hub
from openmplug.checkpoints.shipped import shipped_model
from openmplug.errors import EnvironmentProblem, ModelError
from openmplug.inference.loading import load


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(hub, "getaddrinfo", no_network)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.chdir(tmp_path)


def answers(monkeypatch: pytest.MonkeyPatch, given: Any) -> list[dict[str, Any]]:
    """Let the hub be in reach and answer with this path or error; returns what it was asked."""
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        if isinstance(given, Exception):
            raise given
        return str(given)

    monkeypatch.setattr(hub, "out_of_reach", lambda: False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return asked


@pytest.mark.usefixtures("offline")
def test_without_a_network_it_says_so_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"'nobody/nothing' is no folder here, .*hub.*cannot be reached from here"):
        load("nobody/nothing")
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("offline")
def test_a_folder_that_is_not_in_a_folder_that_is_here_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert not hub.is_name("runs/mine")
    with pytest.raises(ModelError, match="runs/mine"):
        load("runs/mine")
    assert hub.is_name("someone/mplug-small")
    assert not any(map(hub.is_name, ("./mine", "../mine", "a/b/c", "mine", "C:/mine")))


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    answers(monkeypatch, RepositoryNotFoundError.__new__(RepositoryNotFoundError))
    with pytest.raises(ModelError, match="'nobody/nothing' is no folder here, and the Hugging Face hub has no such model"):
        load("nobody/nothing")


def test_a_hub_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    answers(monkeypatch, TimeoutError("timed out"))
    with pytest.raises(EnvironmentProblem, match=r"does not answer \(timed out\)"):
        load("nobody/nothing")


def test_what_was_fetched_is_loaded_as_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked = answers(monkeypatch, shipped_model())
    model = load("someone/small", device="cpu", task="vqa", frames=3)
    assert (model.name, model.video.frames) == ("vqa", 3)
    assert asked[0]["name"] == "someone/small"
    assert "model.safetensors" in asked[0]["allow_patterns"]
