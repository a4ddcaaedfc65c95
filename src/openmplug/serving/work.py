"""What the model process is asked and what it says: the same questions as ``Model``'s methods, about pixels that are decoded already."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmplug.batch import Item, Placement, Sample
from openmplug.data.box_transforms import EvalBoxes
from openmplug.errors import ModelError, UsageError
from openmplug.inference.abilities import box_transform, embed_batch, find_boxes
from openmplug.inference.results import Answer, Match
from openmplug.inference.visuals import VisualTransform

if TYPE_CHECKING:
    from openmplug.inference.model import Model
    from openmplug.inference.search.index import Index
    from openmplug.inference.search.results import Hit

TASK_OF = {"caption": "caption", "answer": "vqa", "match": "retrieval", "ground": "grounding", "embed": "retrieval"}
"""The task that a model must be able to do for an endpoint."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the jobs of one batch have in common.

    Args:
        endpoint: ``caption``, ``answer``, ``match``, ``ground``, ``embed`` or ``search``.
        settings: Names and values, in order, as hashable values.
        clips: Whether what is looked at are videos.
    """

    endpoint: str
    settings: tuple[tuple[str, Any], ...] = ()
    clips: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """A decoded picture (3, size, size) or clip (F, 3, size, size), float32, and the way back where boxes are looked for."""

    pixels: NDArray[np.float32]
    placement: Placement | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One thing to work on: something seen, something said, or both. Pieces about one picture share its ``Visual``."""

    visual: Visual | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What the service has to know of a model to receive requests for it.

    Args:
        task: What it was trained for; None = nothing in particular.
        refused: Endpoints it cannot serve, with the reason.
        visuals: How pictures and videos become pixels.
        boxes: How pictures do where phrases are found; None where they are not.
        frames: Frames of a clip.
        device: Where it runs.
        precision: Its number type.
    """

    task: str | None
    refused: dict[str, str]
    visuals: VisualTransform
    boxes: EvalBoxes | None
    frames: int
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class Served:
    """What a model process holds: the model, and the index it searches, if any."""

    model: Model
    index: Index | None = None


def describe(served: Served) -> About:
    """Say what can be asked."""
    model, refused = served.model, {}
    for endpoint, task in TASK_OF.items():
        try:
            model.require(task)
        except UsageError as error:
            refused[endpoint] = str(error)
        except ModelError as error:
            refused[endpoint] = f"the model that is served cannot do this: {error}"
    if served.index is None:
        refused["search"] = "this service has no index; start it with --index DIR"
    boxes = None if "ground" in refused else box_transform(model)
    plain = VisualTransform(model.image, model.video)
    return About(model.name, refused, plain, boxes, model.video.frames, str(model.device), model.precision)


def do_work(served: Served, work: Work, pieces: Sequence[Piece]) -> list[Any]:
    """Work on one batch.

    Returns:
        For each piece what its endpoint sends, as plain values.

    Raises:
        UsageError: If a setting is out of its range.
    """
    model, settings = served.model, dict(work.settings)
    if work.endpoint == "search":
        return _search(served, pieces, **settings)
    if work.endpoint == "embed":
        return _embed(model, pieces)
    if work.endpoint == "ground":
        items = [Item(Sample("", text=piece.text), _tensor(piece), placement=_visual(piece).placement) for piece in pieces]
        boxes = find_boxes(model, items)
        return [{"box": [one.left, one.top, one.right, one.bottom], "score": one.score} for one in boxes]
    items_seen = [(_tensor(piece), piece.text) for piece in pieces]
    return [_plain(one) for one in model.results(TASK_OF[work.endpoint], items_seen, **settings)]


def _embed(model: Model, pieces: Sequence[Piece]) -> list[list[float]]:
    if pieces[0].visual is None:
        if any(not (piece.text or "").strip() for piece in pieces):
            raise UsageError("a text is empty; say something")
        return model.embed_texts([piece.text or "" for piece in pieces]).tolist()
    return embed_batch(model, torch.stack([_tensor(piece) for piece in pieces])).tolist()


def _search(
    served: Served, pieces: Sequence[Piece], k: int, where: str | None = None, rerank: int = 0, thumbnails: bool = False
) -> list[list[dict[str, Any]]]:
    index = served.index
    assert index is not None
    if rerank:
        if any(piece.text is None for piece in pieces):
            raise UsageError("the matching head reads words, so only a search by words can be ranked again; leave rerank out")
        found = [index.search(piece.text or "", k, where, rerank) for piece in pieces]
    else:
        found = [index.search_vector(np.array(vector, np.float32), k, where) for vector in _embed(served.model, pieces)]
    return [[_hit(hit, thumbnails) for hit in hits] for hits in found]


def _hit(hit: Hit, thumbnails: bool) -> dict[str, Any]:
    """Return a hit without what is nobody's business outside: where its file lies on this machine."""
    plain = {name: value for name, value in hit.to_dict().items() if name not in ("path", "problem")}
    return {**plain, "thumbnail": base64.b64encode(hit.thumbnail).decode() if thumbnails and hit.thumbnail else None}


def _visual(piece: Piece) -> Visual:
    assert piece.visual is not None
    return piece.visual


def _tensor(piece: Piece) -> torch.Tensor:
    return torch.from_numpy(_visual(piece).pixels)


def _plain(result: Any) -> dict[str, Any]:
    if isinstance(result, Match):
        return {"probability": result.probability, "similarity": result.similarity}
    plain: dict[str, Any] = {"text": result.text, "score": result.score if math.isfinite(result.score) else None}
    if isinstance(result, Answer):
        plain["candidates"] = [{"text": text, "probability": probability} for text, probability in result.candidates]
    return plain
