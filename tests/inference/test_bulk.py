"""Folders and tables in, tables out."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmplug.errors import DataError, UsageError
from openmplug.inference.bulk import Count, collect, columns, predict, write_results
from openmplug.inference.loading import load

Folders = Callable[..., Path]


@pytest.fixture
def place(pictures: list[Path], tmp_path: Path) -> Path:
    """A folder with pictures at two depths and something that is none."""
    (tmp_path / "deep").mkdir()
    for source, name in zip(pictures, ("b.png", "a.png", "deep/c.png"), strict=False):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_is_searched_in_order(place: Path) -> None:
    rows = collect([str(place)], "caption")
    assert [Path(row.name).relative_to(place).as_posix() for row in rows] == ["a.png", "b.png", "deep/c.png"]
    assert all(row.open(row.name).size == (40, 24) for row in rows)


def test_a_table_names_pictures_beside_it_from_anywhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = table(place / "list.jsonl", {"image": "a.png", "question": "what?", "id": 7}, {"image": "deep/c.png", "question": "why?"})
    monkeypatch.chdir("/")
    rows = collect([str(given)], "vqa")
    assert [(row.name, row.text, dict(row.fields)) for row in rows] == [("a.png", "what?", {"id": 7}), ("deep/c.png", "why?", {})]
    assert rows[1].open(rows[1].name).size == (40, 24)


def test_a_table_reads_the_archive_of_its_split(place: Path, pictures: list[Path]) -> None:
    with zipfile.ZipFile(place / "dev_images.zip", "w") as archive:
        archive.write(pictures[0], "packed.png")
    rows = collect([str(table(place / "dev.jsonl", {"image": "packed.png"}, {"image": "a.png"}))], "caption")
    assert [row.open(row.name).size for row in rows] == [(40, 24)] * 2


def test_words_come_from_the_table_first(place: Path) -> None:
    (place / "list.csv").write_text("image,text,note\na.png,a red circle,x\nb.png,,y\n")
    rows = collect([str(place / "list.csv"), str(place / "b.png")], "match", "a green square")
    assert [row.text for row in rows] == ["a red circle", "a green square", "a green square"]
    assert rows[1].fields == {"note": "y"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"picture": "a.png", "question": "q"}],
            r"l line 1: no 'image'; found columns picture, question, expected image, question",
        ),
        ([{"image": "a.png", "question": "q"}, {"image": "b.png", "qestion": "q"}], r"line 2: no 'question'.*did you mean 'qestion'\?"),
        ([{"image": "a.png", "question": " "}], "no 'question'"),
        ([], "has no records"),
    ],
)
def test_a_table_that_lacks_something(rows: list[dict[str, Any]], message: str, place: Path) -> None:
    with pytest.raises(DataError, match=message):
        collect([str(table(place / "list.jsonl", *rows))], "vqa")


def test_inputs_that_are_not_there(place: Path) -> None:
    with pytest.raises(DataError, match=r"table 'none.csv' does not exist"):
        collect(["none.csv"], "vqa", "q")
    (place / "empty").mkdir()
    with pytest.raises(DataError, match=r"folder '.*empty' holds no pictures \(looked for \.bmp, \.gif"):
        collect([str(place / "empty")], "caption")
    with pytest.raises(UsageError, match=r"a.png' comes without words; give --question, or a JSONL or CSV with columns image and question"):
        collect([str(place / "a.png")], "vqa")


def test_results_are_in_order_and_carry_the_other_columns(folders: Folders, place: Path) -> None:
    pipeline = load(folders("vqa"), batch_size=2)
    names = ["a.png", "b.png", "deep/c.png"] * 7
    questions = [f"what is {'the small ' * (number % 4)}circle ?" for number in range(21)]
    rows = [{"image": name, "question": question, "answer": "red"} for name, question in zip(names, questions, strict=True)]
    found = collect([str(table(place / "list.jsonl", *rows))], "vqa")
    count = Count()
    records = list(predict(pipeline, "vqa", found, count=count))
    assert count == Count(done=21, failed=0)
    assert [(record["image"], record["question"]) for record in records] == list(zip(names, questions, strict=True))
    assert {record["given_answer"] for record in records} == {"red"}
    singles = [pipeline.answer(place / name, question) for name, question in zip(names, questions, strict=True)]
    assert [record["answer"] for record in records] == [single.text for single in singles]
    assert list(records[0]) == [name for name in columns("vqa", found) if name != "error"]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_bad_pictures_are_counted_or_stop(ending: str, folders: Folders, place: Path) -> None:
    (place / "bad.png").write_text("bad")
    rows = collect([str(place)], "caption")
    pipeline = load(folders("caption"))
    output = place / "out" / f"captions.{ending}"
    with pytest.raises(DataError, match=r"bad.png' is not a picture.*\(to go on without it: --on-error skip\)"):
        write_results(output, predict(pipeline, "caption", rows), columns("caption", rows))
    assert list((place / "out").iterdir()) == []
    count = Count()
    write_results(output, predict(pipeline, "caption", rows, "skip", count), columns("caption", rows))
    assert count == Count(done=3, failed=1)
    with output.open(newline="") as file:
        records = list(csv.DictReader(file)) if ending == "csv" else [json.loads(line) for line in file]
    assert [bool(record.get("error")) for record in records] == [False, False, True, False]
    assert all(record.get("caption") or record.get("error") for record in records)
    assert [path.name for path in (place / "out").iterdir()] == [output.name]


def test_nothing_readable_at_all(folders: Folders, place: Path) -> None:
    (place / "bad.png").write_text("bad")
    rows = collect([str(place / "bad.png"), str(place / "none.png")], "caption")
    with pytest.raises(DataError, match=r"none of the 2 pictures could be read; the first: image '.*bad.png' is not a picture"):
        list(predict(load(folders("caption")), "caption", rows, "skip"))
    with pytest.raises(UsageError, match="unknown on-error policy 'ignore'; one of error, skip"):
        list(predict(load(folders("caption")), "caption", rows, "ignore"))


def test_matches_have_two_numbers(folders: Folders, place: Path) -> None:
    rows = collect([str(place / "a.png")], "match", "a red circle")
    (record,) = predict(load(folders("retrieval")), "match", rows)
    assert list(record) == ["image", "text", "probability", "similarity"]


def test_without_a_matching_head_there_is_a_similarity_only(folders: Folders, place: Path) -> None:
    rows = collect([str(place / "a.png")], "match", "a red circle")
    (record,) = predict(load(folders("retrieval", matching_weight=0, k_test=0)), "match", rows)
    assert record["probability"] is None
    assert -1.001 <= record["similarity"] <= 1.001


def test_the_ending_names_the_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write results to '.*a.xlsx': the name must end in .jsonl or .csv"):
        write_results(tmp_path / "a.xlsx", [], [])
