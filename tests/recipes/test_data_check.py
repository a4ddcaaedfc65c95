"""``openmplug data check RECIPE data.root=DIR`` finds nothing wrong with any recipe's fixture, and every reader says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import run
from openmplug.data.clips import VideoSettings
from openmplug.data.shapes import write_shapes
from openmplug.engine.catalog import list_recipes
from openmplug.engine.recipe import load_recipe
from recipe_fixtures import WORDS, pictures
from recipes import (
    test_box_recipes,
    test_everything_recipes,
    test_label_recipes,
    test_picture_recipes,
    test_pretrain_recipes,
    test_question_recipes,
    test_video_recipes,
)

NAMES = list_recipes()
CASES = {**test_picture_recipes.CASES, **test_question_recipes.CASES}


def rows_of_json(name: str, root: Path) -> None:
    """Write the rows and pictures of a recipe that reads one's own files."""
    for split in ("train", "dev"):
        pictures(root / f"{split}_images", "{}.jpg")
        rows: list[dict[str, object]] = []
        for number, word in enumerate(WORDS):
            row: dict[str, object] = {"image": f"{number}.jpg"}
            asked = {"question": "what is it?", **({"answers": [word]} if "daquar" in name else {"answer": word})}
            rows.append({**row, **(asked if name.startswith("vqa/") else {"captions": [f"a {word} thing"]})})
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fixture_of(name: str, root: Path) -> tuple[Path, list[str]]:
    """Write a recipe's fixture; returns its folder and the data settings that it needs."""
    root.mkdir()
    config = load_recipe(name)
    if name in test_pretrain_recipes.NAMES:
        test_pretrain_recipes.shards(root)
        return root, []
    if name == test_everything_recipes.DRAWN:
        test_everything_recipes.drawings(root)
        return root, []
    if name in test_everything_recipes.NAMES:
        test_everything_recipes.everything(root)
        return root, []
    if name in CASES:
        write, changes, _ = CASES[name]
        write(root)
        return root, [change for change in changes if change.startswith("data.")]
    if config.video != VideoSettings():
        return test_video_recipes.write_data(name, root), ["data.further=[]"]
    if name.startswith("grounding/"):
        return test_box_recipes.fixture_of(name, root), []
    if "shapes" in name:
        write_shapes(root, train_images=10, dev_images=5)
        return root if config.task == "pretrain" else root / config.task, []
    if name in (*test_label_recipes.GLUE, *test_label_recipes.OTHERS):
        test_label_recipes.fixture_of(name)(root)
        return root, []
    rows_of_json(name, root)
    return root, []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong_with_the_fixture(name: str, tmp_path: Path) -> None:
    root, changes = fixture_of(name, tmp_path / "data")
    # A limit says that this may be a part of the whole: counts are not held against the official ones.
    outcome = run("data", "check", name, f"data.root={root}", "data.limit=100000", *changes, "--json")
    document = json.loads(outcome.out)
    assert document["problems"] == [] and outcome.code == 0
    assert document["files"] and {row["state"] for row in document["files"]} == {"found"}
    config = load_recipe(name, changes)
    sources = {f"{name}/{split}" for name, source in config.data.sources.items() for split in source.train}
    assert {row["name"] for row in document["splits"]} == {*(sources or config.data.train), config.data.evaluate}
    assert all(row["records"] > 0 and not row["missing"] and not row["unreadable"] for row in document["splits"])


@pytest.mark.parametrize("name", {load_recipe(name).data.reader: name for name in NAMES}.values())
def test_an_empty_folder_is_told_file_by_file(name: str, tmp_path: Path) -> None:
    outcome = run("data", "check", name, f"data.root={tmp_path}", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 3 and not document["ok"] and document["files"]
    assert all(row["state"] in ("missing", "wrong") and row["reason"] for row in document["files"])
