"""The pre-training recipes run on shards: their published values, two steps on pictures, clips and texts, an evaluation, then a task."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from data.shards_made import write_tar
from openmplug.data.moving import draw_clip, encode_gif
from openmplug.data.moving_scene import make_clip
from openmplug.engine.recipe import load_recipe
from openmplug.engine.run import train
from openmplug.errors import UsageError
from recipe_fixtures import TINY, WORDS, two_steps
from recipes.test_picture_recipes import RETRIEVAL, lists

PICTURES = ("coco", "vg", "sbu", "cc3m", "cc12m")
NAMES = [f"pretrain/{family}_{size}" for family in ("mplug", "mplug2") for size in ("base", "large")]
# Learning rates (rest, vision, last), batch of a GPU, image size: released pretrain_mplug_{base,large}.yaml.
RELEASED = {"pretrain/mplug_base": (1e-4, 1e-5, 1e-6, 256, 256), "pretrain/mplug_large": (5e-5, 5e-6, 2e-6, 128, 224)}
MPLUG2 = "model.name=mplug2-tiny model.text_layers=2 model.universal_layers=1 model.latents=2 model.fusion_layers=1 video.frames=2".split()
SMALL = ["settings.queue_size=40", "data.epoch_examples=40"]
CHANGES = {name: [*(MPLUG2 if "mplug2" in name else []), *SMALL] for name in NAMES}


@cache
def clip() -> bytes:
    return encode_gif(draw_clip(make_clip(random.Random(0), unseen=False)))


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 36), (25 * number, 100, 50)).save(buffer, "JPEG")
    return buffer.getvalue()


def described(number: int, word: str) -> list[tuple[str, bytes]]:
    """Return a picture's captions as openmplug and img2dataset write them."""
    captions = [f"a {word} thing", f"it is {word}"]
    return [("json", json.dumps({"caption": captions[0], "captions": captions}).encode()), ("txt", captions[0].encode())]


def shards(root: Path) -> None:
    """Write ten records of every source into two shards each."""
    for name in (*PICTURES, "coco_val", "webvid", "wiki", "crawl"):
        files = []
        for number, word in enumerate(WORDS):
            texts = [("txt", f"{name} tells of {word}, of {number} things and of no picture".encode())]
            if name == "webvid":
                texts = [("video.gif", clip()), *texts]
            elif name not in ("wiki", "crawl"):
                texts = [("jpg", jpeg(number)), *described(number, word)]
            files.append([(f"{number:09d}.{suffix}", data) for suffix, data in texts])
        for shard in range(2):
            part = files[5 * shard : 5 * shard + 5]
            write_tar(root / name / f"{shard:05d}.tar", [file for sample in part for file in sample])


@pytest.mark.parametrize("name", RELEASED)
def test_the_numbers_are_those_of_the_release(name: str) -> None:
    config = load_recipe(name)
    optim, settings, image = config.optim, config.settings, config.image
    assert (optim.lr, optim.vision_lr, optim.min_lr, optim.batch_size_per_device, image.size) == RELEASED[name]
    assert (optim.epochs, optim.schedule, optim.warmup_epochs, optim.warmup_lr) == (30, "mplug", 20, 1e-6)
    assert (optim.weight_decay, optim.clip_norm, config.run.precision) == (0.02, 1.0, "bf16")
    assert (settings["queue_size"], settings["momentum"], settings["alpha"], settings["share"]) == (65536, 0.995, 0.4, 0.15)
    assert (settings["max_words"], settings["temperature_range"]) == (30, [0.001, 0.5])
    assert (image.crop_scale, image.flip, image.randaugment_ops, image.randaugment_magnitude) == ((0.2, 1.0), 0.5, 2, 7)
    assert tuple(config.data.sources) == PICTURES
    weights = [source.weight or 0 for source in config.data.sources.values()]
    assert config.data.epoch_examples == 1000 * sum(weights)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_and_an_evaluation(name: str, tmp_path: Path) -> None:
    shards(tmp_path)
    found = two_steps(name, CHANGES[name], tmp_path)
    said = {"mlm", "instruction"} if "mplug2" in name else {"mlm", "prefix"}
    assert found["count"] == 10 and {f"{each}_accuracy" for each in ("itc", "itm", *said)} <= found["metrics"].keys()


@pytest.mark.parametrize("name", NAMES[::2])
def test_an_epoch_sees_every_kind_and_the_model_then_learns_a_task(name: str, tmp_path: Path) -> None:
    shards(tmp_path)
    tiny = [each for each in TINY if "max_steps" not in each]
    config = load_recipe(name, [*tiny, *CHANGES[name], f"data.root={tmp_path}", "run.log_ids=true", "run.log_every=1"])
    train(config, tmp_path / "run", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    seen = [{name.partition("/")[0] for name in row["ids"]} for row in rows]
    kinds = {frozenset(PICTURES), *([frozenset({"webvid"}), frozenset({"wiki", "crawl"})] if "mplug2" in name else [])}
    assert all(sum(sources <= kind for kind in kinds) == 1 for sources in seen)
    assert set().union(*seen) >= set(config.data.sources) - {"wiki", "coco", "vg", "sbu"}  # those of small weight may be left to later
    assert all(any(sources <= kind for sources in seen) for kind in kinds)
    (tmp_path / "lists").mkdir()
    lists("coco")(tmp_path / "lists")
    task = "retrieval/coco_mplug2_large" if "mplug2" in name else "retrieval/coco_mplug_large"
    tuned = two_steps(task, [*(MPLUG2 if "mplug2" in name else []), *RETRIEVAL, f"init_from={tmp_path / 'run'}"], tmp_path / "lists")
    assert tuned["count"] == 10


def test_sources_that_are_not_at_hand_are_left_out(tmp_path: Path) -> None:
    without = [f"data.sources.{name}=null" for name in ("cc3m", "cc12m", "sbu")]
    config = load_recipe("pretrain/mplug_base", [f"data.root={tmp_path}", *without])
    assert list(config.data.sources) == ["coco", "vg"]
    with pytest.raises(UsageError, match="every source is null; keep one"):
        load_recipe("pretrain/mplug_base", [f"data.sources.{name}=null" for name in PICTURES])
