"""Tar shards made of any data set that a reader knows: WebDataset's form, in img2dataset's layout, with the index of each beside it.

Shard ``k`` holds records ``k * per_shard`` onward of the split's order, less those that cannot be read: what is in it depends on nothing
else, so a run that was killed goes on with the next missing shard, and its bytes are those of an unbroken run. A shard is written under
another name and renamed when it is whole. Beside each lie its index and what was left out of it (``00000.left_out.jsonl``).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from openmplug.batch import Failure, Sample
from openmplug.data.images import ImageSource, decode_image
from openmplug.data.readers.split import Split
from openmplug.data.shard_index import ANIMATION, Row, index_beside, write_index, write_whole
from openmplug.data.video import open_clip
from openmplug.errors import DataError, EnvironmentProblem, UsageError

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
    split: Split, output: Path, settings: ShardSettings, origin: str = "", advance: Callable[[int, int], None] | None = None
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

    Raises:
        UsageError: If ``output`` holds shards of another origin or other settings, or the records are questions.
        DataError: If no record can be read.
        EnvironmentProblem: If a file cannot be written.
    """
    if asking := next((sample for sample in split.samples if sample.image is not None and sample.text and sample.targets), None):
        raise UsageError(f"record '{asking.id}' asks about a picture; shards hold captions of pictures and videos, or texts alone")
    count = len(split.samples)
    plan = {"origin": origin, "records": count, "fingerprint": _fingerprint(split.samples), **asdict(settings)}
    total = -(-count // settings.per_shard)
    try:
        _agree(output, plan)
        done = Sharded()
        for number in range(total):
            place = output / f"{number:05d}.tar"
            first = number * settings.per_shard
            records = split.samples[first : first + settings.per_shard]
            if place.is_file():
                done.kept += 1
                left_out = _read_left_out(place)
            else:
                left_out = _write_shard(place, number, records, split.images, settings)
            done.left_out += left_out
            done.samples += len(records) - len(left_out)
            done.size += place.stat().st_size
            done.shards += 1
            if advance is not None:
                advance(min(first + settings.per_shard, count), len(done.left_out))
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentProblem(f"cannot write into '{output}': {reason}; the shards that are there are whole, run it again") from error
    if not done.samples:
        raise DataError(f"none of the {count:,} records can be read; the first: {done.left_out[0].reason}")
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


def _write_shard(place: Path, number: int, records: Sequence[Sample], images: ImageSource, settings: ShardSettings) -> list[Failure]:
    """Write one shard whole: what was left out and the index first, the shard's own name last, because it says that all is there."""
    temporary = place.with_name(f".{place.name}.writing")
    left_out: list[Failure] = []
    digits = max(4, len(str(settings.per_shard - 1)))
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            rows = []
            for offset, sample in enumerate(records):
                key = f"{number:05d}{offset:0{digits}d}"
                try:
                    files = list(_files(sample, images, settings))
                except DataError as error:
                    left_out.append(Failure(sample.id, sample.image or "", str(error)))
                    continue
                rows.append(Row(key, {suffix: _add(archive, f"{key}.{suffix}", data) for suffix, data in files}))
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


def _files(sample: Sample, images: ImageSource, settings: ShardSettings) -> Iterator[tuple[str, bytes]]:
    """Return a record's files: suffix and content.

    Raises:
        DataError: If its picture or video cannot be read, or it has no words.
    """
    texts = list(sample.targets) if sample.image is not None else [sample.text or " ".join(sample.targets)]
    if sample.text and sample.image is not None:
        texts = [sample.text]
    if not any(text.strip() for text in texts):
        raise DataError(f"record '{sample.id}' has no caption and no text")
    facts: dict[str, Any] = {"id": sample.id}
    if sample.image is not None:
        if sample.further_images:
            raise DataError(f"record '{sample.id}' is about {len(sample.pictures)} pictures; a sample of a shard has one")
        suffix, data, (width, height) = _clip(sample.image, images) if sample.clip else _picture(sample.image, images, settings)
        yield suffix, data
        facts |= {"image": sample.image, "width": width, "height": height, "caption": texts[0], "captions": texts}
    yield "json", json.dumps(facts, ensure_ascii=False).encode()
    yield "txt", texts[0].encode()


def _picture(name: str, images: ImageSource, settings: ShardSettings) -> tuple[str, bytes, tuple[int, int]]:
    data = images.read(name)
    picture = decode_image(data, name)  # all of it: what cannot be read is found here, not in a training run
    suffix = PurePosixPath(name).suffix.lower().lstrip(".")
    if settings.resize is None or min(picture.size) <= settings.resize:
        return suffix, data, picture.size
    scale = settings.resize / min(picture.size)
    width, height = (max(settings.resize, round(side * scale)) for side in picture.size)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=settings.quality)
    return "jpg", buffer.getvalue(), (width, height)


def _clip(name: str, images: ImageSource) -> tuple[str, bytes, tuple[int, int]]:
    place = images.locate(name)
    if images.members(name) or (place is not None and place.is_dir()):
        raise DataError(f"video '{name}' is a folder of frames; a sample of a shard is one file: encode it first")
    with open_clip(images, name) as video:
        height, width = video.read([0]).shape[1:3]
    suffix = PurePosixPath(name).suffix.lower().lstrip(".")
    return ANIMATION if suffix == "gif" else suffix, images.read(name), (width, height)


def _left_out(place: Path) -> Path:
    return place.with_name(f"{place.stem}.left_out.jsonl")


def _read_left_out(place: Path) -> list[Failure]:
    return [Failure(**json.loads(line)) for line in _left_out(place).read_text(encoding="utf-8").splitlines()]
