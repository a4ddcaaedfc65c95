"""Classes and numbers through the front door: pictures, sentences, pairs of sentences, texts about pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from openmplug.data.text import sentence_pair
from openmplug.errors import UsageError
from openmplug.inference.results import Label
from openmplug.inference.visuals import is_clip
from openmplug.tasks import task_around
from openmplug.tasks.classification import ClassificationTask

if TYPE_CHECKING:
    from openmplug.inference.model import Model


def classifier(model: Model) -> ClassificationTask:
    """Return the task of a model that was trained to classify, around its weights.

    Raises:
        UsageError: If it was trained for something else: only then does it know its classes.
    """
    if model.name != "classification":
        raise UsageError(f"this model was trained for task '{model.name}' and knows no classes; train one for 'classification'")
    task = task_around("classification", model.network, model.tokenizer, model.config["settings"]).eval()
    assert isinstance(task, ClassificationTask)
    return task


def classify(model: Model, inputs: Sequence[Any], texts: Sequence[str | None]) -> list[Label]:
    """Classify; see ``Model.classify``.

    Args:
        model: A classifier.
        inputs: Pictures or videos or, where the model reads words alone, texts.
        texts: As many: of each picture the words about it, of each text the second one of a pair, or None.

    Raises:
        UsageError: If the model was not trained to classify, or reads other inputs than were given.
        DataError: If a picture cannot be read.
    """
    task = classifier(model)
    kind = task.settings.input
    if kind == "text":
        if wrong := next((one for one in inputs if not isinstance(one, str)), None):
            raise UsageError(f"this model classifies texts, got {type(wrong).__name__}; give a text, or load a model of pictures")
        words = [one if second is None else sentence_pair(one, second) for one, second in zip(inputs, texts, strict=True)]
        return labels(model, task, words, [False] * len(words), None)
    given = any(text is not None for text in texts)
    if given != (kind == "image_text"):
        wanted = "a picture and a text about it" if kind == "image_text" else "a picture alone"
        raise UsageError(f"this model classifies {wanted}; {'leave the text out' if given else 'give both'}")
    if (each := task.settings.images_per_example) > 1:
        return labels(model, task, texts, [False] * len(inputs), _several(model, inputs, each))
    return labels(model, task, texts, [is_clip(one) for one in inputs], lambda position: model.visuals.read(inputs[position]))


def _several(model: Model, inputs: Sequence[Any], each: int) -> Callable[[int], tuple[Tensor, ...]]:
    for one in inputs:
        if not isinstance(one, tuple) or len(one) != each or any(is_clip(picture) for picture in one):
            found = f"{len(one)} inputs" if isinstance(one, tuple) else type(one).__name__
            raise UsageError(f"this model reads {each} pictures with each text, got {found}; give a list of tuples of {each} pictures")
    return lambda position: tuple(model.visuals.read(picture) for picture in inputs[position])


def labels(
    model: Model,
    task: ClassificationTask,
    texts: Sequence[str | None],
    clips: Sequence[bool],
    pixels: Callable[[int], Tensor | tuple[Tensor, ...]] | None,
) -> list[Label]:
    """Classify items whose pixels are asked for as their batch comes up; see ``Model.compute``."""
    return [
        Label(one.text, one.score, tuple(one.extra.get("probabilities", {}).items()))
        for one in model.compute(texts, clips, pixels, task, task.predict)
    ]
