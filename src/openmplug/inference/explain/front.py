"""``Model.explain``: what is asked of which model, in batches, and the words of what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmplug.batch import Batch, Tokens
from openmplug.data.text import target_text
from openmplug.data.tokenizer import Tokenizer
from openmplug.device import autocast
from openmplug.errors import UsageError
from openmplug.inference.explain.explanation import Explanation, Kind
from openmplug.inference.explain.reading import Layers, Reading, read_match, read_writing
from openmplug.inference.explain.words import words_of
from openmplug.inference.visuals import Shown, VisualInput, is_clip
from openmplug.models.packing import PackedLinear
from openmplug.tasks.base import Task
from openmplug.tasks.captioning import CaptioningTask
from openmplug.tasks.vqa import VQATask

if TYPE_CHECKING:
    from openmplug.inference.model import Model

KINDS: dict[str, Kind] = {"retrieval": "match", "vqa": "answer", "caption": "caption"}
"""Task -> what of it can be explained."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be explained: the input, the words about it, and an answer or caption in the place of the model's own."""

    visual: VisualInput
    text: str | None
    target: str | None


def explain(model: Model, asked: Sequence[Asked], task: str | None, layers: Layers) -> list[Explanation]:
    """Explain; see ``Model.explain``."""
    name = task or model.name or ("caption" if all(one.text is None for one in asked) else "retrieval")
    if name not in KINDS:
        raise UsageError(f"task '{name}' cannot be explained; matching, answers and captions can: {', '.join(KINDS)}")
    _check(name, asked)
    around = model.task_for(name)
    if name == "retrieval" and "matching" not in model.network.modules_built:
        raise UsageError("this model was trained without matching (settings.matching_weight: 0), so no verdict hangs on its words")
    shown: dict[int, Shown] = {}

    def pixels(position: int) -> Tensor:
        shown[position] = model.visuals.shown(asked[position].visual)
        return shown[position].pixels

    found: dict[int, Explanation] = {}
    for positions, batch in model.batches([one.text for one in asked], [is_clip(one.visual) for one in asked], pixels, around):
        part = [asked[position] for position in positions]
        with PackedLinear.kept(model.network), autocast(model.device, "fp32" if model.precision == "bf16" else model.precision):
            maps = _match_maps(model, batch, layers) if name == "retrieval" else _writing_maps(model, around, batch, part, layers)
        for row, position in enumerate(positions):
            found[position] = _explanation(KINDS[name], asked[position], maps[row], shown.pop(position), model.network.frame_step)
    return [found[position] for position in range(len(asked))]


def _check(name: str, asked: Sequence[Asked]) -> None:
    for one in asked:
        if name == "caption" and one.text is not None:
            raise UsageError("a captioner is asked nothing; leave the text out, or make it the target to explain a caption of your own")
        if name != "caption" and not (one.text or "").strip():
            raise UsageError("a text is needed: the sentence that is matched, or the question that is answered")
        if name == "retrieval" and one.target is not None:
            raise UsageError("matching writes nothing; leave the target out")
        if one.target is not None and not one.target.strip():
            raise UsageError("the target is empty; give an answer or a caption, or leave it out to explain the model's own")


@dataclass(frozen=True, slots=True)
class _Maps:
    """The words of one item with their maps (F, h, w): what was read, and what was written. ``whole`` is of all of them."""

    score: float
    output: str
    read: list[tuple[str, NDArray[np.float32]]]
    written: list[tuple[str, NDArray[np.float32]]]
    whole: NDArray[np.float32]


def _explanation(kind: Kind, asked: Asked, maps: _Maps, shown: Shown, frame_step: int) -> Explanation:
    both = [*maps.read, *maps.written]
    stacked = np.stack([each for _, each in both]) if both else np.zeros((0, *maps.whole.shape), np.float32)
    whole = maps.whole
    if not shown.frames:  # a picture is not a clip of one frame
        stacked, whole = stacked[:, 0], whole[0]
    return Explanation(
        kind=kind,
        text=asked.text or "",
        output=maps.output,
        score=maps.score,
        words=tuple(word for word, _ in both),
        written=len(maps.written),
        maps=stacked,
        whole=whole,
        size=shown.size,
        frames=shown.frames[::frame_step],
        pictures=shown.pictures[::frame_step],
    )


def _match_maps(model: Model, batch: Batch, layers: Layers) -> list[_Maps]:
    assert batch.images is not None and batch.text is not None
    reading = read_match(model.network, batch.images, batch.text, layers)
    made = []
    for row, score in enumerate(reading.scores.tolist()):
        read, whole = _read(model, reading, batch.text, row)
        made.append(_Maps(score, "", read, [], whole))
    return made


def _writing_maps(model: Model, task: Task, batch: Batch, asked: Sequence[Asked], layers: Layers) -> list[_Maps]:
    assert batch.images is not None and isinstance(task, CaptioningTask | VQATask)
    outputs = _outputs(model, task, batch, [one.target for one in asked])
    tokens = _padded([ids for _, ids in outputs], model.tokenizer.pad_id).to(model.device)
    given = max(1, len(task.given_ids)) if isinstance(task, CaptioningTask) else 1
    text = batch.text if isinstance(task, VQATask) else task.asked(batch.images)
    reading = read_writing(model.network, batch.images, None if text is None else text.to(model.device), tokens, given, layers)
    made = []
    for row, (score, (output, ids)) in enumerate(zip(reading.scores.tolist(), outputs, strict=True)):
        assert reading.written is not None
        written = _word_maps(ids[given:], reading.written[row], model.tokenizer)
        if isinstance(task, VQATask):
            assert text is not None
            read, whole = _read(model, reading, text, row)
        else:  # what a caption hangs on is shown for its own words, not for an instruction's
            read, whole = [], np.mean([each for _, each in written], axis=0) if written else np.zeros(reading.written.shape[2:], np.float32)
        made.append(_Maps(score, output, read, written, whole))
    return made


def _read(model: Model, reading: Reading, text: Tokens, row: int) -> tuple[list[tuple[str, NDArray[np.float32]]], NDArray[np.float32]]:
    """Return the maps of the words that were read, and their mean with that of [CLS]."""
    assert reading.read is not None
    length = int(text.mask[row].sum())
    maps = reading.read[row, :length]
    return _word_maps(text.ids[row, :length].tolist(), maps, model.tokenizer), maps.mean(dim=0).cpu().numpy()


def _word_maps(ids: Sequence[int], maps: Tensor, tokenizer: Tokenizer) -> list[tuple[str, NDArray[np.float32]]]:
    """Make one map (F, h, w) of the pieces of each word."""
    return [(word.text, maps[list(word.places)].mean(dim=0).cpu().numpy()) for word in words_of(ids, tokenizer)]


# ------------------------------------------------------------------------------------------------------------ what was written


def _outputs(model: Model, task: CaptioningTask | VQATask, batch: Batch, targets: Sequence[str | None]) -> list[tuple[str, list[int]]]:
    """Return each item's answer or caption, with its tokens from [CLS] on: the target, or what the model writes."""
    own: list[tuple[str, list[int]]] = []
    if any(target is None for target in targets):
        with model.computing():
            if isinstance(task, VQATask) and task.settings.inference == "rank":
                own = [(one.text, _encoded(model, task, one.text)) for one in task.predict(batch)]
            else:
                own = [(text, list(best.ids)) for text, best in task.write(batch)]
    return [own[row] if target is None else (target, _encoded(model, task, target)) for row, target in enumerate(targets)]


def _encoded(model: Model, task: CaptioningTask | VQATask, text: str) -> list[int]:
    """Return an answer or caption as the tokens that training makes of it."""
    if isinstance(task, CaptioningTask):
        prompt, text = task.settings.prompt, text.lower()
        text = target_text(text.removeprefix(prompt).lstrip(), prompt)
    else:
        text = target_text(text)
    ids, positions = model.tokenizer.encode(text), model.network.config.max_positions
    if len(ids) - 1 > positions:  # the last one is written, not read
        raise UsageError(f"the target has {len(ids)} tokens, the model positions for {positions + 1}; shorten it")
    return ids


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> Tokens:
    widest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (widest - len(row))] for row in rows])
    return Tokens(ids, torch.arange(widest) < torch.tensor([len(row) for row in rows])[:, None])
