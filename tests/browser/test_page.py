"""What a person does with the page, in a real browser."""

from __future__ import annotations

import io
import json
import re
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from browser.serving import PHONE, Served, Visit

pytestmark = pytest.mark.browser

Shoot = Callable[[Any, str], Path]


def draw(path: Path, colour: str = "red", size: tuple[int, int] = (96, 64)) -> Path:
    """Draw a picture of our own to upload."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill=colour)
    image.save(path)
    return path


def upload(page: Any, path: Path) -> None:
    """Choose a file, and wait until the page says what it thinks of it."""
    page.locator("#upload input[type=file]").set_input_files(str(path))
    page.locator("#facts", has_text=path.name).wait_for()


def go_to(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()


def said(page: Any, place: str) -> str:
    """Wait for a result and return its first line."""
    page.locator(f"#{place} .om-large").wait_for()
    return str(page.locator(f"#{place} .om-large").inner_text())


def error(page: Any, place: str) -> str:
    page.locator(f"#{place} [role=alert]").wait_for()
    return str(page.locator(f"#{place} [role=alert]").inner_text())


def image_of(page: Any, place: str) -> Image.Image:
    """Fetch the picture that is shown at a place."""
    page.locator(f"#{place} img").first.wait_for()
    data = page.request.get(page.locator(f"#{place} img").first.get_attribute("src")).body()
    return Image.open(io.BytesIO(data)).convert("RGB")


def no_sideways_scrolling(page: Any) -> None:
    wide, window = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= window, f"the page is {wide} px wide in a window of {window}"


def able(served: Served, verb: str, count: int = 1) -> list[Any]:
    """Return what of the shelf can do something; `make pictures` may name models that leave a tab out."""
    found = [one for one in served.shelf if verb in one.verbs]
    if len(found) < count:
        pytest.skip(f"{count} that can do {verb} are needed; OPENMPLUG_PAGE_MODELS names {len(found)}")
    return found[:count]


def model_for(served: Served, verb: str) -> Any:
    return able(served, verb)[0].model


# ------------------------------------------------------------------------------------------------------------------- what it does


def test_upload_ask_and_see_the_answer(visit: Visit, served: Served, tmp_path: Path) -> None:
    page, path = visit(), draw(tmp_path / "mine.png")
    upload(page, path)
    assert "mine.png: 96 × 64 pixels" in page.locator("#facts").inner_text()
    assert image_of(page, "preview").size == (384, 256)
    page.locator("#question textarea, #question input").first.fill("what colour is the circle?")
    page.locator("#ask").click()
    assert said(page, "answer") == model_for(served, "vqa").answer(path, "what colour is the circle?").text
    page.locator("#question textarea, #question input").first.fill("what shape is the red thing?")
    page.keyboard.press("Enter")
    page.locator("#answer", has_text=model_for(served, "vqa").answer(path, "what shape is the red thing?").text).wait_for()


def test_an_example_fills_everything_in(visit: Visit, served: Served, picture_of: Shoot) -> None:
    page = visit()
    page.locator("#examples button").first.click()
    page.locator("#preview img").wait_for()
    page.locator("#ask").click()
    said(page, "answer")
    picture_of(page, "page-ask")
    assert page.locator("#question textarea, #question input").first.input_value() == "what colour is the triangle?"


def test_choose_among_answers(visit: Visit, served: Served, tmp_path: Path) -> None:
    page, path = visit(), draw(tmp_path / "mine.png")
    upload(page, path)
    page.locator("#question textarea, #question input").first.fill("what colour is the circle?")
    page.get_by_text("Choose among answers").click()
    # What is typed is text and nothing else, whatever the page's templates make of braces.
    tricky = "${1+1}, {{7*7}}, <b>red</b>"
    page.locator("#choices textarea, #choices input").first.fill(tricky)
    page.locator("#ask").click()
    page.locator("#answer .om-bars li").nth(2).wait_for()
    best = model_for(served, "vqa").answer(path, "what colour is the circle?", candidates=tricky.split(", ")).candidates
    assert page.locator("#answer .om-name").all_inner_texts() == [text for text, _ in best]
    assert page.locator("#answer .om-share").all_inner_texts() == [f"{share:.0%}" for _, share in best]


def test_caption_with_where_it_looked(visit: Visit, served: Served, picture_of: Shoot) -> None:
    page = visit()
    page.locator("#examples button").nth(1).click()
    page.locator("#preview img").wait_for()
    go_to(page, "Caption")
    page.locator("#describe").click()
    said(page, "caption")
    picture_of(page, "page-caption")
    assert page.locator("#caption figure").count() == 0
    page.get_by_label("Show where it looked").locator("visible=true").check()
    page.locator("#describe").click()
    page.locator("#caption figure img").nth(1).wait_for()


def test_find_draws_the_box(visit: Visit, served: Served, tmp_path: Path) -> None:
    able(served, "grounding")
    page, path = visit(), draw(tmp_path / "mine.png")
    upload(page, path)
    go_to(page, "Find")
    page.locator("#phrase textarea, #phrase input").first.fill("the red circle")
    page.locator("#find").click()
    said(page, "found")
    box = model_for(served, "grounding").ground(path, "the red circle")
    pixels = np.asarray(image_of(page, "found-picture")).astype(int)
    pink = (pixels[..., 0] > 200) & (pixels[..., 1] < 80) & (pixels[..., 2] > 90)
    rows, columns = np.flatnonzero(pink.any(1)) / len(pixels) * 64, np.flatnonzero(pink.any(0)) / pixels.shape[1] * 96
    left, right = sorted((box.left, box.right))
    top, bottom = sorted((box.top, box.bottom))
    assert [columns[0], rows[0], columns[-1], rows[-1]] == pytest.approx([left, top, right, bottom], abs=2)


def test_find_in_an_example(visit: Visit, served: Served, picture_of: Shoot) -> None:
    able(served, "grounding")
    page = visit()
    page.locator("#examples button").nth(1).click()
    page.locator("#preview img").wait_for()
    go_to(page, "Find")
    page.locator("#find").click()
    page.locator("#found-picture img").wait_for()
    picture_of(page, "page-find")


def test_match_with_heat_map(visit: Visit, served: Served, tmp_path: Path) -> None:
    page, path = visit(), draw(tmp_path / "mine.png")
    upload(page, path)
    go_to(page, "Match")
    page.locator("#sentence textarea, #sentence input").first.fill("a red circle")
    page.locator("#match").click()
    share = model_for(served, "retrieval").match(path, "a red circle").probability
    assert said(page, "matched").endswith(f"{share:.0%}")
    page.locator("#matched figure").nth(3).wait_for()
    assert page.locator("#matched figcaption").all_inner_texts() == ["the whole sentence", "a", "red", "circle"]


def test_match_an_example(visit: Visit, picture_of: Shoot) -> None:
    page = visit()
    page.locator("#examples button").first.click()
    page.locator("#preview img").wait_for()
    go_to(page, "Match")
    page.locator("#match").click()
    page.locator("#matched figure").nth(3).wait_for()
    picture_of(page, "page-match")


def test_search_by_words_and_by_picture(visit: Visit, served: Served, picture_of: Shoot) -> None:
    page = visit()
    go_to(page, "Search")
    page.locator("#search-words textarea, #search-words input").first.fill("a red circle")
    page.locator("#search").click()
    page.locator("#hits figure").nth(3).wait_for()
    expected = served.index.search("a red circle", 12, rerank=32)
    shown = page.locator("#hits figcaption").all_inner_texts()
    assert [re.sub(r" \(.*", "", one) for one in shown] == [hit.name for hit in expected]
    picture_of(page, "page-search")
    upload(page, served.archive / "00003.png")
    page.locator("#alike").click()
    page.locator("#hits figcaption", has_text="00003.png (1.00)").wait_for()  # nothing is more like it than itself


def test_compare_two_models(visit: Visit, served: Served, picture_of: Shoot) -> None:
    compared = able(served, "vqa", 2)
    page = visit()
    page.locator("#examples button").first.click()
    page.locator("#preview img").wait_for()
    go_to(page, "Compare")
    page.locator("#both-text textarea, #both-text input").first.fill("what colour is the triangle?")
    page.locator("#compare").click()
    for side, one in zip(("first", "second"), compared, strict=True):
        said(page, f"{side}-result")
        assert one.name in page.locator(f"#{side}-result").inner_text()
    picture_of(page, "page-compare")


def test_a_clip(visit: Visit, served: Served, picture_of: Shoot) -> None:
    page = visit()
    page.locator("#examples button").nth(5).click()
    page.locator("#facts", has_text="8 frames").wait_for()
    strip = image_of(page, "preview")
    assert strip.width > 1.8 * strip.height
    page.locator("#ask").click()
    said(page, "answer")
    picture_of(page, "page-clip")
    able(served, "grounding")
    go_to(page, "Find")
    page.locator("#find").click()
    assert "is a video; give one of its frames" in error(page, "found")


# -------------------------------------------------------------------------------------------------------------- what goes wrong


def test_a_bad_file_is_refused_in_words_and_a_good_one_heals_it(visit: Visit, tmp_path: Path, picture_of: Shoot) -> None:
    page = visit()
    bad = tmp_path / "holiday.png"
    bad.write_text("these are notes and no picture at all")
    upload(page, bad)
    told = error(page, "facts")
    assert "Image 'holiday.png' is not a picture" in told and "Traceback" not in told and "/" not in told
    page.locator("#question textarea, #question input").first.fill("what is this?")
    page.locator("#ask").click()
    assert "is not a picture" in error(page, "answer")
    picture_of(page, "page-bad-file")
    page.locator("#upload button[aria-label]").first.click()  # take it away
    upload(page, draw(tmp_path / "good.png"))
    page.locator("#preview img").wait_for()
    assert page.locator("#facts [role=alert]").count() == 0


def test_a_file_that_is_too_large_is_refused_in_words(visit: Visit, tmp_path: Path) -> None:
    page, path = visit(), tmp_path / "huge.png"
    path.write_bytes(draw(tmp_path / "mine.png").read_bytes() + bytes(3 * 2**20))
    page.locator("#upload input[type=file]").set_input_files(str(path))
    page.get_by_text(re.compile("exceed|too large|maximum", re.I)).first.wait_for()


def test_what_is_missing_is_asked_for(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    page.locator("#ask").click()
    assert "type a question first" in error(page, "answer")
    page.locator("#question textarea, #question input").first.fill("what is this?")
    page.locator("#ask").click()
    page.locator("#answer", has_text="no picture yet").wait_for()


def test_a_long_question(visit: Visit, tmp_path: Path) -> None:
    page = visit(PHONE)
    upload(page, draw(tmp_path / "mine.png"))
    box = page.locator("#question textarea, #question input").first
    box.fill("is the red circle left of the blue square or " * 30 + "w" * 300)
    assert len(box.input_value()) == 500  # the page takes no more
    page.locator("#ask").click()
    said(page, "answer")
    assert "longer than the model reads" in page.locator("#answer").inner_text()
    no_sideways_scrolling(page)


def test_a_link_in_the_place_of_a_file_is_not_fetched(visit: Visit, served: Served) -> None:
    visit()
    config = json.load(urllib.request.urlopen(f"{served.address}config"))
    dependency = next(one for one in config["dependencies"] if any(kind == "change" for _, kind in one["targets"]))
    link = {"path": "http://198.51.100.7/x.png", "meta": {"_type": "gradio.FileData"}}
    body = {"data": [link], "fn_index": dependency["id"], "session_hash": "abc"}
    request = urllib.request.Request(
        f"{served.address}gradio_api/queue/join?", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    urllib.request.urlopen(request).read()
    with urllib.request.urlopen(f"{served.address}gradio_api/queue/data?session_hash=abc", timeout=60) as stream:
        events = b"".join(iter(stream.readline, b"")).decode()
    assert "Links are not fetched" in events


# ----------------------------------------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_nothing_has_to_be_pushed_sideways(visit: Visit, served: Served, picture_of: Shoot, dark: bool) -> None:
    page = visit(PHONE, dark=dark)
    no_sideways_scrolling(page)
    page.locator("#examples button").first.click()
    page.locator("#preview img").wait_for()
    page.locator("#ask").click()
    said(page, "answer")
    no_sideways_scrolling(page)
    picture_of(page, f"page-phone-{'dark' if dark else 'light'}")
    tabs = page.get_by_role("tab").locator("visible=true").all_inner_texts()
    assert {"Ask", "Search"} <= set(tabs)
    for tab in tabs:
        go_to(page, tab)
        no_sideways_scrolling(page)
    page.get_by_text("can and cannot do").click()
    page.get_by_text("parameters; pictures are seen").first.wait_for()
    no_sideways_scrolling(page)


def contrast(page: Any, selector: str) -> float:
    """Return the contrast of a text to the ground it stands on, 1 to 21 (WCAG 2)."""
    script = """selector => {
      const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
      const layers = [];
      for (let element = document.querySelector(selector); element; element = element.parentElement)
        layers.push(parse(getComputedStyle(element).backgroundColor));
      return [parse(getComputedStyle(document.querySelector(selector)).color), layers];
    }"""
    ink, layers = page.evaluate(script, selector)
    ground = [255.0, 255.0, 255.0]
    for *colour, opacity in ([*layer, 1.0][:4] for layer in reversed(layers)):
        ground = [opacity * over + (1 - opacity) * under for over, under in zip(colour, ground, strict=True)]

    def light(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(ink), light(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(visit: Visit, tmp_path: Path, dark: bool) -> None:
    page = visit(dark=dark)
    page.locator("#ask").click()
    error(page, "answer")
    upload(page, draw(tmp_path / "mine.png"))
    for selector in (".om-head h1", ".om-head p", "#facts .om-soft", "#answer [role=alert]", "#examples .om-soft", "#ask"):
        assert contrast(page, selector) >= 4.5, selector


def test_it_can_be_used_without_eyes_and_without_a_mouse(visit: Visit) -> None:
    page = visit()
    assert all(page.locator("#examples img").evaluate_all("images => images.map(image => image.alt)"))
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    page.locator("#preview img").wait_for()
    page.get_by_label("Your question").focus()
    page.keyboard.press("Enter")
    said(page, "answer")
    assert page.locator("#answer [aria-live=polite]").count() == 1


# ----------------------------------------------------------------------------------------------------------------- many at once


def test_ten_people_at_once_get_their_own_answers(visit: Visit, served: Served, tmp_path: Path) -> None:
    model = model_for(served, "retrieval")
    people = []
    for number, colour in enumerate(("red", "green", "blue", "yellow", "purple", "black", "orange", "brown", "gray", "pink")):
        path, page = draw(tmp_path / f"{colour}.png", colour), visit()
        upload(page, path)
        go_to(page, "Match")
        page.get_by_label("Show where it looked").locator("visible=true").uncheck()
        sentence = f"a {('red', 'green', 'blue')[number % 3]} circle"
        page.locator("#sentence textarea, #sentence input").first.fill(sentence)
        people.append((page, path, sentence))
    for page, _, _ in people:  # nobody waits for anybody
        page.locator("#match").click(no_wait_after=True)
    for page, path, sentence in people:
        share = model.match(path, sentence).probability
        shown = int(re.findall(r"(\d+)%", said(page, "matched"))[0])
        assert shown == pytest.approx(100 * share, abs=0.51)
    assert threading.active_count() < 100
