"""Examples to try: pictures and clips of coloured shapes, drawn when the page starts, with words that belong to them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from openmplug.data.moving import draw_clip, encode_gif
from openmplug.data.moving_scene import make_clip
from openmplug.data.moving_text import captions as clip_captions
from openmplug.data.moving_text import questions as clip_questions
from openmplug.data.shapes import draw
from openmplug.data.shapes_scene import make_scene
from openmplug.data.shapes_text import captions, questions

PICTURES, CLIPS = 4, 2


@dataclass(frozen=True, slots=True)
class Example:
    """A picture or clip as a file, and a question, a phrase and a sentence that fit it."""

    path: Path
    question: str
    phrase: str
    sentence: str


def draw_examples(folder: Path, seed: int = 7) -> list[Example]:
    """Draw examples: pictures as PNG, clips as GIF.

    Args:
        folder: Where to write them; it exists.
        seed: Equal seeds give equal examples.
    """
    examples = []
    for number in range(PICTURES):
        rng = random.Random(f"page/{seed}/picture/{number}")
        scene = make_scene(rng, unseen=False)
        while len(scene.figures) != 1 + (number + 1) % 3:
            scene = make_scene(rng, unseen=False)
        path = folder / f"shapes-{number + 1}.png"
        draw(scene)[0].save(path, "PNG")
        asked = questions(scene, rng, Counter())
        examples.append(Example(path, asked[number % len(asked)].text, f"the {scene.figures[-1].name}", captions(scene)[0]))
    for number in range(CLIPS):
        rng = random.Random(f"page/{seed}/clip/{number}")
        clip = make_clip(rng, unseen=False)
        while len(clip.movers) != 1 + number:
            clip = make_clip(rng, unseen=False)
        path = folder / f"moving-{number + 1}.gif"
        path.write_bytes(encode_gif(draw_clip(clip)))
        asked = clip_questions(clip, rng, Counter())
        examples.append(Example(path, asked[0].text, f"the {clip.movers[0].name}", clip_captions(clip)[0]))
    return examples
