"""Questions, pictures and a judge for the tests of the benchmarks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmplug.inference.judge.asking import Question, Reply

COLUMNS = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple"]
COLUMNS += ["question_natural_language"]


def write_questions(path: Path, rows: Sequence[tuple[str, int, str, str]]) -> Path:
    """Write rows of item, proposition, dependency and tuple; the question is ``ITEM NUMBER ?``."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="x")
        writer.writeheader()
        for item, number, dependency, about in rows:
            values: dict[str, Any] = {"item_id": item, "proposition_id": number, "dependency": dependency, "tuple": about}
            writer.writerow({**values, "question_natural_language": f"{item} {number} ?"})
    return path


def photo(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Draw a picture that no other seed gives."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def grid(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put four square pictures together: top-left, top-right, bottom-left, bottom-right."""
    side = tiles[0].width
    whole = Image.new("RGB", (2 * side, 2 * side))
    for place, tile in zip([(0, 0), (side, 0), (0, side), (side, side)], tiles, strict=True):
        whole.paste(tile, place)
    return whole


def script(answers: Mapping[bytes, Mapping[str, str]]) -> Callable[..., list[list[Reply]]]:
    """Make a judge that says what a table says: answers by the picture's own pixels, then by question."""

    def answer_about(pipeline: Any, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]], size: int) -> list[list[Reply]]:
        return [
            [Reply(answers[image.tobytes()][question.text], -0.5, None) for question in asked]
            for image, asked in zip(images, questions, strict=True)
        ]

    return answer_about
