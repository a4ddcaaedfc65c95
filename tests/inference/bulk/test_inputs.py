"""What a command's arguments name: files, folders, tables, and one machine's part of them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from inference.bulk.making import table
from openmplug.data.images import FolderImages
from openmplug.errors import DataError, UsageError
from openmplug.inference.bulk.inputs import open_inputs
from openmplug.inference.bulk.sources import walk_pictures


def test_a_folder_is_searched_in_order(place: Path) -> None:
    inputs = open_inputs([str(place)], None)
    assert inputs.total == 3
    assert [Path(row.name).relative_to(place).as_posix() for _, row in inputs.rows()] == ["a.png", "b.png", "deep/c.png"]
    assert all(inputs.load(key).image.size == (40, 24) for key in inputs.rows())


def test_the_walk_has_the_order_of_the_sorted_names(tmp_path: Path) -> None:
    names = ["a/b.png", "a.png", "a-b/c.JPG", "a0/d.png", "a/b/e.gif", "z.png", "Z.png", "é/x.png", ".hidden/y.png"]
    for name in [*names, "a/notes.txt", "b.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(walk_pictures(str(tmp_path))) == FolderImages(tmp_path).names() == sorted(names)


def test_a_table_names_pictures_beside_it_from_anywhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = table(place / "list.jsonl", {"image": "a.png", "question": "what?", "id": 7}, {"image": "deep/c.png", "question": "why?"})
    monkeypatch.chdir("/")
    inputs = open_inputs([str(given)], "question")
    found = [(row.name, row.text, dict(row.fields)) for _, row in inputs.rows()]
    assert found == [("a.png", "what?", {"id": 7}), ("deep/c.png", "why?", {})]
    assert all(inputs.load(key).image.size == (40, 24) for key in inputs.rows())


def test_a_table_reads_the_archive_of_its_split(place: Path, pictures: list[Path]) -> None:
    with zipfile.ZipFile(place / "dev_images.zip", "w") as archive:
        archive.write(pictures[0], "packed.png")
    inputs = open_inputs([str(table(place / "dev.jsonl", {"image": "packed.png"}, {"image": "a.png"}))], None)
    assert [inputs.load(key).image.size for key in inputs.rows()] == [(40, 24)] * 2


def test_words_come_from_the_table_first(place: Path) -> None:
    (place / "list.csv").write_text("image,text,note\na.png,a red circle,x\nb.png,,y\n")
    rows = [row for _, row in open_inputs([str(place / "list.csv"), str(place / "b.png")], "text", "a green square").rows()]
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
        open_inputs([str(table(place / "list.jsonl", *rows))], "question")


def test_inputs_that_are_not_there(place: Path) -> None:
    with pytest.raises(DataError, match=r"table 'none.csv' does not exist"):
        open_inputs(["none.csv"], "question", "q")
    (place / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"folder '.*empty' holds no pictures or videos \(looked for .*\.bmp, .*\.mp4.*\) and no .tar shards"
    ):
        open_inputs([str(place / "empty")], None)
    with pytest.raises(UsageError, match=r"a.png' comes without words; give --question, or a JSONL or CSV with columns image and question"):
        open_inputs([str(place / "a.png")], "question")


@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
def test_shards_share_the_rows_out(num_shards: int, place: Path) -> None:
    given = [str(place), str(place / "a.png"), str(table(place / "list.jsonl", *[{"image": "b.png", "n": n} for n in range(3)]))]
    everything = list(open_inputs(given, None).rows())
    parts = [open_inputs(given, None, shard=shard, num_shards=num_shards) for shard in range(num_shards)]
    for shard, part in enumerate(parts):
        assert list(part.rows()) == everything[shard::num_shards]
        assert list(part.rows(start=1)) == everything[shard::num_shards][1:]
        assert part.total == len(everything[shard::num_shards])
    assert len({str(part.identity()) for part in parts}) == num_shards


@pytest.mark.parametrize(("shard", "num_shards"), [(2, 2), (-1, 2), (0, 0)])
def test_shard_numbers_that_make_no_sense(shard: int, num_shards: int, place: Path) -> None:
    with pytest.raises(UsageError, match=rf"--shard is {shard} of --num-shards {num_shards}; expected a shard from 0 to"):
        open_inputs([str(place)], None, shard=shard, num_shards=num_shards)


def test_the_identity_changes_with_the_inputs(place: Path) -> None:
    given = table(place / "list.jsonl", {"image": "a.png"})

    def identities() -> list[str]:
        return [str(open_inputs([name], None).identity()) for name in (str(place), str(given), str(place / "a.png"))]

    before = identities()
    assert identities() == before
    (place / "b.png").rename(place / "bb.png")
    table(given, {"image": "a.png"}, {"image": "a.png"})
    (place / "a.png").write_bytes(b"")
    assert all(one != other for one, other in zip(before, identities(), strict=True))


def test_the_identity_changes_with_the_words(place: Path) -> None:
    one, same, other = (open_inputs([str(place)], "question", text) for text in ("what?", "what?", "why?"))
    assert one.identity() == same.identity() != other.identity()
