"""What is wrong with a data set, found before a run finds it.

Which official files are there, whether as much is in them as their authors say, every file reference, the first pictures, records with
nothing to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from openmplug.batch import Failure, Sample
from openmplug.data.images import ImageSource
from openmplug.data.official import Benchmark, OfficialSplit
from openmplug.data.readers.split import Split
from openmplug.data.video import open_clip
from openmplug.errors import DataError


@dataclass(slots=True)
class SplitReport:
    """What was found in one split.

    Args:
        name: The split.
        records: How many records it has.
        pictures: How many different pictures they name.
        missing: Names of pictures that are not there.
        opened: How many pictures were decoded.
        unreadable: Pictures that are there and could not be decoded.
        unused: Pictures that no record names.
        silent: Ids of records with nothing to learn: no answer, no caption.
        first: The first record, to be looked at.
        kind: "pictures" or "videos": what the records are about.
        where: Where the pictures lie.
        further: What else is wrong, a line each.
    """

    name: str
    records: int
    pictures: int
    where: str
    first: Sample
    missing: list[str] = field(default_factory=list)
    opened: int = 0
    unreadable: list[Failure] = field(default_factory=list)
    unused: int = 0
    silent: list[str] = field(default_factory=list)
    kind: str = "pictures"
    further: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Return one line per kind of trouble; none means that the split can be used."""
        found = []
        if self.missing:
            found.append(f"{len(self.missing):,} of {self.pictures:,} {self.kind} are not in {self.where}: {_some(self.missing)}")
        if self.unreadable:
            reasons = "; ".join(failure.reason for failure in self.unreadable[:3])
            found.append(f"{len(self.unreadable):,} of {self.opened:,} opened {self.kind} cannot be read: {reasons}")
        if self.silent:
            found.append(f"{len(self.silent):,} of {self.records:,} records have no answer or caption: ids {_some(self.silent)}")
        return found + self.further


def check_readable(images: ImageSource, name: str, clip: bool = False) -> None:
    """Decode a picture, or find a video's frames and decode the first one.

    Raises:
        DataError: If it cannot be read.
    """
    if not clip:
        images.open(name)
        return
    with open_clip(images, name) as video:
        video.read([0])


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(f"'{name}'" for name in names[:most]) + (", ..." if len(names) > most else "")


def _named(name: str, named: Mapping[str, bool]) -> bool:
    """Say whether a record names a file, or the folder of frames it lies in."""
    return name in named or any(named.get(folder.as_posix()) for folder in PurePosixPath(name).parents)


def check_split(
    split: Split, open_first: int | None = 64, opened: Callable[[int], None] | None = None, learns_targets: bool = True
) -> SplitReport:
    """Look at every record and file reference of a split and decode its first pictures.

    Args:
        split: From a reader.
        open_first: How many different pictures to decode; None decodes all.
        opened: Called with 1 after each decoded picture.
        learns_targets: False for a task that learns from the texts themselves: then no record is silent.
    """
    clips = {name: sample.clip for sample in split.samples for name in sample.pictures}
    names = list(clips)
    report = SplitReport(split.name, len(split.samples), len(names), split.images.description, split.samples[0])
    report.kind = "videos" if any(clips.values()) else "pictures"
    report.missing = [name for name in names if name not in split.images]
    report.unused = sum(not _named(name, clips) for name in split.images.names())
    report.silent = [sample.id for sample in split.samples if learns_targets and not sample.targets]
    absent = set(report.missing)
    for name in [name for name in names if name not in absent][:open_first]:
        try:
            check_readable(split.images, name, clips[name])
        except DataError as error:
            report.unreadable.append(Failure(name, name, str(error)))
        report.opened += 1
        if opened is not None:
            opened(1)
    return report


# -------------------------------------------------------------------------------------------------------------- its files


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found of one file of a split, or of all its pictures.

    Args:
        split: The split.
        name: Of the file, or "pictures" or "videos".
        state: Whether it is there and as it should be.
        count: How many records, or pictures that are there; None where they were not counted.
        official: How many there should be; empty where nobody says, several where several versions are in use.
        unit: What is counted.
        reason: What is wrong.
    """

    split: str
    name: str
    state: Literal["found", "missing", "wrong"]
    count: int | None = None
    official: tuple[int, ...] = ()
    unit: str = "records"
    reason: str = ""


def check_files(
    root: Path, split: str, benchmark: Benchmark | None, found: SplitReport | DataError, whole: bool = True
) -> list[FileReport]:
    """Hold the files of a split against what its benchmark publishes.

    Args:
        root: Folder of the data set.
        split: The split's name.
        benchmark: Its official files and numbers; None where nothing official is known.
        found: What ``check_split`` said, or why the split could not be read.
        whole: The split was read whole: its records may be counted.

    Returns:
        A line for each annotation file, then one for the pictures where the split was read and has some.
    """
    official = (benchmark.split(split) if benchmark is not None else None) or OfficialSplit()
    unit = benchmark.unit if benchmark is not None else "records"
    wanted = benchmark.files_of(split) if benchmark is not None else []
    report = None if isinstance(found, DataError) else found
    lines: list[FileReport] = []
    for number, names in enumerate(wanted):
        place = next((path for name in names for path in sorted(root.glob(name)) if path.is_file()), None)
        if place is None:
            expected = official.records if number == 0 else ()
            reason = f"{' or '.join(names)} is missing"
            lines.append(FileReport(split, names[0], "missing", official=expected, unit=unit, reason=reason))
            continue
        name = place.relative_to(root).as_posix()
        if isinstance(found, DataError) and str(place) in str(found):
            lines.append(FileReport(split, name, "wrong", official=official.records, unit=unit, reason=str(found)))
        elif number == 0:
            lines.append(_counted(split, name, report.records if report and whole else None, official.records, unit))
        else:
            lines.append(FileReport(split, name, "found", unit=unit))
    if isinstance(found, DataError) and all(line.state == "found" for line in lines):
        lines.append(FileReport(split, "records", "wrong", official=official.records, unit=unit, reason=str(found)))
    if report is not None and not wanted:
        lines.append(_counted(split, "records", report.records if whole else None, official.records, unit))
    if report is not None and report.pictures:
        there = report.pictures - len(report.missing)
        known = (official.pictures,) if official.pictures is not None and whole else ()
        lines.append(_pictures(split, report, there, known))
    return lines


def _counted(split: str, name: str, count: int | None, official: tuple[int, ...], unit: str) -> FileReport:
    if count is None or not official or count in official:
        return FileReport(split, name, "found", count, official, unit)
    expected = " or ".join(f"{number:,}" for number in official)
    return FileReport(split, name, "wrong", count, official, unit, f"'{name}' has {count:,} {unit}, officially {expected}")


def _pictures(split: str, report: SplitReport, there: int, official: tuple[int, ...]) -> FileReport:
    troubles = [problem for problem in report.problems() if report.kind in problem]
    if official and report.pictures not in official:
        troubles.append(f"the records name {report.pictures:,} {report.kind}, officially {official[0]:,}")
    state: Literal["found", "missing", "wrong"] = "missing" if not there else "wrong" if troubles else "found"
    return FileReport(split, report.kind, state, there, official, report.kind, "; ".join(troubles))
