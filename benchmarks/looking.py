"""Whether the maps of ``explain`` point at what the words name: peaks inside the named figure's box, beside controls.

    OMP_NUM_THREADS=1 python benchmarks/looking.py --model RUN --task retrieval [--clips] [--layers 0 1] [--draw PNG]

Scenes are drawn anew, as those of ``openmplug data make shapes`` (with ``--clips``: ``moving``), dev's unseen pairs among them, and the
boxes of their figures are known here; no model was told any. A hit is a peak (the middle of the strongest patch) inside the right box.

- ``retrieval`` and ``caption``: every word for a colour or a shape in the right caption names one figure.
- ``vqa``: "what colour is the circle?" is about one figure, and so are the whole question, the word "circle" and the right answer.

Controls: ``centre``, the middle of the picture (of its middle frame) in the place of the peak; ``any patch``, the mean over all; ``best
patch``, the one that hits most often; ``other text``, peaks of as many words of another scene's text, read with this picture; and, of
scenes with several figures, how often the peak is in the box of one that is not meant.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import openmplug
from openmplug.data import moving, moving_text, shapes, shapes_text
from openmplug.data.moving_scene import FRAMES, make_clip
from openmplug.data.shapes_scene import COLOURS, SHAPES, SIZE, make_scene
from openmplug.inference.explain.explanation import Explanation, Peak

Box = tuple[float, float, float, float]
KINDS = {"colour", "shape"}


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) or a clip (F, H, W, 3), its caption, questions about one figure, and each figure's box in every frame."""

    pixels: np.ndarray[Any, Any]
    caption: str
    questions: tuple[shapes_text.Question, ...]
    boxes: Mapping[str, tuple[Box, ...]]


@dataclass(frozen=True)
class Named:
    """A map and the figure it should be of; ``place`` is that of its word, None = the whole text."""

    part: str
    place: int | None
    figure: str


def draw_scenes(number: int, clips: bool, seed: int = 0) -> list[Scene]:
    """Draw scenes like dev's."""
    rng = random.Random(f"looking/{clips}/{seed}")
    asked: Counter[tuple[str, str]] = Counter()
    return [_clip(rng, asked) if clips else _picture(rng, asked) for _ in range(number)]


def _picture(rng: random.Random, asked: Counter[tuple[str, str]]) -> Scene:
    scene = make_scene(rng, unseen=True)
    image, boxes = shapes.draw(scene)
    questions = tuple(one for one in shapes_text.questions(scene, rng, asked) if one.kind in KINDS)
    named = {figure.name: (box,) for figure, box in zip(scene.figures, boxes, strict=True)}
    return Scene(np.asarray(image), shapes_text.captions(scene)[0], questions, named)


def _clip(rng: random.Random, asked: Counter[tuple[str, str]]) -> Scene:
    clip = make_clip(rng, unseen=True)
    questions = tuple(one for one in moving_text.questions(clip, rng, asked) if one.kind in KINDS)
    named = {}
    for mover in clip.movers:
        places = [mover.place(frame) for frame in range(FRAMES)]
        named[mover.name] = tuple((x - mover.radius, y - mover.radius, x + mover.radius, y + mover.radius) for x, y in places)
    return Scene(np.stack([np.asarray(frame) for frame in moving.draw_clip(clip)]), moving_text.captions(clip)[0], questions, named)


def inside(peak: Peak | None, boxes: Sequence[Box]) -> bool:
    """Say whether a peak lies in a figure's box, that of its frame; what leaves a clip at one side comes back at the other."""
    if peak is None:
        return False
    left, top, right, bottom = boxes[peak.frame or 0]
    shifts = (-SIZE, 0, SIZE) if len(boxes) > 1 else (0,)
    return any(left <= peak.x + x < right and top <= peak.y + y < bottom for x in shifts for y in shifts)


def named_in_caption(words: Sequence[str], scene: Scene) -> list[Named]:
    """Find the words that name figures; a colour stands before its shape."""
    found = []
    for place, pair in enumerate(itertools.pairwise(words)):
        if (figure := " ".join(pair)) in scene.boxes:
            found += [Named("colours", place, figure), Named("shapes", place + 1, figure)]
    return found


def named_in_question(explanation: Explanation, scene: Scene, answer: str) -> list[Named]:
    """Find the maps that should be of the one figure that is asked about."""
    words = explanation.words
    asked = words[: len(words) - explanation.written]
    place = next((place for place, word in enumerate(asked) if word in COLOURS or word in SHAPES), None)
    if place is None:  # a word that the model's vocabulary lacks
        return []
    figure = next(pair for pair in (f"{words[place]} {answer}", f"{answer} {words[place]}") if pair in scene.boxes)
    return [Named("questions", None, figure), Named("its word", place, figure), Named("answers", len(words) - 1, figure)]


def explain(
    model: openmplug.Model, pixels: Sequence[Any], task: str, texts: list[str], answers: list[str], **layers: int
) -> list[Explanation]:
    """Explain pictures with given words, right or wrong ones."""
    about: dict[str, Any] = {"retrieval": {"texts": texts}, "caption": {"target": texts}, "vqa": {"texts": texts, "target": answers}}[task]
    found = model.explain(list(pixels), task=task, **about, **layers)
    assert isinstance(found, list)
    return found


def measure(model: openmplug.Model, scenes: Sequence[Scene], task: str, **layers: int) -> list[dict[str, Any]]:
    """Explain every scene with its own text and with another one's, and count.

    Returns:
        A row for each kind of map: shares in percent, and how many maps they are of.
    """
    if task == "vqa":
        items = [(scene, question.text, question.answer) for scene in scenes for question in scene.questions]
    else:
        items = [(scene, scene.caption, "") for scene in scenes]
    pixels, texts, answers = ([one[0].pixels for one in items], [one[1] for one in items], [one[2] for one in items])
    turned = [*range(len(items) // 2, len(items)), *range(len(items) // 2)]

    def explained(order: Sequence[int]) -> list[Explanation]:
        return explain(model, pixels, task, [texts[place] for place in order], [answers[place] for place in order], **layers)

    counted: dict[str, Counter[str]] = {}
    for (scene, _, answer), own, other in zip(items, explained(range(len(items))), explained(turned), strict=True):
        spots = _patches(own)
        instead = [place for place, word in enumerate(other.words) if word in COLOURS or word in SHAPES]
        every = named_in_question(own, scene, answer) if task == "vqa" else named_in_caption(own.words, scene)
        if not instead:
            continue
        for number, named in enumerate(every):
            boxes, count = scene.boxes[named.figure], counted.setdefault(named.part, Counter())
            peak = own.peak if named.place is None else own.peaks[named.place]
            wrong = other.peak if named.place is None else other.peaks[instead[number % len(instead)]]
            count["maps"] += 1
            count["hits"] += inside(peak, boxes)
            count["other text"] += inside(wrong, boxes)
            count["centre"] += inside(Peak(SIZE / 2, SIZE / 2, spots[len(spots) // 2].frame), boxes)
            for place, spot in enumerate(spots):
                count[f"patch {place}"] += inside(spot, boxes)
            if len(scene.boxes) > 1:
                count["several"] += 1
                count["other figure"] += any(inside(peak, each) for name, each in scene.boxes.items() if name != named.figure)
    return [{"task": task, **layers, "part": part, **_shares(count)} for part, count in counted.items()]


def _patches(explanation: Explanation) -> list[Peak]:
    rows, columns = explanation.whole.shape[-2:]
    across, down = ([(place + 0.5) / count * SIZE for place in range(count)] for count in (columns, rows))
    return [Peak(x, y, frame) for frame in explanation.frames or (None,) for y in down for x in across]


def _shares(count: Counter[str]) -> dict[str, Any]:
    patches = [value for name, value in count.items() if name.startswith("patch ")]
    shares = {name: count[name] / count["maps"] for name in ("hits", "other text", "centre")}
    shares |= {"any patch": sum(patches) / len(patches) / count["maps"], "best patch": max(patches) / count["maps"]}
    shares["other figure"] = count["other figure"] / max(count["several"], 1)
    return {"maps": count["maps"], **{name: round(100 * share, 1) for name, share in shares.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--task", choices=("retrieval", "caption", "vqa"), required=True)
    parser.add_argument("--clips", action="store_true", help="moving shapes; default still ones")
    parser.add_argument("--layers", type=int, nargs="*", help="layers to try; default the usual one")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw the first scene, with where the model looks; nothing else")
    arguments = parser.parse_args()
    model = openmplug.load(arguments.model, device="cpu", task=arguments.task)
    scenes = draw_scenes(arguments.scenes, arguments.clips)
    if arguments.draw:
        scene = next(scene for scene in scenes if arguments.task != "vqa" or scene.questions)
        text, answer = (scene.questions[0].text, scene.questions[0].answer) if arguments.task == "vqa" else (scene.caption, "")
        (found,) = explain(model, [scene.pixels], arguments.task, [text], [answer])
        found.draw().quantize(256).save(arguments.draw, optimize=True)
        return
    name = "decoder_layer" if arguments.task == "caption" else "layer"
    for layers in [{name: layer} for layer in arguments.layers] if arguments.layers else [{}]:
        for row in measure(model, scenes, arguments.task, **layers):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
