"""Generation, ranking and matching the plain way, batched, as the originals do it: what our way is timed against.

Every step runs the decoder over the whole prefix of all beams of the batch in one call, with logits at every position. The memory
is repeated for each beam or candidate, and its keys and values are projected again in every layer, for every one of them, at every
step. A pair of picture and text is fused in full. Attention runs in the same fused kernel as on our side, so that the ratio shows the
algorithm alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.models.decoder import TextDecoder
from openmplug.models.generation import BEGIN_ID, END_ID
from openmplug.models.mplug import MPLUG


@torch.no_grad()
def plain_beam_search(
    decoder: TextDecoder, states: Tensor, mask: Tensor | None, *, num_beams: int, min_length: int, max_length: int
) -> list[tuple[tuple[int, ...], float]]:
    """Search with ``num_beams`` rows per item from the first step on.

    Args:
        decoder: The decoder, in eval mode.
        states: What it attends to, (B, S, D).
        mask: (B, S) bool or None.
        num_beams: Beams per item.
        min_length: No end token before that many new tokens.
        max_length: Most new tokens.

    Returns:
        The best ids and their score for each item.
    """
    items, device = len(states), states.device
    live = list(range(items))
    found: list[list[tuple[tuple[int, ...], float]]] = [[] for _ in live]
    states = states.repeat_interleave(num_beams, dim=0)  # (B * beams, S, D)
    mask = None if mask is None else mask.repeat_interleave(num_beams, dim=0)
    ids = torch.full((items * num_beams, 1), BEGIN_ID, device=device)
    totals = torch.full((items, num_beams), -torch.inf, device=device)
    totals[:, 0] = 0.0
    for step in range(max_length):
        logits = decoder(ids, torch.ones_like(ids, dtype=torch.bool), decoder.project_memory(states, mask))  # (rows, t, vocab)
        log_probs = logits[:, -1].float().log_softmax(dim=-1)
        if step < min_length:
            log_probs[:, END_ID] = -1e20
        penalty, vocab = ((5 + step + 1) / 6) ** 0.6, log_probs.shape[1]
        best, flat = ((log_probs.view(*totals.shape, vocab) + totals[..., None]).flatten(1) / penalty).topk(num_beams, dim=1)
        totals = best * penalty
        rows = (flat // vocab + torch.arange(len(live), device=device)[:, None] * num_beams).flatten()
        ids = torch.cat([ids[rows], (flat % vocab).flatten()[:, None]], dim=1)
        ended = (flat % vocab == END_ID) | (step + 1 == max_length)
        if not ended.any():
            continue
        texts, scores, over = ids.view(len(live), num_beams, -1).tolist(), best.tolist(), ended.tolist()
        for place, item in enumerate(live):
            chosen = [beam for beam in range(num_beams) if over[place][beam] or over[place][0]]
            found[item] += [(tuple(texts[place][beam]), scores[place][beam]) for beam in chosen]
        going = torch.tensor([place for place in range(len(live)) if not over[place][0]], dtype=torch.int64, device=device)
        if not len(going):
            break
        kept = (going[:, None] * num_beams + torch.arange(num_beams, device=device)).flatten()
        live, totals = [live[place] for place in going.tolist()], totals[going]
        states, ids = states[kept], ids[kept]
        mask = None if mask is None else mask[kept]
    return [max(hypotheses, key=lambda one: one[1]) for hypotheses in found]


@torch.no_grad()
def plain_rank(
    decoder: TextDecoder, states: Tensor, mask: Tensor | None, ids: Tensor, real: Tensor, k: int, per_call: int = 128
) -> tuple[Tensor, Tensor]:
    """Rank candidates with the memory repeated k times and logits over the whole vocabulary at every position.

    Args:
        decoder: The decoder, in eval mode.
        states: What it attends to, (B, S, D).
        mask: (B, S) bool or None.
        ids: Candidates (A, T): [CLS] ... [SEP], right-padded.
        real: (A, T) bool.
        k: Candidates per item that are scored whole.
        per_call: Candidates per item at a time. The originals take all at once, which for thousands needs tens of gigabytes.

    Returns:
        Indices into the candidates and probabilities, both (B, k), best first.
    """
    begin = ids[:1, :1].expand(len(states), 1)
    logits = decoder(begin, torch.ones_like(begin, dtype=torch.bool), decoder.project_memory(states, mask))[:, -1]
    first, chosen = logits.float().softmax(dim=-1)[:, ids[:, 1]].topk(k, dim=1)
    losses = torch.cat([_answer_losses(decoder, states, mask, ids[part], real[part]) for part in chosen.split(per_call, dim=1)], dim=1)
    probabilities, order = (first.log() - losses).softmax(dim=1).sort(dim=1, descending=True)
    return chosen.gather(1, order), probabilities


def _answer_losses(decoder: TextDecoder, states: Tensor, mask: Tensor | None, texts: Tensor, real: Tensor) -> Tensor:
    """Compute the summed cross-entropy (B, c) of texts (B, c, T)."""
    count = texts.shape[1]
    texts, real = texts.flatten(0, 1), real.flatten(0, 1)
    mask = None if mask is None else mask.repeat_interleave(count, dim=0)
    logits = decoder(texts, real, decoder.project_memory(states.repeat_interleave(count, dim=0), mask))  # (B * c, T, vocab)
    labels = texts.masked_fill(~real, -100)[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), labels, ignore_index=-100, reduction="none")
    return losses.sum(dim=1).view(-1, count)


@torch.no_grad()
def plain_match(model: MPLUG, vision: Tensor, text: Tensor, mask: Tensor, per_call: int = 64) -> Tensor:
    """Score all texts for each picture: its tokens repeated for them, every layer over every token of every pair.

    Args:
        model: With fusion and matching head, in eval mode.
        vision: (I, V, D).
        text: (J, T, D), padded to the length the original pads to.
        mask: (J, T) bool.
        per_call: Pairs at a time.

    Returns:
        Matching logits (I, J).
    """
    rows = []
    for picture in vision:
        scores = []
        for texts, real in zip(text.split(per_call), mask.split(per_call), strict=True):
            fused = model.fuse(picture.repeat(len(texts), 1, 1), texts, real)
            scores.append(model.matching(fused.text)[:, 1].float())
        rows.append(torch.cat(scores))
    return torch.stack(rows)
