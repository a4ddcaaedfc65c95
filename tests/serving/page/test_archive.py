from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from openmplug.data.moving import draw_clip, encode_gif
from openmplug.data.moving_scene import make_clip
from openmplug.data.shapes import write_shapes
from openmplug.errors import DataError, UsageError
from openmplug.inference.search.index import Index
from openmplug.serving.page.archive import Archive, open_index, tiles
from openmplug.serving.page.calls import Calls
from openmplug.serving.page.shelf import Shelved
from serving.page.models_made import make_model

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def index(shelf: list[Shelved], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures and a clip."""
    import random

    root = tmp_path_factory.mktemp("archive")
    write_shapes(root / "shapes", 4, 8)
    shutil.unpack_archive(root / "shapes" / "caption" / "dev_images.zip", root / "files")
    (root / "files" / "clip.gif").write_bytes(encode_gif(draw_clip(make_clip(random.Random(0), unseen=False))))
    Index.build(root / "index", [root / "files"], shelf[0].model, workers=0)
    return root / "index"


def test_an_index_is_opened_with_the_model_of_the_page_that_made_it(index: Path, shelf: list[Shelved], tmp_path: Path) -> None:
    assert open_index(index, shelf).model is shelf[0].model
    assert open_index(index, shelf[::-1]).model is shelf[0].model
    other = open_index(index, shelf[1:], device="cpu").model  # not on the page: from where it was
    assert other is not None and other is not shelf[1].model
    with pytest.raises(DataError, match="index"):
        open_index(tmp_path, shelf)


def test_what_is_found_is_what_the_index_finds(index: Path, shelf: list[Shelved], calls: Calls, picture: Path) -> None:
    opened = open_index(index, shelf)
    archive = Archive(opened, calls)
    assert archive.about().startswith("8 pictures and 1 moment")
    found = archive.search("a red  circle", again=False)
    assert [hit.name for hit in found] == [hit.name for hit in opened.search("a red circle", 12)]
    twice = archive.search("a red circle", again=True)
    assert archive.can_rerank and [hit.name for hit in twice] == [hit.name for hit in opened.search("a red circle", 12, rerank=32)]
    assert all(hit.matching is not None for hit in twice)
    alike = archive.alike(str(index.parent / "files" / "00005.png"))
    assert alike[0].name == "00005.png" and alike[0].similarity == pytest.approx(1, abs=1e-3)
    shown = tiles(found)
    assert len(shown) == 9 and {picture.mode for picture, _ in shown} == {"RGB"}
    assert next(label for _, label in shown if label.startswith("clip.gif")).startswith("clip.gif, 0:00 to 0:0")


def test_who_matches_worse_than_it_compares_does_not_look_twice(index: Path, shelf: list[Shelved], calls: Calls) -> None:
    archive = Archive(open_index(index, shelf), calls)
    assert archive.reranks
    model = shelf[0].model
    model.config["defaults"] = {"retrieval": {"k_test": 0}}
    model._tasks.clear()
    try:
        assert archive.can_rerank and not archive.reranks
    finally:
        del model.config["defaults"]
        model._tasks.clear()


def test_what_cannot_be_searched_is_said(index: Path, shelf: list[Shelved], calls: Calls, tmp_path: Path) -> None:
    archive = Archive(open_index(index, shelf), calls)
    with pytest.raises(UsageError, match="type what to look for first"):
        archive.search(" ", again=True)
    with pytest.raises(DataError, match="there is no picture yet"):
        archive.alike(None)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(DataError, match=r"'bad\.png' is not a picture"):
        archive.alike(str(tmp_path / "bad.png"))


def test_a_model_of_its_own_is_made_for_no_other_index(index: Path, tmp_path: Path, calls: Calls) -> None:
    from openmplug.serving.page.shelf import fill

    writer = fill([make_model(tmp_path / "writes", seed=5, task="caption")], "cpu")
    assert open_index(index, writer, device="cpu").model is not writer[0].model
