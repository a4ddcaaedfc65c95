"""Shards looked over: what is bad in each is counted by kind, and a shard that cannot be read does not hide the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import run
from data.shards_made import image_files, picture, write_tar, write_words
from openmplug.data.shard_checking import check_shards
from openmplug.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards: good; with a bad sample of each kind; cut short."""
    write_tar(tmp_path / "web" / "0.tar", image_files(0, 5))
    files = [(name, data) for name, data in image_files(1, 90) if not name.startswith("000010003") or name.endswith("jpg")]
    bad = {
        "000010001.jpg": picture(101)[:-60],  # corrupt
        "000010002.jpg": b"no picture",
        "000010004.txt": b" \n",  # empty caption
        "000010005.txt": b"\xff\xfe",  # not UTF-8
        "000010080.jpg": b"beyond those that are looked at unless all are",
    }
    write_tar(tmp_path / "web" / "1.tar", [(name, bad.get(name, data)) for name, data in files])
    whole = write_tar(tmp_path / "web" / "2.tar", image_files(2, 4)).read_bytes()
    (tmp_path / "web" / "2.tar").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def places(root: Path) -> list[str]:
    return [str(root / "web" / f"{number}.tar") for number in range(3)]


def test_bad_samples_are_counted_by_shard_and_kind(root: Path) -> None:
    report, shards = check_shards("web", places(root), {})
    assert [dict(one.faults) for one in shards] == [
        {},
        {"unreadable": 2, "no words": 1, "empty": 1, "damaged words": 1},
        {"broken shard": 1},
    ]
    assert [(one.records, one.looked_at, one.opened) for one in shards] == [(5, 5, 5), (90, 64, 21), (0, 0, 0)]
    assert (report.records, report.pictures, report.opened, len(report.unreadable)) == (95, 95, 26, 2)
    assert report.first.id == "0/000000000" and shards[1].first["empty"].id == "000010004"
    problems = report.problems()
    assert problems[0].startswith("2 of 26 opened pictures cannot be read: image '1.tar/000010001.jpg' is truncated or damaged")
    assert problems[1].startswith("1 of 3 shards cannot be read: shard ") and "is no whole, uncompressed tar file" in problems[1]
    assert problems[2].startswith("1 of 69 samples that were looked at are without a .txt or .json file, in ")
    assert problems[3].startswith("1 of 69 samples that were looked at are with an empty caption, in ")
    assert "000010005.txt in" in problems[4] and "is not UTF-8 text" in problems[4] and len(problems) == 5


def test_all_are_looked_at_when_asked_for_and_no_more_than_the_limit(root: Path) -> None:
    _, shards = check_shards("web", places(root), {}, every=True)
    assert (shards[1].looked_at, shards[1].faults["unreadable"]) == (90, 3)
    report, shards = check_shards("web", places(root), {}, limit=6)
    assert report.records == 6 and [one.records for one in shards] == [5, 1] and report.problems() == []


def test_shards_that_cannot_be_used_at_all(root: Path) -> None:
    with pytest.raises(DataError, match="is no whole, uncompressed tar file"):
        check_shards("web", places(root)[2:], {})
    write_words(root / "words")
    with pytest.raises(DataError, match=r"the shards hold samples of several kinds: .*0\.tar of picture and .*00000\.tar of words"):
        check_shards("web", [places(root)[0], str(root / "words" / "00000.tar")], {})
    report, _ = check_shards("words", [str(root / "words" / "00000.tar")], {})
    assert report.problems() == [] and report.pictures == report.opened == 0 and report.first.text == "words 0 of shard 0"


def test_the_command_lists_bad_shards(root: Path) -> None:
    source = f"data.sources={{web: {{reader: shards, root: {root}, train: [web]}}}}"
    outcome = run("data", "check", "caption/shapes_mplug_tiny", source, "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 3 and len(document["problems"]) == 5
    (split,) = document["splits"]
    assert [each["bad"] for each in split["shards"]][::2] == [{}, {"broken shard": 1}] and split["shards"][1]["bad"]["empty"] == 1
    assert [row["state"] for row in document["files"]] == ["found", "wrong"]  # records, pictures
    outcome = run("data", "check", "caption/shapes_mplug_tiny", source)
    table = outcome.out.partition("Shards with bad samples")[2]
    assert table.index("web/web: 1.tar") < table.index("web/web: 2.tar") and "64 of 90" in table and "0.tar" not in table
