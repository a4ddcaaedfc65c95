"""Whether the maps of ``explain`` point at what the words name: peaks inside the named object's box, beside three controls.

    OMP_NUM_THREADS=1 python benchmarks/looking.py --model RUN --data DIR [--task caption] [--layers 0 1]

DIR is the built-in data set of shapes (``openmplug data make shapes --output DIR``), whose dev pictures show pairs of colour and shape that
no training picture has. Every word for a colour or a shape in a caption names one figure of the picture, and ``boxes/dev.jsonl`` says
where it is; no model here was told. A hit is a peak (the middle of the strongest patch) inside that box.

- ``centre``: the middle of the picture in the place of the peak; ``best patch``: the one patch that hits most often over all words.
- ``other text``: the peaks of as many words of another picture's caption, read with this picture.
- ``other figure``: of pictures with several, how often the peak is in the box of one that the word does not name.

A captioner is asked about the right caption, not about its own, so that there is a box for every word.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

import openmplug
from openmplug.data.shapes_scene import COLOURS, SHAPES
from openmplug.inference.explain.explanation import Peak

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A dev picture: its pixels, a caption, and the box of every figure by its name ("red circle")."""

    picture: Image.Image
    caption: str
    boxes: dict[str, Box]


def read_scenes(root: Path, limit: int | None) -> list[Scene]:
    """Read the dev split; a caption names all figures of its picture."""
    boxes: dict[str, dict[str, Box]] = {}
    for line in (root / "boxes" / "dev.jsonl").read_text().splitlines():
        row = json.loads(line)
        boxes.setdefault(row["image"], {})[row["phrase"].removeprefix("the ")] = tuple(row["box"])
    scenes = []
    with zipfile.ZipFile(root / "caption" / "dev_images.zip") as archive:
        for line in (root / "caption" / "dev.jsonl").read_text().splitlines()[:limit]:
            row = json.loads(line)
            picture = Image.open(BytesIO(archive.read(row["image"]))).convert("RGB")
            scenes.append(Scene(picture, row["captions"][0], boxes[row["image"]]))
    return scenes


def named(words: Sequence[str], boxes: dict[str, Box]) -> list[tuple[int, str]]:
    """Find the words that name figures: (place of the word, name of its figure); a colour stands before its shape."""
    found = []
    for place, (first, second) in enumerate(pairwise(words)):
        if first in COLOURS and second in SHAPES and f"{first} {second}" in boxes:
            found += [(place, f"{first} {second}"), (place + 1, f"{first} {second}")]
    return found


def inside(point: tuple[float, float] | None, box: Box) -> bool:
    """Say whether a point lies in a box."""
    return point is not None and box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def point_of(peak: Peak | None) -> tuple[float, float] | None:
    """Return a peak's place; None stays None."""
    return None if peak is None else (peak.x, peak.y)


def measure(model: openmplug.Model, scenes: Sequence[Scene], task: str, **layers: int) -> dict[str, Any]:
    """Explain every picture with its own caption and with another one, and count.

    Returns:
        Shares in percent, and how many words they are of.
    """
    pictures = [scene.picture for scene in scenes]
    captions = [scene.caption for scene in scenes]
    others = captions[len(captions) // 2 :] + captions[: len(captions) // 2]

    def explained(texts: list[str]) -> Any:
        about = {"texts": texts} if task == "retrieval" else {"target": texts}
        return model.explain(pictures, task=task, **about, **layers)

    hits, others_hit, colours, shapes = [], [], [], []
    wrong_figure: list[bool] = []
    boxes: list[Box] = []
    for scene, own, other in zip(scenes, explained(captions), explained(others), strict=True):
        places = named(own.words, scene.boxes)
        instead = [place for place, word in enumerate(other.words) if word in COLOURS or word in SHAPES]
        for number, (place, name) in enumerate(places):
            peak = point_of(own.peaks[place])
            hits.append(inside(peak, scene.boxes[name]))
            (colours if own.words[place] in COLOURS else shapes).append(hits[-1])
            others_hit.append(inside(point_of(other.peaks[instead[number % len(instead)]]), scene.boxes[name]))
            boxes.append(scene.boxes[name])
            if len(scene.boxes) > 1:
                wrong_figure.append(any(inside(peak, box) for each, box in scene.boxes.items() if each != name))
        rows, columns = own.whole.shape
    width, height = scenes[0].picture.size
    patches = [((x + 0.5) / columns * width, (y + 0.5) / rows * height) for y in range(rows) for x in range(columns)]
    best = max(sum(inside(patch, box) for box in boxes) for patch in patches)
    anywhere = sum(inside(patch, box) for patch in patches for box in boxes) / len(patches)
    return {
        "task": task,
        **layers,
        "words": len(hits),
        "hits": _percent(hits),
        "colours": _percent(colours),
        "shapes": _percent(shapes),
        "other text": _percent(others_hit),
        "other figure": _percent(wrong_figure),
        "centre": _percent([inside((width / 2, height / 2), box) for box in boxes]),
        "best patch": round(100 * best / len(boxes), 1),
        "any patch": round(100 * anywhere / len(boxes), 1),
    }


def _percent(values: Sequence[bool]) -> float:
    return round(100 * sum(values) / len(values), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=("retrieval", "caption"), default="retrieval")
    parser.add_argument("--layers", type=int, nargs="*", help="layers to try; default the usual one")
    parser.add_argument("--limit", type=int, help="dev pictures; default all")
    arguments = parser.parse_args()
    model = openmplug.load(arguments.model, device="cpu", task=arguments.task)
    scenes = read_scenes(arguments.data, arguments.limit)
    name = "layer" if arguments.task == "retrieval" else "decoder_layer"
    for layers in [{name: layer} for layer in arguments.layers] if arguments.layers else [{}]:
        print(json.dumps(measure(model, scenes, arguments.task, **layers)), flush=True)


if __name__ == "__main__":
    main()
