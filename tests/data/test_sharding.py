"""Shards made of data sets: what is in them, byte for byte, after a kill too; and the lists they are made of."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from data.shards_made import picture
from openmplug.batch import Sample
from openmplug.data import packing, sharding
from openmplug.data.images import FolderImages
from openmplug.data.readers import READERS, Split
from openmplug.data.shard_index import Rows, open_index, scan_shard
from openmplug.data.sharding import ShardSettings, write_shards
from openmplug.data.shards import open_shards
from openmplug.errors import DataError, EnvironmentProblem, UsageError


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Seven pictures with two captions each; the fourth is damaged and the last is missing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.JPG").write_bytes(picture(number, 40) if number != 3 else picture(number)[:200])
    captions = [(f"first {number} é", f"second {number}") for number in range(7)]
    return Split(
        "train", [Sample(f"r{n}", f"{n}.JPG", None, texts, (), texts, n) for n, texts in enumerate(captions)], FolderImages(folder)
    )


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.suffix != ".jsonl"}


def test_shards_hold_each_readable_record_once_and_its_bytes_as_they_are(split: Split, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = write_shards(split, tmp_path / "out", ShardSettings(per_shard=3), advance=lambda done, left_out: seen.append((done, left_out)))
    assert (made.shards, made.kept, made.samples, seen) == (3, 0, 5, [(3, 0), (6, 1), (7, 2)])
    assert [failure.id for failure in made.left_out] == ["r3", "r6"] and "damaged header" in made.left_out[0].reason
    with tarfile.open(tmp_path / "out" / "00000.tar") as archive:
        assert archive.getnames()[:4] == ["000000000.jpg", "000000000.json", "000000000.txt", "000000001.jpg"]
        assert {entry.mtime for entry in archive} == {0}
        facts = json.loads(archive.extractfile("000000001.json").read())  # type: ignore[union-attr]
    assert facts == {
        "id": "r1",
        "image": "1.JPG",
        "width": 40,
        "height": 40,
        "caption": "first 1 é",
        "captions": ["first 1 é", "second 1"],
    }
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []


def test_what_was_written_is_read_again_and_its_index_is_right(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Split("train", [split.samples[n] for n in (0, 1, 2, 4, 5)], split.images)
    write_shards(full, tmp_path / "out", ShardSettings(per_shard=2))
    for place in sorted((tmp_path / "out").glob("*.tar")):
        found = scan_shard(str(place), place.stat().st_size)
        assert [(row.key, row.files) for row in Rows(open_index(str(place)))] == [(row.key, row.files) for row in found]
    monkeypatch.setattr("openmplug.data.shard_index.scan_shard", None)  # the index that lies there is used
    samples = open_shards(tmp_path, ["out"], {})
    assert [sample.targets for sample in samples] == [sample.targets for sample in full.samples]
    assert [samples.shards.read(str(sample.image)) for sample in samples] == [
        full.images.read(str(sample.image)) for sample in full.samples
    ]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ShardSettings(per_shard=2)
    write_shards(split, tmp_path / "whole", settings)
    files, calls = packing.record_files, []

    def dies(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return files(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "record_files", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shards(split, tmp_path / "parts", settings)
    assert [path.name for path in (tmp_path / "parts").glob("*.tar")] == ["00000.tar"]
    (tmp_path / "parts" / ".00001.tar.writing").write_bytes(b"half a shard")  # as after kill -9
    monkeypatch.setattr(packing, "record_files", files)
    made = write_shards(split, tmp_path / "parts", settings)
    assert (made.shards, made.kept, made.samples, len(made.left_out)) == (4, 1, 5, 2)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_are_the_same_bytes_whoever_reads(split: Split, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 2)  # chunks end at the end of a shard too
    settings = ShardSettings(per_shard=3, resize=24)
    one = write_shards(split, tmp_path / "one", settings)
    (tmp_path / "many").mkdir()
    for name in ("shards.json", "00001.tar", "00001.left_out.jsonl"):  # as where the others were lost
        (tmp_path / "many" / name).write_bytes((tmp_path / "one" / name).read_bytes())
    many = write_shards(split, tmp_path / "many", settings, workers=workers)
    assert (many.kept, many.samples, many.left_out) == (1, one.samples, one.left_out)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_what_is_no_fault_of_a_record_stops_with_its_own_line(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> object:
        raise EnvironmentProblem("videos need PyAV; install it")

    monkeypatch.setattr(packing, "record_files", refuse)
    for workers in (0, 1):
        with pytest.raises(EnvironmentProblem, match=r"^videos need PyAV; install it$"):
            write_shards(split, tmp_path / "out", ShardSettings(), workers=workers)


def test_a_worker_that_dies_leaves_whole_shards_and_a_free_folder(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, main = packing.record_files, os.getpid()

    def dies(sample: Sample, *arguments: object) -> object:
        if sample.id == "r4" and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return files(sample, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "record_files", dies)
    monkeypatch.setattr(packing, "CHUNK", 1)
    with pytest.raises(EnvironmentProblem, match=r"a data worker died \(.*lower --workers"):
        write_shards(split, tmp_path / "out", ShardSettings(per_shard=2), workers=1)
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []
    made = write_shards(split, tmp_path / "out", ShardSettings(per_shard=2))
    write_shards(split, tmp_path / "whole", ShardSettings(per_shard=2))
    assert made.kept >= 1 and contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_second_process_on_the_same_output_is_refused(split: Split, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    holds = multiprocessing.get_context("fork").Event()
    done = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        with (tmp_path / "out" / ".lock").open("ab") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            holds.set()
            done.wait(60)

    other = multiprocessing.get_context("fork").Process(target=hold, daemon=True)
    other.start()
    assert holds.wait(60)
    with pytest.raises(
        UsageError, match=r"another process is at work on the shards in '.*out' and holds '.*\.lock'; wait for it, or choose"
    ):
        write_shards(split, tmp_path / "out", ShardSettings())
    assert not list((tmp_path / "out").glob("*.tar"))
    done.set()
    other.join(60)
    assert write_shards(split, tmp_path / "out", ShardSettings()).samples == 5


def test_larger_pictures_are_resized_by_their_shorter_side(tmp_path: Path) -> None:
    for name, size in (("wide", (90, 30)), ("small", (20, 12))):
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / f"{name}.png")
    samples = [Sample(name, f"{name}.png", None, (name,)) for name in ("wide", "small")]
    write_shards(Split("train", samples, FolderImages(tmp_path)), tmp_path / "out", ShardSettings(resize=16))
    shards = open_shards(tmp_path, ["out"], {}).shards
    assert shards.names() == ["00000.tar/000000000.jpg", "00000.tar/000000001.png"]
    assert Image.open(io.BytesIO(shards.read("00000.tar/000000000.jpg"))).size == (48, 16)
    assert shards.read("00000.tar/000000001.png") == (tmp_path / "small.png").read_bytes()


def test_words_and_clips(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), (value, 0, 0)) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "frames").mkdir()
    frames[0].save(tmp_path / "frames" / "0.png")
    clips = [Sample(name, name, None, ("a clip",), clip=True) for name in ("a.gif", "frames")]
    made = write_shards(Split("train", clips, FolderImages(tmp_path)), tmp_path / "clips", ShardSettings())
    assert made.samples == 1 and "is a folder of frames; a sample of a shard is one file" in made.left_out[0].reason
    assert [sample.clip for sample in open_shards(tmp_path, ["clips"], {})] == [True]
    words = [Sample("0", None, "some words"), Sample("1", None, "and more")]
    write_shards(Split("train", words, FolderImages(tmp_path)), tmp_path / "words", ShardSettings(per_shard=1))
    assert [sample.text for sample in open_shards(tmp_path, ["words"], {})] == ["some words", "and more"]


def test_other_settings_and_other_folders_are_refused(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(split, tmp_path / "out", ShardSettings(per_shard=3), "jsonl train")
    with pytest.raises(UsageError, match=r"were made otherwise: per_shard \(3 before, 4 now\); give the same again"):
        write_shards(split, tmp_path / "out", ShardSettings(per_shard=4), "jsonl train")
    with pytest.raises(UsageError, match=r"fingerprint \(.*records|records \(7 before, 6 now\)"):
        write_shards(Split("train", split.samples[:6], split.images), tmp_path / "out", ShardSettings(per_shard=3), "jsonl train")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.tar").write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds \.tar files of other making"):
        write_shards(split, tmp_path / "other", ShardSettings())
    with pytest.raises(UsageError, match="record 'q' asks about a picture; shards hold captions"):
        write_shards(Split("train", [Sample("q", "a.jpg", "why?", ("so",))], split.images), tmp_path / "q", ShardSettings())
    with pytest.raises(DataError, match=r"none of the 1 records can be read; the first: image '6\.JPG' not found"):
        write_shards(Split("train", [split.samples[6]], split.images), tmp_path / "none", ShardSettings())

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharding, "_write_shard", full)
    with pytest.raises(EnvironmentProblem, match=r"No space left on device; the shards that are there are whole, run it again"):
        write_shards(split, tmp_path / "full", ShardSettings())


# ---------------------------------------------------------------------------------------------------------------- the lists


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(picture(number))


def test_folder_of_pictures_with_texts_beside_them(tmp_path: Path) -> None:
    pictures(tmp_path / "train" / "deep", "a.jpg", "b.jpg", "bare.jpg")
    (tmp_path / "train" / "deep" / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "train" / "deep" / "b.txt").write_text("three")
    split = READERS["folder_captions"](tmp_path, "train", {})
    assert [(sample.image, sample.targets) for sample in split.samples] == [("deep/a.jpg", ("one", "two")), ("deep/b.jpg", ("three",))]
    with pytest.raises(DataError, match=r"data folder .*dev does not exist"):
        READERS["folder_captions"](tmp_path, "dev", {})
    pictures(tmp_path / "bare", "a.jpg")
    with pytest.raises(DataError, match=r"none of the 1 pictures in .*bare has a \.txt file"):
        READERS["folder_captions"](tmp_path, "bare", {})
    pictures(tmp_path / "mixed", "a.jpg", "b.mp4")
    for name in "ab":
        (tmp_path / "mixed" / f"{name}.txt").write_text("x")
    with pytest.raises(DataError, match="holds pictures and videos; put them into two folders"):
        READERS["folder_captions"](tmp_path, "mixed", {})


def test_visual_genome_regions(tmp_path: Path) -> None:
    pictures(tmp_path / "VG_100K", "1.jpg")
    pictures(tmp_path / "VG_100K_2", "2.jpg")
    regions = [{"id": n, "regions": [{"phrase": f"{text} {n}", "image_id": n} for text in ("a", "b", "a")]} for n in (1, 2)]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    samples = READERS["visual_genome_regions"](tmp_path, "train", {}).samples
    assert [(sample.image, sample.targets) for sample in samples] == [
        ("VG_100K/1.jpg", ("a 1", "b 1")),
        ("VG_100K_2/2.jpg", ("a 2", "b 2")),
    ]
    # Picture 1 is COCO's 7, which Karpathy tests on.
    (tmp_path / "image_data.json").write_text(json.dumps([{"image_id": 1, "coco_id": 7}, {"image_id": 2, "coco_id": None}]))
    assert len(READERS["visual_genome_regions"](tmp_path, "train", {}).samples) == 2
    coco = [{"cocoid": 7, "split": "test"}, {"cocoid": 8, "split": "train"}]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": coco}))
    assert [sample.id for sample in READERS["visual_genome_regions"](tmp_path, "train", {}).samples] == ["2"]
    (tmp_path / "region_descriptions.json").write_text(json.dumps([{"id": 1, "regions": []}]))
    with pytest.raises(DataError, match="has no region with a phrase"):
        READERS["visual_genome_regions"](tmp_path, "train", {})


def test_lists_of_addresses_find_pictures_by_row_sum_or_name(tmp_path: Path) -> None:
    urls = [f"http://host/{name}" for name in ("x/first.jpg", "second.png", "lost.jpg", "77.jpg")]
    captions = [f"caption {number} " for number in range(4)]
    pictures(tmp_path / "images", "first.jpg", hashlib.md5(urls[1].encode()).hexdigest() + ".jpg", "000003.jpg")
    (tmp_path / "sbu-captions-all.json").write_text(json.dumps({"image_urls": urls, "captions": captions}))
    (tmp_path / "Train_GCC-training.tsv").write_text("".join(f"{c}\t{u}\n" for c, u in zip(captions, urls, strict=True)))
    found = READERS["sbu"](tmp_path, "train", {}).samples
    assert [(sample.id, sample.targets) for sample in found] == [(str(n), (f"caption {n}",)) for n in (0, 1, 3)]
    assert found[2].image == "000003.jpg" and READERS["conceptual_captions"](tmp_path, "train", {}).samples == found
    (tmp_path / "Train_GCC-training.tsv").rename(tmp_path / "old.tsv")
    (tmp_path / "cc12m.tsv").write_text("".join(f"{u}\t{c}\n" for c, u in zip(captions, urls, strict=True)))
    assert READERS["conceptual_captions"](tmp_path, "train", {}).samples == found
    (tmp_path / "cc12m.tsv").write_text("one cell\n")
    with pytest.raises(DataError, match=r"cc12m\.tsv line 1: 1 cells, expected a caption and an address"):
        READERS["conceptual_captions"](tmp_path, "train", {})
    (tmp_path / "cc12m.tsv").write_text("http://host/z.jpg\tz\nhttp://host/y.jpg\ty\n")
    with pytest.raises(DataError, match=r"none of the 2 pictures of .*cc12m\.tsv is in folder .*; fetch them first"):
        READERS["conceptual_captions"](tmp_path, "train", {})
    (tmp_path / "sbu-captions-all.json").write_text(json.dumps({"image_urls": urls, "captions": captions[:1]}))
    with pytest.raises(DataError, match=r"4 addresses and 1 captions; expected as many"):
        READERS["sbu"](tmp_path, "train", {})
