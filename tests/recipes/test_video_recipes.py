"""Every video recipe runs on ten records in its benchmark's own layout: two training steps of the smallest model, and an evaluation."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest

from openmplug.data.clips import VideoSettings
from openmplug.data.moving import write_moving
from openmplug.engine.catalog import list_recipes
from openmplug.engine.recipe import load_recipe
from openmplug.engine.run import evaluate, train
from video_fixtures import WRITERS, write_json

# Those with sources of several kinds are test_pretrain_recipes'.
NAMES = [name for name in list_recipes() if (config := load_recipe(name)).video != VideoSettings() and not config.data.sources]
FAMILY = {"mplug": "mplug-tiny", "mplug2": "mplug2-tiny"}
TINY = [
    "model.image_size=32",
    "model.width=32",
    "model.vision_width=32",
    "model.vision_layers=2",
    "model.heads=2",
    "model.vision_heads=2",
    "model.intermediate=64",
    "tokenizer.min_count=1",
    "video.frames=2",
    "optim.batch_size_per_device=4",
    "optim.accumulation=1",
    "optim.epochs=1",
    "run.max_steps=2",
    "run.evaluate_batch_size=4",
    "run.curves=false",
    "run.precision=fp32",
    "run.device=cpu",
]
PER_TASK = {
    "retrieval": ["settings.queue_size=16", "settings.k_test=4"],
    "caption": ["settings.num_beams=2", "settings.min_length=1", "settings.max_length=6"],
    "vqa": ["settings.num_beams=2"],
    "classification": ["data.workers=0"],
    "pretrain": ["data.workers=0"],
}


@cache
def gif() -> bytes:
    """A clip of the generated set; what a file holds is seen from its bytes, whatever its suffix."""
    import random

    from openmplug.data.moving import draw_clip, encode_gif
    from openmplug.data.moving_scene import make_clip

    return encode_gif(draw_clip(make_clip(random.Random(0), unseen=False)))


def write_data(name: str, root: Path) -> Path:
    """Write ten records of a recipe's benchmark, with videos that can be read."""
    config = load_recipe(name)
    if config.data.reader == "jsonl":
        write_moving(root, train_clips=48, dev_clips=6)
        return root / {"classification": "direction", "pretrain": "caption"}.get(config.task, config.task)
    WRITERS[config.data.reader](root)
    if config.data.answers:
        write_json(root / config.data.answers, {"man": 0, "squirrel": 1, "cook": 2})
    for path in root.rglob("*"):
        if path.is_file() and path.stat().st_size == 0:
            path.write_bytes(gif())
    return root


@pytest.mark.parametrize("name", NAMES)
def test_a_video_recipe_runs(name: str, tmp_path: Path) -> None:
    given = load_recipe(name)
    root = write_data(name, tmp_path / "data")
    tiny = [f"model.name={FAMILY[name.split('_')[-2]]}", *TINY, *PER_TASK[given.task], f"data.root={root}"]
    config = load_recipe(name, tiny if given.settings.get("k_test", 1) else [each for each in tiny if "settings" not in each])
    result = train(config, tmp_path / "run", quiet=True)
    assert result["step"] == 2
    found = evaluate(config, tmp_path / "run" / "checkpoint-last", tmp_path / "evaluation", quiet=True)
    assert found["count"] > 0 and all(math.isfinite(value) for value in found["metrics"].values())
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == found["count"]
    if given.settings.get("inference") == "rank":
        assert {row["text"] for row in rows} <= {"man", "squirrel", "cook"}


def test_the_video_recipes_that_are_promised() -> None:
    benchmarks = {
        "vqa": ("msrvtt_qa", "msvd_qa", "tgif_frameqa"),
        "caption": ("msrvtt", "msvd", "vatex"),
        "retrieval": ("msrvtt", "didemo", "lsmdc"),
        "classification": ("kinetics400", "kinetics600", "kinetics700", "ssv2"),
    }
    promised = {f"{task}/{each}_mplug2_{size}" for task, names in benchmarks.items() for each in names for size in ("base", "large")}
    promised |= {f"{task}/moving_mplug2_tiny" for task in ("classification", "vqa", "caption", "retrieval")}
    promised |= {"retrieval/msrvtt_zeroshot_mplug_large", "caption/vatex_zeroshot_mplug_large"}
    promised |= {f"vqa/{each}_zeroshot_rank_mplug_base" for each in ("msrvtt_qa", "msvd_qa")}
    assert promised <= set(NAMES)
