"""The generated moving-shapes set: short clips of coloured shapes, with words for question answering, captions and retrieval.

Everything follows from one seed. Every dev clip with several things shows two that are together in no training clip. No single frame tells
which way something moves or what moves first; see ``openmplug.data.moving_scene``.

A clip is an animated GIF: of the formats that keep every pixel it is the smallest and the quickest to read (docs/data.md has the
figures), and every decoder knows it. Two equal frames in a row would be stored as one that stays longer, so the background alternates by
one grey level.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmplug.data.made import Archive, Rows, check_counts, undescribed, write_rows, write_split, write_vocabulary
from openmplug.data.moving_scene import FRAMES, Clip, make_clip
from openmplug.data.moving_text import MOTION_KINDS, captions, questions
from openmplug.data.shapes import paint
from openmplug.data.shapes_scene import SIZE

TASKS = ("vqa", "motion", "caption", "retrieval", "direction")
FRAME_MILLISECONDS = 100

# ------------------------------------------------------------------------------------------------------------------ drawing


def draw_clip(clip: Clip) -> list[Image.Image]:
    """Draw a clip's ``FRAMES`` RGB pictures of 64 x 64 px."""
    frames = []
    for number in range(FRAMES):
        image = Image.new("RGB", (SIZE, SIZE), (clip.background + number % 2,) * 3)
        for mover in clip.movers:
            x, y = mover.place(number)
            # What leaves at one side comes back at the other: of nine copies, those that miss the picture are cut off whole.
            for shift_x in (-SIZE, 0, SIZE):
                for shift_y in (-SIZE, 0, SIZE):
                    if abs(x + shift_x - SIZE / 2) < SIZE / 2 + mover.radius and abs(y + shift_y - SIZE / 2) < SIZE / 2 + mover.radius:
                        paint(image, mover.colour, mover.shape, x + shift_x, y + shift_y, mover.radius)
        frames.append(image)
    return frames


def encode_gif(frames: list[Image.Image]) -> bytes:
    """Write frames as an animated GIF without loss.

    Raises:
        ValueError: If they have more than 256 colours together.
    """
    red, green, blue = np.moveaxis(np.stack([np.asarray(frame, np.uint32) for frame in frames]), -1, 0)
    colours, indices = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
    if len(palette) > 256:
        raise ValueError(f"{len(palette)} colours; a GIF holds 256")
    images = [Image.fromarray(each) for each in indices.reshape(red.shape).astype(np.uint8)]
    for image in images:
        image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=FRAME_MILLISECONDS, loop=0, optimize=False)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------------ writing


def write_moving(root: Path, train_clips: int = 6000, dev_clips: int = 500, seed: int = 0) -> dict[str, int]:
    """Write the data set, one folder per task, in the layout of one's own data.

    ``{task}/{split}.jsonl`` and ``{task}/{split}_videos.zip`` for the tasks ``vqa`` (video, question, answer, kind), ``motion`` (those of
    its questions that are about motion), ``caption`` and ``retrieval`` (video, captions) and ``direction`` (video, label: which way it
    goes, for the clips of one thing), splits ``train`` and ``dev``;
    ``words/{split}.jsonl``, the questions behind a caption in the place of the clip; and ``vocab.txt``, the words of all training texts,
    for models that start from each other. The clips of a split are the same in every folder. No two dev clips have the same captions.

    Args:
        root: Folder to write to; files of an earlier call are replaced.
        train_clips: Clips in ``train``.
        dev_clips: Clips in ``dev``.
        seed: Equal seeds give equal records and pixels.

    Returns:
        Number of records per ``{task}/{split}``.

    Raises:
        UsageError: If a number of clips is not positive, or there are not so many different dev clips.
    """
    check_counts(train_clips, dev_clips, "clips")
    counts: dict[str, int] = {}
    for split, number in (("train", train_clips), ("dev", dev_clips)):
        rng = random.Random(f"moving/{seed}/{split}")
        rows, archive = _make_split(rng, number, unseen=split == "dev")
        counts |= write_split(root, split, rows, archive, "videos")
        counts[f"words/{split}"] = write_rows(root / "words" / f"{split}.jsonl", _in_words(rows))
        if split == "train":
            write_vocabulary(root, rows)
    return counts


def _in_words(rows: Rows) -> list[dict[str, Any]]:
    """Return the questions behind a caption in the place of the clip."""
    told = {row["video"]: row["captions"][0] for row in rows["caption"]}
    return [{"question": f"{told[row['video']]}. {row['question']}", "answer": row["answer"], "kind": row["kind"]} for row in rows["vqa"]]


def _make_split(rng: random.Random, number: int, unseen: bool) -> tuple[Rows, bytes]:
    rows: Rows = {task: [] for task in TASKS}
    asked: Counter[tuple[str, str]] = Counter()

    def make() -> Clip:
        return make_clip(rng, unseen)

    new_clip = undescribed(make, captions, "clips") if unseen else make
    archive = Archive()
    for index in range(number):
        clip = new_clip()
        name = f"{index:05d}.gif"
        archive.add(name, encode_gif(draw_clip(clip)))
        for question in questions(clip, rng, asked):
            row = {"question_id": len(rows["vqa"]), "video": name, "question": question.text, "answer": question.answer}
            rows["vqa"].append({**row, "kind": question.kind})
        caption = {"video": name, "captions": captions(clip)}
        rows["caption"].append(caption)
        rows["retrieval"].append(caption)
        if len(clip.movers) == 1:
            rows["direction"].append({"video": name, "label": clip.movers[0].direction})
    rows["motion"] = [row for row in rows["vqa"] if row["kind"] in MOTION_KINDS]
    return rows, archive.close()
