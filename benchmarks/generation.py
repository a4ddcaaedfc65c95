"""Time inference our way against the plain way, from pixels to result, in one run.

    python benchmarks/generation.py --repeat 3 --threads 2 --json generation.json
    python benchmarks/generation.py --dtype bf16
    python benchmarks/generation.py --only rank-3128 itm-32x64 --repeat 1     # the two that take minutes

Random weights, beam 5; ``min_length`` equals ``max_length``, so every text has its full length. The plain side is always fp32, on a copy
of the model with nothing packed; ours is fp32 or has bf16 weights. The two take turns, and the median after a warm-up counts. Numbers
of different runs or machines do not compare, ratios of one run do. In fp32 the run fails if the two sides give different results; in
bf16 random weights decide between near ties, so what agrees is only said.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from cases import BEAMS, CASES, EVERYDAY, Case, build_model

from openmplug.models.mplug import MPLUG
from openmplug.models.precision import cast_for_inference

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Result:
    """Median seconds of the whole call and of what comes after the encoders."""

    what: str
    plain_seconds: float
    our_seconds: float
    ratio: float
    plain_after_encoding_seconds: float
    our_after_encoding_seconds: float
    after_encoding_ratio: float
    goal: float
    agreement: float


@torch.no_grad()
def run_case(case: Case, ours: MPLUG, plain: MPLUG, repeat: int, bf16: bool) -> Result:
    """Run both sides in turns. A long case has no warm-up: what it would hide is nothing beside minutes."""
    sides = {
        "plain": (plain, case.plain_encode or case.encode, case.plain),
        "ours": (ours, case.encode, case.ours),
    }
    whole: dict[str, list[float]] = {side: [] for side in sides}
    alone: dict[str, list[float]] = {side: [] for side in sides}
    found: dict[str, Any] = {}
    for turn in range(repeat + (not case.long)):
        for side, (model, encode, work) in sides.items():
            start = time.perf_counter()
            encoded = encode(model)
            middle = time.perf_counter()
            found[side] = work(model, encoded)
            end = time.perf_counter()
            if turn or case.long:
                whole[side].append(end - start)
                alone[side].append(end - middle)
    medians = [statistics.median(times[side]) for times in (whole, alone) for side in ("plain", "ours")]
    agreement = case.agreement(found["plain"], found["ours"])
    goal = case.goal_bf16 if bf16 else case.goal
    return Result(case.what, *medians[:2], medians[0] / medians[1], *medians[2:], medians[2] / medians[3], goal, agreement)


def table(results: list[Result]) -> str:
    head = ("from pixels", "plain s", "ours s", "ratio", "goal", "after encoding: plain s", "ours s", "ratio", "same")
    rows = [
        (
            one.what,
            f"{one.plain_seconds:.3f}",
            f"{one.our_seconds:.3f}",
            f"{one.ratio:.1f}",
            f"{one.goal:g}",
            f"{one.plain_after_encoding_seconds:.3f}",
            f"{one.our_after_encoding_seconds:.3f}",
            f"{one.after_encoding_ratio:.1f}",
            f"{one.agreement:.1%}",
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
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="of our side's weights; the plain side is fp32")
    parser.add_argument("--size", choices=("mplug-base", "mplug-tiny"), default="mplug-base", help="mplug-base sees 224 pixels")
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=list(EVERYDAY), metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and inputs")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args(arguments)
    if given.repeat < 1 or given.threads < 1:
        parser.error("--repeat and --threads must be at least 1")
    torch.set_num_threads(given.threads)
    plain = build_model(given.size, given.seed)
    ours = cast_for_inference(copy.deepcopy(plain), DTYPES[given.dtype])
    side = plain.config.image_size
    print(
        f"{given.size}, {side} x {side} pixels, beam {BEAMS}, {given.threads} threads, ours {given.dtype}, plain fp32,"
        f" median of {given.repeat}, torch {torch.__version__}"
    )
    results = {}
    for name in given.only:
        torch.manual_seed(given.seed)  # a case has the same input whichever others run
        results[name] = run_case(CASES[name](plain), ours, plain, given.repeat, given.dtype == "bf16")
        print(f"{name}: {results[name].ratio:.1f} times faster", file=sys.stderr, flush=True)
    print(table(list(results.values())))
    if given.json:
        settings = {
            "size": given.size,
            "image_size": side,
            "beams": BEAMS,
            "dtype": given.dtype,
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
    different = [name for name, result in results.items() if result.agreement < 1 and given.dtype == "fp32"]
    if different:
        print(f"the two sides gave different results: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
