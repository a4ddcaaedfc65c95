"""A run from shards and JSONL together: trained, stopped, resumed bit for bit, and stopped by too many bad samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.shards_made import image_files, picture, write_shards, write_tar
from openmplug.checkpoints.store import model_hash
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.engine.run import train
from openmplug.errors import DataError, UsageError

TINY = (
    "model.image_size=32 model.patch_size=16 model.width=16 model.vision_width=16 model.embed_dim=16 "
    "model.vision_layers=1 model.text_layers=1 model.fusion_layers=1 model.decoder_layers=1 model.connected_layers=[] "
    "model.intermediate=32 model.heads=2 model.vision_heads=2 optim.batch_size_per_device=4 optim.epochs=1 "
    "optim.warmup_steps=1 run.curves=false run.precision=fp32 run.device=cpu run.log_every=1 run.validate_every=0 "
    "data.workers=0"
).split()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "web", [4, 4])
    pictures = tmp_path / "own" / "images"
    pictures.mkdir(parents=True)
    for number in range(6):
        (pictures / f"{number}.jpg").write_bytes(picture(number))
    rows = [{"image": f"{number}.jpg", "captions": [f"own picture {number}", f"picture {number} of mine"]} for number in range(6)]
    (tmp_path / "own" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(root: Path, *overrides: str, name: str = "caption/shapes_mplug_tiny") -> RunConfig:
    web = f"web: {{reader: shards, root: {root}/web, train: [.], weight: 1}}"
    return load_recipe(name, [*TINY, f"data.sources={{{web}, own: {{root: {root}/own, weight: 2}}}}", *overrides])


def test_a_mixture_trains_and_resumes_bit_for_bit_whatever_the_workers(root: Path, tmp_path: Path) -> None:
    one = "settings.captions_per_example=1"
    whole = train(recipe(root, one), tmp_path / "whole", quiet=True)
    assert whole["step"] == 20 // 4 and whole["train_examples"] == 8 + 12 and whole["stopped"] is None
    train(recipe(root, one, "run.max_steps=2"), tmp_path / "parts", quiet=True)
    train(recipe(root, one, "data.workers=1"), tmp_path / "parts", resume=True, quiet=True)
    assert model_hash(tmp_path / "whole" / "checkpoint-last") == model_hash(tmp_path / "parts" / "checkpoint-last")


def test_bad_samples_are_counted_and_too_many_stop_the_run(root: Path, tmp_path: Path) -> None:
    files = [(name, b"no picture" if name.endswith("1.jpg") else data) for name, data in image_files(0, 120)]
    write_tar(root / "web" / "00000.tar", files)  # 12 of 120
    with pytest.raises(DataError, match=r"of \d+ inputs could not be read, more than 1%; the last was record 'web/00000/00000\d+1'"):
        train(recipe(root, "data.on_error=skip"), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert lines and all(line["id"].startswith("web/00000/") and "is not a picture" in line["reason"] for line in lines)


def test_a_task_that_does_not_learn_from_captions_refuses_shards(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="source 'web' lies in shards, which hold captions and texts; this task learns from neither"):
        train(recipe(root, name="vqa/shapes_mplug_tiny"), tmp_path / "run", quiet=True)
