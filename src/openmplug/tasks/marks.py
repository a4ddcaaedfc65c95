"""What one prediction is worth and what of it a person wants to see: the report of an evaluation is made of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openmplug.batch import Prediction


@dataclass(frozen=True, slots=True)
class Marks:
    """What each prediction is worth by itself.

    Args:
        name: What the values are, such as "VQA accuracy".
        values: One per prediction, more is better; None where nothing is known of the right answer.
        full: The value of a right prediction; half of it and less is an error. None where none is simply right or wrong, as with captions.
        certainty: How sure the model was of each, to find confident errors; empty where it does not say.
        classes: What predictions choose from, where that is a closed list.
    """

    name: str
    values: Sequence[float | None]
    full: float | None = 1.0
    certainty: Sequence[float] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A prediction as people see it.

    Args:
        pictures: Name of each picture or video, and what to write below it.
        lines: What it was asked, what it said, what would have been right: a label and a text each.
        found: Box that was found in the first picture, xyxy in its pixels.
        right: Box that is right, likewise.
    """

    pictures: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, str], ...]
    found: tuple[float, ...] = ()
    right: tuple[float, ...] = ()


def exact_marks(predictions: Sequence[Prediction], classes: tuple[str, ...] = ()) -> Marks:
    """Mark 1 what an annotator said in the same words, 0 everything else."""
    values = [float(one.text in one.references) if one.references else None for one in predictions]
    return Marks("accuracy", values, certainty=[one.score for one in predictions], classes=classes)


def distance_marks(predictions: Sequence[Prediction]) -> Marks:
    """Mark numbers by how far they are from the right one: 0 at best, else negative."""
    values = [-abs(float(one.text) - float(one.references[0])) if one.references else None for one in predictions]
    return Marks("distance from the right number, negative", values, full=None)


def overlap_marks(predictions: Sequence[Prediction]) -> Marks:
    """Mark boxes by their overlap with the right one, which each prediction has as ``iou``; more than half is right."""
    values = [None if "iou" not in one.extra else float(one.extra["iou"]) for one in predictions]
    return Marks("overlap", values, certainty=[one.score for one in predictions])


def marks_by(
    name: str, worth: Callable[[Prediction], float], predictions: Sequence[Prediction], full: float | None = 1.0, certain: bool = True
) -> Marks:
    """Mark each prediction that has references by a function of it.

    Args:
        name: What the values are.
        worth: Of one prediction.
        predictions: In order.
        full: See ``Marks``.
        certain: Whether ``score`` says how sure the model was.
    """
    values = [worth(one) if one.references else None for one in predictions]
    return Marks(name, values, full, [one.score for one in predictions] if certain else ())


def show(prediction: Prediction, most: int = 5) -> Shown:
    """Show a prediction by the fields that most tasks give it: picture, question or text, what was said, at most ``most`` references."""
    extra, image = prediction.extra, prediction.extra.get("image")
    pictures = [] if image is None else [image] if isinstance(image, str) else list(image)
    fields = (("question", "Question"), ("input", "Text"), ("phrase", "Phrase"))
    asked = [(label, str(extra[field])) for field, label in fields if extra.get(field)]
    known = list(dict.fromkeys(prediction.references))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    right = [("Expected", " / ".join(known[:most]) + more)] if known else []
    found = () if "box" in extra else (("Predicted", prediction.text),)
    boxes = tuple(extra.get("box", ())), tuple(extra.get("true_box", ()))
    return Shown(tuple((str(name), "") for name in pictures), (*asked, *found, *right), *boxes)
