"""The page of an evaluation: complete, small, closed to what data may hold, and whole where pictures are not."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image

from openmplug.batch import Failure, Prediction, Sample
from openmplug.data.images import FolderImages
from openmplug.data.readers import Split
from openmplug.engine.evaluator import Evaluation
from openmplug.engine.report import REPORT, write_report
from openmplug.tasks.base import Task
from openmplug.tasks.captioning import CaptioningTask
from openmplug.tasks.grounding import GroundingTask
from openmplug.tasks.marks import Marks, exact_marks, show
from openmplug.tasks.retrieval import RetrievalTask

FACTS = {"task": "vqa", "split": "dev", "count": 8, "failures": 0, "seconds": 1.0, "model_hash": "ab" * 32, "precision": "fp32"}
FACTS |= {"device": "cpu", "openmplug": "0", "metrics": {"accuracy": 50.0}}
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>&"\''


class Page(HTMLParser):
    """Elements and attributes of a page; fails at an end without a beginning."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


class Bare:
    """The part of a task that a report asks."""

    def __init__(self, **settings: Any) -> None:
        self.settings = SimpleNamespace(**settings)

    def marks(self, predictions: list[Prediction]) -> Marks:
        return exact_marks(predictions, tuple(getattr(self.settings, "labels", ())))

    def shown(self, prediction: Prediction) -> Any:
        return show(prediction)


def pictures(folder: Path, count: int, side: int = 40, noise: bool = False) -> Split:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    samples = []
    for number in range(count):
        pixels = random.integers(0, 255, (side, side, 3), dtype=np.uint8) if noise else np.full((side, side, 3), number % 255, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        samples.append(Sample(str(number), f"{number}.png"))
    return Split("dev", samples, FolderImages(folder))


def answers(count: int, **extra: Any) -> list[Prediction]:
    """Every second answer right, the later the surer."""
    return [
        Prediction(str(n), "yes" if n % 2 else "no", n / count, ("yes",), {"image": f"{n}.png", "question": f"question {n}?", **extra})
        for n in range(count)
    ]


def report(folder: Path, predictions: list[Prediction], split: Split, task: Any = None, **more: Any) -> Page:
    evaluation = Evaluation({"accuracy": 50.0}, predictions, **more)
    path = write_report(folder, evaluation, FACTS | {"count": len(predictions)}, cast(Task, task or Bare()), split)
    assert path == folder / REPORT
    return Page(path.read_text(encoding="utf-8"))


def headings(page: Page, folder: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", (folder / REPORT).read_text(encoding="utf-8"))


def test_hits_misses_and_confident_errors(tmp_path: Path) -> None:
    page = report(tmp_path, answers(8), pictures(tmp_path / "p", 8))
    assert headings(page, tmp_path) == ["Scores", "Most confident errors", "Misses, drawn at random", "Hits, drawn at random"]
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    errors = text[text.index("Most confident") : text.index("Misses")]
    assert re.findall(r"<dd class=\"asked\">question (\d)", errors) == ["6", "4", "2", "0"]
    assert "✗ no (wrong)" in page.words and "✓ yes (right)" in page.words


def test_one_file_that_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = report(tmp_path, answers(8), pictures(tmp_path / "p", 8))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any("href" in attributes for _, attributes in page.tags)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "prefers-color-scheme: dark" in page.words


def test_what_data_holds_is_text_and_nothing_else(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 4)
    predictions = [
        Prediction(EVIL, EVIL, 0.5, (f"{EVIL}{n}",), {"image": f"{n}.png", "question": EVIL, EVIL: ("a", "b")[n % 2] + EVIL})
        for n in range(4)
    ]
    predictions += [replace(one, text=one.references[0], references=one.references) for one in predictions] * 2
    task = Bare(score_by=EVIL, labels=(EVIL, EVIL + "2"))
    failures = [Failure(EVIL, EVIL, EVIL)]
    harmless = report(tmp_path, [replace(one, extra={"image": one.extra["image"]}) for one in predictions], split)
    page = report(tmp_path, predictions, split, task, failures=failures)
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in harmless.tags} == set()
    assert all(
        attributes.keys() <= {"src", "class", "width", "height", "alt", "scope", "aria-hidden", "lang", "charset", "name", "content"}
        for _, attributes in page.tags
    )
    assert page.words.count('<script>alert("x")</script>') > 10
    assert EVIL in str(next(attributes["alt"] for tag, attributes in page.tags if tag == "img"))


def test_large_pictures_and_long_texts_stay_small(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 60, side=600, noise=True)
    long = [replace(one, text=f"no {'word ' * 5000}", extra={**one.extra, "question": "why " * 5000}) for one in answers(60)]
    report(tmp_path, long, split)
    assert (tmp_path / REPORT).stat().st_size < 3_000_000
    for source in re.findall(r'base64,([^"]+)"', (tmp_path / REPORT).read_text(encoding="utf-8"))[:3]:
        assert max(Image.open(io.BytesIO(base64.b64decode(source))).size) <= 160


def test_pictures_that_cannot_be_read_leave_a_word(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 4)
    (tmp_path / "p" / "1.png").write_bytes(b"no picture")
    (tmp_path / "p" / "2.png").unlink()
    page = report(tmp_path, answers(4), split, failures=[Failure("9", "9.png", "image '9.png' is damaged")])
    assert page.words.count("cannot be read") == 3  # two misses' group names it twice
    assert "image '9.png' is damaged" in page.words


def test_words_alone_and_no_right_answer(tmp_path: Path) -> None:
    split = Split("dev", [], FolderImages(tmp_path))
    predictions = [Prediction(str(n), "a summary", 0.0, (), {"input": f"text {n}"}) for n in range(3)]
    page = report(tmp_path, predictions, split)
    assert headings(page, tmp_path) == ["Scores", "Without a known right answer, drawn at random"]
    assert "text 2" in page.words


def test_scores_by_kind(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 8)
    by_kind = [
        replace(one, extra={**one.extra, "kind": ("colour", "shape")[n % 2], "file": f"name {n}"}) for n, one in enumerate(answers(8))
    ]
    page = report(tmp_path, by_kind, split)
    assert headings(page, tmp_path)[:2] == ["Scores", "By kind"]
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert '<th scope="row">colour</th><td class="number">4</td><td class="number">0.0 %</td>' in text
    assert '<th scope="row">shape</th><td class="number">4</td><td class="number">100.0 %</td>' in text


def test_what_was_taken_for_what(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 6)
    predictions = [Prediction(str(n), "cat", 0.9, (("cat", "dog")[n % 2],), {"image": f"{n}.png"}) for n in range(6)]
    page = report(tmp_path, predictions, split, Bare(labels=("cat", "dog")))
    assert "What was taken for what" in headings(page, tmp_path)
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert '<th scope="row">dog</th><td class="number">3</td><td class="number">·</td>' in text
    report(tmp_path, predictions, split, Bare(labels=tuple(map(str, range(21)))))
    assert "What was taken for what" not in (tmp_path / REPORT).read_text(encoding="utf-8")


def test_captions_are_shown_from_both_ends(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 6)
    said = ["a red cup on a table", "a red cup", "a dog", "two men in a boat", "a cup on the table", "nothing at all"]
    right = [
        ("a red cup on a table",),
        ("a red cup",),
        ("a cat sleeps",),
        ("two men sit in a boat",),
        ("a cup on the table",),
        ("a tall house",),
    ]
    predictions = [
        Prediction(str(n), text, 0.0, refs, {"image": f"{n}.png"}) for n, (text, refs) in enumerate(zip(said, right, strict=True))
    ]
    task = SimpleNamespace(settings=SimpleNamespace(), marks=lambda every: CaptioningTask.marks(cast(Any, None), every), shown=show)
    page = report(tmp_path, predictions, split, task)
    assert headings(page, tmp_path) == ["Scores", "Best, by CIDEr", "Worst, by CIDEr"]
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert "a red cup on a table" in text[text.index("Best") : text.index("Worst")]
    assert "nothing at all" in text[text.index("Worst") :]


def test_searches_show_what_was_found_and_what_was_meant(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 3)
    predictions = []
    for n, rank in enumerate((0, 1, 4)):
        extra = {"image": f"{n}.png", "text_rank": 0, "image_ranks": [rank], "best_images": ["0.png"], "best_image_scores": [float(n)]}
        predictions.append(Prediction(str(n), f"text {n}", 0.0, (f"text {n}",), extra))
    task = SimpleNamespace(
        settings=SimpleNamespace(),
        marks=lambda every: RetrievalTask.marks(cast(Any, None), every),
        shown=lambda one: RetrievalTask.shown(cast(Any, None), one),
    )
    page = report(tmp_path, predictions, split, task)
    assert headings(page, tmp_path)[1:] == ["Most confident errors", "Misses, drawn at random", "Hits, drawn at random"]
    assert "found first, right" in page.words and "meant" in page.words
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert text.index("text 2") < text.index("text 1")  # the surer one first


def test_boxes_are_drawn_and_several_pictures_stand_side_by_side(tmp_path: Path) -> None:
    split = pictures(tmp_path / "p", 4, side=320)
    found = {"phrase": "the left cup", "box": [20.0, 20.0, 100.0, 100.0], "true_box": [40.0, 40.0, 200.0, 200.0]}
    predictions = [Prediction(str(n), "", -0.1, (), {"image": f"{n}.png", "iou": 0.3 * n, **found}) for n in range(4)]
    task = SimpleNamespace(settings=SimpleNamespace(), marks=lambda every: GroundingTask.marks(cast(Any, None), every), shown=show)
    page = report(tmp_path, predictions, split, task)
    assert "right box green and found box red" in page.words
    assert headings(page, tmp_path)[1:] == ["Most confident errors", "Misses, drawn at random", "Hits, drawn at random"]
    first = next(attributes["src"] or "" for tag, attributes in page.tags if tag == "img")
    image = Image.open(io.BytesIO(base64.b64decode(first.split(",")[1]))).convert("RGB")
    red, green, _ = np.asarray(image, dtype=int)[60, 100]  # on the right box's right side
    assert green > red + 40
    red, green, _ = np.asarray(image, dtype=int)[30, 50]  # on the found box's
    assert red > green + 40
    both = [Prediction("0", "True", 0.9, ("True",), {"image": ["0.png", "1.png"], "input": "two cups"})]
    assert len([tag for tag, _ in report(tmp_path, both, split).tags if tag == "img"]) == 2
