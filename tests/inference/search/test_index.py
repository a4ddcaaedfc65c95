"""Whole indexes: what is in them, what is found, what adding and deleting do, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.bulk.making import shard, table
from inference.search.conftest import colours
from openmplug.errors import DataError, ModelError, UsageError
from openmplug.inference.abilities import text_tokens
from openmplug.inference.loading import load
from openmplug.inference.model import Model
from openmplug.inference.search import index as front_door
from openmplug.inference.search.index import Index

Folders = Callable[..., Path]
NAMES = {"a.png", "b.png", "c.png", "clip.gif", "d.png", "deep/e.png"}


@pytest.fixture
def index(archive: Path, matcher: Model, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", [archive], matcher, segment_seconds=2.0, workers=0)[0]


def names(index: Index, where: str | None = None) -> list[str]:
    """List the names of all rows."""
    return sorted(hit.name for hit in index.search_vector(np.eye(1, 16, dtype=np.float32)[0], 100, where))


def test_a_folder_becomes_an_index_and_a_picture_finds_itself(index: Index, archive: Path, matcher: Model) -> None:
    info = index.info()
    assert (info.files, info.pictures, info.moments, info.vector_size, info.vector_index) == (6, 5, 2, 16, None)
    assert set(names(index)) == NAMES
    for name in ("b.png", "deep/e.png"):
        first = index.search(archive / name, k=2)[0]
        assert (first.name, first.path, first.start_seconds) == (name, str(archive / name), None)
        assert first.similarity == pytest.approx(1.0, abs=1e-5)
        assert max(Image.open(BytesIO(first.thumbnail)).size) <= 192
    found = index.search("what colour is the red circle", k=7)
    expected = matcher.embed_images([archive / "d.png"])[0] @ matcher.embed_texts("what colour is the red circle")
    assert {hit.name: hit for hit in found}["d.png"].similarity == pytest.approx(float(expected), abs=1e-5)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_moments_of_a_video_are_found_by_what_is_in_them(index: Index, tmp_path: Path) -> None:
    red, blue = colours(tmp_path / "red.gif", [(250, 0, 0)], 2.0), colours(tmp_path / "blue.gif", [(0, 0, 250)], 2.0)
    for query, times in ((red, (0.0, 2.0)), (blue, (2.0, 4.0))):
        hit = index.search(query, k=1, where="kind = 'video'")[0]
        assert (hit.name, hit.start_seconds) == ("clip.gif", times[0])
        assert hit.end_seconds == pytest.approx(times[1], abs=0.11)
        middle = Image.open(BytesIO(hit.thumbnail)).convert("RGB").getpixel((12, 20))
        assert isinstance(middle, tuple) and middle[0 if query is red else 2] > 200


def test_a_long_video_is_read_to_its_end(archive: Path, matcher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmplug.inference.search import reading

    whole, _ = Index.build(tmp_path / "whole", [archive / "clip.gif"], matcher, segment_seconds=0.4, workers=0)
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 1)  # a worker reads one moment, this process the others
    parts, tally = Index.build(tmp_path / "parts", [archive / "clip.gif"], matcher, segment_seconds=0.4, workers=0)
    assert (tally.added, tally.rows_added, len(whole)) == (1, 10, 10)
    query = np.eye(1, 16, dtype=np.float32)[0]
    one, other = ({hit.start_seconds: hit.similarity for hit in each.search_vector(query, 20)} for each in (whole, parts))
    assert one == pytest.approx(other, abs=1e-5)
    assert len(one) == 10


def test_adding_again_changes_nothing_and_a_changed_file_is_replaced(index: Index, archive: Path) -> None:
    tally = index.add([archive], workers=0)
    assert (tally.added, tally.resumed, len(index)) == (0, 6, 7)
    Image.new("RGB", (30, 30), "green").save(archive / "a.png")
    colours(archive / "clip.gif", [(0, 200, 0)], 2.0)  # shorter than before: one moment goes
    Image.new("RGB", (30, 30), "black").save(archive / "new.png")
    tally = index.add([archive], workers=0)
    assert (tally.added, tally.replaced, tally.resumed, len(index)) == (3, 2, 4, 7)
    assert names(index) == sorted([*NAMES, "new.png"])
    assert index.search(archive / "a.png", k=1)[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_deleting_by_file_folder_filter_and_absence(index: Index, archive: Path) -> None:
    assert index.delete([archive / "a.png", "clip.gif"]) == 3
    assert index.delete([archive / "deep"]) == 1
    assert index.delete(where="path = 'b.png'") == 1
    (archive / "c.png").unlink()
    assert index.delete(missing=True) == 1
    assert names(index) == ["d.png"]
    with pytest.raises(DataError, match=r"'a\.png' is not in the index"):
        index.delete(["a.png"])
    with pytest.raises(UsageError, match="nothing was named to delete"):
        index.delete()
    assert index.add([archive], workers=0).added == 4
    assert set(names(index)) == NAMES - {"c.png"}


def test_corrupt_files_are_counted_named_and_limited(archive: Path, matcher: Model, tmp_path: Path) -> None:
    (archive / "bad.png").write_bytes((archive / "a.png").read_bytes()[:60])
    (archive / "bad.mp4").write_bytes(b"no video at all")
    index, tally = Index.build(tmp_path / "index", [archive], matcher, workers=0)
    assert (tally.added, tally.failed, tally.resumed) == (6, 2, 0)
    assert sorted(Path(reason.split("'")[1]).name for reason in tally.failures) == ["bad.mp4", "bad.png"]
    assert set(names(index)) == NAMES
    with pytest.raises(DataError, match="more than --max-failures; the first: "):
        index.add([archive], max_failures=1, workers=0)
    with pytest.raises(DataError, match="--on-error skip; what came before it is in the index"):
        Index.build(tmp_path / "strict", [archive], matcher, on_error="error", workers=0)
    with pytest.raises(DataError, match="none of the 2 files could be read"):
        Index.build(tmp_path / "none", [archive / "bad.png", archive / "bad.mp4"], matcher, workers=0)


def test_columns_of_a_table_become_filters(archive: Path, matcher: Model, tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "year": 2018, "place": "Rome", "caption": "a cup", "tags": ["x"]},
        {"image": "b.png", "year": 2020, "place": "O'Hare", "good": True},
        {"image": "c.png", "year": "unknown", "place": "Oslo", "path": "taken"},
        {"image": "a.png", "year": 1999},
        {"video": "clip.gif", "year": 2021},
    ]
    index, tally = Index.build(tmp_path / "index", [table(archive / "list.jsonl", *rows)], matcher, workers=0)
    assert (tally.added, tally.repeated, dict(tally.misfits)) == (4, 1, {"year": 1})
    assert index.info().columns == {"year": "number", "place": "text", "tags": "text", "good": "boolean", "given_path": "text"}
    assert names(index, "year > 2019") == ["b.png", "clip.gif"]
    assert names(index, "place = 'O''Hare' OR caption LIKE '%cup'") == ["a.png", "b.png"]
    assert names(index, "good") == ["b.png"]
    first = index.search("a red circle", k=1, where="path = 'a.png'")[0]
    assert (first.caption, first.metadata) == ("a cup", {"year": 2018, "place": "Rome", "tags": '["x"]'})
    for wrong in ("yeer > 3", "year >", "year = 'x'"):
        with pytest.raises(UsageError, match=r"is not understood: .*year \(number\), place \(text\)"):
            index.search("a red circle", where=wrong)
    # The folder knows nothing of the columns, and leaves them; a table that says something else is heard.
    assert index.add([archive], workers=0).added == 2
    assert index.add([table(archive / "list.jsonl", {"image": "a.png", "year": 2030})], workers=0).replaced == 1
    assert names(index, "year > 2019") == ["a.png", "b.png", "clip.gif"]
    reopened = Index.open(tmp_path / "index", matcher)
    assert names(reopened, "year > 2019 AND good") == ["b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_names_and_words_that_are_no_utf8(archive: Path, matcher: Model, tmp_path: Path) -> None:
    shutil.copy(archive / "a.png", os.fsencode(archive) + b"/\xff.png")
    rows = [{"image": "a.png", "caption": "half \ud800", "Year": "\ud800", "year": 3}]
    index, tally = Index.build(tmp_path / "index", [archive, table(archive / "list.jsonl", *rows)], matcher, workers=0)
    assert (tally.added, tally.failed, tally.repeated) == (6, 1, 1)
    assert "'?.png' is not UTF-8" in tally.failures[0]
    index.add([archive / "list.jsonl"], workers=0)
    assert index.search("a circle", 1, "path = 'a.png'")[0].caption == "half ?"
    assert index.search("a circle", 1, "path = 'a.png'")[0].metadata == {"Year": "?", "year": 3}


def test_cells_of_a_csv_are_numbers_where_all_of_a_column_are(archive: Path, matcher: Model, tmp_path: Path) -> None:
    (archive / "list.csv").write_text("image,year,code,mixed\na.png,2018,007,1\nb.png,2020,008,x\nc.png,,009,2\n")
    index, _ = Index.build(tmp_path / "index", [archive / "list.csv"], matcher, workers=0)
    assert index.info().columns == {"year": "number", "code": "text", "mixed": "text"}
    assert names(index, "year > 2019 AND code = '008'") == ["b.png"]


def test_shards_of_pictures_and_videos(archive: Path, matcher: Model, tmp_path: Path) -> None:
    members = {
        "1.png": (archive / "a.png").read_bytes(),
        "1.json": {"year": 2001, "caption": "first"},
        "2.png": (archive / "b.png").read_bytes(),
        "2.txt": "second",
        "3.avi": (archive / "clip.gif").read_bytes(),
        "3.json": {"year": 2003},
        "4.png": b"broken",
    }
    made = shard(tmp_path / "s" / "x.tar" if (tmp_path / "s").mkdir() is None else tmp_path, members)
    index, tally = Index.build(tmp_path / "index", [made], matcher, segment_seconds=2.0, workers=1)
    assert (tally.added, tally.failed, tally.rows_added) == (3, 1, 4)
    assert names(index) == ["x.tar/1.png", "x.tar/2.png", "x.tar/3.avi", "x.tar/3.avi"]
    assert names(index, "year > 2002") == ["x.tar/3.avi"] * 2
    assert {hit.name: hit.caption for hit in index.search("a circle")} == {
        "x.tar/1.png": "first", "x.tar/2.png": "second", "x.tar/3.avi": None,
    }  # fmt: skip
    assert index.add([made], workers=0).resumed == 3
    ranked = index.search("a red circle", rerank=10)
    assert all(hit.problem is None and hit.matching is not None for hit in ranked)


def test_reranking_is_that_of_the_evaluation(index: Index, archive: Path, matcher: Model) -> None:
    text = "how many green squares"
    pictures = index.search(text, k=5, where="kind = 'picture'", rerank=5)
    expected = {}
    for name in NAMES - {"clip.gif"}:
        pixels, words = matcher.visuals.read(archive / name)[None], text_tokens(matcher, [text])
        with matcher.computing():
            network = matcher.network
            fused = network.fuse(network.encode_images(pixels), network.encode_text(words.ids, words.mask), words.mask)
            expected[name] = float(network.matching(fused.text)[0, 1])
        assert {hit.name: hit.similarity for hit in pictures}[name] == pytest.approx(
            matcher.match(archive / name, text).similarity, abs=1e-4
        )
    assert [hit.name for hit in pictures] == sorted(expected, key=expected.__getitem__, reverse=True)
    assert {hit.name: hit.score for hit in pictures} == pytest.approx(expected, abs=1e-4)
    assert [hit.matching for hit in pictures] == [hit.score for hit in pictures]
    similar = index.search(text, k=5, where="kind = 'picture'")
    assert [hit.name for hit in index.search(text, k=5, where="kind = 'picture'", rerank=2)[2:]] == [hit.name for hit in similar[2:]]
    # With videos among them the similarity is added.
    mixed = {(hit.name, hit.start_seconds): hit for hit in index.search(text, k=7, rerank=7)}
    for hit in pictures:
        assert mixed[hit.name, None].score == pytest.approx(hit.score + hit.similarity, abs=1e-4)


def test_a_file_that_has_gone_keeps_its_similarity(index: Index, archive: Path) -> None:
    (archive / "c.png").unlink()
    found = index.search("a red circle", k=10, rerank=10)
    assert len(found) == 7
    assert found[-1].name == "c.png"
    assert found[-1].score == found[-1].similarity and found[-1].matching is None
    assert found[-1].problem is not None and "is gone" in found[-1].problem


def test_what_cannot_be_asked(index: Index, archive: Path, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the matching head reads words"):
        index.search(archive / "a.png", rerank=3)
    with pytest.raises(UsageError, match="the search is empty"):
        index.search("  ")
    with pytest.raises(UsageError, match="k is 0"):
        index.search("a", k=0)
    with pytest.raises(UsageError, match=r"the vector is \(3,\)"):
        index.search_vector(np.zeros(3, np.float32))
    with pytest.raises(DataError, match=r"holds no index \(no index\.json\)"):
        Index.open(archive)
    with pytest.raises(DataError, match="does not exist"):
        Index.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="other things in it"):
        Index.build(archive, [archive], folders("retrieval"))
    with pytest.raises(UsageError, match="leave --captions out"):
        Index.build(tmp_path / "other", [archive], folders("retrieval"), captions=True)
    with pytest.raises(UsageError, match="was trained for task 'caption'"):
        Index.build(tmp_path / "other", [archive], folders("caption"))
    with pytest.raises(UsageError, match=r"begun with segment_seconds 2\.0, and this asks for 3"):
        Index.build(index.path, [archive], folders("retrieval"), segment_seconds=3)
    blind = load(folders("retrieval", matching_weight=0, k_test=0), device="cpu")
    other, _ = Index.build(tmp_path / "other", [archive / "a.png"], blind, workers=0)
    with pytest.raises(UsageError, match="has no fusion and no matching"):
        other.search("a", rerank=2)
    with pytest.raises(ModelError, match=r"was made by the model '.*' \(weights \w{12}\), and this is '.*' \(weights \w{12}\)"):
        Index.open(index.path, blind)
    (index.path / "index.json").write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        Index.open(index.path)


def test_a_model_that_writes_captions(archive: Path, example_folder: Path, tmp_path: Path) -> None:
    model = load(example_folder, device="cpu")
    given = table(archive / "list.jsonl", {"image": "a.png", "caption": "mine"}, {"image": "b.png"})
    index, _ = Index.build(tmp_path / "index", [given], model, captions=True, workers=0)
    found = {hit.name: hit.caption for hit in index.search("a picture")}
    assert found == {"a.png": "mine", "b.png": model.caption(archive / "b.png").text}


def test_an_index_that_moved_finds_its_files(index: Index, archive: Path, tmp_path: Path, matcher: Model) -> None:
    shutil.move(index.path, tmp_path / "elsewhere")  # alone
    moved = Index.open(tmp_path / "elsewhere", matcher)
    assert all(hit.problem is None for hit in moved.search("a red circle", rerank=5))
    (tmp_path / "disk").mkdir()
    for folder in (archive, tmp_path / "elsewhere"):  # with its pictures
        shutil.move(folder, tmp_path / "disk" / folder.name)
    moved = Index.open(tmp_path / "disk" / "elsewhere", matcher)
    found = moved.search("a red circle", rerank=5)
    assert all(hit.problem is None for hit in found)
    assert found[0].path.startswith(str(tmp_path / "disk" / "archive"))


def test_a_vector_index_is_made_kept_up_and_finds_what_it_does_not_have_yet(
    archive: Path, matcher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "EXACT_ROWS", 300)
    index, _ = Index.build(tmp_path / "index", [archive], matcher, workers=0)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = [{"id": f"{n}#0", "path": f"{n}", "stamp": "", "note": "", "kind": "made", "vector": one} for n, one in enumerate(vectors)]
    index._store.write(made, [])
    index.add([archive], workers=0)
    info = index.info()
    assert (info.vector_index, info.unindexed) == ("IVF_PQ", 0)
    found = 0
    for query in vectors[:100] + 0.1 * rng.standard_normal((100, 16)).astype(np.float32):
        near = np.argsort(-(vectors @ query))[:10]
        found += len({str(one) for one in near} & {hit.name for hit in index.search_vector(query / np.linalg.norm(query), 10)})
    assert found >= 980  # recall@10 of 0.98
    index._store.write([{**made[0], "id": "new#0", "path": "new"}], [])
    assert index.info().unindexed == 1
    assert {hit.name for hit in index.search_vector(vectors[0], 2)} == {"0", "new"}
    index.delete(["new"])
    assert index.search_vector(vectors[0], 1)[0].name == "0"


def test_searching_from_threads_while_rows_come_in(index: Index, archive: Path) -> None:
    Image.new("RGB", (30, 30), "black").save(archive / "new.png")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(index.search, "a red circle", 3) for _ in range(12)]
        index.add([archive], workers=0)
        results = [[hit.name for hit in each.result()] for each in running]
    assert all(len(one) == 3 for one in results)
    assert json.dumps(index.search("a red circle", 1)[0].to_dict())
