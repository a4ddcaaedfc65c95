"""The check of ``explain``: which words name which figure, and when a peak is a hit."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmark_files import load_benchmark
from inference.whole_models import a_model
from openmplug.data.shapes_scene import SIZE
from openmplug.inference.explain.explanation import Peak


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("looking", monkeypatch)


def test_words_name_the_figures_of_the_scene(looking: ModuleType) -> None:
    for clips in (False, True):
        for scene in looking.draw_scenes(20, clips):
            words = scene.caption.replace(",", " ,").split()
            found = looking.named_in_caption(words, scene)
            assert {one.figure for one in found} == set(scene.boxes)
            assert all(words[one.place] in one.figure.split() for one in found)


def test_a_box_is_where_its_colour_is(looking: ModuleType) -> None:
    for clips in (False, True):
        for scene in looking.draw_scenes(5, clips, seed=3):
            for name, boxes in scene.boxes.items():
                for frame, (left, top, right, bottom) in enumerate(boxes):
                    x, y = int((left + right) / 2) % SIZE, int((top + bottom) / 2) % SIZE
                    pixel = scene.pixels[frame, y, x] if clips else scene.pixels[y, x]
                    expected = looking.COLOURS[name.split()[0]]
                    assert abs(pixel.astype(int) - expected).max() < 60, (name, frame)


def test_hits(looking: ModuleType) -> None:
    assert looking.inside(Peak(4, 4), [(0, 0, 8, 8)]) and not looking.inside(Peak(8, 4), [(0, 0, 8, 8)]) and not looking.inside(None, [])
    crossing = [(0.0, 0.0, 1.0, 1.0), (-5.0, 10.0, 5.0, 20.0)]  # of the second frame, half out at the left side
    assert looking.inside(Peak(62, 12, 1), crossing) and not looking.inside(Peak(62, 12, 0), crossing)


@pytest.mark.parametrize("task", ["retrieval", "caption", "vqa"])
def test_counting(looking: ModuleType, task: str) -> None:
    model = a_model(words=" ".join([*looking.COLOURS, *looking.SHAPES, "a what is the thing ?"]))
    rows = looking.measure(model, looking.draw_scenes(6, clips=False), task)
    assert {row["part"] for row in rows} == ({"questions", "its word", "answers"} if task == "vqa" else {"colours", "shapes"})
    for row in rows:
        assert 0 <= row["hits"] <= 100 and row["best patch"] >= row["any patch"] and row["maps"] > 0
