"""DPG-Bench from grids to both scores, against a table worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import reference_folder
from inference.judging import grid, photo, script, write_questions
from openmplug.data.images import TarImages
from openmplug.errors import DataError, UsageError
from openmplug.inference.judge import asking
from openmplug.inference.judge.dpg import Grid, judge_dpg
from openmplug.inference.judge.report import write_report
from openmplug.inference.judge.session import JudgeOptions, PictureReader
from openmplug.inference.loading import load

Folders = Callable[..., Path]
SIDE = 32

QUESTIONS = [
    ("p1", 1, "0", "entity - whole (cat)"),  # the first row: never asked under the published rule
    ("p1", 2, "0", "attribute - color (cat, red)"),
    ("p1", 3, "2", "attribute - size (cat, small)"),
    ("p2", 1, "0", "entity - whole (table)"),
    ("p2", 2, "1", "attribute - color (table, blue)"),
    ("p2", 3, "1,2", "relation - spatial (cat, table, on)"),
    ("p2", 4, "0", "entity - part (table, leg)"),
]
# Answers of each tile in the order of the questions, and what each tile scores:      published         strict
ANSWERS = {
    "p1": ["yyy",  # 1                1
           "nyn",  # 1/2              1/3
           "yny",  # 0: 3 needs 2     1/3
           "nyy"],  # 1               2/3
    "p2": ["yyyy",  # 1               1
           "nyyy",  # 1/4: 2, 3 need 1   likewise
           "ynyn",  # 1/4: 3 needs 2     likewise
           "nnnn"],  # 0              0
}  # fmt: skip
# Pictures: published 2.5 / 4 and 1.5 / 4, strict (7 / 3) / 4 and 1.5 / 4.
PUBLISHED, STRICT = 100 * (0.625 + 0.375) / 2, 100 * (7 / 12 + 0.375) / 2


def photos() -> list[Image.Image]:
    """Take eight photos of Flickr8k, or noise where there are none, as tiles."""
    archive = reference_folder("OPENMPLUG_DATA", "data") / "flickr8k" / "dev_images.tar"
    if not archive.is_file():
        return [photo(seed, (SIDE, SIDE)) for seed in range(8)]
    source = TarImages(archive)
    return [source.open(name).resize((SIDE, SIDE)) for name in source.names()[:8]]


@pytest.fixture
def bench(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, JudgeOptions]:
    """The questions, a folder of two grids, and a judge that gives the table's answers to the tiles it belongs to."""
    tiles = dict(zip(ANSWERS, (photos()[:4], photos()[4:]), strict=True))
    images = tmp_path / "images"
    images.mkdir()
    said = {}
    for item, parts in tiles.items():
        grid(parts).save(images / f"{item}.png")
        numbers = [number for each, number, *_ in QUESTIONS if each == item]
        for part, letters in zip(parts, ANSWERS[item], strict=True):
            words = [{"y": "yes", "n": "no"}[letter] for letter in letters]
            said[part.tobytes()] = {f"{item} {number} ?": word for number, word in zip(numbers, words, strict=True)}
    assert len(said) == 8
    monkeypatch.setattr(asking, "answer_about", script(said))
    options = JudgeOptions(folders("vqa"), tmp_path / "out", device="cpu", batch_size=5)
    return write_questions(tmp_path / "questions.csv", QUESTIONS), images, options


def test_both_rules_by_hand(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    report, rows = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    assert (report["rule"], report["score"]) == ("published", pytest.approx(PUBLISHED))
    assert (report["published"]["score"], report["strict"]["score"]) == (pytest.approx(PUBLISHED), pytest.approx(STRICT))
    assert report["counts"] == {"items": 2, "tiles": 8, "questions": 28, "failures": 0}
    assert report["failures"] == {}
    assert "published rule 50.00, strict rule 47.92" in report["notes"]

    def scores(rule: str, level: str) -> dict[str, Any]:
        return {category: pytest.approx(each["score"]) for category, each in report[rule][level].items()}

    # Last tile only, before zeroing, first row never asked.
    assert scores("published", "level2") == {
        "attribute - color": 50,
        "attribute - size": 100,
        "entity - part": 0,
        "entity - whole": 0,
        "relation - spatial": 0,
    }
    assert scores("published", "level1") == {"attribute": 200 / 3, "entity": 0, "relation": 0}
    # All tiles, all rows.
    assert scores("strict", "level2") == {
        "attribute - color": 62.5,
        "attribute - size": 75,
        "entity - part": 50,
        "entity - whole": 50,
        "relation - spatial": 75,
    }
    assert scores("strict", "level1") == {"attribute": 100 * 8 / 12, "entity": 50, "relation": 75}
    assert report["published"]["low"] <= PUBLISHED <= report["published"]["high"]
    assert report["judge"]["num_beams"] == 2

    again, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4, strict=True)
    assert (again["rule"], again["score"]) == ("strict", pytest.approx(STRICT))

    assert len(rows) == 28
    third = [row for row in rows if (row["item_id"], row["tile"]) == ("p1", 3)]
    assert [(row["proposition_id"], row["answer"], row["score"], row["score_with_dependencies"]) for row in third] == [
        (1, "yes", 1, 1),
        (2, "no", 0, 0),
        (3, "yes", 1, 0),
    ]


def test_its_own_rows_give_the_same_report(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    report, rows = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    write_report(options.output, report, rows)
    assert json.loads((options.output / "report.json").read_text()) == json.loads(json.dumps(report))
    again, same = judge_dpg(questions, answers=options.output / "answers.jsonl")
    assert {name: again[name] for name in ("score", "published", "strict", "counts")} == {
        name: report[name] for name in ("score", "published", "strict", "counts")
    }
    assert same == rows


def test_a_first_prompt_that_cannot_do_without_its_first_question(bench: tuple[Path, Path, JudgeOptions], tmp_path: Path) -> None:
    _, images, options = bench
    questions = write_questions(tmp_path / "other.csv", [("p1", 1, "0", "a"), ("p1", 2, "0", "b"), ("p1", 3, "1", "c"), *QUESTIONS[3:]])
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    # As in the public script: the parent of p1's third question has no answer, so the picture fails.
    assert report["score"] == pytest.approx(37.5)
    assert report["failures"] == {str(images / "p1.png"): "proposition 3 depends on 1, which has no answer"}
    assert (report["published"]["left_out"], report["strict"]["pictures"]) == (1, 2)
    # By the strict rule nothing failed.
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4, strict=True)
    assert (report["failures"], report["counts"]["failures"], report["published"]["left_out"]) == ({}, 0, 1)
    assert not any("left out" in note for note in report["notes"])


def test_a_first_prompt_with_a_single_question(bench: tuple[Path, Path, JudgeOptions], tmp_path: Path) -> None:
    _, images, options = bench
    questions = write_questions(tmp_path / "other.csv", [("p1", 1, "0", "a"), *QUESTIONS[3:]])
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    assert report["score"] == pytest.approx(37.5)
    assert "never asked" in report["failures"][str(images / "p1.png")]
    # Strict: p1 is right in two of four tiles.
    assert report["strict"]["score"] == pytest.approx(100 * (0.5 + 0.375) / 2)


@pytest.mark.parametrize("kind", ["unknown", "damaged", "small"])
def test_a_failure_is_left_out_or_an_error(bench: tuple[Path, Path, JudgeOptions], kind: str) -> None:
    questions, images, options = bench
    path = images / ("q2.png" if kind == "unknown" else "p1.png")
    if kind == "damaged":
        path.write_text("no picture")
    else:
        photo(9, (2 * SIDE, 2 * SIDE - 1)).save(path)
    reason = {
        "unknown": "no prompt 'q2' in the questions; did you mean 'p2'?",
        "damaged": "is not a picture",
        "small": "smaller than the grid",
    }
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    assert list(report["failures"]) == [str(path)]
    assert reason[kind] in report["failures"][str(path)]
    assert any(str(path) in note and "left out" in note for note in report["notes"])
    assert report["score"] == pytest.approx(PUBLISHED if kind == "unknown" else 37.5)
    assert report["counts"]["items"] == (2 if kind == "unknown" else 1)
    if kind != "unknown":
        assert "1 pictures failed, the first 'p1'" in report["strict"]["not_computed"]
    with pytest.raises(DataError, match=reason[kind].replace("?", r"\?")):
        judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4, strict=True)


def test_pictures_beyond_the_grid_are_told(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=1, dry_run=True)
    (note,) = report["notes"]
    assert note.startswith("2 pictures are larger than the grid of 32 x 32 pixels, such as ")
    (images / "p1.png").write_text("no picture")
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=1, dry_run=True)
    assert report["notes"][0].startswith("1 pictures are larger")


def test_a_missing_picture_is_counted_or_an_error(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    (images / "p1.png").unlink()
    report, _ = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    assert report["score"] == pytest.approx(37.5)
    assert "1 of 2 prompts have no picture and are not counted, such as 'p1'" in report["notes"]
    with pytest.raises(DataError, match="has no picture for item 'p1'"):
        judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4, strict=True)


def test_nothing_that_can_be_scored(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    with pytest.raises(DataError, match=r"none of the 2 pictures could be scored; .* correct --resolution"):
        judge_dpg(questions, images, options=options, resolution=SIDE + 1, pic_num=4)
    for path in images.iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match=r"none of the 2 pictures in .* belongs to a prompt; no prompt 'xp1' .* did you mean 'p1'"):
        judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)


def test_wrong_questions(tmp_path: Path) -> None:
    shifted = write_questions(tmp_path / "shifted.csv", [("p1", 1, "0", "a"), ("p1", 2, "1, right", "b")])
    given = tmp_path / "given.csv"
    given.write_text("item_id,proposition_id,answer\np1,1,yes\np1,2,yes\n")
    with pytest.raises(DataError, match=r"line 3: dependency '1, right' is not a list of numbers"):
        judge_dpg(shifted, answers=given)
    absent = write_questions(tmp_path / "absent.csv", [("p0", 1, "0", "a"), ("p1", 1, "0", "a"), ("p1", 2, "5", "b")])
    with pytest.raises(DataError, match="proposition 2 depends on 5, which the item does not have"):
        judge_dpg(absent, answers=given, strict=True)


def test_answers_of_a_judge_that_skipped_the_first_row(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.csv", QUESTIONS)
    given = tmp_path / "given.csv"
    lines = [f"p1,{tile},{number},yes" for tile in (1, 2) for number in (2, 3)]
    given.write_text("\n".join(["item_id,tile,question_id,answer", *lines]) + "\n")
    report, _ = judge_dpg(questions, answers=given)
    assert report["score"] == 100
    assert "tile 1 has no answer to proposition 1" in report["strict"]["not_computed"]
    given.write_text("\n".join(["item_id,tile,question_id,answer", *lines, "p2,1,1,yes"]) + "\n")
    report, _ = judge_dpg(questions, answers=given)
    assert report["failures"] == {"p2": "has answers about 1 of 2 tiles"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": None}, "give --resolution PIXELS"),
        ({"pic_num": 3}, "--pic-num is 1 or 4"),
        ({"options": None}, "give --model DIR and --output DIR"),
        ({"answers": Path("x.csv")}, "give either --images with --model and --output, or --answers"),
        ({"images": None}, "give either --images with --model and --output, or --answers"),
    ],
)
def test_wrong_calls(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"images": tmp_path, "options": JudgeOptions(tmp_path, tmp_path), "resolution": 8, "pic_num": 4}
    with pytest.raises(UsageError, match=message):
        judge_dpg(tmp_path / "questions.csv", **{**call, **given})


def test_a_single_tile_is_cut_from_the_top_left(tmp_path: Path) -> None:
    tiles = [photo(seed) for seed in range(4)]
    grid(tiles).save(tmp_path / "a.png")
    read = PictureReader()
    assert Grid(32, 1).cut(read, tmp_path / "a.png", 0).tobytes() == tiles[0].tobytes()
    assert [Grid(32, 4).cut(read, tmp_path / "a.png", tile).tobytes() for tile in range(4)] == [tile.tobytes() for tile in tiles]


def test_the_model_is_asked_about_each_tile(folders: Folders, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    tiles = {item: [photo(10 * number + tile) for tile in range(4)] for number, item in enumerate(ANSWERS)}
    for item, parts in tiles.items():
        grid(parts).save(images / f"{item}.png")
    questions = write_questions(tmp_path / "questions.csv", QUESTIONS)
    options = JudgeOptions(folders("vqa"), tmp_path / "out", device="cpu", batch_size=6)
    _, rows = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4)
    judge = load(folders("vqa"), device="cpu")
    expected = [judge.answer(tiles[row["item_id"]][row["tile"] - 1], row["question"]).text for row in rows]
    assert [row["answer"] for row in rows] == expected
    assert len(set(expected)) > 1


def test_a_dry_run_asks_nothing(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    report, rows = judge_dpg(questions, images, options=options, resolution=SIDE, pic_num=4, dry_run=True)
    assert (report["counts"], rows) == ({"items": 2, "tiles": 8, "questions": 28}, [])
    assert not options.output.exists()
