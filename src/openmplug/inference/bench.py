"""How fast a model is on this machine, and how much memory it takes: the work that ``openmplug bench`` measures.

Pictures, words and, for a named size, weights are made up: speed does not depend on them. Texts are written to their full length.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from openmplug.checkpoints.shipped import named
from openmplug.errors import UsageError
from openmplug.inference.loading import load
from openmplug.models.families import SIZES, build_network, named_config
from openmplug.models.generation import beam_search
from openmplug.models.network import Network
from openmplug.models.packing import bf16_on_cpu
from openmplug.models.precision import cast_for_inference
from openmplug.models.ranking import AnswerTrie, rank_with_trie
from openmplug.tasks.reranking import Encoded, image_to_text

BEAMS = 5
QUESTION_TOKENS = 12
# What each kind of work needs of a model.
NEEDS = {
    "caption": {"vision", "decoder"},
    "answer": {"vision", "text", "fusion", "decoder"},
    "rank": {"vision", "text", "fusion", "decoder"},
    "match": {"vision", "text", "fusion", "contrastive", "matching"},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Load:
    """How much is done in one call of each kind.

    Args:
        pictures: Captioned or asked about at a time.
        caption_tokens, answer_tokens: New tokens of a text.
        candidates: Answers ranked for one question.
        captions: Texts matched with each of two pictures.
        repeat: Timed calls after a warm-up; the fastest counts.
    """

    pictures: int
    caption_tokens: int
    answer_tokens: int
    candidates: int
    captions: int
    repeat: int


FULL = Load(pictures=4, caption_tokens=20, answer_tokens=10, candidates=1000, captions=64, repeat=3)
QUICK = Load(pictures=1, caption_tokens=8, answer_tokens=4, candidates=64, captions=8, repeat=1)


@dataclass(frozen=True, slots=True)
class Speed:
    """What one kind of work took.

    Args:
        work: ``caption``, ``answer``, ``rank`` or ``match``.
        dtype: Of the weights, ``fp32`` or ``bf16``.
        unit: What is counted: captions, answers, candidates or pairs.
        per_second: How many of them, from pixels on.
        seconds: Of one call.
        peak_memory_mib: Most memory of the process (on a GPU: of its tensors) during the work; None where it cannot be told.
    """

    work: str
    dtype: str
    unit: str
    per_second: float
    seconds: float
    peak_memory_mib: float | None


def open_model(name: str, device: torch.device) -> Network:
    """Build a named size with random weights, or load a trained folder or a checkpoint.

    Raises:
        UsageError: If it is neither.
    """
    if name not in SIZES:
        if not named(Path(name).expanduser()).exists():
            raise UsageError(f"'{name}' is neither a folder nor a known size; sizes: {', '.join(SIZES)}")
        return load(name, device=str(device), dtype="fp32").network
    torch.manual_seed(0)
    return build_network(named_config(name)).to(device).eval()


def possible_work(model: Network, wanted: Sequence[str]) -> list[str]:
    """Return which kinds of work the model has the modules for, of those wanted (empty = all).

    Raises:
        UsageError: If a kind is unknown, or none is possible.
    """
    unknown = [work for work in wanted if work not in NEEDS]
    if unknown:
        raise UsageError(f"unknown work {', '.join(unknown)}; choose from {', '.join(NEEDS)}")
    possible = [work for work in (wanted or NEEDS) if NEEDS[work] <= set(model.modules_built)]
    if not possible:
        asked = ", ".join(wanted or NEEDS)
        raise UsageError(f"a model of {', '.join(model.modules_built)} cannot do {asked}; choose other work or a model with more modules")
    return possible


def dtypes_of(device: torch.device) -> list[str]:
    """Return the types of weights that are worth a measurement on a device."""
    has_bf16 = {"cpu": bf16_on_cpu, "cuda": torch.cuda.is_bf16_supported}.get(device.type, lambda: False)
    return ["fp32", "bf16"] if has_bf16() else ["fp32"]


def measure(model: Network, work: Sequence[str], dtypes: Sequence[str], amount: Load) -> Iterator[Speed]:
    """Measure each kind of work in each type, one result at a time.

    The model is cast in place and ends in the last type; its module names stay those of ``possible_work``.
    """
    device = next(model.parameters()).device
    for dtype in sorted(dtypes, key=list(DTYPES).index):  # fp32 before its digits are gone
        cast_for_inference(model, DTYPES[dtype])
        for kind in work:
            call, count, unit = _WORK[kind](model, amount)
            reset_peak_memory(device)
            seconds = _fastest(call, amount.repeat, device)
            yield Speed(kind, dtype, unit, count / seconds, seconds, peak_memory_mib(device))


def faster_dtype(speeds: Sequence[Speed]) -> str:
    """Return the type that took less time over all work that was measured in every type.

    Example:
        >>> one = lambda dtype, seconds: Speed("caption", dtype, "captions", 1 / seconds, seconds, None)
        >>> faster_dtype([one("fp32", 2.0), one("bf16", 0.5)]), faster_dtype([one("fp32", 2.0)])
        ('bf16', 'fp32')
    """
    dtypes = list(dict.fromkeys(one.dtype for one in speeds))
    by_type = {dtype: {one.work: one.seconds for one in speeds if one.dtype == dtype} for dtype in dtypes}
    common = set.intersection(*(set(seconds) for seconds in by_type.values()))
    # Each kind of work counts alike, however long its call is: the product of the seconds, not their sum.
    return min(dtypes, key=lambda dtype: sum(math.log(by_type[dtype][work]) for work in common))


@torch.inference_mode()
def _fastest(call: Callable[[], object], repeat: int, device: torch.device) -> float:
    best = float("inf")
    for turn in range(repeat + 1):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        if turn:  # the first is the warm-up
            best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------------------------------------------------- the work


def _pictures(model: Network, count: int) -> Tensor:
    side = model.config.image_size
    return torch.randn(count, 3, side, side, device=next(model.parameters()).device)


def _words(model: Network, rows: int, length: int) -> tuple[Tensor, Tensor]:
    vocab = model.config.vocab_size
    ids = torch.randint(vocab // 2, vocab, (rows, length), device=next(model.parameters()).device)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def _caption(model: Network, amount: Load) -> tuple[Callable[[], object], int, str]:
    images, tokens = _pictures(model, amount.pictures), min(amount.caption_tokens, model.config.max_positions)

    def call() -> object:
        return beam_search(model.decoder, model.caption_memory(images), num_beams=BEAMS, min_length=tokens, max_length=tokens)

    return call, amount.pictures, "captions"


def _answer(model: Network, amount: Load) -> tuple[Callable[[], object], int, str]:
    images, tokens = _pictures(model, amount.pictures), min(amount.answer_tokens, model.config.max_positions)
    ids, mask = _words(model, amount.pictures, QUESTION_TOKENS)

    def call() -> object:
        memory = model.answer_memory(images, ids, mask)
        return beam_search(model.decoder, memory, num_beams=BEAMS, min_length=tokens, max_length=tokens)

    return call, amount.pictures, "answers"


def _rank(model: Network, amount: Load) -> tuple[Callable[[], object], int, str]:
    images, (ids, mask) = _pictures(model, 1), _words(model, 1, QUESTION_TOKENS)
    # Answers of one to three words; the longer ones begin with one of a few.
    answers, _ = _words(model, amount.candidates, 5)
    place = torch.arange(amount.candidates, device=answers.device)
    lengths = 3 + (place % 10 >= 6).long() + (place % 10 >= 9).long()  # with [CLS] and [SEP]
    few = answers[: max(1, amount.candidates // 20), 1]
    answers[:, 1] = torch.where(lengths > 3, few[place % len(few)], answers[:, 1])
    trie = AnswerTrie(answers, torch.arange(5, device=answers.device) < lengths[:, None])

    def call() -> object:
        return rank_with_trie(model.decoder, model.answer_memory(images, ids, mask), trie, k=amount.candidates)

    return call, amount.candidates, "candidates"


def _match(model: Network, amount: Load) -> tuple[Callable[[], object], int, str]:
    images, (ids, mask) = _pictures(model, 2), _words(model, amount.captions, QUESTION_TOKENS)

    def call() -> object:
        vision, text = model.encode_images(images), model.encode_text(ids, mask)
        features = model.contrastive.vision_features(vision), model.contrastive.text_features(text)
        return list(image_to_text(model, Encoded(vision, features[0], text, mask, features[1]), k=amount.captions))

    return call, 2 * amount.captions, "pairs"


_WORK: dict[str, Callable[[Network, Load], tuple[Callable[[], object], int, str]]] = {
    "caption": _caption,
    "answer": _answer,
    "rank": _rank,
    "match": _match,
}


# ------------------------------------------------------------------------------------------------------------------------- memory


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak is then that of the process's whole life


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the most memory since the last reset, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return None
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10
