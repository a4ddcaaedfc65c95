"""Lays out the data of the recipes ``*/everything_*``: photos, drawings, shapes and clips under one folder.

    python scripts/everything_data.py DATA --output DIR      # DATA holds flickr8k, cifar10, nlvr1, daquar, easy_vqa

What is there becomes links; captions of CIFAR-10's classes, NLVR's true statements as captions, shapes, moving shapes and one vocabulary
are made here. ``dev`` of each source stays out of its ``train``.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from openmplug.data.moving import write_moving
from openmplug.data.shapes import write_shapes
from openmplug.data.tokenizer import Tokenizer, build_vocabulary

Rows = Iterable[dict[str, Any]]
KEPT_OUT = 10  # every tenth presentation of the drawings is left for evaluation


def write_data(given: Path, out: Path) -> None:
    """Lay all sources out under one folder: what is there as links, what is made here as files."""
    out.mkdir(parents=True, exist_ok=True)
    for made, write in (("shapes", write_shapes), ("moving", write_moving)):
        if not (out / made / "vqa" / "dev.jsonl").exists():
            write(out / made)
    for name, target in (("photos", "flickr8k"), ("rooms", "daquar"), ("figures", "easy_vqa")):
        if not (out / name).is_symlink():
            (out / name).symlink_to((given / target).resolve())
    for split in ("train", "dev"):
        source = given / "cifar10" / f"{split}.zip"
        write_split(out / "things", split, named_things(source), source)
    for split, kept in (("train", range(1, KEPT_OUT)), ("dev", range(1))):
        rows = true_statements(given / "nlvr1" / "dev.jsonl", kept)
        write_split(out / "drawings", split, rows, next((given / "nlvr1").glob("dev_images.*")))
    vocabulary = build_vocabulary(training_texts(out), size=6000, min_count=3)
    Tokenizer.from_vocab(vocabulary).save(out)


def named_things(archive: Path) -> Iterator[dict[str, Any]]:
    """Yield the pictures of an archive with a folder for each class, with the class as their caption."""
    with zipfile.ZipFile(archive) as pictures:
        for name in sorted(name for name in pictures.namelist() if name.endswith(".jpg")):
            kind = Path(name).parts[0]
            yield {"image": name, "captions": [f"a photo of {'an' if kind[0] in 'aeiou' else 'a'} {kind}"]}


def true_statements(annotations: Path, kept: range) -> Iterator[dict[str, Any]]:
    """Yield the true statements of NLVR's drawings as their captions, of some presentations."""
    for row in map(json.loads, annotations.read_text(encoding="utf-8").splitlines()):
        if row["label"] in (True, "true") and int(row["identifier"].partition("-")[0]) % KEPT_OUT in kept:
            yield {"image": row["images"][0], "captions": [row["sentence"]]}


def write_split(folder: Path, split: str, rows: Rows, pictures: Path) -> None:
    """Write records beside a link to the archive of their pictures."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    link = folder / f"{split}_images{pictures.suffix}"
    if not link.is_symlink():
        link.symlink_to(pictures.resolve())


def training_texts(data: Path) -> Iterator[str]:
    """Yield all words of all training records."""
    for path in sorted(data.glob("*/train.jsonl")) + sorted(data.glob("*/*/train.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            for key in ("captions", "question", "answers", "answer", "sentence"):
                value = row.get(key, [])
                yield from [value] if isinstance(value, str) else value


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    write_data(given.given, given.output)


if __name__ == "__main__":
    main()
