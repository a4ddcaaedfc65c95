"""Shards: found by patterns, indexed once, read at offsets, and refused with a word that helps."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from data.shards_made import image_files, picture, write_shards, write_tar, write_words
from openmplug.data import shard_index
from openmplug.data.readers import READERS
from openmplug.data.shard_index import open_index
from openmplug.data.shard_places import expand_braces, find_shards
from openmplug.data.shards import ShardSet, open_shards
from openmplug.errors import DataError, EnvironmentProblem, UsageError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENMPLUG_CACHE", str(tmp_path / "cache"))


def test_patterns_name_shards_in_order_and_once(tmp_path: Path) -> None:
    write_shards(tmp_path / "a")
    names = [Path(place).name for place in find_shards(tmp_path, ["a/{00001..00002}.tar", "a"])]
    assert names == ["00001.tar", "00002.tar", "00000.tar"]
    assert len(find_shards(tmp_path, ["a/*.tar"])) == 3 == len(find_shards(tmp_path / "a", ["."]))
    assert expand_braces("x{9..11}") == ["x9", "x10", "x11"]
    assert find_shards(None, [str(tmp_path / "a" / "00001.tar")]) == [str(tmp_path / "a" / "00001.tar")]
    with pytest.raises(DataError, match=r"no shards at .*b/\*\.tar; expected \.tar files there"):
        find_shards(tmp_path, ["b/*.tar"])
    with pytest.raises(DataError, match=r"the range \{3\.\.1\} runs backward"):
        find_shards(tmp_path, ["{3..1}.tar"])
    with pytest.raises(DataError, match=r"relative to data\.root, which is not set"):
        find_shards(None, ["a/*.tar"])


def test_each_sample_is_read_at_its_offset(tmp_path: Path) -> None:
    split = READERS["shards"](write_shards(tmp_path), "{00000..00002}.tar", {})
    assert len(split.samples) == 12 and [sample.id for sample in split.samples[3:5]] == ["00000/000000003", "00001/000010000"]
    sample = split.samples[-1]
    assert (sample.image, sample.targets) == ("00002.tar/000020004.jpg", ("shard 2 picture 4",)) and sample.image_index == 11
    assert split.images.read("00002.tar/000020004.jpg") == picture(204) and split.images.open("00001.tar/000010001.jpg").size == (20, 20)
    assert "00001.tar/000010002.jpg" in split.images and "00001.tar/000010003.jpg" not in split.images and "x.jpg" not in split.images
    assert len(split.images.names()) == 12 and sample.image in split.images.names()
    again = pickle.loads(pickle.dumps(split))
    assert again.samples[4] == split.samples[4] and again.images.read(str(sample.image)) == picture(204)
    with pytest.raises(DataError, match=r"image '00009\.tar/x\.jpg' not found in 3 shards such as .*; expected SHARD\.tar/KEY\.SUFFIX"):
        split.images.read("00009.tar/x.jpg")
    with pytest.raises(IndexError):
        split.samples[12]


def test_captions_come_from_text_files_lists_or_a_named_field(tmp_path: Path) -> None:
    write_shards(tmp_path, [1])
    assert open_shards(tmp_path, ["."], {"caption": "alt"})[0].targets == ("alt 0",)
    assert open_shards(tmp_path, ["."], {"caption": None})[0].targets == ()
    facts = json.dumps({"captions": ["one", " two "], "caption": "one"}).encode()
    write_tar(
        tmp_path / "b" / "0.tar", [("k.jpg", picture(0)), ("k.json", facts), ("k.txt", b"one"), ("l.jpg", picture(1)), ("l.json", b"{")]
    )
    samples = open_shards(tmp_path, ["b"], {})
    assert samples[0].targets == ("one", "two") == samples[0].references
    with pytest.raises(DataError, match=r"l\.json in .*0\.tar is not JSON"):
        samples[1]
    with pytest.raises(UsageError, match=r"unknown role 'question' in data\.columns; shards have caption"):
        open_shards(tmp_path, ["b"], {"question": "q"})
    write_tar(tmp_path / "c" / "0.tar", [("k.jpg", picture(0)), ("l.jpg", picture(0)), ("l.txt", b"\xff")])
    bare = open_shards(tmp_path, ["c"], {})
    with pytest.raises(DataError, match=r"record '0/k' in .* has no caption; expected one in its \.txt or \.json file"):
        bare[0]
    with pytest.raises(DataError, match=r"l\.txt in .* is not UTF-8 text"):
        bare[1]


def test_words_alone_and_videos_have_their_kinds(tmp_path: Path) -> None:
    words = open_shards(write_words(tmp_path / "w"), ["."], {})
    assert words.shards.kind == "words" and (words[6].image, words[6].text, words[6].targets) == (None, "words 0 of shard 1", ())
    write_tar(tmp_path / "v" / "0.tar", [("a.mp4", b"x"), ("a.txt", b"a clip"), ("b.video.gif", b"x"), ("b.txt", b"a gif")])
    clips = open_shards(tmp_path, ["v"], {})
    assert clips.shards.kind == "clip" and all(each.clip for each in clips)
    assert [each.image for each in clips] == ["0.tar/a.mp4", "0.tar/b.video.gif"]
    assert clips.shards.read("0.tar/b.video.gif") == b"x"
    with pytest.raises(DataError, match=r"hold 2 videos and 11 texts alone; put each kind into shards"):
        ShardSet(find_shards(tmp_path, ["v", "w"]))


def test_the_index_is_made_once_and_anew_when_the_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_tar(tmp_path / "0.tar", image_files(0, 2))
    scans = []
    scan = shard_index.scan_shard
    monkeypatch.setattr(shard_index, "scan_shard", lambda place, *version: scans.append(place) or scan(place, *version))
    assert len(open_index(str(shard))) == 2 == len(open_index(str(shard))) and len(scans) == 1
    assert (tmp_path / "0.tar.index.jsonl").is_file() and not list((tmp_path).glob(".*"))
    write_tar(shard, image_files(0, 3))
    assert len(open_index(str(shard))) == 3 and len(scans) == 2
    os.utime(shard, ns=(1, 1))
    open_index(str(shard))
    (tmp_path / "0.tar.index.jsonl").write_text("[1]\n")  # not ours
    assert len(open_index(str(shard))) == 3 and len(scans) == 4


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_tar(tmp_path / "0.tar", image_files(0, 2))
    write = shard_index.write_whole

    def refuse(path: Path, text: str) -> None:
        if path.parent == tmp_path:
            raise PermissionError("read-only")
        write(path, text)

    monkeypatch.setattr(shard_index, "write_whole", refuse)
    index = open_index(str(shard))
    assert index.path.parent == tmp_path / "cache" / "shards" and len(open_index(str(shard))) == 2
    monkeypatch.setenv("OPENMPLUG_CACHE", str(shard))
    with pytest.raises(EnvironmentProblem, match=r"the index of .*0\.tar cannot be written, neither to .* and .*; set OPENMPLUG_CACHE"):
        open_index(str(shard))


@pytest.mark.parametrize("cut", [600, 5120, 1500])
def test_a_shard_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    shard = write_tar(tmp_path / "0.tar", [("a.txt", b"x" * 700), ("b.txt", b"y" * 700)])
    shard.write_bytes(shard.read_bytes()[: cut if cut < 5000 else 2 * (512 + 1024)])  # the last without the end's zeros
    with pytest.raises(DataError, match=r"0\.tar is (no whole, uncompressed tar file|cut short or damaged).*get it again"):
        open_index(str(shard))


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar file")
    with pytest.raises(DataError, match=r"a\.tar is no whole, uncompressed tar file"):
        open_index(str(tmp_path / "a.tar"))
    with pytest.raises(DataError, match=r"shard .*b\.tar cannot be read: "):
        open_index(str(tmp_path / "b.tar"))
    write_tar(tmp_path / "c.tar", [("README", b"x")])
    with pytest.raises(DataError, match=r"c\.tar has no sample"):
        open_index(str(tmp_path / "c.tar"))
    write_tar(tmp_path / "d.tar", [("a.txt", b"x"), ("b.txt", b"x"), ("a.json", b"{}")])
    with pytest.raises(DataError, match=r"the files of sample 'a' do not follow each other"):
        open_index(str(tmp_path / "d.tar"))


def test_remote_shards_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    remote = fsspec.filesystem("memory")
    try:
        for shard, count in enumerate((2, 3)):
            local = write_tar(tmp_path / f"{shard}.tar", image_files(shard, count))
            remote.pipe(f"/bucket/cc/{shard:05d}.tar", local.read_bytes())
        for pattern in ("memory://bucket/cc/{00000..00001}.tar", "memory://bucket/cc/*.tar", "memory://bucket/cc"):
            samples = open_shards(None, [pattern], {})
            assert [sample.targets[0] for sample in samples][1:3] == ["shard 0 picture 1", "shard 1 picture 0"]
            assert samples.shards.read("00001.tar/000010002.jpg") == picture(102)
        assert len(list((tmp_path / "cache" / "shards").glob("*.index.jsonl"))) == 2
        with pytest.raises(DataError, match=r"shard memory://bucket/cc/00007\.tar cannot be read"):
            open_shards(None, ["memory://bucket/cc/00007.tar"], {})
    finally:
        remote.rm("/bucket", recursive=True)
    with pytest.raises(DataError, match=r"'nowhere://x/0\.tar' cannot be opened: .*expected a path or a URL that fsspec knows"):
        open_shards(None, ["nowhere://x/0.tar"], {})


def test_shards_changed_during_a_run_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path, [2])
    samples = open_shards(tmp_path, ["."], {})
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"00000\.tar has changed: 0 of .* bytes at .*; start again"):
        samples[1]


def test_an_index_of_other_samples_is_told_by_the_shard_itself(tmp_path: Path) -> None:
    """A shard packed anew with equal sizes and an equal time: only the headers in it say that its samples are others."""
    shard = write_tar(tmp_path / "0.tar", [("a.jpg", picture(0)), ("a.txt", b"one"), ("b.jpg", picture(1)), ("b.txt", b"two")])
    samples, state = open_shards(tmp_path, ["."], {}), shard.stat()
    write_tar(shard, [("c.jpg", picture(0)), ("c.txt", b"one"), ("d.JPG", picture(1)), ("b.txt", b"two")])
    os.utime(shard, ns=(state.st_mtime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match=r"0\.tar has changed: at .* is 'c\.txt', not 'a\.txt'; delete .*0\.tar\.index\.jsonl"):
        samples[0]
    assert samples[1].targets == ("two",)
    with pytest.raises(DataError, match=r"is 'd\.JPG', not 'b\.jpg'"):
        samples.shards.read("0.tar/b.jpg")


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", image_files(0, 3))
    open_index(str(shard))
    home = tmp_path / "0.tar.index.jsonl"
    lines = home.read_text().splitlines(keepends=True)
    home.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"index .*0\.tar\.index\.jsonl has 2 of 3 lines; delete it and start again"):
        open_shards(tmp_path, ["."], {})[0]
    home.write_text("".join([*lines[:2], "[1]\n", lines[3]]))
    samples = open_shards(tmp_path, ["."], {})
    assert samples[2].targets == ("shard 0 picture 2",)
    with pytest.raises(DataError, match=r"line 3 of the index .* is damaged"):
        samples[1]


def test_doubled_files_are_refused_and_odd_names_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("k.jpg", picture(0)), ("k.txt", b"x"), ("k.jpg", picture(1)), ("k.txt", b"y")])
    with pytest.raises(DataError, match=r"a\.tar: 'k\.jpg' is in it twice; pack it again"):
        open_index(str(tmp_path / "a.tar"))
    long = "long/" * 30 + "n" * 120
    names = [long, "Größe", "./dot/under", b"\xff".decode("utf-8", "surrogateescape")]
    write_tar(
        tmp_path / "b" / "0.tar", [(f"{name}.{suffix}", data) for name in names for suffix, data in (("JPG", picture(0)), ("txt", b"x"))]
    )
    samples = open_shards(tmp_path, ["b"], {})
    assert [(sample.targets, samples.shards.read(str(sample.image))) for sample in samples] == [(("x",), picture(0))] * 4
    fresh = open_shards(tmp_path, ["b"], {})  # found by name alone, without having been asked for before
    assert [fresh.shards.read(str(sample.image)) for sample in samples] == [picture(0)] * 4
