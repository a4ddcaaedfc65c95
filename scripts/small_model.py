"""Trains the small model that comes with the package, from data to weights: mplug2-small on everything at hand, on a CPU.

    python scripts/small_model.py data DATA --output DIR      # DATA: flickr8k, cifar10, nlvr1, daquar, easy_vqa; the rest is made
    python scripts/small_model.py train DIR --output RUNS     # four runs, each of which can be stopped and called again
    python scripts/small_model.py evaluate DIR RUNS           # the scores of its card, each with its blind control
    python scripts/small_model.py pack DIR RUNS               # into src/openmplug/weights/small

The pictures of the official and carved ``dev`` splits are in no training. Recipes: ``caption/everything_mplug2_small``,
``pretrain/everything_mplug2_small``; what each source is for is written there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from openmplug.data.tokenizer import Tokenizer, build_vocabulary

Rows = Iterable[dict[str, Any]]
KEPT_OUT = 10  # every tenth presentation of the drawings is left for evaluation


def write_data(given: Path, out: Path) -> None:
    """Lay all sources out under one folder: what is there as links, what is made here as files."""
    out.mkdir(parents=True, exist_ok=True)
    for made in ("shapes", "moving"):
        if not (out / made / "vqa" / "dev.jsonl").exists():
            openmplug("data", "make", made, "--output", out / made)
    for name, target in (("photos", "flickr8k"), ("rooms", "daquar"), ("figures", "easy_vqa")):
        if not (out / name).is_symlink():
            (out / name).symlink_to((given / target).resolve())
    for split in ("train", "dev"):
        source = given / "cifar10" / f"{split}.zip"
        write_split(out / "things", split, named_things(source), source, "zip")
    for split, kept in (("train", range(1, KEPT_OUT)), ("dev", range(1))):
        rows = true_statements(given / "nlvr1" / "dev.jsonl", kept)
        write_split(out / "drawings", split, rows, given / "nlvr1" / "dev_images.tar", "tar")
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


def write_split(folder: Path, split: str, rows: Rows, pictures: Path, kind: str) -> None:
    """Write records beside a link to the archive of their pictures."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    link = folder / f"{split}_images.{kind}"
    if not link.is_symlink():
        link.symlink_to(pictures.resolve())


def training_texts(data: Path) -> Iterator[str]:
    """Yield all words of all training records."""
    for path in sorted(data.glob("*/train.jsonl")) + sorted(data.glob("*/*/train.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            for key in ("captions", "question", "answers", "answer", "sentence"):
                value = row.get(key, [])
                yield from [value] if isinstance(value, str) else value


def openmplug(*words: object) -> None:
    """Run the command line; stop where it fails."""
    print("$ openmplug", *map(str, words), flush=True)
    if code := subprocess.run([sys.executable, "-m", "openmplug", *map(str, words)]).returncode:
        sys.exit(code)


def main() -> None:
    """Parse the command line and do one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("data")
    step.add_argument("given", type=Path)
    step.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    write_data(given.given, given.output)


if __name__ == "__main__":
    main()
