"""An evaluation as a page to look at: ``report.html``, one file with scores, kinds, and predictions beside their pictures.

Examples are drawn at random from their group, always the same ones; only "most confident" and "best" and "worst" are chosen. Every
text of the data is escaped, and pictures are small copies inside the file.
"""

from __future__ import annotations

import base64
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from openmplug.batch import Prediction
from openmplug.checkpoints.atomic import write_atomic
from openmplug.data.images import ImageSource
from openmplug.data.readers import Split
from openmplug.data.video import open_clip
from openmplug.engine.evaluator import Evaluation
from openmplug.engine.html import definitions, document, table, verdict
from openmplug.errors import OpenmplugError
from openmplug.tasks.base import Task
from openmplug.tasks.marks import Marks

REPORT = "report.html"
EACH = 12
MOST_BYTES = 2_000_000
SIDE = 160
LONGEST = 300
MOST_KINDS = 30
MOST_CLASSES = 20
RIGHT, FOUND = "#1a7f37", "#d1242f"


class Thumbnails:
    """Small copies of a split's pictures as data addresses; one that cannot be read, or is one too many, is a word.

    Args:
        split: Whose pictures.
        most_bytes: Of all copies together.
    """

    def __init__(self, split: Split, most_bytes: int = MOST_BYTES) -> None:
        self._images: ImageSource = split.images
        self._clips = {sample.image for sample in split.samples if sample.clip}
        self._left = most_bytes

    def tag(self, name: str, words: str, boxes: Sequence[tuple[str, Sequence[float]]] = ()) -> str:
        """Return an ``img`` element, or a box that says why there is none.

        Args:
            name: Of the picture or video, whose middle frame is shown.
            words: What to say of it to people who do not see it.
            boxes: Colour and corners, xyxy in the picture's pixels, of what to draw on it.
        """
        if self._left <= 0:
            return f'<span class="gone">{escape(_cut(name, 60))}</span>'
        try:
            image = self._open(name)
        except (OpenmplugError, OSError, ValueError):
            return '<span class="gone">cannot be read</span>'
        width, height = image.size
        image.thumbnail((SIDE, SIDE))
        scales = (image.width / width, image.height / height) * 2
        for colour, corners in boxes:
            x, y, right, bottom = (corner * scale for corner, scale in zip(corners, scales, strict=True))
            if x <= right and y <= bottom:
                ImageDraw.Draw(image).rectangle((x, y, right, bottom), outline=colour, width=2)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        self._left -= len(data)
        size = f'width="{image.width}" height="{image.height}"'
        return f'<img class="thumb" src="data:image/jpeg;base64,{data}" {size} alt="{escape(_cut(words, 120))}">'

    def _open(self, name: str) -> Image.Image:
        if name not in self._clips:
            return self._images.open(name).convert("RGB")
        with open_clip(self._images, name) as video:
            return Image.fromarray(video.read([len(video) // 2])[0])


def write_report(folder: Path, evaluation: Evaluation, facts: Mapping[str, Any], task: Task, split: Split) -> Path:
    """Write ``report.html``.

    Args:
        folder: Of the evaluation.
        evaluation: What was found.
        facts: The content of ``metrics.json``.
        task: Says what each prediction is worth and how it is shown.
        split: The split's records and pictures.

    Returns:
        The file.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    marks = task.marks(evaluation.predictions)
    title = " ".join(str(part) for part in (facts.get("recipe") or facts["task"], f"on split {facts['split']!r}"))
    parts = [f"<h1>{escape(title)}</h1>", _facts(facts), "<h2>Scores</h2>", _scores(evaluation.metrics)]
    parts += _kinds(evaluation.predictions, marks, getattr(task.settings, "score_by", None))
    parts += _confusion(evaluation.predictions, marks)
    cards = Cards(evaluation.predictions, marks, task, Thumbnails(split))
    parts += cards.sections()
    if evaluation.failures:
        lines = "".join(f"<li>{escape(_cut(failure.reason, LONGEST))}</li>" for failure in evaluation.failures[:EACH])
        parts.append(f'<h2>Could not be read: {len(evaluation.failures):,}</h2><ul class="soft">{lines}</ul>')
    parts.append(_settings(facts))
    write_atomic(folder / REPORT, document(title, "\n".join(parts)))
    return folder / REPORT


# ---------------------------------------------------------------------------------------------------------------- tables


def _facts(facts: Mapping[str, Any]) -> str:
    failed = f", {facts['failures']:,} not readable" if facts["failures"] else ""
    model = f"model {str(facts['model_hash'])[:8]}, {facts['precision']} on {facts['device']}"
    words = f"{facts['count']:,} records{failed}, {facts['seconds']:,.1f} seconds; {model}; openmplug {facts['openmplug']}"
    return f'<p class="soft">{escape(words)}</p>'


def _settings(facts: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in facts.items() if name != "metrics"}
    rows = [(name, f"<code>{escape(_cut(str(value), 2000))}</code>", "") for name, value in shown.items()]
    return f"<details><summary>How it was measured</summary>{definitions(rows)}</details>"


def _scores(metrics: Mapping[str, float]) -> str:
    return table(("metric", "value"), [(name, f"{value:.4g}") for name, value in metrics.items()])


def _mean(values: Sequence[float], marks: Marks) -> str:
    mean = sum(values) / len(values)
    return f"{100 * mean / marks.full:.1f} %" if marks.full else f"{mean:.3f}"


def _kinds(predictions: Sequence[Prediction], marks: Marks, preferred: str | None) -> list[str]:
    """Make a table of mean marks for each field of the records that sorts them into a few kinds, ``preferred`` first."""
    fields = dict.fromkeys([*([preferred] if preferred else []), *(predictions[0].extra if predictions else ())])
    parts = []
    for field in fields:
        kinds: dict[str, list[float]] = {}
        for one, value in zip(predictions, marks.values, strict=True):
            kind = one.extra.get(field)
            if value is not None and (field == preferred or isinstance(kind, str | bool)):
                kinds.setdefault(str(kind), []).append(value)
        marked = sum(len(values) for values in kinds.values())
        # More kinds than that are names or texts.
        if 2 <= len(kinds) <= MOST_KINDS and marked >= 3 * len(kinds):
            rows = [(kind, f"{len(values):,}", _mean(values, marks)) for kind, values in sorted(kinds.items())]
            parts += [f"<h2>By {escape(field)}</h2>", table((field, "records", marks.name), rows)]
    return parts


def _confusion(predictions: Sequence[Prediction], marks: Marks) -> list[str]:
    known = [one for one in predictions if one.references]
    if not 2 <= len(marks.classes) <= MOST_CLASSES or not known:
        return []
    pairs = Counter((one.references[0], one.text) for one in known)
    rows = [(true, *(str(pairs[true, named] or "·") for named in marks.classes)) for true in marks.classes]
    words = '<p class="soft">A row for each right class, a column for each that was named.</p>'
    return ["<h2>What was taken for what</h2>", words, table(("right \\ named", *marks.classes), rows, "square")]


# ----------------------------------------------------------------------------------------------------------------- cards


class Cards:
    """Groups of predictions, each with its picture, texts and mark.

    Args:
        predictions: All of them.
        marks: What each is worth.
        task: Says how one is shown.
        pictures: Of the split.
    """

    def __init__(self, predictions: Sequence[Prediction], marks: Marks, task: Task, pictures: Thumbnails) -> None:
        self._predictions = predictions
        self._marks = marks
        self._task = task
        self._pictures = pictures

    def sections(self) -> list[str]:
        """Return hits, misses and the most confident errors; of marks that are no verdicts, the best and the worst."""
        values = self._marks.values
        marked = [(value, place) for place, value in enumerate(values) if value is not None]
        unmarked = [place for place, value in enumerate(values) if value is None]
        parts: list[str] = []
        if self._marks.full is None:
            ordered = [place for _, place in sorted(marked, key=lambda pair: (-pair[0], pair[1]))]
            half = min(EACH, len(ordered) // 2)
            parts += self._section(f"Best, by {self._marks.name}", ordered[: half or EACH])
            parts += self._section(f"Worst, by {self._marks.name}", ordered[::-1][:half])
        else:
            half_full = self._marks.full / 2
            misses = [place for value, place in marked if value <= half_full]
            if self._marks.certainty:
                sure = sorted(misses, key=lambda place: (-self._marks.certainty[place], place))
                parts += self._section("Most confident errors", sure[:EACH])
                misses = sure[EACH:] or misses
            parts += self._section("Misses, drawn at random", _some(misses))
            parts += self._section("Hits, drawn at random", _some([place for value, place in marked if value > half_full]))
        parts += self._section("Without a known right answer, drawn at random", _some(unmarked))
        return parts

    def _section(self, title: str, places: Sequence[int]) -> list[str]:
        if not places:
            return []
        return [f"<h2>{escape(title)}</h2>", f'<ul class="cards">{"".join(self._card(place) for place in places)}</ul>']

    def _card(self, place: int) -> str:
        one, value, full = self._predictions[place], self._marks.values[place], self._marks.full
        shown = self._task.shown(one)
        words = "; ".join(text for _, text in shown.lines)
        rows = []
        for number, (label, text) in enumerate(shown.lines):
            text, kind = _cut(text, LONGEST), "" if number else "asked"
            judged = label == "Predicted" and value is not None and full is not None
            rows.append((label, verdict((value or 0) > (full or 0) / 2, text) if judged else escape(text), kind))
        measured = [] if value is None else [f"{self._marks.name} {value:.3g}"]
        measured += [f"certainty {self._marks.certainty[place]:.3g}"] if self._marks.certainty else []
        rows += [("Measured", f'<span class="soft">{escape(", ".join(measured))}</span>', "")] if measured else []
        boxes = [(colour, box) for colour, box in ((RIGHT, shown.right), (FOUND, shown.found)) if len(box) == 4]
        drawn = " and ".join(name for name, box in (("right box green", shown.right), ("found box red", shown.found)) if box)
        pictures = [
            f"<figure>{self._pictures.tag(name, words, [] if number else boxes)}"
            f"<figcaption>{escape(below or ('' if number else drawn))}</figcaption></figure>"
            for number, (name, below) in enumerate(shown.pictures)
        ]
        beside = pictures[0] if len(pictures) == 1 else f'<div class="pair">{"".join(pictures)}</div>' if pictures else ""
        return f'<li class="card{" tall" if len(pictures) > 1 else ""}">{beside}{definitions(rows)}</li>'


def _some(places: Sequence[int]) -> list[int]:
    return random.Random(0).sample(places, min(EACH, len(places)))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
