from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data.videos_made import write_gif
from openmplug.errors import DataError, UsageError
from openmplug.inference.results import Answer, Box, Caption, Match
from openmplug.serving.page.calls import Calls
from openmplug.serving.page.examples import draw_examples


def test_every_button_says_what_the_model_says(calls: Calls, picture: Path) -> None:
    model, path = calls.shelf[0].model, str(picture)
    assert calls.ask("vqa", path, "what colour is the circle?").result == model.answer(path, "what colour is the circle?")
    assert calls.ask("caption", path).result == model.caption(path)
    assert calls.ask("grounding", path, "the red circle").result == model.ground(path, "the red circle")
    assert calls.ask("retrieval", path, "a red circle").result == model.match(path, "a red circle")
    chosen = calls.ask("vqa", path, "what colour is the circle?", choices="red, blue,, red ,green").result
    assert chosen == model.answer(path, "what colour is the circle?", candidates=["red", "blue", "green"])


def test_the_named_model_is_asked(calls: Calls, picture: Path) -> None:
    said = [calls.ask("retrieval", str(picture), "a red circle", name=name).result for name in ("one", "two")]
    assert said == [one.model.match(picture, "a red circle") for one in calls.shelf]
    assert said[0] != said[1]
    with pytest.raises(UsageError, match="no model here is called 'three' and can answer questions"):
        calls.ask("vqa", str(picture), "what?", name="three")


def test_many_at_once_get_their_own(calls: Calls, tmp_path: Path) -> None:
    examples = draw_examples(tmp_path)
    asked = [(str(one.path), one.sentence) for one in examples] * 3
    with ThreadPoolExecutor(18) as pool:
        found = list(pool.map(lambda pair: calls.ask("retrieval", *pair).result, asked))
    for pair, result in zip(asked, found, strict=True):
        alone = calls.shelf[0].model.match(*pair)
        assert isinstance(result, Match) and isinstance(alone, Match)
        assert result.similarity == pytest.approx(alone.similarity, abs=1e-5)
        assert result.probability == pytest.approx(alone.probability, abs=1e-5)


def test_what_is_shown_belongs_to_what_was_said(calls: Calls, picture: Path) -> None:
    answer = calls.ask("vqa", str(picture), "what colour is the circle?")
    assert isinstance(answer.result, Answer) and answer.picture is None and "om-large" in answer.html
    caption = calls.ask("caption", str(picture))
    assert isinstance(caption.result, Caption) and "om-large" in caption.html
    match = calls.ask("retrieval", str(picture), "a red circle")
    assert isinstance(match.result, Match) and match.result.probability is not None
    assert f"{match.result.probability:.0%}" in match.html
    box = calls.ask("grounding", str(picture), "the red circle")
    assert isinstance(box.result, Box) and isinstance(box.picture, Image.Image)


def test_unknown_and_too_many_words_are_told(calls: Calls, picture: Path) -> None:
    html = calls.ask("vqa", str(picture), "what colour is the giraffe, and the giraffe's hat?").html
    assert "It does not know the words and, giraffe" not in html  # "and" it knows
    assert "It does not know the words giraffe, s, hat." in html
    assert "longer than the model reads" not in html
    long = "is the red circle left of the blue square " * 10
    assert "longer than the model reads" in calls.ask("vqa", str(picture), long).html
    assert "longer than the model reads" in calls.ask("retrieval", str(picture), long).html
    assert "longer than the model reads" in calls.ask("grounding", str(picture), long[:200]).html


def test_what_is_missing_or_too_much_is_said_before_the_model_is_asked(calls: Calls, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="type a question first"):
        calls.ask("vqa", str(picture), "  \n ")
    with pytest.raises(UsageError, match="type the words for what to find first"):
        calls.ask("grounding", str(picture), "")
    with pytest.raises(DataError, match="there is no picture yet"):
        calls.ask("caption", None)
    with pytest.raises(UsageError, match="the text has 600 characters; at most 500"):
        calls.ask("vqa", str(picture), "a" * 600)
    write_gif(tmp_path / "clip.gif", 12)
    with pytest.raises(DataError, match=r"phrases are found in pictures, and 'clip\.gif' is a video"):
        calls.ask("grounding", str(tmp_path / "clip.gif"), "the red circle")


def test_progress_is_told_in_words(calls: Calls, picture: Path) -> None:
    told: list[tuple[float, str]] = []
    calls.ask("caption", str(picture), tell=lambda done, what: told.append((done, what)))
    assert [what for _, what in told] == ["Reading the picture", "The model is looking"]
    assert 0 < told[0][0] < told[1][0] < 1


def test_a_page_without_an_able_model_says_so(calls: Calls, picture: Path) -> None:
    blind = replace(calls, shelf=[replace(calls.shelf[0], verbs=("caption",))])
    with pytest.raises(UsageError, match="no model here can find things"):
        blind.ask("grounding", str(picture), "the red circle")


def test_where_it_looked_is_shown_for_every_word(calls: Calls, picture: Path, tmp_path: Path) -> None:
    match = calls.ask("retrieval", str(picture), "a red circle", looking=True)
    assert match.labels == ["the whole sentence", "a", "red", "circle"]
    assert re.findall(r"<figcaption>([^<]+)", match.html) == match.labels and match.html.count("data:image/webp") == 4
    answer = calls.ask("vqa", str(picture), "what colour?", choices="red, blue", looking=True)
    assert isinstance(answer.result, Answer)
    assert answer.labels == ["the whole question", "what", "colour", "?", f"answer: {answer.result.text}"]
    caption = calls.ask("caption", str(picture), looking=True)
    assert caption.labels[0] == "the whole caption" and len(caption.labels) > 1
    write_gif(tmp_path / "clip.gif", 12)
    clip = calls.ask("retrieval", str(tmp_path / "clip.gif"), "a red circle", looking=True)
    assert "om-wide" in clip.html and "om-wide" not in match.html  # strips of frames
    unasked = calls.ask("retrieval", str(picture), "a red circle")
    assert unasked.labels == [] and "<figure" not in unasked.html
    assert calls.ask("grounding", str(picture), "the red circle", looking=True).labels == []
