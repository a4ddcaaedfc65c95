"""What can be predicted in bulk: which model and words a verb needs, and what it finds out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from openmplug.batch import Batch, Item
from openmplug.data.transforms import EvalTransform
from openmplug.device import autocast
from openmplug.inference import pipelines
from openmplug.inference.pipelines import Pipeline


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of ``openmplug predict``.

    Args:
        task: The task its model was trained for.
        ability: What it does, for errors.
        words: The column it needs beside ``image``; None if pictures are enough.
        results: Columns of what it finds out.
        compute: Predicts one batch: a tuple of the results' values per item.
    """

    task: str
    ability: str
    words: str | None
    results: tuple[str, ...]
    compute: Callable[[Pipeline, Batch], Iterable[tuple[Any, ...]]]

    def carried(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's other columns; one that has the name of a result (the right ``answer``, say) as ``given_answer``."""
        own = {"image", self.words, *self.results, "error"}
        return {f"given_{name}" if name in own else name: value for name, value in fields.items()}

    def columns(self) -> list[str]:
        """Return the columns that every table of this verb has, in order."""
        return ["image", *([self.words] if self.words else []), *self.results, "error"]


def _texts(pipeline: Pipeline, batch: Batch) -> list[tuple[Any, ...]]:
    return [(prediction.text, prediction.score) for prediction in pipeline.task.predict(batch)]


def _matches(pipeline: Pipeline, batch: Batch) -> list[tuple[Any, ...]]:
    return [astuple(match) for match in pipeline._match(batch)]


VERBS = {
    "vqa": Verb("vqa", "answer questions", "question", ("answer", "score"), _texts),
    "caption": Verb("caption", "write captions", None, ("caption", "score"), _texts),
    "match": Verb("retrieval", "match pictures and texts", "text", ("probability", "similarity"), _matches),
}
"""Name of a verb -> what it means; a new verb is one entry here and one command."""


# ---------------------------------------------------------------------------------------------------------------- the model
# The pipeline takes pictures, while here workers have made pixels of them already. What follows, and _matches above, is all that
# touches its private parts.


def find_model(folder: Path) -> Path:
    """Return the folder that holds the weights: the given one, or the best checkpoint of a run's folder."""
    return pipelines._find(folder.expanduser())


def transform_of(pipeline: Pipeline) -> EvalTransform:
    """Return how the model's pictures become pixels."""
    return pipeline._transform


def predict_items(pipeline: Pipeline, verb: Verb, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Predict items whose pixels are ready, in batches of similar text length.

    Padding is masked, so neither the batch size nor the neighbours change a result.

    Args:
        pipeline: A model trained for the verb's task.
        verb: What to predict.
        items: Pixels and words.

    Returns:
        The results of each item by column, in the order of the items.
    """
    texts = [item.sample.text for item in items]
    lengths = [0 if text is None else len(pipeline.task.tokenizer.encode(text)) for text in texts]
    order = sorted(range(len(items)), key=lambda position: lengths[position])
    results: dict[int, dict[str, Any]] = {}
    for start in range(0, len(order), pipeline.batch_size):
        positions = order[start : start + pipeline.batch_size]
        batch = pipeline._collate([items[position] for position in positions]).to(pipeline._device)
        with torch.inference_mode(), autocast(pipeline._device, pipeline._precision):
            found = verb.compute(pipeline, batch)
        for position, values in zip(positions, found, strict=True):
            results[position] = dict(zip(verb.results, values, strict=True))
    return [results[position] for position in range(len(items))]
