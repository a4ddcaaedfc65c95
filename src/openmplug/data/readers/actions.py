"""Action recognition in its official files: Kinetics-400, 600 and 700, Something-Something v2, and lists of paths and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.readers.files import find_file, need, read_json, read_records, read_rows, read_table
from openmplug.data.readers.split import Split
from openmplug.data.readers.video_files import VideoFiles
from openmplug.errors import DataError


def read_kinetics(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read Kinetics-400, 600 or 700.

    Args:
        root: Folder with ``{split}.csv`` (also ``annotations/{split}.csv``, ``kinetics_{split}.csv`` and ``validate.csv`` for ``val``),
            columns ``label,youtube_id,time_start,time_end,split``; and the clips ``{youtube_id}_{start}_{end}.mp4`` (six digits each), in
            ``{split}/`` or anywhere below ``root``, such as in a folder per class.
        split: ``train``, ``val`` or ``test``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per clip with its class as the one target; none where the file has no labels (test).

    Raises:
        DataError: If the file is missing or not in this format.
    """
    stems = (split, f"kinetics_{split}") + (("validate",) if split == "val" else ())
    names = [f"{folder}{stem}.csv" for stem in stems for folder in ("", "annotations/")]
    path = find_file(root, names, f"Kinetics' list of split '{split}'")
    files = VideoFiles(root, split, split)
    samples = []
    for index, (where, record) in enumerate(read_rows(path)):
        times = [_whole(record, field, where) for field in ("time_start", "time_end")]
        name = "{}_{:06d}_{:06d}".format(need(record, "youtube_id", where), *times)
        samples.append(_action(name, files(name), record.get("label"), index))
    return Split(split, samples, files.source)


def _whole(record: Mapping[str, Any], field: str, where: str) -> int:
    value = need(record, field, where)
    try:
        return int(float(value))
    except ValueError:
        raise DataError(f"{where}: '{field}' must be a number of seconds, got {value!r:.40}") from None


def read_action_list(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read a list of paths and labels, as most training code for Kinetics and its like makes them.

    Args:
        root: Folder with ``{split}.txt`` (also ``{split}_list.txt``, ``{split}.csv``): one clip per line, its path below ``root`` and its
            label, separated by a tab, a comma or the last space; optionally ``classes.txt`` (also ``label_map.txt``) with one class per
            line, for labels that are numbers from 0.
        split: Stem of the file.
        columns: Not used; the format is fixed.

    Returns:
        One sample per clip with its class as the one target.

    Raises:
        DataError: If a file is missing or not in this format, or a label has no class.
    """
    path = find_file(root, (f"{split}.txt", f"{split}_list.txt", f"{split}.csv"), f"list of clips of split '{split}'")
    lists = [root / name for name in ("classes.txt", "label_map.txt") if (root / name).is_file()]
    classes = [" ".join(cells) for _, cells in read_table(lists[0], "\n")] if lists else []
    files = VideoFiles(root, split)
    samples = []
    for index, (where, (line, *_)) in enumerate(read_table(path, "\n")):
        separator = next((each for each in ("\t", ",", " ") if each in line), None)
        if separator is None:
            raise DataError(f"{where}: {line!r:.60}, expected a path and a label, separated by a tab, a comma or a space")
        name, label = (part.strip() for part in line.rsplit(separator, 1))
        if classes:
            if not label.isdigit() or int(label) >= len(classes):
                raise DataError(
                    f"{where}: label {label!r} has no line in {lists[0].name}, which has {len(classes)} classes, counted from 0"
                )
            label = classes[int(label)]
        samples.append(_action(str(index), files(name), label, index))
    return Split(split, samples, files.source)


_SSV2 = {"val": "validation"}


def read_ssv2(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read Something-Something v2.

    Args:
        root: Folder with ``something-something-v2-{train,validation,test}.json`` (or ``train.json`` and so on, also in ``labels/``), a list
            of ``{id, label, template}``, and ``something-something-v2-labels.json`` (or ``labels.json``), an object of all classes; and
            the clips ``{id}.webm`` in ``20bn-something-something-v2/``, ``videos/`` or anywhere below ``root``.
        split: ``train``, ``val`` or ``validation``, or ``test`` (which has no labels).
        columns: Not used; the format is fixed.

    Returns:
        One sample per clip; its target is the template without brackets, one of 174 classes. ``extra`` keeps the filled-in ``label``.

    Raises:
        DataError: If a file is missing or not in this format, or a template is none of the classes.
    """
    stem = _SSV2.get(split, split)
    names = (f"something-something-v2-{stem}.json", f"{stem}.json", f"labels/{stem}.json")
    path = find_file(root, names, f"Something-Something v2's list of split '{split}'")
    names = ("something-something-v2-labels.json", "labels.json", "labels/labels.json")
    listed = find_file(root, names, "Something-Something v2's classes")
    classes = set(read_json(listed, dict))
    files = VideoFiles(root, split, "20bn-something-something-v2")
    samples = []
    for index, (where, record) in enumerate(read_records(path)):
        identifier = str(need(record, "id", where))
        action, extra = None, {}
        if "template" in record:
            action = str(record["template"]).replace("[", "").replace("]", "")
            if action not in classes:
                raise DataError(f"{where}: {action!r:.80} is none of the {len(classes)} classes of {listed.name}")
            extra = {"label": record.get("label", action)}
        samples.append(_action(identifier, files(identifier), action, index, extra))
    return Split(split, samples, files.source)


def _action(identifier: str, name: str, label: Any, index: int, extra: dict[str, Any] | None = None) -> Sample:
    targets = () if label is None else (str(label),)
    return Sample(identifier, name, None, targets, (1.0,) * len(targets), targets, index, extra or {}, clip=True)
