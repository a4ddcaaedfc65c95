"""The quickstart from end to end with the smallest model, and its page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli.command import TINY, run
from openmplug.cli.page import shown

ARGUMENTS = (
    "quickstart",
    "--train",
    *TINY,
    "run.max_steps=null",
    "optim.epochs=1",
    "--train-images",
    "8",
    "--dev-images",
    "6",
    "--seed",
    "1",
)


class Page(HTMLParser):
    """Collects elements and checks that every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("quick") / "start"
    outcome = run(*ARGUMENTS, "--output", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome.out, outcome.err


def test_it_tells_what_it_does_and_found(done: tuple[Path, str, str]) -> None:
    folder, out, err = done
    assert "Drawing 8 pictures" in err
    assert [line for line in err.splitlines() if line.startswith("Model ")] == [
        "Model 1 of 3 learns to describe pictures.",
        "Model 2 of 3 learns to find pictures by text.",
        "Model 3 of 3 learns to answer questions.",
    ]
    assert "with the picture" in out
    assert "right picture among the first 10 of 6" in out
    assert all(len(line) <= 80 for line in out.splitlines() if "index.html" not in line)
    assert f"Open in a browser: {folder / 'index.html'}" in out


def test_the_page_stands_alone_and_can_be_read_by_everybody(done: tuple[Path, str, str]) -> None:
    text = (done[0] / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))
    pictures = page.all("img")
    assert len(pictures) > 15
    assert all((picture["src"] or "").startswith("data:image/png;base64,") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    assert not re.search(r"https?://", text)
    assert not page.all("script") + page.all("link")
    assert len(page.all("h1")) == 1
    assert all(heading.get("scope") in ("col", "row") for heading in page.all("th"))
    for words in ("Right answer", "The model says", "Blind, it says", "A right caption", "Searched for"):
        assert words in text


def test_called_again_it_does_not_train_again(done: tuple[Path, str, str]) -> None:
    weights = {task: (done[0] / task / "checkpoint-last" / "model.safetensors") for task in ("caption", "vqa", "retrieval")}
    before = {task: path.read_bytes() for task, path in weights.items()}
    outcome = run(*ARGUMENTS, "--output", done[0], "--json")
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)["results"]
    assert results.keys() == weights.keys()
    assert all(found.keys() == {"metric", "value", "blind"} for found in results.values())
    assert {task: path.read_bytes() for task, path in weights.items()} == before


def test_other_data_needs_another_folder(done: tuple[Path, str, str]) -> None:
    for other in (("--train", "--train-images", "9"), ()):
        outcome = run("quickstart", *other, "--dev-images", "6", "--output", done[0])
        assert "holds a quickstart of another kind or size; give another --output" in outcome.error(2)


def test_the_shipped_model_answers_at_once(tmp_path: Path) -> None:
    """It beats its blind control at everything, on compositions that it never met, and the page says whose words these are."""
    outcome = run("quickstart", "--dev-images", "24", "--output", tmp_path, "--json")
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)["results"]
    assert all(found["value"] > 1.3 * found["blind"] for found in results.values()), results
    assert "Model 1 of 3" not in outcome.err and not list(tmp_path.rglob("*.safetensors"))
    assert "that comes with openmplug" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_an_installation_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmplug.checkpoints.shipped.PLACE", ("weights", "none"))
    assert "install openmplug again, or add --train" in run("quickstart", "--output", tmp_path / "out").error(5)


def test_how_scores_are_shown() -> None:
    assert shown("cider", 1.234) == "1.23"
    assert shown("exact_match", 97.25) == "97.2 %"
