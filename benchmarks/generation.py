"""Time cached generation and ranking against the plain way, from pixels to token ids, in one run.

    python benchmarks/generation.py --repeat 3 --threads 2 --json generation.json

Random weights, single precision, beam 5; ``min_length`` equals ``max_length``, so every text has its full length. Both sides use the
same model and encode pictures and questions alike; the two take turns, and the median after a warm-up counts. Numbers of different
runs or machines do not compare, ratios of one run do. The run fails if the two sides write different ids.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from plain import plain_beam_search, plain_rank
from torch import Tensor

from openmplug.models.generation import BEGIN_ID, END_ID, beam_search
from openmplug.models.mplug import MPLUG, MPLUGConfig
from openmplug.models.ranking import rank_answers

BEAMS = 5
QUESTION_TOKENS = 12
CANDIDATES = 100
MODULES = ("vision", "text", "fusion", "decoder")


@dataclass(frozen=True)
class Encoded:
    """What the decoder attends to: states (B, S, D) and their mask (B, S), None = all of it."""

    states: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Args:
        what: Said in the table.
        encode: Pixels (and question) to states; the same on both sides.
        cached: States to ids, our way.
        plain: States to ids, the originals' way.
        goal: How many times faster the whole call is meant to be.
    """

    what: str
    encode: Callable[[], Encoded]
    cached: Callable[[Encoded], list[list[int]]]
    plain: Callable[[Encoded], list[list[int]]]
    goal: float


@dataclass(frozen=True)
class Result:
    """Median seconds of the whole call and of generation alone."""

    what: str
    plain_seconds: float
    cached_seconds: float
    ratio: float
    plain_generation_seconds: float
    cached_generation_seconds: float
    generation_ratio: float
    goal: float
    same_ids: bool


def build_model(size: str, seed: int) -> MPLUG:
    torch.manual_seed(seed)
    overrides = {"image_size": 224} if size == "mplug-base" else {}
    return MPLUG(MPLUGConfig.named(size, **overrides), MODULES).eval()


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


def searches(model: MPLUG, length: int) -> tuple[Callable[[Encoded], list[list[int]]], Callable[[Encoded], list[list[int]]]]:
    def cached(encoded: Encoded) -> list[list[int]]:
        memory = model.decoder.project_memory(encoded.states, encoded.mask)
        return [list(item[0].ids) for item in beam_search(model.decoder, memory, num_beams=BEAMS, min_length=length, max_length=length)]

    def plain(encoded: Encoded) -> list[list[int]]:
        found = plain_beam_search(model.decoder, encoded.states, encoded.mask, num_beams=BEAMS, min_length=length, max_length=length)
        return [list(ids) for ids, _ in found]

    return cached, plain


def caption(model: MPLUG, batch: int, tokens: int, goal: float) -> Case:
    images = torch.randn(batch, 3, model.config.image_size, model.config.image_size)
    cached, plain = searches(model, tokens)
    return Case(f"caption, {tokens} tokens, batch {batch}", lambda: Encoded(model.encode_images(images), None), cached, plain, goal)


def question_encoder(model: MPLUG, batch: int) -> Callable[[], Encoded]:
    images = torch.randn(batch, 3, model.config.image_size, model.config.image_size)
    ids, mask = texts(batch, [QUESTION_TOKENS - 2], model.config.vocab_size)

    def encode() -> Encoded:
        fused = model.fuse(model.encode_images(images), model.encode_text(ids, mask), mask)
        return Encoded(torch.cat([fused.vision, fused.text], dim=1), torch.cat([mask.new_ones(fused.vision.shape[:2]), mask], dim=1))

    return encode


def answer(model: MPLUG, batch: int, tokens: int, goal: float) -> Case:
    cached, plain = searches(model, tokens)
    return Case(f"answer, {tokens} tokens, batch {batch}", question_encoder(model, batch), cached, plain, goal)


def rank(model: MPLUG, count: int, goal: float) -> Case:
    """Candidates have 1 to 4 words, most of them one, like the answers of VQA v2."""
    ids, real = texts(count, [1, 1, 1, 1, 1, 2, 2, 3, 1, 4], model.config.vocab_size)

    def cached(encoded: Encoded) -> list[list[int]]:
        memory = model.decoder.project_memory(encoded.states, encoded.mask)
        return rank_answers(model.decoder, memory, ids, real, k=count).indices.tolist()

    def plain(encoded: Encoded) -> list[list[int]]:
        return plain_rank(model.decoder, encoded.states, encoded.mask, ids, real, k=count)[0].tolist()

    return Case(f"rank {count} answers, 1 question", question_encoder(model, 1), cached, plain, goal)


CASES: dict[str, Callable[[MPLUG], Case]] = {
    "caption-1": lambda model: caption(model, batch=1, tokens=25, goal=5),
    "caption-4": lambda model: caption(model, batch=4, tokens=25, goal=9),
    "answer-4": lambda model: answer(model, batch=4, tokens=10, goal=4),
    "rank-100": lambda model: rank(model, CANDIDATES, goal=4),
}


@torch.no_grad()
def run_case(case: Case, repeat: int) -> Result:
    sides = {"plain": case.plain, "cached": case.cached}
    whole: dict[str, list[float]] = {side: [] for side in sides}
    alone: dict[str, list[float]] = {side: [] for side in sides}
    written: dict[str, list[list[int]]] = {}
    for turn in range(repeat + 1):
        for side, generate in sides.items():
            start = time.perf_counter()
            encoded = case.encode()
            middle = time.perf_counter()
            written[side] = generate(encoded)
            end = time.perf_counter()
            if turn:  # the first is the warm-up
                whole[side].append(end - start)
                alone[side].append(end - middle)
    plain, cached = (statistics.median(whole[side]) for side in ("plain", "cached"))
    plain_alone, cached_alone = (statistics.median(alone[side]) for side in ("plain", "cached"))
    same = written["plain"] == written["cached"]
    return Result(case.what, plain, cached, plain / cached, plain_alone, cached_alone, plain_alone / cached_alone, case.goal, same)


def table(results: list[Result]) -> str:
    head = ("pixels to ids", "plain s", "cached s", "ratio", "goal", "generation alone: plain s", "cached s", "ratio", "same ids")
    rows = [
        (
            one.what,
            f"{one.plain_seconds:.3f}",
            f"{one.cached_seconds:.3f}",
            f"{one.ratio:.1f}",
            f"{one.goal:g}",
            f"{one.plain_generation_seconds:.3f}",
            f"{one.cached_generation_seconds:.3f}",
            f"{one.generation_ratio:.1f}",
            "yes" if one.same_ids else "NO",
        )
        for one in results
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each side after a warm-up; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--size", choices=("mplug-base", "mplug-tiny"), default="mplug-base", help="mplug-base sees 224 pixels")
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and inputs")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args(arguments)
    if given.repeat < 1 or given.threads < 1:
        parser.error("--repeat and --threads must be at least 1")
    torch.set_num_threads(given.threads)
    model = build_model(given.size, given.seed)
    side = model.config.image_size
    print(
        f"{given.size}, {side} x {side} pixels, beam {BEAMS}, {given.threads} threads, median of {given.repeat}, torch {torch.__version__}"
    )
    results = {}
    for name in given.only:
        torch.manual_seed(given.seed)  # a case has the same input whichever others run
        results[name] = run_case(CASES[name](model), given.repeat)
        print(f"{name}: {results[name].ratio:.1f} times faster", file=sys.stderr, flush=True)
    print(table(list(results.values())))
    if given.json:
        settings = {
            "size": given.size,
            "image_size": side,
            "beams": BEAMS,
            "threads": given.threads,
            "repeat": given.repeat,
            "seed": given.seed,
        }
        about = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
        }
        numbers = {name: asdict(result) for name, result in results.items()}
        given.json.write_text(json.dumps({"settings": settings, "environment": about, "cases": numbers}, indent=2) + "\n")
    different = [name for name, result in results.items() if not result.same_ids]
    if different:
        print(f"the plain and the cached side wrote different ids: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
