"""What the built-in data sets share: archives with equal bytes for equal seeds, one folder per task, dev records that differ."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.errors import UsageError

Rows = dict[str, list[dict[str, Any]]]
"""The records of a split, by task."""

SAID = ("question", "answer", "phrase", "text")
"""Fields of a record that hold one text each."""

Scene = TypeVar("Scene")


class Archive:
    """A zip of files in memory."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)

    def add(self, name: str, content: bytes) -> None:
        """Add a file."""
        self._zip.writestr(zipfile.ZipInfo(name), content)  # ZipInfo's date is fixed: equal seeds, equal bytes

    def close(self) -> bytes:
        """Finish the archive and return it."""
        self._zip.close()
        return self._buffer.getvalue()


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write records as JSONL, the folder too; return how many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def write_split(root: Path, split: str, rows: Rows, archive: bytes, kind: str) -> dict[str, int]:
    """Write ``{task}/{split}.jsonl`` and ``{task}/{split}_{kind}.zip`` for every task; return the number of records of each."""
    counts = {f"{task}/{split}": write_rows(root / task / f"{split}.jsonl", each) for task, each in rows.items()}
    for task in rows:
        (root / task / f"{split}_{kind}.zip").write_bytes(archive)
    return counts


def write_vocabulary(root: Path, rows: Rows) -> None:
    """Write ``vocab.txt``, every word of the records' texts, for models that start from each other."""
    every = [row for each in rows.values() for row in each]
    texts = {text for row in every for text in (*row.get("captions", ()), *(row.get(field) for field in SAID)) if text}
    Tokenizer.from_vocab(build_vocabulary(sorted(texts), min_count=1)).save(root)


def undescribed(make: Callable[[], Scene], describe: Callable[[Scene], Sequence[str]], what: str) -> Callable[[], Scene]:
    """Return ``make`` without the scenes of which something was said before.

    Args:
        make: Draws a scene.
        describe: What is said about one.
        what: Its name, in the plural.

    Raises:
        UsageError: When called, if a thousand draws in a row give nothing new.
    """
    described: set[str] = set()

    def new() -> Scene:
        for _ in range(1000):
            scene = make()
            texts = set(describe(scene))
            if not texts & described:
                described.update(texts)
                return scene
        raise UsageError(f"no more different {what} after {len(described) // 2:,}; expected a smaller number of dev {what}")

    return new


def check_counts(train: int, dev: int, what: str) -> None:
    """Refuse splits of nothing.

    Raises:
        UsageError: If a number is not positive.
    """
    if train < 1 or dev < 1:
        raise UsageError(f"train_{what} is {train} and dev_{what} {dev}; expected at least 1 each")
