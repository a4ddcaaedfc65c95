"""Tar shards made of any data set that a reader knows: WebDataset's form, in img2dataset's layout, with the index of each beside it.

Shard ``k`` holds records ``k * per_shard`` onward of the split's order, less those that cannot be read: what is in it depends on nothing
else, so a run that was killed goes on with the next missing shard, and its bytes are those of an unbroken run. A shard is written under
another name and renamed when it is whole. Beside each lie its index and what was left out of it (``00000.left_out.jsonl``).

Worker processes read and verify (``openmplug.data.packing``); one process writes, in the order of the records.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from openmplug.batch import Failure, Sample
from openmplug.data.packing import Packed, Packer, pack
from openmplug.data.readers.split import Split
from openmplug.data.shard_index import Row, index_beside, write_index, write_whole
from openmplug.errors import DataError, EnvironmentProblem, UsageError
from openmplug.lock import alone

PLAN = "shards.json"
"""What the shards of a folder were made of; going on with other settings is refused."""


@dataclass(frozen=True)
class ShardSettings:
    """How shards are made.

    Args:
        per_shard: Records of the split for each shard, those that cannot be read included.
        resize: Make the shorter side of larger pictures so many px, written as JPEG; None keeps the bytes as they are.
        quality: Of JPEG, 1 to 95.
    """

    per_shard: int = 10_000
    resize: int | None = None
    quality: int = 95


@dataclass
class Sharded:
    """What was made.

    Args:
        shards: How many shards there are now, ``kept`` of which were there before.
        kept: Shards of an earlier run.
        samples: Samples in all of them.
        size: Bytes of all of them.
        left_out: Records that could not be read, in all of them.
    """

    shards: int = 0
    kept: int = 0
    samples: int = 0
    size: int = 0
    left_out: list[Failure] = field(default_factory=list)


def write_shards(
    split: Split,
    output: Path,
    settings: ShardSettings,
    origin: str = "",
    advance: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Sharded:
    """Write a split into tar shards, or go on where an earlier run stopped.

    Of each record there are ``KEY.jpg`` (or as the picture's suffix is; of a video ``KEY.mp4``), ``KEY.txt`` with the first caption and
    ``KEY.json`` with all ``captions``, the record's ``id`` and the picture's name. Keys are nine digits or more, as img2dataset's: the
    shard's number, then the record's in it.

    Args:
        split: Captions of pictures or videos, or texts alone.
        output: Folder of the shards; made if needed.
        settings: How.
        origin: What the split was read from, remembered in ``shards.json``.
        advance: Called with the numbers of records done, and of those left out, after each shard.
        workers: Processes that read and verify; 0 reads in this one. The shards are the same.

    Raises:
        UsageError: If ``output`` holds shards of another origin or other settings, another process is at work on it, or the records are
            questions.
        DataError: If no record can be read.
        EnvironmentProblem: If a file cannot be written.
    """
    if asking := next((sample for sample in split.samples if sample.image is not None and sample.text and sample.targets), None):
        raise UsageError(f"record '{asking.id}' asks about a picture; shards hold captions of pictures and videos, or texts alone")
    count = len(split.samples)
    plan = {"origin": origin, "records": count, "fingerprint": _fingerprint(split.samples), **asdict(settings)}
    try:
        with alone(output / ".lock", f"the shards in '{output}'", "choose another --output"):
            _agree(output, plan)
            done = _write_missing(split, output, settings, advance, workers)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentProblem(f"cannot write into '{output}': {reason}; the shards that are there are whole, run it again") from error
    if not done.samples:
        raise DataError(f"none of the {count:,} records can be read; the first: {done.left_out[0].reason}")
    return done


def _write_missing(
    split: Split, output: Path, settings: ShardSettings, advance: Callable[[int, int], None] | None, workers: int
) -> Sharded:
    count, done = len(split.samples), Sharded()
    parts = [range(first, min(first + settings.per_shard, count)) for first in range(0, count, settings.per_shard)]
    places = [output / f"{number:05d}.tar" for number in range(len(parts))]
    missing = {number: part for number, (part, place) in enumerate(zip(parts, places, strict=True)) if not place.is_file()}
    with closing(pack(Packer(split.samples, split.images, settings.resize, settings.quality), missing.values(), workers)) as packed:
        for number, (part, place) in enumerate(zip(parts, places, strict=True)):
            if number in missing:
                left_out = _write_shard(place, number, islice(packed, len(part)), settings)
            else:
                done.kept += 1
                left_out = _read_left_out(place)
            done.left_out += left_out
            done.samples += len(part) - len(left_out)
            done.size += place.stat().st_size
            done.shards += 1
            if advance is not None:
                advance(part.stop, len(done.left_out))
    return done


def _agree(output: Path, plan: dict[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    place = output / PLAN
    if not place.is_file():
        if any(output.glob("*.tar")):
            raise UsageError(f"'{output}' holds .tar files of other making (no {PLAN}); give another --output")
        write_whole(place, json.dumps(plan, indent=2) + "\n")
        return
    before = json.loads(place.read_text(encoding="utf-8"))
    changed = [name for name in plan if before.get(name) != plan[name]]
    if changed:
        shown = ", ".join(f"{name} ({before.get(name)} before, {plan[name]} now)" for name in changed)
        raise UsageError(f"the shards in '{output}' were made otherwise: {shown}; give the same again, or another --output")


def _fingerprint(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.id, sample.image, sample.text, sample.targets]).encode())
    return digest.hexdigest()[:16]


def _write_shard(place: Path, number: int, records: Iterable[Packed | Failure], settings: ShardSettings) -> list[Failure]:
    """Write one shard whole: what was left out and the index first, the shard's own name last, because it says that all is there."""
    temporary = place.with_name(f".{place.name}.writing")
    left_out: list[Failure] = []
    digits = max(4, len(str(settings.per_shard - 1)))
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            rows = []
            for offset, packed in enumerate(records):
                if isinstance(packed, Failure):
                    left_out.append(packed)
                    continue
                key = f"{number:05d}{offset:0{digits}d}"
                rows.append(Row(key, {suffix: _add(archive, f"{key}.{suffix}", data) for suffix, data in packed}))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        lines = "".join(
            json.dumps({name: value for name, value in asdict(failure).items() if value}, ensure_ascii=False) + "\n" for failure in left_out
        )
        write_whole(_left_out(place), lines)
        write_index(temporary, rows, index_beside(place))  # a rename keeps the time that the index names
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    return left_out


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    """Add a file without owner and time, so that equal data make equal shards; return where its content lies."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))
    return archive.offset - -(-len(data) // 512) * 512, len(data)


def _left_out(place: Path) -> Path:
    return place.with_name(f"{place.stem}.left_out.jsonl")


def _read_left_out(place: Path) -> list[Failure]:
    return [Failure(**json.loads(line)) for line in _left_out(place).read_text(encoding="utf-8").splitlines()]
