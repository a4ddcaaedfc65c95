"""What is wrong in tar shards, counted shard by shard: samples whose words or picture no run can learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openmplug.batch import Failure, Sample
from openmplug.data.checking import SplitReport, check_readable
from openmplug.data.shard_places import is_remote
from openmplug.data.shards import ShardSamples, ShardSet
from openmplug.errors import DataError

LOOKED_AT = 64
"""Samples of each shard whose words are looked at, unless all are; of a remote one, where each is a request, one."""

OPENED = 64
"""Pictures of a split that are decoded, unless all are; one of each shard at least."""

FAULTS = {
    "broken shard": "shards that cannot be read",
    "no words": "without a .txt or .json file",
    "empty": "with an empty caption",
    "damaged words": "with a damaged .txt or .json file",
    "unreadable": "with a picture or video that cannot be read",
}
"""What can be wrong with a sample, or with a whole shard."""


@dataclass(slots=True)
class ShardReport:
    """What was found in one shard.

    Args:
        name: Of the shard.
        records: Samples in it.
        looked_at: How many of them were looked at.
        opened: How many pictures or videos were decoded.
        faults: How often each of ``FAULTS`` was found.
        first: The first sample with each fault, and why.
    """

    name: str
    records: int = 0
    looked_at: int = 0
    opened: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    first: dict[str, Failure] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        """Count the samples that cannot be learned from."""
        return self.faults.total()

    def add(self, fault: str, failure: Failure) -> None:
        """Count a fault."""
        self.faults[fault] += 1
        self.first.setdefault(fault, failure)


def check_shards(
    name: str,
    places: Sequence[str],
    columns: Mapping[str, str | None],
    every: bool = False,
    limit: int | None = None,
    opened: Callable[[int], None] | None = None,
) -> tuple[SplitReport, list[ShardReport]]:
    """Look at samples of every shard: their words, and of some the picture or video.

    Args:
        name: Of the split.
        places: Of the shards, see ``find_shards``.
        columns: See ``ShardSamples``.
        every: Look at all samples and decode all pictures.
        limit: Look at this many samples at most, the first ones.
        opened: Called with 1 after each decoded picture.

    Returns:
        What was found in all of them, and in each.

    Raises:
        DataError: If none of the shards can be read, or the shards hold samples of several kinds.
    """
    report, shards = SplitReport(name, 0, 0, f"{len(places):,} shards such as {places[0]}", Sample("")), []
    kinds: dict[str, str] = {}
    for place in places:
        if limit is not None and report.records >= limit:
            break
        one = ShardReport(place)
        shards.append(one)
        try:
            samples = ShardSamples(ShardSet([place]), columns)
        except DataError as error:
            one.add("broken shard", Failure(place, place, str(error)))
            continue
        kinds.setdefault(samples.shards.kind, place)
        one.records = len(samples) if limit is None else min(len(samples), limit - report.records)
        report.records += one.records
        pictures = max(1, OPENED // len(places))
        _check_shard(
            samples, one, report, (one.records, one.records) if every else (1 if is_remote(place) else LOOKED_AT, pictures), opened
        )
    if not report.records:
        raise DataError(next(iter(shards[0].first.values())).reason)
    if len(kinds) > 1:
        found = " and ".join(f"{place} of {kind}" for kind, place in kinds.items())
        raise DataError(f"the shards hold samples of several kinds: {found}; put each kind into shards of its own")
    report.kind = "videos" if "clip" in kinds else "pictures"
    report.pictures = 0 if "words" in kinds else report.records
    report.opened = sum(one.opened for one in shards)
    report.further = _problems(shards)
    return report, shards


def _check_shard(
    samples: ShardSamples, one: ShardReport, report: SplitReport, most: tuple[int, int], opened: Callable[[int], None] | None
) -> None:
    shards = samples.shards
    for index in range(min(most[0], one.records)):
        _, row = shards.row(index)
        one.looked_at += 1
        try:
            sample = samples[index]
        except DataError as error:
            fault = "no words" if not row.files.keys() & {"txt", "json"} else "empty" if " has no " in str(error) else "damaged words"
            one.add(fault, Failure(row.key, row.key, str(error)))
            continue
        if not report.first.id:
            report.first = sample
        if sample.image is None or one.opened >= most[1]:
            continue
        one.opened += 1
        try:
            check_readable(shards, sample.image, sample.clip)
        except DataError as error:
            report.unreadable.append(Failure(row.key, sample.image, str(error)))
            one.add("unreadable", report.unreadable[-1])
        if opened is not None:
            opened(1)


def _problems(reports: Sequence[ShardReport]) -> list[str]:
    """Return one line per kind of fault, with the shards that have most of it; pictures are among those of the split."""
    found = []
    looked_at = sum(one.looked_at for one in reports)
    for fault, words in FAULTS.items():
        having = sorted((one for one in reports if one.faults[fault]), key=lambda one: -one.faults[fault])
        if not having or fault == "unreadable":
            continue
        count = sum(one.faults[fault] for one in having)
        reason = having[0].first[fault].reason
        if fault == "broken shard":
            found.append(f"{count:,} of {len(reports):,} shards cannot be read: {reason}")
            continue
        where = ", ".join(f"{one.name} ({one.faults[fault]:,})" for one in having[:3]) + (", ..." if len(having) > 3 else "")
        found.append(f"{count:,} of {looked_at:,} samples that were looked at are {words}, in {where}; the first: {reason}")
    return found
