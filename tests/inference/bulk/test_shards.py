"""WebDataset shards: patterns, samples, words, damage."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from inference.bulk.making import shard
from openmplug.errors import DataError, OpenmplugError
from openmplug.inference.bulk.inputs import Inputs, open_inputs
from openmplug.inference.bulk.shards import expand_braces, read_members


@pytest.fixture
def png(pictures: list[Path]) -> bytes:
    return pictures[0].read_bytes()


def loaded(inputs: Inputs) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for key in inputs.rows():
        result = inputs.load(key)
        assert result.image.size == (40, 24)
        found.append((key[1].name, result.text, dict(result.fields)))
    return found


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("x-{000..002}.tar", ["x-000.tar", "x-001.tar", "x-002.tar"]),
        ("{train,dev}-{0..1}.tar", ["train-0.tar", "train-1.tar", "dev-0.tar", "dev-1.tar"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


def test_every_way_to_name_shards(png: bytes, tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"s-{number:02}.tar", {f"{number}{part}.png": png for part in "ab"})
    expected = [str(tmp_path / f"s-{number:02}.tar/{number}{part}.png") for number in range(3) for part in "ab"]
    for given in ("s-{00..02}.tar", "s-*.tar", "", "s-0{0,1,2}.tar"):
        inputs = open_inputs([str(tmp_path / given)], None)
        assert inputs.total is None
        assert [name for name, _, _ in loaded(inputs)] == expected
    part = open_inputs([str(tmp_path)], None, shard=1, num_shards=4)
    assert [row.name for _, row in part.rows()] == expected[1::4]
    assert [row.name for _, row in part.rows(start=1)] == expected[5::4]


def test_a_folder_with_pictures_and_archives_is_a_folder_of_pictures(png: bytes, place: Path) -> None:
    shard(place / "more.tar", {"x.png": png})
    assert open_inputs([str(place)], None).total == 3


def test_where_the_words_come_from(png: bytes, tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar",
        {
            "__index__.json": {"not": "a sample"},
            "d/1.jpg": png,
            "d/1.json": {"question": "in json?", "id": 1},
            "d/1.question": "in question?",
            "d/2.question": " in question? \n",
            "d/2.seg.png": b"a mask",
            "d/2.png": png,
            "3.txt": "in txt?",
            "3.JPG": png,
        },
    )
    asked = loaded(open_inputs([str(path)], "question", "asked?"))
    assert asked == [
        (f"{path}/d/1.jpg", "in json?", {"id": 1}),
        (f"{path}/d/2.png", "in question?", {}),
        (f"{path}/3.JPG", "asked?", {}),
    ]
    assert [text for _, text, _ in loaded(open_inputs([str(path)], "question"))] == ["in json?", "in question?", "in txt?"]
    assert [fields for _, _, fields in loaded(open_inputs([str(path)], None))] == [{"question": "in json?", "id": 1}, {}, {}]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_header_is_read_as_tarfile_reads_it(kind: int, tmp_path: Path) -> None:
    path, content = tmp_path / "a.tar", tmp_path / "content"
    content.write_bytes(b"x" * 1500)
    with tarfile.open(path, "w", format=kind) as archive:
        for name in ("a.jpg", "é.jpg", "deep/" * 30 + "b.jpg", "n" * 90 + ".jpg", "./c.jpg"):
            archive.add(content, name)
            archive.add(tmp_path, "folder", recursive=False)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("empty.jpg"))
    with tarfile.open(path) as archive:
        expected = [(entry.name, (entry.offset_data, entry.size, False)) for entry in archive if entry.isreg()]
    assert list(read_members(str(path))) == expected
    assert len(expected) == 6
    # Without the empty blocks at its end, and cut within a file or a header.
    data = path.read_bytes()
    for length in (expected[2][1][0] + 1536, expected[-1][1][0]):
        path.write_bytes(data[:length])
        assert [name for name, _ in read_members(str(path))] == [name for name, (offset, _, _) in expected if offset <= length]
    for length in (700, 300, expected[1][1][0] + 100):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"a\.tar' is damaged or not an uncompressed tar file"):
            list(read_members(str(path)))


def spoiled(png: bytes, path: Path) -> Inputs:
    shard(path / "1.tar", {"a.png": png, "b.txt": "no picture", "c.png": png, "c.json": "{", "d.png": b"bad", "e.png": png})
    data = shard(path / "2.tar", {"f.png": png, "g.png": png}).read_bytes()
    (path / "2.tar").write_bytes(data[: 512 + 1024 * (len(png) // 512) + 700])
    (path / "3.tar").write_text("I am not a tar file." * 100)
    shard(path / "4.tar", {"h.png": png})
    return open_inputs([str(path / "{1..4}.tar")], None)


def test_damage_is_a_row_with_a_reason_and_the_next_shard_goes_on(png: bytes, tmp_path: Path) -> None:
    inputs = spoiled(png, tmp_path)
    reasons = {}
    for key in inputs.rows():
        try:
            inputs.load(key)
            reasons[Path(key[1].name).name] = ""
        except DataError as error:
            reasons[Path(key[1].name).name] = str(error)
    assert [name for name, reason in reasons.items() if not reason] == ["a.png", "e.png", "f.png", "h.png"]
    assert "sample 'b' in" in reasons["b"]
    assert "has no picture or video; found txt, expected jpg" in reasons["b"]
    assert "'c.json' in" in reasons["c.png"]
    assert "is not valid JSON" in reasons["c.png"]
    assert "is not a picture" in reasons["d.png"]
    assert "damaged or not an uncompressed tar file" in reasons["2.tar"]
    assert "its other samples are left out" in reasons["2.tar"]
    assert "damaged or not an uncompressed tar file" in reasons["3.tar"]


@pytest.mark.parametrize(
    ("given", "members", "message"),
    [
        ("none.tar", {}, r"shard '.*none.tar' does not exist; check the path$"),
        ("s-{0..1}.tar", {}, r"shard '.*s-1.tar' does not exist; check the path or the pattern '.*s-\{0..1\}.tar'"),
        ("x-*.tar", {}, r"shard '.*x-\*.tar' does not exist"),
        ("s-0.tar.gz", {}, r"s-0.tar.gz' is compressed, so single pictures cannot be read"),
        ("s-0.tar", {}, r"shard '.*s-0.tar' holds no samples; expected members such as 000.jpg and 000.json"),
        ("s-0.tar", {"a.txt": "x"}, r"sample 'a' in '.*s-0.tar' has no picture or video; found txt, expected jpg, png, mp4, ..."),
        ("s-0.tar", {"a.png": b""}, r"sample 'a' .* has no words; found png, expected a column 'question' in its .json, a .question"),
        ("s-0.tar", {"a.png": b"", "a.json": {"qestion": "q"}}, r"sample 'a' .* has no words; found png, json"),
        ("s-0.tar", {"a.png": b"", "a.txt": b"\xff\xfe"}, r"'a.txt' in '.*s-0.tar' is not UTF-8 text"),
        ("s-0.tar", {"a.png": b"", "a.json": "[1]"}, r"'a.json' in '.*s-0.tar' is a list, expected an object"),
    ],
)
def test_what_is_wrong_is_found_before_the_model_is_loaded(given: str, members: dict[str, Any], message: str, tmp_path: Path) -> None:
    shard(tmp_path / "s-0.tar", members)
    with pytest.raises(OpenmplugError, match=message):
        open_inputs([str(tmp_path / given)], "question")
