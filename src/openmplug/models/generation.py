"""Writing text with a decoder: the original's beam search, greedy and sampling; ``ranking`` chooses among given answers.

Every function decodes with a key/value cache and projects the memory of an item once, however many beams, candidates and steps
use it. The plain path (whole prefix every step, memory projected for every beam) lives in the tests as the oracle.

What returns plain numbers runs in inference mode: a step of one item is hundreds of small operations, and not tracking them saves
nearly half of what they cost beside the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openmplug.models.beams import BeamState
from openmplug.models.decoder import DecoderMemory, DecoderState, TextDecoder

BEGIN_ID, END_ID = 101, 102  # [CLS] and [SEP] of every BERT vocabulary; hard-coded in the originals


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A generated text: its ids with the begin token, prompt and (where written) end token, and its score.

    ``score`` is the summed log probability of the new tokens divided by the length penalty.
    """

    ids: tuple[int, ...]
    score: float


def length_penalty(new_tokens: int) -> float:
    """GNMT's length penalty with exponent 0.6."""
    return ((5 + new_tokens) / 6) ** 0.6


def check_lengths(decoder: TextDecoder, num_beams: int, min_length: int, max_length: int, prompt_length: int) -> None:
    """Refuse contradictions before anything is computed.

    Raises:
        ValueError: If the lengths contradict each other, or the model has too few positions or words.
    """
    if not 0 <= min_length <= max_length or max_length < 1:
        raise ValueError(f"min_length {min_length} and max_length {max_length} contradict; choose 0 <= min_length <= max_length")
    words, positions = decoder.embeddings.words.num_embeddings, decoder.embeddings.positions.num_embeddings
    if not 1 <= num_beams <= words:
        raise ValueError(f"num_beams is {num_beams}; choose 1 to {words}, the size of the vocabulary")
    # The last token is never fed back, so it needs no position.
    if prompt_length + max_length - 1 > positions:
        raise ValueError(f"prompt of {prompt_length} and max_length {max_length} exceed {positions} positions; lower max_length")


def begin_prompt(items: int, device: torch.device) -> Tensor:
    """Begin every item with [CLS], (B, 1)."""
    return torch.full((items, 1), BEGIN_ID, device=device)


def top_words(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest of each row of logits (R, vocab): values and indices (R, k), largest first.

    On a CPU ``topk`` copies and walks a row several times. The k largest lie in the k blocks with the largest maxima, and maxima
    are found at the speed of reading.
    """
    vocab, block = logits.shape[1], 64
    whole = vocab // block * block
    if logits.device.type != "cpu" or whole < 4 * k * block:
        return logits.topk(k, dim=1)
    maxima = logits[:, :whole].unflatten(1, (-1, block)).amax(dim=2)
    if whole < vocab:
        maxima = torch.cat([maxima, logits[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    first = maxima.topk(k, dim=1).indices * block
    places = (first[:, :, None] + torch.arange(block)).flatten(1)  # (R, k * block)
    candidates = logits.gather(1, places.clamp(max=vocab - 1)).masked_fill_(places >= vocab, -torch.inf)
    values, order = candidates.topk(k, dim=1)
    return values, places.gather(1, order)


def next_words(decoder: TextDecoder, hidden: Tensor, k: int, forbidden: int | None = None) -> tuple[Tensor, Tensor]:
    """Find the k most probable next words of each row.

    A product in bf16 leaves two or three digits of a logit, too few to order words by. There it only finds more candidates than are
    asked for; theirs are computed again in fp32, and the sum over the vocabulary is corrected by the difference.

    Args:
        decoder: The decoder.
        hidden: States (R, D).
        k: How many words.
        forbidden: A word with log probability -1e20; it keeps its share of the probability, as in the originals.

    Returns:
        Log probabilities and words, (R, k) each, best first.
    """
    states = decoder.head.transformed(hidden)
    product = decoder.head.logits(states, decoder.embeddings.words.weight)
    logits = product.float()  # (R, vocab)
    mass = logits.logsumexp(dim=1, keepdim=True)
    if forbidden is not None:
        logits[:, forbidden] = -1e20
    # The best of all rows of an item are among the best of each row, so the vocabulary is passed over once, not once an operation.
    if product.dtype is torch.float32:
        values, words = top_words(logits, k)
        return values - mass, words
    values, words = top_words(logits, min(4 * k, logits.shape[1]))
    table, bias = decoder.embeddings.words.weight, decoder.head.bias
    exact = (table[words].float() @ states.float()[:, :, None])[..., 0] + bias[words].float()  # (R, 4k)
    if forbidden is not None:
        exact = exact.masked_fill(words == forbidden, -1e20)
    mass = mass + ((exact - mass).exp() - (values - mass).exp()).sum(dim=1, keepdim=True).log1p()
    values, order = exact.topk(k, dim=1)
    return values - mass, words.gather(1, order)


@torch.inference_mode()
def beam_search(
    decoder: TextDecoder,
    memory: DecoderMemory,
    *,
    num_beams: int,
    min_length: int = 0,
    max_length: int,
    prompt: Tensor | None = None,
    num_return: int = 1,
    end_id: int = END_ID,
) -> list[list[Hypothesis]]:
    """Search as the originals do, quirks included.

    An item ends when its best beam ends; then all its beams, finished or not, join its list. A finished beam that is not the best
    is recorded but stays, and may be continued beyond its end token. Scores are normalised by the length at which they were
    recorded. ``min_length`` and ``max_length`` count new tokens only.

    Args:
        decoder: The decoder, in eval mode.
        memory: Of B items.
        num_beams: Beams per item; 1 is greedy.
        min_length: No end token before that many new tokens.
        max_length: Most new tokens.
        prompt: Ids (B, P) to begin with; default [CLS].
        num_return: How many hypotheses to return per item, at most what was found.
        end_id: The token that ends a text.

    Returns:
        For each item its hypotheses, best first.

    Source: ``predictor.TextGenerator`` of the originals.
    """
    items, device = len(memory), memory.layers[0].keys.device
    prompt = begin_prompt(items, device) if prompt is None else prompt
    check_lengths(decoder, num_beams, min_length, max_length, prompt.shape[1])
    found: list[list[Hypothesis]] = [[] for _ in range(items)]
    live = list(range(items))  # which item each group of beams belongs to
    capacity = prompt.shape[1] + max_length - 1
    state: DecoderState | BeamState = decoder.start(memory, items, capacity)
    ids = prompt  # (rows, tokens so far)
    totals = torch.zeros(items, 1, device=device)  # log probability of each beam, (items, beams)
    new = prompt
    for step in range(max_length):
        hidden = decoder.step(new, state)[:, -1]
        penalty = length_penalty(step + 1)
        values, words = next_words(decoder, hidden, num_beams, end_id if step < min_length else None)  # (rows, beams)
        scores = (values + totals.view(-1, 1)) / penalty
        best, flat = scores.view(len(live), -1).topk(num_beams, dim=1)  # of each item's rows * beams
        totals = best * penalty
        # Row of the previous step that each new beam continues.
        rows = (flat // num_beams + torch.arange(len(live), device=device)[:, None] * (len(values) // len(live))).flatten()
        chosen = words.view(len(live), -1).gather(1, flat)  # (items, beams)
        new = chosen.flatten()[:, None]
        ids = torch.cat([ids.index_select(0, rows), new], dim=1)
        last = step + 1 == max_length
        ended = torch.ones_like(chosen, dtype=torch.bool) if last else chosen == end_id
        going: list[int] = []
        if ended.any():
            texts, marks, flags = ids.unflatten(0, flat.shape).tolist(), best.tolist(), ended.tolist()
            for place, item in enumerate(live):
                over = flags[place][0]
                for beam in range(num_beams):
                    if over or flags[place][beam]:
                        found[item].append(Hypothesis(tuple(texts[place][beam]), marks[place][beam]))
                if not over:
                    going.append(place)
        else:
            going = list(range(len(live)))
        if not going:
            break
        kept: Tensor | None = None
        if len(going) < len(live):
            kept = torch.tensor(going, device=device)
            live = [live[place] for place in going]
            totals = totals[kept]
            rows, new, ids = (x.unflatten(0, (len(flat), num_beams))[kept].flatten(0, 1) for x in (rows, new, ids))
        if isinstance(state, BeamState):
            state.reorder(flat // num_beams, kept)
        elif num_beams > 1 and not decoder.training:
            state = BeamState.of(state, num_beams, capacity)
            state.reorder(torch.zeros_like(flat), kept)  # all continue the one row there was
        elif num_beams > 1 or kept is not None:
            state.reorder(rows, kept)
    return [sorted(hypotheses, key=lambda one: -one.score)[:num_return] for hypotheses in found]


@torch.inference_mode()
def sample(
    decoder: TextDecoder,
    memory: DecoderMemory,
    *,
    min_length: int = 0,
    max_length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    prompt: Tensor | None = None,
    generator: torch.Generator | None = None,
    end_id: int = END_ID,
) -> list[Hypothesis]:
    """Draw one text per item.

    Args:
        decoder: The decoder, in eval mode.
        memory: Of B items.
        min_length: No end token before that many new tokens.
        max_length: Most new tokens.
        temperature: Above 0; 0 is greedy (the most probable token each time).
        top_k: Draw among the k most probable tokens; 0 = all.
        top_p: Draw among the most probable tokens that together reach this probability, in (0, 1].
        prompt: Ids (B, P) to begin with; default [CLS].
        generator: For reproducible draws.
        end_id: The token that ends a text.

    Returns:
        One hypothesis per item, scored by the model's own (untempered) log probabilities.

    Raises:
        ValueError: If a setting is out of its range.
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}: expected >= 0, >= 0 and in (0, 1]")
    items, device = len(memory), memory.layers[0].keys.device
    prompt = begin_prompt(items, device) if prompt is None else prompt
    check_lengths(decoder, 1, min_length, max_length, prompt.shape[1])
    state = decoder.start(memory, items, prompt.shape[1] + max_length - 1)
    totals = torch.zeros(items, device=device)
    lengths = torch.zeros(items, dtype=torch.int64, device=device)
    done = torch.zeros(items, dtype=torch.bool, device=device)
    ids = new = prompt
    for step in range(max_length):
        log_probs = decoder.logits(decoder.step(new, state)[:, -1]).float().log_softmax(dim=-1)  # (B, vocab)
        if step < min_length:
            log_probs[:, end_id] = -1e20
        if temperature == 0:
            new = log_probs.argmax(dim=-1, keepdim=True)
        else:
            new = torch.multinomial(_truncate(log_probs / temperature, top_k, top_p).softmax(dim=-1), 1, generator=generator)
        totals += log_probs.gather(1, new)[:, 0].masked_fill(done, 0.0)
        lengths += ~done
        ids = torch.cat([ids, new], dim=1)
        done |= new[:, 0] == end_id
        if done.all():
            break
    texts, sums, counts = ids.tolist(), totals.tolist(), lengths.tolist()
    start = prompt.shape[1]
    return [Hypothesis(tuple(text[: start + n]), total / length_penalty(n)) for text, total, n in zip(texts, sums, counts, strict=True)]


def greedy(decoder: TextDecoder, memory: DecoderMemory, **settings: int) -> list[Hypothesis]:
    """Take the most probable token each time; the same texts as a beam search with one beam."""
    return sample(decoder, memory, temperature=0.0, **settings)  # type: ignore[arg-type]


def _truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set everything outside the top k and outside the nucleus of mass ``top_p`` to -inf."""
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
    if top_p < 1:
        ordered, places = logits.sort(dim=-1, descending=True)
        mass_before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        logits = logits.masked_fill(torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, mass_before >= top_p), -torch.inf)
    return logits


def sequence_log_probs(decoder: TextDecoder, memory: DecoderMemory, ids: Tensor, mask: Tensor) -> Tensor:
    """Score given texts in one forward, with gradient.

    Args:
        decoder: The decoder.
        memory: Of B items.
        ids: (R, T), B dividing R; row r belongs to item ``r // (R / B)``.
        mask: (R, T) bool, True = real token.

    Returns:
        (R, T - 1): log probability of token t + 1 given those before it, 0 where it is padding.
    """
    log_probs = decoder(ids[:, :-1], mask[:, :-1], memory).float().log_softmax(dim=-1)
    return log_probs.gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]


def rescore(decoder: TextDecoder, memory: DecoderMemory, ids: Tensor, mask: Tensor, prompt_length: int = 1) -> Tensor:
    """Compute beam-search scores (R,) of finished hypotheses again, differentiably, in one forward instead of one a step.

    The values are those ``beam_search`` returned (up to rounding): summed log probability over the length penalty. This is what
    self-critical training back-propagates through.
    """
    new = mask.sum(dim=1) - prompt_length
    log_probs = sequence_log_probs(decoder, memory, ids, mask)[:, prompt_length - 1 :].sum(dim=1)
    return log_probs / ((5 + new) / 6) ** 0.6
