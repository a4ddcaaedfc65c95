"""What the benchmark times: captions, answers, rankings and matching, each our way and the originals' way, on made-up inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from plain import plain_beam_search, plain_match, plain_rank
from torch import Tensor

from openmplug.models.families import named_config
from openmplug.models.generation import BEGIN_ID, END_ID, beam_search
from openmplug.models.mplug import MPLUG
from openmplug.models.ranking import AnswerTrie, rank_with_trie
from openmplug.tasks.reranking import Encoded, image_to_text

BEAMS = 5
QUESTION_TOKENS = 12
PADDED_CAPTION = 30  # tokens; the original's retrieval evaluation pads every caption to it
MODULES = ("vision", "text", "fusion", "decoder", "contrastive", "matching")

Encoding = Any
Output = Any


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Args:
        what: Said in the table.
        encode: Pixels (and words) to states.
        ours: States to result, our way.
        plain_encode: As ``encode``, as the originals do it.
        plain: States to result, the originals' way.
        agreement: Of two results: the share of items that are the same, 1 = all.
        goal: How many times faster the whole call is meant to be, in fp32.
        goal_bf16: The same with bf16 weights on our side and fp32 on the plain side.
        long: A run of the plain side takes minutes, so it gets no warm-up.
    """

    what: str
    encode: Callable[[MPLUG], Encoding]
    ours: Callable[[MPLUG, Encoding], Output]
    plain: Callable[[MPLUG, Encoding], Output]
    agreement: Callable[[Output, Output], float]
    goal: float
    goal_bf16: float
    plain_encode: Callable[[MPLUG], Encoding] | None = None
    long: bool = False


def build_model(size: str, seed: int) -> MPLUG:
    torch.manual_seed(seed)
    overrides = {"image_size": 224} if size == "mplug-base" else {}
    return MPLUG(named_config(size, **overrides), MODULES).eval()


# ------------------------------------------------------------------------------------------------------------------ made-up words


def texts(rows: int, lengths: list[int], vocab_size: int) -> tuple[Tensor, Tensor]:
    """Make random texts: [CLS], ``length`` words, [SEP]; no two begin with the same word. Returns ids (rows, T) and mask (rows, T)."""
    width = max(lengths) + 2
    ids = torch.randint(1000, vocab_size, (rows, width))
    ends = torch.tensor([lengths[row % len(lengths)] + 1 for row in range(rows)])
    ids[:, 0] = BEGIN_ID
    ids[:, 1] = 1000 + torch.randperm(vocab_size - 1000)[:rows]
    ids[torch.arange(rows), ends] = END_ID
    mask = torch.arange(width) <= ends[:, None]
    return ids.masked_fill(~mask, 0), mask


def answer_list(count: int, vocab_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Make a list of distinct answers with the look of VQA v2's most frequent ones. Returns ids (count, T) and mask (count, T).

    yes, no and numbers come first, as one token each (3 %). Of the rest 64 % are one word, 26 % two, 7 % three and 3 % four; one word in
    eight has two pieces. The first words of longer answers are drawn from a tenth as many words as there are answers, the frequent ones
    more often (weight 1 / rank), and half of these words are answers themselves ("white", "white and black"). These shares are an
    assumption about such lists, not counted from one.
    """
    draw = random.Random(seed)
    low = 1000 if vocab_size > 2000 else 200
    words = [draw.randrange(low, vocab_size) for _ in range(4 * count)]
    spelled = [(word,) if draw.random() < 7 / 8 else (word, draw.randrange(low, vocab_size)) for word in words]
    shared = spelled[: max(2, count // 10)]
    weights = [1 / (rank + 1) for rank in range(len(shared))]
    answers = dict.fromkeys((word,) for word in dict.fromkeys(words[-max(2, count * 3 // 100) :]))
    answers.update(dict.fromkeys(shared[::2]))
    while len(answers) < count:
        length = draw.choices((1, 2, 3, 4), (64, 26, 7, 3))[0]
        first = draw.choices(shared, weights)[0] if length > 1 else draw.choice(spelled)
        answers[tuple(piece for word in (first, *draw.choices(spelled, k=length - 1)) for piece in word)] = None
    kept = list(answers)[:count]
    width = max(map(len, kept)) + 2
    ids = torch.zeros(count, width, dtype=torch.int64)
    for row, answer in enumerate(kept):
        ids[row, : len(answer) + 2] = torch.tensor([BEGIN_ID, *answer, END_ID])
    return ids, ids != 0


def caption_texts(count: int, vocab_size: int, width: int) -> tuple[Tensor, Tensor]:
    """Make captions of 8 to 16 tokens with [CLS] (mean 12, as Flickr's and COCO's), padded to ``width``; the original adds no [SEP]."""
    lengths = torch.arange(count) % 9 + 8
    ids = torch.randint(min(1000, vocab_size // 2), vocab_size, (count, width))
    ids[:, 0] = BEGIN_ID
    mask = torch.arange(width) < lengths[:, None]
    return ids.masked_fill(~mask, 0), mask


# ----------------------------------------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Memory:
    """What the decoder attends to: states (B, S, D) and their mask (B, S), None = all of it."""

    states: Tensor
    mask: Tensor | None


def pictures(model: MPLUG, count: int) -> Tensor:
    return torch.randn(count, 3, model.config.image_size, model.config.image_size)


def same_texts(plain: list[list[int]], ours: list[list[int]]) -> float:
    return sum(one == other for one, other in zip(plain, ours, strict=True)) / len(plain)


def same_numbers(plain: Tensor, ours: Tensor) -> float:
    """Share of numbers that agree to a thousandth of the largest and a hundredth of their own size."""
    return float(((plain - ours).abs() <= 1e-3 * plain.abs().max() + 1e-2 * plain.abs()).float().mean())


def search(what: str, encode: Callable[[MPLUG], Memory], length: int, goals: tuple[float, float]) -> Case:
    def ours(model: MPLUG, memory: Memory) -> list[list[int]]:
        projected = model.decoder.project_memory(memory.states, memory.mask)
        return [list(item[0].ids) for item in beam_search(model.decoder, projected, num_beams=BEAMS, min_length=length, max_length=length)]

    def plain(model: MPLUG, memory: Memory) -> list[list[int]]:
        found = plain_beam_search(model.decoder, memory.states, memory.mask, num_beams=BEAMS, min_length=length, max_length=length)
        return [list(ids) for ids, _ in found]

    return Case(what, encode, ours, plain, same_texts, *goals)


def caption(model: MPLUG, batch: int, tokens: int, goals: tuple[float, float]) -> Case:
    images = pictures(model, batch)
    return search(f"caption, {tokens} tokens, batch {batch}", lambda side: Memory(side.encode_images(images), None), tokens, goals)


def question_encoder(model: MPLUG, batch: int) -> Callable[[MPLUG], Memory]:
    images = pictures(model, batch)
    ids, mask = texts(batch, [QUESTION_TOKENS - 2], model.config.vocab_size)

    def encode(side: MPLUG) -> Memory:
        fused = side.fuse(side.encode_images(images), side.encode_text(ids, mask), mask)
        return Memory(torch.cat([fused.vision, fused.text], dim=1), torch.cat([mask.new_ones(fused.vision.shape[:2]), mask], dim=1))

    return encode


def answer(model: MPLUG, batch: int, tokens: int, goals: tuple[float, float]) -> Case:
    return search(f"answer, {tokens} tokens, batch {batch}", question_encoder(model, batch), tokens, goals)


def rank(model: MPLUG, ids: Tensor, real: Tensor, k: int, goals: tuple[float, float], long: bool = False, questions: int = 1) -> Case:
    """Rank a list whose tree was built before, as a task does; the result is each candidate's probability."""
    trie = AnswerTrie(ids, real)

    def by_candidate(indices: Tensor, probabilities: Tensor) -> Tensor:
        return torch.zeros(len(indices), len(ids)).scatter(1, indices, probabilities)

    def ours(side: MPLUG, memory: Memory) -> Tensor:
        ranking = rank_with_trie(side.decoder, side.decoder.project_memory(memory.states, memory.mask), trie, k)
        return by_candidate(ranking.indices, ranking.probabilities)

    def plain(side: MPLUG, memory: Memory) -> Tensor:
        return by_candidate(*plain_rank(side.decoder, memory.states, memory.mask, ids, real, k))

    chosen = f"{k} of {len(ids)}" if k < len(ids) else str(k)
    what = f"rank {chosen} answers, {questions} question" + ("s" if questions > 1 else "")
    return Case(what, question_encoder(model, questions), ours, plain, same_numbers, *goals, long=long)


def match(model: MPLUG, images: int, captions: int, goals: tuple[float, float], long: bool = False) -> Case:
    """Score all captions for each picture, both encoded in the same call."""
    pixels = pictures(model, images)
    ids, mask = caption_texts(captions, model.config.vocab_size, PADDED_CAPTION)
    longest = int(mask.sum(dim=1).max())

    def encode(side: MPLUG, width: int) -> Encoded:
        vision, text = side.encode_images(pixels), side.encode_text(ids[:, :width], mask[:, :width])
        features = side.contrastive.vision_features(vision), side.contrastive.text_features(text)
        return Encoded(vision, features[0], text, mask[:, :width], features[1])

    return Case(
        f"match {images} pictures x {captions} captions",
        lambda side: encode(side, longest),
        lambda side, split: torch.cat(list(image_to_text(side, split, k=captions))),
        lambda side, split: plain_match(side, split.vision, split.text, split.text_mask),
        same_numbers,
        *goals,
        plain_encode=lambda side: encode(side, PADDED_CAPTION),
        long=long,
    )


def _rank_all(model: MPLUG, count: int, k: int, goals: tuple[float, float], long: bool) -> Case:
    return rank(model, *answer_list(count, model.config.vocab_size, seed=0), k, goals, long)


_LENGTHS = [1, 1, 1, 1, 1, 2, 2, 3, 1, 4]

CASES: dict[str, Callable[[MPLUG], Case]] = {
    "caption-1": lambda model: caption(model, batch=1, tokens=25, goals=(5.5, 16)),
    "caption-4": lambda model: caption(model, batch=4, tokens=25, goals=(11, 35)),
    "answer-4": lambda model: answer(model, batch=4, tokens=10, goals=(5, 16)),
    "rank-100": lambda model: rank(model, *texts(100, _LENGTHS, model.config.vocab_size), k=100, goals=(4, 12)),
    "rank-128": lambda model: _rank_all(model, 3128, 128, (4, 12), long=False),
    "rank-512": lambda model: _rank_all(model, 512, 512, (12, 36), long=False),
    "rank-3128": lambda model: _rank_all(model, 3128, 3128, (20, 60), long=True),
    "itm-2x64": lambda model: match(model, 2, 64, (4, 16)),
    "itm-32x64": lambda model: match(model, 32, 64, (4, 16), long=True),
}
EVERYDAY = ("caption-1", "caption-4", "answer-4", "rank-100", "rank-128", "rank-512", "itm-2x64")  # the rest takes minutes
