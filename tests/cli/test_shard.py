"""``openmplug data shard``: what it makes, says and refuses, and that its shards train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import TINY, run


@pytest.fixture
def folder(shapes: Path, tmp_path: Path) -> Path:
    """A data set of captions, one of whose pictures is missing."""
    rows = [json.loads(line) for line in (shapes / "caption" / "train.jsonl").read_text().splitlines()]
    lost = {**rows[0], "image": "lost.png", "id": "lost"}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, lost]))
    (place,) = (shapes / "caption").glob("train_images*")
    (tmp_path / place.name).symlink_to(place)
    return tmp_path


def test_shards_are_made_reported_resumed_and_trained_on(folder: Path, shapes: Path) -> None:
    arguments = ("data", "shard", "--reader", "jsonl", "--root", folder, "--output", folder / "out", "--samples-per-shard", "5")
    plan = run(*arguments, "--dry-run")
    assert plan.code == 0 and "would pack 13 records" in plan.out and "into 3 shards" in plan.out and not (folder / "out").exists()
    made = run(*arguments, "--workers", "2")
    assert made.code == 0 and made.out.startswith("12 samples in 3 shards, "), made.err
    assert "left out 'lost': image 'lost.png' not found" in made.err and "1 of 13 records left out" in made.err
    assert f"'data.sources={{web: {{reader: shards, root: {folder / 'out'}, train: [.]}}}}'" in made.err
    again = json.loads(run(*arguments, "--json").out)
    assert (again["shards"], again["kept"], again["samples"], [each["id"] for each in again["left_out"]]) == (3, 3, 12, ["lost"])
    source = f"data.sources={{web: {{reader: shards, root: {folder / 'out'}, train: [.]}}}}"
    checked = run("data", "check", "caption/shapes_mplug_tiny", f"data.root={shapes / 'caption'}", source, "--json")
    splits = {split["name"]: split["records"] for split in json.loads(checked.out)["splits"]}
    assert checked.code == 0 and splits["web/."] == 12 and set(splits) == {"web/.", "dev"}, checked.err
    overrides = (f"data.root={shapes / 'caption'}", source, *TINY)
    outcome = run("train", "caption/shapes_mplug_tiny", *overrides, "--output", folder / "run")
    assert outcome.code == 0, outcome.err
    refused = run(*arguments[:-1], "6")
    assert "were made otherwise: per_shard (5 before, 6 now)" in refused.error(2)


def test_wrong_arguments_are_refused(folder: Path) -> None:
    arguments = ("data", "shard", "--root", folder, "--output", folder / "out")
    assert "unknown reader 'coco_caption'" in run(*arguments, "--reader", "coco_caption").error(2)
    assert "--column caption: expected ROLE=NAME" in run(*arguments, "--reader", "jsonl", "--column", "caption").error(2)
    assert "split 'dev' not found" in run(*arguments, "--reader", "jsonl", "--split", "dev").error(3)
