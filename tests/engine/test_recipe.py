"""Finding, reading and checking recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmplug.engine import catalog, recipe
from openmplug.engine.catalog import find_recipe, list_recipes, recipes_root
from openmplug.engine.recipe import check_recipe, load_recipe
from openmplug.errors import UsageError


def test_shipped_recipes_are_listed_without_their_bases() -> None:
    names = list_recipes()
    assert names == sorted(names) and not any("/_" in name for name in names)
    assert all((recipes_root() / f"{name}.yaml").is_file() for name in names)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "vqa").mkdir()
    (tmp_path / "vqa/_base.yaml").write_text("task: vqa\nmodel: {name: mplug-tiny}\noptim: {lr: 2e-5}\n")
    (tmp_path / "vqa/own_mplug_tiny.yaml").write_text("extends: vqa/_base.yaml\noptim: {epochs: 3}\n")
    for module in (catalog, recipe):
        monkeypatch.setattr(module, "recipes_root", lambda: tmp_path)
    return tmp_path


def test_a_recipe_is_its_base_its_file_and_its_overrides(shelf: Path) -> None:
    config = load_recipe("vqa/own_mplug_tiny", ["optim.lr=1e-3", "model.image_size=32"])
    assert (config.task, config.optim.lr, config.optim.epochs) == ("vqa", 1e-3, 3)
    assert config.image.size == 32
    assert load_recipe("vqa/own_mplug_tiny", []).image.size == 64
    assert load_recipe(str(shelf / "vqa/own_mplug_tiny.yaml")).optim.lr == 2e-5
    assert load_recipe("vqa/own_mplug_tiny.yaml").optim.lr == 2e-5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vqa/own_mplug_tyni", r"unknown recipe 'vqa/own_mplug_tyni'; did you mean 'vqa/own_mplug_tiny'\? See: openmplug recipes"),
        ("own_mplug", r"unknown recipe 'own_mplug'; did you mean 'vqa/own_mplug_tiny'\?"),
        ("nothing.yaml", r"recipe file 'nothing.yaml' does not exist"),
    ],
)
def test_unknown_recipes(shelf: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_recipe(name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], r"unknown setting 'optim.lrr'; did you mean 'optim.lr'\?"),
        (["task=vqaa"], r"unknown task 'vqaa'; did you mean 'vqa'\? \(one of caption, "),
        (["model.name=mplug-tinny"], r"unknown model 'mplug-tinny'; did you mean 'mplug-tiny'\?"),
        (["model.widht=8"], r"unknown setting 'model.widht'; did you mean 'model.width'\?"),
        (["model.name=null"], r"setting 'model.name' is missing"),
        (["model.image_size=65"], r"image_size 65 is not a multiple of patch_size 8"),
        (["image.size=224"], r"image.size=224 contradicts model.image_size=64; set the latter alone"),
        (["settings.min_length=9", "settings.max_length=3"], r"min_length 9 is above max_length 3"),
        (["settings.beams=3"], r"unknown setting 'settings.beams'"),
        (["optim.epochs=none"], r"setting 'optim.epochs'.*got 'none'"),
        (["run.precision=int8"], r"setting 'run.precision'"),
    ],
)
def test_wrong_settings(shelf: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe("vqa/own_mplug_tiny", overrides)
    assert "\n" not in str(caught.value)


def test_a_resolved_recipe_is_a_recipe(shelf: Path) -> None:
    config = load_recipe("vqa/own_mplug_tiny")
    tree: dict[str, Any] = config.model_dump(mode="json")
    assert check_recipe(tree) == config


def test_every_shipped_recipe_is_valid() -> None:
    for name in list_recipes():
        assert load_recipe(name, []).task == name.split("/")[0]
