"""The slow way to generate and to rank, written from the specification: no cache, every beam on its own. The oracle for ours."""

from __future__ import annotations

import torch
from torch import Tensor

from openmplug.models.decoder import TextDecoder


def _log_probs(decoder: TextDecoder, ids: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """Run the decoder on whole prefixes, projecting the memory anew for every row; log probabilities of the next token."""
    memory = decoder.project_memory(states, mask)
    return decoder(ids, torch.ones_like(ids, dtype=torch.bool), memory)[:, -1].float().softmax(dim=-1).log()


@torch.no_grad()
def plain_beam_search(
    decoder: TextDecoder,
    states: Tensor,
    mask: Tensor | None,
    num_beams: int,
    min_length: int,
    max_length: int,
    prompt: Tensor | None = None,
    num_return: int = 1,
) -> list[list[tuple[tuple[int, ...], float]]]:
    """Search one item at a time, as the original does. Returns (ids, score), best first."""
    results = []
    for item in range(len(states)):
        begin = [101] if prompt is None else prompt[item].tolist()
        beams = [(begin, 0.0 if beam == 0 else -torch.inf) for beam in range(num_beams)]
        memory = states[item : item + 1].expand(num_beams, -1, -1)
        visible = None if mask is None else mask[item : item + 1].expand(num_beams, -1)
        found: list[tuple[tuple[int, ...], float]] = []
        for step in range(max_length):
            log_probs = _log_probs(decoder, torch.tensor([ids for ids, _ in beams]), memory, visible)
            if step < min_length:
                log_probs[:, 102] = -1e20
            penalty = ((5 + step + 1) / 6) ** 0.6
            scores = (log_probs + torch.tensor([total for _, total in beams])[:, None]).flatten() / penalty
            best, flat = scores.topk(num_beams)
            width = log_probs.shape[1]
            chosen = [(beams[i // width][0] + [i % width], s) for i, s in zip(flat.tolist(), best.tolist(), strict=True)]
            ended = [ids[-1] == 102 or step + 1 == max_length for ids, _ in chosen]
            found += [(tuple(ids), score) for (ids, score), over in zip(chosen, ended, strict=True) if over or ended[0]]
            if ended[0]:
                break
            beams = [(ids, score * penalty) for ids, score in chosen]
        results.append(sorted(found, key=lambda one: -one[1])[:num_return])
    return results


@torch.no_grad()
def plain_rank(decoder: TextDecoder, states: Tensor, mask: Tensor | None, ids: Tensor, real: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rank candidates, as the original does, with the memory repeated for each. Returns indices and probabilities."""
    begin = ids[:1, :1].expand(len(states), 1)
    first = _log_probs(decoder, begin, states, mask).exp()
    chosen = first[:, ids[:, 1]].topk(k, dim=1)
    rows = chosen.indices.flatten()
    visible = None if mask is None else mask.repeat_interleave(k, dim=0)
    memory = decoder.project_memory(states.repeat_interleave(k, dim=0), visible)
    log_probs = decoder(ids[rows], real[rows], memory).float().log_softmax(dim=-1)[:, :-1]
    whole = (log_probs.gather(2, ids[rows][:, 1:, None])[..., 0] * real[rows][:, 1:]).sum(dim=1)
    scores = chosen.values.log() + whole.view(-1, k)
    probabilities, order = scores.softmax(dim=1).sort(dim=1, descending=True)
    return chosen.indices.gather(1, order), probabilities
