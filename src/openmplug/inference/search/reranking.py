"""A second look at what was found: the matching head reads each picture together with the words, as the papers evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openmplug.data.video import Video
from openmplug.errors import DataError, UsageError
from openmplug.inference.abilities import encode_visuals, text_tokens
from openmplug.inference.model import Model
from openmplug.inference.search.moments import find_moment
from openmplug.inference.search.places import read_again
from openmplug.inference.search.results import Hit
from openmplug.inference.visuals import by_kind
from openmplug.tasks.reranking import Encoded, text_to_image


def check_reranking(model: Model) -> None:
    """Refuse a model without matching head.

    Raises:
        UsageError: If it has none.
    """
    lacking = [part for part in ("fusion", "matching") if part not in model.network.modules_built]
    if lacking:
        raise UsageError(f"this model has no {' and no '.join(lacking)}, so it cannot rank again; search without --rerank")


def rerank(model: Model, text: str, hits: Sequence[Hit]) -> list[Hit]:
    """Order hits by the matching head, their pictures read again from their files.

    The score is the matching logit; with videos among the hits the similarity is added to it, as ``RetrievalTask`` evaluates. A file that
    cannot be read any more keeps its similarity as score, says so in ``problem``, and stands behind those that were ranked.

    Args:
        model: One with a matching head.
        text: What was asked.
        hits: Nearest first.

    Raises:
        UsageError: If the model has no matching head.
    """
    check_reranking(model)
    tokens = text_tokens(model, [text]).to(model.device)
    with model.computing():
        states = model.network.encode_text(tokens.ids, tokens.mask)
        text_features = model.network.contrastive.text_features(states)
    add_similarity = any(hit.start_seconds is not None for hit in hits)
    pixels, problems = _read(model, hits)
    logits: dict[int, float] = {}
    there = sorted(pixels)
    for some in by_kind([pixels[at].ndim == 4 for at in there], [0] * len(there), model.batch_size, model.video.frames):
        part = [there[position] for position in some]
        with model.computing():
            vision, features = encode_visuals(model, torch.stack([pixels.pop(at) for at in part]).to(model.device))
            split = Encoded(vision, features.float(), states, tokens.mask, text_features.float())
            (scores,) = torch.cat(list(text_to_image(model.network, split, len(part), add_similarity)))
        logits.update(zip(part, scores.tolist(), strict=True))
    ranked = sorted(logits, key=logits.__getitem__, reverse=True)
    found = [_with(hits[at], score=logits[at], matching=logits[at]) for at in ranked]
    return found + [_with(hits[at], problem=problem) for at, problem in sorted(problems.items())]


def _read(model: Model, hits: Sequence[Hit]) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Return the pixels of the hits that can be read, and why the others cannot."""
    pixels: dict[int, Tensor] = {}
    problems: dict[int, str] = {}
    for at, hit in enumerate(hits):
        try:
            found = read_again(hit.path)
            if not isinstance(found, Video):
                pixels[at] = model.visuals.picture(found)
                continue
            with found:
                whole = hit.start_seconds is None or hit.end_seconds is None
                moment = found if whole else find_moment(found, hit.start_seconds or 0.0, hit.end_seconds or 0.0)
                pixels[at] = model.visuals.clip(moment)
        except DataError as error:
            problems[at] = str(error)
    return pixels, problems


def _with(hit: Hit, score: float | None = None, matching: float | None = None, problem: str | None = None) -> Hit:
    return replace(hit, score=hit.score if score is None else score, matching=matching, problem=problem)
