from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmplug.data.video import ArrayVideo
from openmplug.inference.results import Answer, Box, Caption, Match
from openmplug.serving.page import shown
from openmplug.serving.page.examples import draw_examples
from openmplug.serving.page.uploads import Upload

RED = '<img src=x onerror="alert(1)">'


def test_nothing_that_was_typed_or_said_becomes_markup() -> None:
    for html in (
        shown.answer(Answer(RED, -0.1)),
        shown.answer(Answer("a", -0.1), [RED]),
        shown.answer(Answer("a", 0.9, (("a", 0.9), (RED, 0.1)))),
        shown.caption(Caption(RED, -0.1)),
        shown.match(Match(0.4, 0.1), [RED]),
        shown.message(RED),
        shown.facts(Upload(RED, Image.new("RGB", (4, 4)))),
    ):
        assert "<img" not in html and html.count("&lt;img") == 1


def test_sureness_is_the_probability_of_a_word() -> None:
    assert "how sure: 90% for each word" in shown.answer(Answer("red", float(np.log(0.9))))
    assert "(it says nothing)" in shown.caption(Caption("", -1.0))


def test_candidates_are_listed_surest_first() -> None:
    html = shown.answer(Answer("blue", 0.75, (("blue", 0.75), ("red", 0.25))))
    assert re.findall(r'om-name">(\w+)<', html) == ["blue", "red"]
    assert re.findall(r"width:([\d.]+)%", html) == ["75.0", "25.0"]
    assert re.findall(r"\d+%", html.replace("75.0%", "").replace("25.0%", "")) == ["75%", "25%"]


@pytest.mark.parametrize(("share", "says"), [(0.93, "It fits: 93%"), (0.5, "It fits: 50%"), (0.2, "It does not fit: 20%")])
def test_a_match_is_said_in_words_and_numbers(share: float, says: str) -> None:
    assert says in shown.match(Match(share, 0.3))
    assert "similarity" in shown.match(Match(None, 0.3)) and "fit" not in shown.match(Match(None, 0.3))


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (4000, 3000), (30, 300)])
def test_the_box_is_drawn_where_it_was_found(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (10, 120, 10))
    width, height = size
    found = Box(width * 0.25, height * 0.5, width * 0.75, height * 0.9, 0.5)
    pixels = np.asarray(shown.with_box(picture, found)).astype(int)
    pink = (pixels[..., 0] > 200) & (pixels[..., 1] < 80)
    rows, columns = np.flatnonzero(pink.any(1)), np.flatnonzero(pink.any(0))
    high, wide = pixels.shape[:2]
    assert columns[[0, -1]] / wide == pytest.approx([0.25, 0.75], abs=0.02)
    assert rows[[0, -1]] / high == pytest.approx([0.5, 0.9], abs=0.02)
    assert not pink[round(high * 0.7), round(wide * 0.5)] and not pink[round(high * 0.25), round(wide * 0.5)]
    assert picture.getpixel((width // 2, height // 2)) == (10, 120, 10)  # the upload itself is as it was


def test_a_small_share_is_not_called_none() -> None:
    assert "very box under 1%" in shown.box(Box(1, 2, 3, 4, 0.003), "the cup")
    assert "very box 0%" in shown.box(Box(1, 2, 3, 4, 0.0), "the cup")
    assert "very box 46%" in shown.box(Box(1, 2, 3, 4, 0.456), "the cup")


def test_a_box_without_extent_or_turned_round_is_drawn_all_the_same() -> None:
    for box in (Box(10, 10, 10, 10, 0.1), Box(40, 30, 10, 10, 0.1), Box(0, 0, 64, 64, 0.1)):
        pixels = np.asarray(shown.with_box(Image.new("RGB", (64, 64)), box)).astype(int)
        assert (pixels[..., 0] > 200).any()


def test_previews_fit_the_screen() -> None:
    assert shown.preview(Upload("a", Image.new("RGB", (8, 4)))).size == (384, 192)
    assert shown.preview(Upload("a", Image.new("RGB", (4000, 2000)))).size == (1024, 512)
    assert shown.preview(Upload("a", Image.new("RGB", (600, 500)))).size == (600, 500)
    assert shown.preview(Upload("a", Image.new("RGB", (10_000, 1)))).size == (1024, 1)
    frames = np.stack([np.full((48, 64, 3), 30 * number, np.uint8) for number in range(8)])
    strip = shown.preview(Upload("a.gif", ArrayVideo(frames), 8, 0.7))
    assert strip.size == (4 * 160 + 3 * 6, 2 * 120 + 6)
    assert strip.getpixel((5 * 0 + 80, 60)) == (0, 0, 0, 255) and strip.getpixel((166 + 80, 126 + 60)) == (150, 150, 150, 255)  # frame 5


def test_facts_are_told() -> None:
    assert "a.png: 4,000 × 3,000 pixels" in shown.facts(Upload("a.png", Image.new("RGB", (4000, 3000))))
    frames = np.zeros((8, 48, 64, 3), np.uint8)
    told = shown.facts(Upload("a.mp4", ArrayVideo(frames), 300, 11.96))
    assert "a.mp4: 12.0 seconds, 64 × 48 pixels; the model looks at 8 of its 300 frames" in told


def test_examples_are_drawn_alike_each_time_and_need_no_file_to_be_shown(tmp_path: Path) -> None:
    examples = draw_examples(tmp_path)
    assert [one.path.suffix for one in examples] == [".png"] * 4 + [".gif"] * 2
    again = tmp_path / "again"
    again.mkdir()
    for one, other in zip(examples, draw_examples(again), strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert (one.question, one.phrase, one.sentence) == (other.question, other.phrase, other.sentence)
        assert one.question.endswith("?") and one.phrase.startswith("the ") and one.sentence.startswith(("a ", "first "))
    html = shown.tray(examples)
    pictures = re.findall(r'data-number="(\d)".*?base64,([^"]+)"', html)
    assert [int(number) for number, _ in pictures] == list(range(6))
    assert base64.b64decode(pictures[5][1]) == examples[5].path.read_bytes()
    assert html.count('alt="Picture: a ') == 4 and html.count('alt="Clip: ') == 2


def test_pictures_in_a_grid_are_in_the_page_itself() -> None:
    html = shown.grid([(Image.new("RGB", (30, 20), "red"), RED), (Image.new("RGB", (30, 20)), "two")], "Both")
    data = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    with Image.open(io.BytesIO(base64.b64decode(data[0]))) as image:
        assert image.size == (30, 20)
    assert len(data) == 2 and "om-wide" not in html and html.count("<img") == 2
    assert "om-wide" in shown.grid([(Image.new("RGB", (90, 20)), "strip")], "One")
