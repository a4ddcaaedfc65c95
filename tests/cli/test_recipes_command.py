"""``openmplug recipes``: the list, and one in full."""

from __future__ import annotations

import json

import pytest

from cli.command import run
from openmplug.config import _parse


def test_list_as_json() -> None:
    rows = json.loads(run("recipes", "list", "--json").out)
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows) >= 40
    for row in rows:
        assert row.keys() == {"name", "task", "description", "benchmark", "model", "metric", "paper", "source", "ours", "measured"}
        assert all(isinstance(row[field], str) and row[field] for field in ("task", "benchmark", "model", "metric", "source")), row["name"]
        assert row["name"].startswith(f"{row['task']}/") and isinstance(row["paper"], float | int | None)
        assert (row["ours"] is None) == (row["measured"] is None)
    base = by_name["vqa/vqav2_mplug_base"]
    assert (base["task"], base["model"], base["metric"], base["paper"]) == ("vqa", "mplug-base", "vqa_accuracy", 79.79)
    easy = by_name["vqa/easy_vqa_mplug_tiny"]
    assert (easy["paper"], base["ours"]) == (None, None)
    assert easy["ours"] == easy["measured"]["value"] > 90
    assert {"metric", "split", "count", "date", "commit"} <= easy["measured"].keys()


def test_list_as_a_table_fits_the_screen_and_breaks_no_name() -> None:
    outcome = run("recipes")
    assert outcome.code == 0
    assert outcome.out == run("recipes", "list").out
    assert "retrieval/flickr30k_mplug_large " in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())


def test_a_wide_screen_has_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    lines = run("recipes", "list").out.splitlines()
    assert next(line for line in lines if "recipe" in line).split() == ["recipe", "task", "benchmark", "model", "metric", "paper", "ours"]
    row = next(line for line in lines if "vqa/vqav2_mplug_base" in line)
    assert "mplug-base" in row and "VQA v2 test-dev" in row and "79.79" in row


def test_show_resolves_everything() -> None:
    outcome = run("recipes", "show", "vqa/vqav2_mplug_base", "optim.epochs=2")
    assert outcome.out.startswith("# Answers questions about photos")
    tree = _parse(outcome.out, "the output")
    assert tree["optim"]["epochs"] == 2
    assert tree["optim"]["lr"] == 3e-5
    assert tree["image"]["size"] == 384
    assert tree == json.loads(run("recipes", "show", "vqa/vqav2_mplug_base", "optim.epochs=2", "--json").out)


def test_did_you_mean() -> None:
    assert "did you mean 'vqa/vqav2_mplug_base'?" in run("recipes", "show", "vqa/vqav2_mplug_bse").error(2)
