"""What can be predicted in bulk: which model and words a verb needs, and what it finds out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openmplug.batch import Item
from openmplug.inference.abilities import embed_pixels, find_boxes
from openmplug.inference.model import Model


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of ``openmplug predict``.

    Args:
        task: The task its model was trained for.
        words: The column it needs beside ``image``; None if pictures are enough.
        results: Columns of what it finds out, each with the field of the front door's result that fills it.
    """

    task: str
    words: str | None
    results: Mapping[str, str]

    def carried(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's other columns; one that has the name of a result (the right ``answer``, say) as ``given_answer``."""
        own = {"image", self.words, *self.results, "error"}
        return {f"given_{name}" if name in own else name: value for name, value in fields.items()}

    def columns(self) -> list[str]:
        """Return the columns that every table of this verb has, in order."""
        return ["image", *([self.words] if self.words else []), *self.results, "error"]


VERBS = {
    "vqa": Verb("vqa", "question", {"answer": "text", "score": "score"}),
    "caption": Verb("caption", None, {"caption": "text", "score": "score"}),
    "classify": Verb("classification", None, {"label": "text", "score": "score", "probabilities": "probabilities"}),
    "ground": Verb("grounding", "phrase", {name: name for name in ("left", "top", "right", "bottom", "score")}),
    "match": Verb("retrieval", "text", {"probability": "probability", "similarity": "similarity"}),
    "embed": Verb("retrieval", None, {"vector": "vector"}),
}
"""Name of a verb -> what it means; a new verb is one entry here and one command."""


def predict_items(model: Model, verb: Verb, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Predict items whose pixels are ready.

    Args:
        model: A model that can do the verb's task.
        verb: What to predict.
        items: Pixels and words.

    Returns:
        The results of each item by column, in the order of the items.
    """
    seen = [item for item in items if item.pixels is not None]
    if "vector" in verb.results:
        clips = [item.pixels.ndim == 4 for item in seen if item.pixels is not None]
        pixels = [item.pixels for item in seen if item.pixels is not None]
        return [{"vector": vector.tolist()} for vector in embed_pixels(model, clips, pixels.__getitem__, model.batch_size)]
    if verb.task == "grounding":
        found: Sequence[Any] = find_boxes(model, seen)
    else:
        found = model.results(verb.task, [(item.pixels, item.sample.text) for item in seen if item.pixels is not None])
    return [{column: getattr(one, field) for column, field in verb.results.items()} for one in found]
