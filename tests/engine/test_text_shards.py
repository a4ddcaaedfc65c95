"""mPLUG-2's text corpora: masked words and prefixes learned from shards of texts alone, and beside pictures, through whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.shards_made import write_shards, write_tar
from openmplug.checkpoints.store import model_hash
from openmplug.engine.recipe import RunConfig, check_recipe
from openmplug.engine.run import evaluate, train

MODEL = {
    "name": "mplug2-tiny",
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 16,
    "vision_layers": 1,
    "vision_heads": 2,
    "width": 32,
    "heads": 2,
    "intermediate": 64,
    "text_layers": 2,
    "universal_layers": 1,
    "fusion_layers": 1,
    "decoder_layers": 1,
    "embed_dim": 8,
    "dropout": 0.0,
}
TEXTS = [
    f"{who} {does} {what}" for who, does in (("the dog", "sees"), ("a cat", "eats")) for what in ("red fish", "two birds", "old bread")
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for shard in range(2):
        texts = [(f"{shard:05d}{number:04d}.txt", text.encode()) for number, text in enumerate(TEXTS[3 * shard : 3 * shard + 3])]
        write_tar(tmp_path / "texts" / f"{shard:05d}.tar", texts)
    write_shards(tmp_path / "web", [4, 4])
    return tmp_path


def recipe(root: Path, sources: tuple[str, ...] = ("texts",), **fields: Any) -> RunConfig:
    run = {"precision": "fp32", "device": "cpu", "log_every": 1, "curves": False, "validate_every": 0, **fields.pop("run", {})}
    settings = {"queue_size": 8, "per_token": True, **fields.pop("settings", {})}
    optim = {"lr": 5e-3, "vision_lr": 5e-3, "weight_decay": 0.0, "batch_size_per_device": 2, "warmup_steps": 1, **fields.pop("optim", {})}
    return check_recipe(
        {
            "task": "pretrain",
            "model": MODEL,
            "tokenizer": {"size": 300, "min_count": 1},
            "data": {
                "reader": "shards",
                "root": str(root / "texts"),
                "evaluate": ".",
                "sources": {name: {"reader": "shards", "root": str(root / name), "train": ["."], "weight": 1} for name in sources},
            },
            "settings": settings,
            "optim": optim,
            "run": run,
            **fields,
        }
    )


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def parts(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    weights = load_file(run / "checkpoint-last" / "model.safetensors")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        found.setdefault(name.partition(".")[0], {})[name] = value
    return found


def test_texts_alone_are_learned_by_masked_words_and_prefixes(root: Path, tmp_path: Path) -> None:
    train(recipe(root, run={"max_steps": 1}), tmp_path / "one", quiet=True)
    train(recipe(root, optim={"epochs": 40}), tmp_path / "run", quiet=True)
    print([sorted(row) for row in rows(tmp_path / "run") if "loss_text_mlm" not in row][:3], len(rows(tmp_path / "run")))
    losses = [row for row in rows(tmp_path / "run") if "loss_text_mlm" in row]
    assert len(losses) == 120 and not any(name in row for row in losses for name in ("loss_itc", "loss_itm", "loss_mlm", "loss_prefix"))
    for name in ("loss_text_mlm", "loss_text_prefix"):
        begun, ended = (sum(row[name] for row in some) for some in (losses[:9], losses[-9:]))
        assert ended < 0.5 * begun, name
    result = evaluate(recipe(root), tmp_path / "run", tmp_path / "scores", quiet=True)
    assert result["count"] == len(TEXTS) and result["metrics"]["prefix_accuracy"] > 60 and "itc_accuracy" not in result["metrics"]
    before, after = parts(tmp_path / "one"), parts(tmp_path / "run")
    moved = {part for part in before if any(not torch.equal(value, after[part][name]) for name, value in before[part].items())}
    # Continuations pass the universal layers (the decoder reads what the whole encoder says); no picture, so no tower and no fusion.
    assert moved == {"text", "universal", "language", "decoder"}


@pytest.mark.parametrize("universal", [False, True])
def test_masked_words_of_texts_alone_skip_the_universal_layers_unless_told(universal: bool, root: Path, tmp_path: Path) -> None:
    for steps in (1, 4):
        config = recipe(root, settings={"prefix": 0, "universal": universal}, optim={"epochs": 2}, run={"max_steps": steps})
        train(config, tmp_path / str(steps), quiet=True)
    before, after = parts(tmp_path / "1"), parts(tmp_path / "4")
    same = all(torch.equal(value, after["universal"][name]) for name, value in before["universal"].items())
    assert same != universal
    assert any(not torch.equal(value, after["text"][name]) for name, value in before["text"].items())


def test_texts_beside_pictures_have_batches_and_losses_of_their_own_and_resume(root: Path, tmp_path: Path) -> None:
    sources = ("web", "texts")
    short = {"optim": {"epochs": 2}, "run": {"log_ids": True}}
    train(recipe(root, sources, **short), tmp_path / "whole", quiet=True)
    train(recipe(root, sources, optim={"epochs": 2}, run={"log_ids": True, "max_steps": 5}), tmp_path / "parts", quiet=True)
    train(recipe(root, sources, **short), tmp_path / "parts", resume=True, quiet=True)
    assert model_hash(tmp_path / "whole" / "checkpoint-last") == model_hash(tmp_path / "parts" / "checkpoint-last")
    steps = rows(tmp_path / "whole", "samples.jsonl")
    assert steps == rows(tmp_path / "parts", "samples.jsonl")
    kinds = [{name.partition("/")[0] for name in step["ids"]} for step in steps]
    assert all(len(kind) == 1 for kind in kinds) and {name for kind in kinds for name in kind} == set(sources)
    losses = [row for row in rows(tmp_path / "whole") if "loss" in row]
    for kind, row in zip(kinds, losses, strict=True):
        assert ("loss_text_mlm" in row, "loss_itc" in row) == (kind == {"texts"}, kind == {"web"})
