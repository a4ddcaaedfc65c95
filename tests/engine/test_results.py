"""Kept results: files in, a page out, and the page in this repository is the one they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.command import run
from openmplug.engine.catalog import list_recipes, recipes_root
from openmplug.engine.results import SHIPPED, read_results, shipped_results, summary_text
from openmplug.engine.results_page import render
from openmplug.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = "vqa/easy_vqa_mplug_tiny"


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def measured(**more: Any) -> dict[str, Any]:
    return {
        "section": "scores",
        "recipe": RECIPE,
        "split": "dev",
        "count": 4833,
        "unit": "questions",
        "metric": "accuracy %",
        "value": 95.9,
    } | more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    write(root / "00_top.md", "# Results\n\nSome words.")
    write(root / "10_scores.md", "## Scores\n\n<!-- results recipe, split, ours, control as majority -->\n\n<!-- commands -->")
    write(root / "20_speed.md", "## Speed\n\n<!-- table speed -->\n\n<!-- commands speed -->")
    write(root / "speed.json", {"columns": ["what", "s"], "rows": [["one", 1.5], ["many", 1234], ["none", None]], "commands": ["bench"]})
    control = {"name": "majority", "value": 55.4, "also": {"F1": 60.0}}
    part = {"name": "yes or no", "value": 97.0, "controls": [{"name": "majority", "value": 50.0}]}
    write(root / "a.json", measured(controls=[control], also={"F1": 93.21}, remark="kind", parts=[part], commands=["train", "evaluate"]))
    return root


def evaluation(root: Path, name: str = "dev", **more: Any) -> Path:
    facts = {"recipe": RECIPE, "task": "vqa", "split": "dev", "count": 4833, "metrics": {"accuracy": 96.0, "vqa_accuracy": 96.123456789}}
    facts |= {"model": str(root / "run" / "checkpoint-best"), "model_hash": "c" * 64, "date": "2030-01-01T00:00:00Z", "commit": "1234567"}
    facts |= {"overrides": ["data.root=/secret/place", "settings.num_beams=3"], "hardware": "a CPU", "threads": 2, "precision": "fp32"}
    write(root / "run" / name / "metrics.json", facts | more)
    return root / "run" / name


def test_the_page_of_this_repository_is_the_one_its_files_make() -> None:
    page = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    assert page == render(REPOSITORY / "docs/results"), "run: make results"
    results = list(read_results(REPOSITORY / "docs/results")[0].values())
    assert (recipes_root() / SHIPPED).read_text(encoding="utf-8") == summary_text(results), "run: make results"
    assert {one.recipe for one in results} <= set(list_recipes())
    assert set(shipped_results()) == {one.recipe for one in results}


def test_a_page(folder: Path) -> None:
    assert (
        render(folder).split("\n", 2)[2]
        == """# Results

Some words.

## Scores

| recipe | split | ours | majority |
|---|---|---|---|
| `vqa/easy_vqa_mplug_tiny` | dev, 4,833 questions | 95.9 (F1 93.21, kind) | 55.4 (F1 60) |
| of these, yes or no | | 97 | 50 |

```bash
train
evaluate
```

## Speed

| what | s |
|---|---|
| one | 1.5 |
| many | 1,234 |
| none | |

```bash
bench
```
"""
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("b.json", measured(section="elsewhere"), r"b.json in .*: in no section of the page; the sections with results are scores"),
        ("b.json", {"columns": ["a"], "rows": []}, r"b.json in .*: in no section"),
        ("b.json", {"columns": ["a"], "rows": [["x"], ["x", "y"]]}, r"b.json: row 2 has another number of cells"),
        ("b.json", measured(valeu=1), r"b.json: .*valeu.*value"),
        ("b.json", "{", r"b.json line 1: not valid JSON"),
        ("30_x.md", "<!-- table sped -->", r"30_x.md line 1: no table 'sped'; did you mean 'speed'"),
        ("30_x.md", "<!-- results recipe, our -->", r"30_x.md line 1: unknown column 'our'; did you mean 'ours'"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, message: str, folder: Path) -> None:
    write(folder / name, value)
    with pytest.raises(DataError, match=message):
        render(folder)


def test_page_writes_and_checks(folder: Path) -> None:
    arguments = ("results", "page", folder, "--output", folder.parent / "page.md", "--index", folder.parent / "index.json")
    assert "page.md" in run(*arguments, "--check").error(3)
    assert run(*arguments).code == 0
    assert json.loads((folder.parent / "index.json").read_text())[0]["value"] == 95.9
    assert run(*arguments, "--check").code == 0
    (folder.parent / "page.md").write_text("typed by hand")
    assert "page.md differs from what" in run(*arguments, "--check").error(3)
    assert "does not exist" in run("results", "page", folder.parent / "none", "--output", folder.parent / "x.md").error(3)


def test_add_keeps_an_evaluation_with_its_control(folder: Path, tmp_path: Path) -> None:
    good, blind = evaluation(tmp_path), evaluation(tmp_path, "blind", metrics={"vqa_accuracy": 50.0})
    write(tmp_path / "run" / "metrics.jsonl", '{"seconds": 60}\n{"kind": "validation"}\n{"seconds": 630.0}\n')
    outcome = run("results", "add", good, "--folder", folder, "--control", f"pictures shuffled={blind}", "--json")
    assert outcome.code == 0, outcome.err
    kept = json.loads((folder / "vqa.easy_vqa_mplug_tiny.json").read_text())
    assert (kept["value"], kept["metric"], kept["unit"], kept["section"]) == (96.123457, "vqa_accuracy", "questions", "scores")
    assert kept["controls"] == [{"name": "pictures shuffled", "value": 50.0}]
    assert (kept["minutes"], kept["model_hash"], kept["commit"], kept["hardware"]) == (10.5, "c" * 64, "1234567", "a CPU")
    command = "openmplug evaluate vqa/easy_vqa_mplug_tiny --model runs/run data.root=DIR settings.num_beams=3 --output runs/run/dev"
    assert kept["commands"] == [command]
    assert "secret" not in json.dumps(kept)
    (folder / "a.json").unlink()
    assert "96.12" in render(folder)


def test_a_control_trained_with_less_in_sight_is_a_model_of_its_own(folder: Path, tmp_path: Path) -> None:
    good = evaluation(tmp_path)
    other = evaluation(tmp_path, "other", model_hash="d" * 64, metrics={"vqa_accuracy": 61.0})
    elsewhere = evaluation(tmp_path, "elsewhere", model_hash="d" * 64, recipe="vqa/daquar_mplug_tiny")
    assert run("results", "add", good, "--folder", folder, "--retrained", f"one frame={other}").code == 0
    kept = json.loads((folder / "vqa.easy_vqa_mplug_tiny.json").read_text())
    assert kept["controls"] == [{"name": "one frame", "value": 61.0}]
    refused = run("results", "add", good, "--folder", folder, "--retrained", f"one frame={elsewhere}").error(3)
    assert "has recipe 'vqa/daquar_mplug_ti" in refused


def test_add_keeps_the_scores_of_kinds_with_their_controls(folder: Path, tmp_path: Path) -> None:
    kinds = {"settings": {"score_by": "kind"}}
    scores = {"vqa_accuracy": 90.0, "accuracy": 90.0, "accuracy_colour": 80.0, "accuracy_shape": 95.5}
    good = evaluation(tmp_path, metrics=scores, **kinds)
    blind = evaluation(tmp_path, "blind", metrics={"vqa_accuracy": 50.0, "accuracy": 50.0, "accuracy_colour": 25.0}, **kinds)
    assert run("results", "add", good, "--folder", folder, "--control", f"blind={blind}").code == 0
    colour, shape = json.loads((folder / "vqa.easy_vqa_mplug_tiny.json").read_text())["parts"]
    assert (colour["name"], colour["value"], colour["controls"]) == ("colour", 80.0, [{"name": "blind", "value": 25.0}])
    assert (shape["name"], shape["value"]) == ("shape", 95.5) and not shape.get("controls")
    empty = evaluation(tmp_path, "empty", metrics={"accuracy": 50.0})
    outcome = run("results", "add", good, "--folder", folder, "--control", f"blind={empty}")
    assert outcome.code == 3 and "has no metric 'vqa_accuracy', only accuracy; evaluate the same on both" in outcome.err


def test_add_says_how_the_run_differs_from_its_recipe(folder: Path, tmp_path: Path) -> None:
    from openmplug.config import dump_yaml
    from openmplug.engine.recipe import load_recipe

    given = ["data.root=/secret/place", "optim.epochs=3", "init_from=[/secret/other]", "run.threads=2", "tokenizer.vocab=/secret/v.txt"]
    good = evaluation(tmp_path)
    write(tmp_path / "run" / "recipe.yaml", dump_yaml(load_recipe(RECIPE, given).model_dump(mode="json")))
    assert run("results", "add", good, "--folder", folder).code == 0
    train = json.loads((folder / "vqa.easy_vqa_mplug_tiny.json").read_text())["commands"][0]
    assert train.startswith("openmplug train vqa/easy_vqa_mplug_tiny data.root=DIR ")
    assert set(train.split()[4:-2]) == {"optim.epochs=3", "tokenizer.vocab=DIR/v.txt", "'init_from=[\"DIR/other\"]'"}


def test_a_newer_result_takes_over_the_words_of_the_older_one(folder: Path, tmp_path: Path) -> None:
    write(folder / "vqa.easy_vqa_mplug_tiny.json", measured(order=7, metric="accuracy, percent", minutes=3))
    assert run("results", "add", evaluation(tmp_path), "--folder", folder).code == 0
    kept = json.loads((folder / "vqa.easy_vqa_mplug_tiny.json").read_text())
    assert (kept["order"], kept["metric"], kept["value"]) == (7, "accuracy, percent", 96.123457)
    assert "minutes" not in kept


def test_a_fraction_becomes_what_the_paper_prints(folder: Path, tmp_path: Path) -> None:
    place = evaluation(tmp_path, recipe="caption/coco_mplug_base", task="caption", metrics={"cider": 1.375})
    assert run("results", "add", place, "--folder", folder).code == 0
    kept = json.loads((folder / "caption.coco_mplug_base.json").read_text())
    assert (kept["value"], kept["metric"], kept["unit"]) == (137.5, "cider x 100", "pictures")


@pytest.mark.parametrize(
    ("facts", "arguments", "code", "message"),
    [
        ({"recipe": "vqa/easy"}, [], 2, r"with recipe 'vqa/easy'.*give --recipe NAME"),
        ({"recipe": None}, [], 2, r"with an unnamed recipe; give --recipe NAME"),
        ({}, ["--metric", "acuracy"], 2, r"no metric 'acuracy'; did you mean 'accuracy'"),
        ({}, ["--section", "score"], 2, r"no section 'score' with results in .*; did you mean 'scores'"),
        ({}, ["--control", "blind"], 2, r"control 'blind' is not NAME=FOLDER"),
        ({}, ["--control", "blind=OTHER"], 3, r"control .* has model_hash"),
    ],
)
def test_what_cannot_be_kept(facts: dict[str, Any], arguments: list[str], code: int, message: str, folder: Path, tmp_path: Path) -> None:
    import re

    other = evaluation(tmp_path, "other", model_hash="d" * 64)
    place = evaluation(tmp_path, **facts)
    given = [word.replace("OTHER", str(other)) for word in arguments]
    assert re.search(message, run("results", "add", place, "--folder", folder, *given).error(code))
    assert "has no metrics.json" in run("results", "add", tmp_path, "--folder", folder).error(3)
    assert sorted(path.name for path in folder.glob("*.json")) == ["a.json", "speed.json"]


def test_dry_run_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    assert "would keep" in run("results", "add", evaluation(tmp_path), "--folder", folder, "--dry-run").err
    assert not (folder / "vqa.easy_vqa_mplug_tiny.json").exists()
