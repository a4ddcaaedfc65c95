from __future__ import annotations

from pathlib import Path

import pytest

from openmplug.checkpoints import shipped
from openmplug.errors import ModelError, UsageError
from openmplug.serving.page.shelf import Shelved, fill, read_card
from serving.page.models_made import make_model


def test_models_are_named_by_their_folders_as_far_as_it_takes(tmp_path: Path) -> None:
    paths = [make_model(tmp_path / run / "model" / "checkpoint-best") for run in ("first", "second")]
    assert [one.name for one in fill([path.parent for path in paths], "cpu")] == ["first/model", "second/model"]
    assert [one.name for one in fill(paths[:1], "cpu")] == ["model"]
    with pytest.raises(UsageError, match="the same model is given twice"):
        fill([paths[0], paths[0]], "cpu")


def test_a_model_does_what_it_was_trained_for(tmp_path: Path, shelf: list[Shelved]) -> None:
    assert shelf[0].verbs == ("vqa", "caption", "grounding", "retrieval")
    (captioner,) = fill([make_model(tmp_path / "writes", task="caption")], "cpu")
    assert captioner.verbs == ("caption",)
    assert "Trained to write captions." in captioner.description()


def test_without_weights_it_says_what_to_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="came without weights; pass --model DIR"):
        fill([])
    make_model(tmp_path.joinpath(*shipped.PLACE), task="vqa")
    (small,) = fill([], "cpu")
    assert (small.name, small.verbs) == ("small", ("vqa",))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        fill([tmp_path / "missing"], "cpu")


def test_a_card_is_shown_without_what_would_be_loaded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    assert read_card(folder) == ""
    card = "---\nlicense: apache-2.0\n---\n# A title\n\nKnows **shapes**. ![a chart](https://example.org/x.png) Not photos.\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert read_card(folder) == "Knows **shapes**. a chart Not photos."
    (one,) = fill([folder], "cpu")
    assert "Knows **shapes**." in one.description() and "Nothing is written down" not in one.description()
    assert "It knows 59 words" in one.description()


def test_a_name_is_no_markdown(shelf: list[Shelved]) -> None:
    from dataclasses import replace

    assert r"### \_\_x\_\_ \<b\>" in replace(shelf[0], name="__x__ <b>").description()
