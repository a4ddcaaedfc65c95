"""Parameter groups and schedules, the originals' against their golden traces."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from openmplug.config import validate
from openmplug.engine.optim import (
    CosinePerStep,
    MPLUG2Schedule,
    MPLUGSchedule,
    OptimSettings,
    OriginalCosine,
    Position,
    build_optimizer,
    build_schedule,
    decays,
    in_vision,
    parameter_groups,
    set_learning_rates,
)
from openmplug.errors import UsageError


def golden(root: Path, name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((root / "extras" / name).read_text())["schedules"]
    return cases


def cosine(config: dict[str, Any], duration: int) -> OriginalCosine:
    return OriginalCosine(duration=duration, warmup=config["warmup_epochs"], warmup_lr=config["warmup_lr"], min_lr=config["min_lr"])


@pytest.mark.parametrize("number", [0, 1])
def test_original_cosine_repeats_the_golden_trace(golden_root: Path, number: int) -> None:
    case = golden(golden_root, "mplug_extras.json")[number]
    curve = cosine(case["config"], case["num_epochs"])
    assert len(case["trace_t_lr"]) > 10
    for t, *lrs in case["trace_t_lr"]:
        assert [curve.lr(t, base) for base in case["base_lrs"]] == pytest.approx(lrs, rel=1e-12, abs=0), t


@pytest.mark.parametrize("number", [0, 1])
def test_cosine_step_repeats_the_golden_trace(golden_root: Path, number: int) -> None:
    case = golden(golden_root, "mplug2_extras.json")[number]
    schedule = MPLUG2Schedule(
        cosine(case["config"], case["num_iterations"]), case["steps_per_epoch"], sawtooth=case["script"] == "video_caption_mplug2"
    )
    for epoch, iteration, *lrs in case["trace_epoch_iter_lrs"]:
        time = schedule.time_after(epoch, iteration)
        assert [schedule.curve.lr(time, base) for base in case["base_lrs"]] == pytest.approx(lrs, rel=1e-12, abs=0), (epoch, iteration)


def test_recipe_settings_give_the_golden_cosine_step(golden_root: Path) -> None:
    case = golden(golden_root, "mplug2_extras.json")[0]
    settings = OptimSettings(
        lr=2e-5, vision_lr=2e-6, epochs=10, schedule="mplug2", warmup_steps=200, warmup_lr=1e-6, min_lr=1e-6, batch_size_per_device=8
    )
    schedule = build_schedule(settings, case["steps_per_epoch"])
    for epoch, iteration, *lrs in case["trace_epoch_iter_lrs"]:
        following = Position(0, epoch, iteration + 1)  # the scripts move the curve after the step
        assert schedule(following, 2e-5) == pytest.approx(lrs[0], rel=1e-12)


def simulate_script(curve: OriginalCosine, epochs: int, per_epoch: int, base: float, variant: str) -> list[float]:
    """The learning rate of every step, as the released loops set it (ORIGINAL section 12)."""
    lr, used = curve.lr(-1, base), []
    for epoch in range(epochs):
        if epoch > 0 and variant in ("vqa", "grounding"):
            lr = curve.lr(epoch + curve.warmup, base)
        for i in range(per_epoch):
            used.append(lr)
            if epoch == 0 and i % 100 == 0 and i <= 100 * curve.warmup:
                lr = curve.lr(i // 100, base)
        if variant in ("retrieval", "grounding"):
            lr = curve.lr(epoch + curve.warmup + 1, base)
    return used


@pytest.mark.parametrize("variant", ["vqa", "retrieval", "grounding"])
@pytest.mark.parametrize("per_epoch", [37, 250, 900])
def test_mplug_schedule_steps_when_the_scripts_do(variant: str, per_epoch: int) -> None:
    curve = OriginalCosine(duration=8, warmup=4, warmup_lr=1e-5, min_lr=1e-6)
    schedule = MPLUGSchedule(curve)
    ours = [schedule(Position(0, epoch, i), 3e-5) for epoch in range(8) for i in range(per_epoch)]
    assert ours == pytest.approx(simulate_script(curve, 8, per_epoch, 3e-5, variant), rel=1e-12)


def test_the_caption_script_falls_back_every_hundred_iterations() -> None:
    schedule = MPLUG2Schedule(OriginalCosine(1000, 200, 1e-6, 1e-6), 300, sawtooth=True)
    lrs = [schedule(Position(0, 0, i), 2e-5) for i in range(300)]
    assert lrs[101] < lrs[100] / 2 and lrs[102] > lrs[100]


def test_cosine_per_step_warms_up_and_ends_at_its_minimum() -> None:
    schedule = CosinePerStep(total_steps=100, warmup_steps=9, warmup_lr=0.0, min_lr=1e-5)
    lrs = [schedule(Position(step, 0, 0), 1e-3) for step in range(101)]
    assert lrs[:10] == pytest.approx([1e-4 * (step + 1) for step in range(10)])
    assert lrs[9] == 1e-3 and all(a >= b for a, b in itertools.pairwise(lrs[9:]))
    assert lrs[100] == pytest.approx(1e-5)


def test_build_schedule_counts_optimizer_steps() -> None:
    settings = OptimSettings(epochs=3, accumulation=4, warmup_steps=2)
    schedule = build_schedule(settings, iterations_per_epoch=10)
    assert isinstance(schedule, CosinePerStep) and schedule.total_steps == 9
    mplug = build_schedule(OptimSettings(epochs=3, schedule="mplug", warmup_epochs=2), 10)
    assert isinstance(mplug, MPLUGSchedule) and mplug.curve.duration == 3 and mplug.curve.warmup == 2


def test_min_lr_above_the_peak_is_refused() -> None:
    with pytest.raises(UsageError, match=r"min_lr=0.001 is above the peak learning rate 0.0001; lower min_lr"):
        validate(OptimSettings, {"lr": 1e-3, "vision_lr": 1e-4, "min_lr": 1e-3}, where="optim")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vision.positions", True),
        ("vision.class_token", True),
        ("vision.layers.0.attention_norm.weight", True),
        ("vision.layers.0.attention_norm.bias", False),
        ("vision.output_norm.weight", True),
        ("vision_projection.norm.weight", True),
        ("vision_projection.norm.bias", False),
        ("text.embeddings.norm.weight", False),
        ("text.embeddings.words.weight", True),
        ("text.layers.3.self_attention.norm.weight", False),
        ("decoder.head.norm.weight", False),
        ("decoder.head.bias", False),
        ("contrastive.temperature", True),
        ("fusion.layers.0.block.cross_attention.attention.query.weight", True),
    ],
)
def test_weight_decay_follows_the_original_names(name: str, expected: bool) -> None:
    assert decays(name) is expected


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.text = nn.ModuleDict({"norm": nn.LayerNorm(4), "linear": nn.Linear(4, 4)})
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_groups_are_four_and_cover_every_learning_parameter_once() -> None:
    model = TinyModel()
    groups = parameter_groups(model, OptimSettings(lr=1e-3, vision_lr=1e-4, weight_decay=0.1))
    assert [(group["base_lr"], group["weight_decay"]) for group in groups] == [(1e-3, 0.1), (1e-3, 0.0), (1e-4, 0.1), (1e-4, 0.0)]
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    assert all(in_vision(name) for group in groups[2:] for name in group["names"])


def test_learning_rates_are_set_per_group() -> None:
    optimizer = build_optimizer(TinyModel(), OptimSettings(lr=1e-3, vision_lr=1e-4))
    set_learning_rates(optimizer, CosinePerStep(total_steps=10, min_lr=0.0), Position(5, 0, 0))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5])


def test_fused_adamw_equals_the_plain_formula() -> None:
    torch.manual_seed(0)
    model = TinyModel()
    settings = OptimSettings(lr=1e-2, weight_decay=0.1)
    weight = model.text["linear"].weight.detach().clone()
    optimizer = build_optimizer(model, settings)
    gradient = torch.randn(4, 4)
    model.text["linear"].weight.grad = gradient
    optimizer.step()
    m, v = 0.1 * gradient / (1 - 0.9), 0.001 * gradient**2 / (1 - 0.999)
    expected = weight * (1 - 1e-2 * 0.1) - 1e-2 * m / (v.sqrt() + 1e-8)
    assert torch.allclose(model.text["linear"].weight, expected, atol=1e-6)
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.1)


def test_the_temporal_modules_belong_to_the_tower_and_the_norm_of_seen_tokens_decays() -> None:
    """As in the original, where the former are inside ``visual_encoder`` and the latter is called ``visn_emb_norm``."""
    assert in_vision("temporal.layers.0.before.expand.weight") and not in_vision("universal.latents")
    assert decays("temporal.layers.0.before.norm.weight") and decays("universal.norm.weight")
    assert not decays("universal.layers.0.self_attention.norm.weight") and not decays("temporal.layers.0.before.norm.bias")
