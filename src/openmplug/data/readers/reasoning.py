"""Is a sentence true of what is seen? NLVR2 (two photos) and NLVR (one drawing of three boxes), as their authors give them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import ImageSource, open_images
from openmplug.data.nlvr1_scene import Scene, is_tower, orders
from openmplug.data.nlvr1_text import contrasts
from openmplug.data.readers.files import find_file, need, read_rows
from openmplug.data.readers.joined import join_splits
from openmplug.data.readers.nlvr1 import read_scene
from openmplug.data.readers.split import Numbering, Split
from openmplug.errors import DataError

PERMUTATIONS = 6  # orders of NLVR's three boxes, a picture each
CARVED = ("dev", "test_u")  # NLVR's parts that training and validation are carved from where its own training part is absent
HELD_OUT = 10  # every tenth presentation validates
STATEMENTS, THINGS, ALIKE = "train_statements", "train_things", "train_alike"
STATED = 8  # statements a drawing


def read_nlvr2(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read NLVR2: is a sentence true of a pair of photos?

    Args:
        root: Folder with ``data/{split}.json`` as in the authors' repository, or ``{split}.json``; ``.jsonl`` likewise. Pictures lie in
            ``images/train/{directory}/``, ``dev/`` and ``test1/``, as the authors' archives unpack, or in archives of these; or in
            ``{split}_images``, or all in ``images/`` or an archive of it; ``.png`` as the authors name them, or ``.jpg``.
        split: ``train``, ``dev``, ``test1`` or ``test2``, or ``balanced/balanced_dev`` and so on.
        columns: Not used; the format is fixed.

    Returns:
        One sample per sentence and pair: ``image`` the left photo, ``further_images`` the right one, ``targets`` "True" or "False" as the
        files have it. ``extra["sentence_id"]`` is equal for a sentence's pairs, as the official consistency counts them. Records
        without a label are there to predict.

    Raises:
        DataError: If the file is missing or not in this format.

    Source: README and eval/metrics.py of github.com/lil-lab/nlvr, folder nlvr2.
    """
    names = [f"{folder}{split}{suffix}" for folder in ("data/", "") for suffix in (".json", ".jsonl")]
    path = find_file(root, names, f"NLVR2 sentences of split '{split}'")
    places: _Places | None = None
    number, samples = Numbering(), []
    for where, row in read_rows(path):
        identifier = str(need(row, "identifier", where))
        if identifier.count("-") != 3:
            raise DataError(f"{where}: identifier '{identifier}', expected SPLIT-SET-PAIR-SENTENCE such as dev-850-0-1")
        part, group, pair, sentence = identifier.split("-")
        places = places or _Places(_photos(root, part))
        left, right = (places.find(f"{part}-{group}-{pair}-img{side}", part, row.get("directory")) for side in (0, 1))
        label = _label(row, where, ("True", "False"))
        extra = {"identifier": identifier, "sentence_id": f"{part}-{group}-{sentence}"}
        text = need(row, "sentence", where)
        samples.append(Sample(identifier, left, text, label, (1.0,) * len(label), label, number(left), extra, further_images=(right,)))
    assert places is not None  # a file without rows is an error of its own
    return Split(split, samples, places.images)


def _label(row: Mapping[str, Any], where: str, labels: tuple[str, str]) -> tuple[str, ...]:
    """Return the record's label as one of ``labels``, (true, false); nothing where it has none."""
    found = row.get("label")
    if found is None:
        return ()
    named = {label.lower(): label for label in labels}
    if str(found).lower() not in named:
        raise DataError(f"{where}: label {found!r}, expected {labels[0]} or {labels[1]}")
    return (named[str(found).lower()],)


def _photos(root: Path, part: str) -> ImageSource:
    stems = (f"{part}_images", part, f"images/{part}")
    place = next((stem for stem in stems for suffix in ("", ".tar", ".zip") if (root / f"{stem}{suffix}").exists()), None)
    return open_images(root, part, folder=place)


class _Places:
    """Where photos lie in their source. Several forms are tried; what held for the last photo is tried first, as it nearly always holds."""

    FORMS = ("{name}", "{directory}/{name}", "{part}/{name}", "{part}/{directory}/{name}")

    def __init__(self, images: ImageSource) -> None:
        self.images = images
        self._forms = [form + suffix for form in self.FORMS for suffix in (".png", ".jpg")]

    def find(self, name: str, part: str, directory: Any) -> str:
        """Return the photo's name within the source; where it is missing, the name it should have."""
        for form in self._forms:
            place = form.format(name=name, part=part, directory=directory)
            if place in self.images:
                if form != self._forms[0]:
                    self._forms.remove(form)
                    self._forms.insert(0, form)
                return place
        return self._forms[0].format(name=name, part=part, directory=directory)


def read_nlvr1(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read NLVR (v1): is a sentence true of a drawing of three boxes? Every example has six drawings, one for each order of its boxes.

    Args:
        root: Folder with ``{split}.jsonl`` and ``{split}_images.tar`` (``.zip``, folder), or the authors' own ``{split}/{split}.json`` and
            ``{split}/images/{directory}/``.
        split: ``dev``, ``test_u``, ``test_p`` and so on, the stem of a file. ``train`` is the authors' training part where it is there;
            else it is carved from ``dev`` and ``test_u``: examples n-m of all presentations n but every tenth, which are ``valid`` (never
            the same sentence's drawings on both sides). ``dev_first`` and so on: of each example the first drawing only.
            ``train_statements``: the drawings of ``train`` with templated statements made of their ``structured_rep`` in the place of
            the sentences, each once true and once false; ``train_things``: those alone that speak of one named box; ``train_alike``:
            in every other order of the boxes those that tell two scenes of one presentation apart. What is to be seen gets learned
            from these first.
        columns: Not used; the format is fixed.

    Returns:
        One sample per drawing, so six an example: the authors train on all of them, and their scorer of pictures counts all of them.
        ``targets`` "true" or "false"; ``extra`` has ``identifier`` (n-m), ``sentence_id`` (the presentation, as the official consistency
        counts) and ``permutation``, 0 to 5.

    Raises:
        DataError: If a file is missing or not in this format.

    Source: README and metrics_images.py of github.com/lil-lab/nlvr, folder nlvr.
    """
    own = any((root / name).is_file() for name in _files("train"))
    if split in (STATEMENTS, THINGS, ALIKE):
        return _stated(root, read_nlvr1(root, "train", columns), ("train",) if own else CARVED, split)
    stem, permutations = split.removesuffix("_first"), 1 if split.endswith("_first") else PERMUTATIONS
    if stem != "valid" and (stem != "train" or own):
        return _drawings(root, stem, permutations)
    both = join_splits([_drawings(root, part, permutations) for part in CARVED])
    samples = [one for one in both.samples if (int(one.extra["sentence_id"]) % HELD_OUT == 0) == (stem == "valid")]
    if not samples:
        raise DataError(f"NLVR split '{split}' of {root}: none of the {len(both.samples):,} drawings of {' and '.join(CARVED)} is in it")
    return Split(split, samples, both.images)


def _files(split: str) -> tuple[str, ...]:
    return f"{split}.jsonl", f"{split}.json", f"{split}/{split}.json"


def _drawings(root: Path, split: str, permutations: int) -> Split:
    path = find_file(root, _files(split), f"NLVR sentences of split '{split}'")
    images, number, samples = open_images(path.parent, split), Numbering(), []
    for where, row in read_rows(path):
        identifier, text = str(need(row, "identifier", where)), need(row, "sentence", where)
        presentation, _, position = identifier.partition("-")
        if not (presentation.isdecimal() and position.isdecimal()):
            raise DataError(f"{where}: identifier '{identifier}', expected PRESENTATION-POSITION such as 1572-0")
        folder = "" if row.get("directory") is None else f"{row['directory']}/"
        names = row.get("images") or [f"{folder}{split}-{identifier}-{each}.png" for each in range(PERMUTATIONS)]
        if len(names) != PERMUTATIONS:
            raise DataError(f"{where}: {len(names)} images, expected {PERMUTATIONS}, one for each order of the boxes")
        label = _label(row, where, ("true", "false"))
        for each, name in enumerate(names[:permutations]):
            extra = {"identifier": identifier, "sentence_id": presentation, "permutation": each}
            samples.append(Sample(f"{identifier}-{each}", name, text, label, (1.0,) * len(label), label, number(name), extra))
    return Split(split, samples, images)


def _side_by_side(examples: list[str]) -> list[str]:
    """Put examples of one presentation side by side, two by two, and those that are left over behind them.

    Scenes of a presentation are alike: a statement that tells them apart makes a model look closer than one about any two scenes.
    """
    waiting: dict[str, str] = {}
    couples: list[str] = []
    for name in examples:
        presentation = name.rpartition("-")[0]
        if presentation in waiting:
            couples += [waiting.pop(presentation), name]
        else:
            waiting[presentation] = name
    return couples + list(waiting.values())


def _stated(root: Path, train: Split, parts: tuple[str, ...], split: str) -> Split:
    """Put statements in the place of the sentences: those that tell a scene from one of its kind, of both of them."""
    scenes: dict[str, list[Scene]] = {}  # of each example, in the order of its drawings
    for part in parts:
        for where, row in read_rows(find_file(root, _files(part), f"NLVR's scenes of split '{part}'")):
            scenes[f"{part}/{row['identifier']}" if len(parts) > 1 else str(row["identifier"])] = list(orders(read_scene(row, where)))
    drawings = {one.id: one for one in train.samples}
    examples = list(dict.fromkeys(name.rpartition("-")[0] for name in drawings))
    samples: list[Sample] = []
    for each in range(PERMUTATIONS):
        rng = random.Random(f"{split}/{each}")
        for towers in (True, False):
            alike = [name for name in examples if is_tower(scenes[name][0]) == towers]
            rng.shuffle(alike)
            if split == ALIKE and each % 2 == 0:
                alike = _side_by_side(alike)
            for first, second in zip(alike[::2], alike[1::2], strict=False):
                said = contrasts(scenes[first][each], scenes[second][each], rng, STATED, where=split == THINGS)
                for name, of_first in ((first, True), (second, False)):
                    drawing = drawings[f"{name}-{each}"]
                    for count, (text, true) in enumerate(said):
                        label = ("true" if true == of_first else "false",)
                        samples.append(
                            replace(drawing, id=f"{drawing.id}-{count}", text=text, targets=label, weights=(1.0,), references=label)
                        )
    return Split(split, samples, train.images)
