"""DPG-Bench: grids of pictures or a judge's answers in, scores by the published rule and by the strict one out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from openmplug.checkpoints.folder import file_hash
from openmplug.config import did_you_mean
from openmplug.data.readers.judging import GivenAnswer, Proposition, Questions, check_answers, read_answers, read_questions
from openmplug.errors import DataError, UsageError
from openmplug.inference.judge.asking import Question, Subject
from openmplug.inference.judge.dpg_figures import answer_rows, collect_tiles, differences, figures_of
from openmplug.inference.judge.report import INTERVAL, Report
from openmplug.inference.judge.session import JudgeOptions, PictureReader, ask_all, fingerprint, need_inputs, picture_size, pictures_in
from openmplug.metrics.judging.dpg import PUBLISHED, STRICT

RULES = {
    PUBLISHED: "as the public script: first row of the questions never asked, pictures that fail left out, categories of the last tile",
    STRICT: "every row asked, failures are errors, categories of all tiles",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """How the tiles lie in a file: top-left, top-right, bottom-left, bottom-right.

    Args:
        resolution: Side of a tile in pixels.
        tiles: 1 or 4.
    """

    resolution: int
    tiles: int

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Return (left, top, right, bottom) of each tile."""
        side = self.resolution
        corners = [(0, 0), (side, 0), (0, side), (side, side)][: self.tiles]
        return [(left, top, left + side, top + side) for left, top in corners]

    @property
    def width(self) -> int:
        """Return the side of the whole grid in pixels."""
        return self.resolution * (2 if self.tiles == 4 else 1)

    def cut(self, read: PictureReader, path: Path, tile: int) -> Image.Image:
        """Return one tile of a file, counted from 0.

        Raises:
            DataError: If the file cannot be read or is smaller than the grid.
        """
        picture = read(path)
        if picture.width < self.width or picture.height < self.width:
            raise DataError(
                f"image '{path}' is {picture.width} x {picture.height} pixels, smaller than the grid of {self.tiles} tiles of"
                f" {self.resolution}; correct --resolution or --pic-num"
            )
        return picture.crop(self.boxes()[tile])


def judge_dpg(
    questions: Path,
    images: Path | None = None,
    answers: Path | None = None,
    options: JudgeOptions | None = None,
    resolution: int | None = None,
    pic_num: int = 1,
    strict: bool = False,
    dry_run: bool = False,
) -> tuple[Report, list[dict[str, Any]]]:
    """Score DPG-Bench, or other prompts in its format.

    Args:
        questions: ``dpg_bench.csv``.
        images: Folder of grids, ``item_id`` = name before the first dot; or
        answers: ``answers.jsonl`` of an earlier run, or a table like it.
        options: The judge, for ``images``.
        resolution: Side of a tile in pixels, for ``images``.
        pic_num: Tiles in a grid, 1 or 4.
        strict: Let the strict rule give the score, and make errors of failures.
        dry_run: Read and check everything, ask nothing.

    Returns:
        The report with the figures of both rules where both can be computed, and a row per question.

    Raises:
        UsageError: If the inputs or the grid are not named as they must be.
        DataError: If a file is not of its format, nothing can be scored, or, with ``strict``, anything failed.
    """
    need_inputs(images, answers, options)
    if images is not None and resolution is None:
        raise UsageError("--images needs the size of a tile; give --resolution PIXELS")
    if pic_num not in (1, 4) or (resolution is not None and resolution < 1):
        raise UsageError(f"--pic-num is 1 or 4 and --resolution at least 1; got {pic_num} and {resolution}")
    asked = _read(questions, strict)
    report: Report = {"benchmark": "dpg", "rule": STRICT if strict else PUBLISHED, "rules": RULES}
    report |= {"questions_file": str(questions), "prompts": len(asked.items)}
    notes: list[str] = []
    failures: dict[str, str] = {}
    if answers is not None:
        given = read_answers(answers)
        check_answers(given, asked)
        report["judge"] = {"answers": str(answers), "sha256": file_hash(answers)}
        names = {each.item_id: each.item_id for each in given}
        if strict:
            _need_all(asked, names, f"{answers} has no answers")
    else:
        assert images is not None and options is not None and resolution is not None
        grid = Grid(resolution, pic_num)
        subjects, paths, failures = _subjects(asked, images, grid)
        if strict and failures:
            raise DataError(f"picture '{next(iter(failures))}': {next(iter(failures.values()))}")
        names = {item: str(path) for item, path in paths.items()}
        if strict:
            _need_all(asked, names, f"'{images}' has no picture")
        report |= {"images": str(images), "resolution": resolution, "pic_num": pic_num}
        notes += _larger(paths.values(), grid)
        if dry_run:
            counts = {"items": len(paths), "tiles": len(subjects), "questions": sum(len(each.questions) for each in subjects)}
            return {**report, "dry_run": True, "counts": counts, "failures": failures, "notes": notes}, []
        about = {
            "benchmark": "dpg",
            "questions": file_hash(questions),
            "pictures": fingerprint(paths.values()),
            "grid": [resolution, pic_num],
        }
        asked_rows, report["judge"] = ask_all(subjects, options, about, skip_unreadable=not strict)
        given = [_given(row) for row in asked_rows]
    if dry_run:
        return {**report, "dry_run": True, "counts": {"questions": len(given)}, "notes": notes}, []
    return _scored(report, asked, given, names, failures, notes), answer_rows(asked, given)


def _read(questions: Path, strict: bool) -> Questions:
    asked = read_questions(questions)
    if asked.unusable:
        raise DataError(next(iter(asked.unusable.values())) + "; correct the row")
    if strict and asked.absent:
        item, reason = next(iter(asked.absent.items()))
        raise DataError(f"item '{item}' of {questions}: {reason}; correct the row, or leave out --strict")
    return asked


def _scored(
    report: Report, asked: Questions, given: Sequence[GivenAnswer], names: Mapping[str, str], failures: dict[str, str], notes: list[str]
) -> Report:
    """Complete a report from the answers.

    Args:
        report: So far.
        asked: The questions.
        given: The answers.
        names: What each item's picture is called in the report.
        failures: Reason by picture that could not be asked about.
        notes: What a user should know so far.
    """
    if missing := [item for item in asked.items if item not in names]:
        notes.append(f"{len(missing):,} of {len(asked.items):,} prompts have no picture and are not counted, such as '{missing[0]}'")
    tiles, unread = collect_tiles(given)
    figures, left_out = figures_of(asked, tiles, unread, report["rule"])
    figures[PUBLISHED]["left_out"] = len(failures) + len(left_out)
    if report["rule"] == PUBLISHED:  # the strict rule has raised an error by now, if anything failed
        failures = {**failures, **{names[item]: reason for item, reason in left_out.items()}}
    notes += [f"picture '{path}': {reason}; left out" for path, reason in failures.items()]
    notes += differences(figures)
    counts = {
        "items": len(tiles),
        "tiles": sum(len(each) for each in tiles.values()),
        "questions": sum(len(tile) for each in tiles.values() for tile in each),
        "failures": len(failures),
    }
    score = figures[report["rule"]]["score"]
    return {**report, "score": score, "counts": counts, "failures": failures, "notes": notes, **figures, "intervals": INTERVAL + "pictures"}


def _larger(paths: Iterable[Path], grid: Grid) -> list[str]:
    """Say which pictures reach beyond the grid: the public script cuts them without a word, and so a wrong resolution goes unseen."""
    sizes = ((path, picture_size(path)) for path in paths)
    larger = [(path, size) for path, size in sizes if size is not None and max(size) > grid.width]
    if not larger:
        return []
    (path, (width, height)), side = larger[0], grid.width
    return [
        f"{len(larger):,} pictures are larger than the grid of {side} x {side} pixels, such as '{path}' with {width} x {height}; of these"
        " only the top-left part is judged: is --resolution right?"
    ]


def _need_all(asked: Questions, there: Mapping[str, str], what: str) -> None:
    for item in asked.items:
        if item not in there:
            raise DataError(f"{what} for item '{item}'; --strict needs every prompt")


def _subjects(asked: Questions, images: Path, grid: Grid) -> tuple[list[Subject], dict[str, Path], dict[str, str]]:
    pictures, read = pictures_in(images), PictureReader()
    failures = {
        str(path): f"no prompt '{stem}' in the questions{did_you_mean(stem, asked.items)}"
        for stem, path in pictures.items()
        if stem not in asked.items
    }
    paths = {stem: path for stem, path in pictures.items() if stem in asked.items}
    if not paths:
        raise DataError(f"none of the {len(pictures):,} pictures in '{images}' belongs to a prompt; {next(iter(failures.values()))}")
    subjects = [
        Subject(str(path), partial(grid.cut, read, path, tile), _questions(item, tile + 1, asked.items[item]))
        for item, path in paths.items()
        for tile in range(grid.tiles)
    ]
    return subjects, paths, failures


def _questions(item_id: str, tile: int, item: Mapping[int, Proposition]) -> tuple[Question, ...]:
    return tuple(Question(each.question, {"item_id": item_id, "tile": tile, "proposition_id": each.number}) for each in item.values())


def _given(row: Mapping[str, Any]) -> GivenAnswer:
    answer, error = row.get("answer", ""), row.get("error", "")
    return GivenAnswer("", "", row["item_id"], row["tile"], row["proposition_id"], answer, error)
