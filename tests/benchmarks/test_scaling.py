"""The plan of pre-training at scale: formulas against what torch counts and keeps, the published parameter counts, the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmark_files import FOLDER, load_benchmark
from openmplug.engine.recipe import load_recipe
from openmplug.models import layers
from openmplug.models.families import named_config

SIZES = [("mplug-tiny", 0), ("mplug2-tiny", 0), ("mplug-tiny", 2), ("mplug2-tiny", 4)]
# Without the tables that a step of a few words would mostly consist of.
SMALL = {"vocab_size": 300}
PUBLISHED = (
    "{queue_size: 16, alpha: 0.4, itm: 1, mlm: 1, prefix: 1, instruction: 0, distill: true, captions_per_example: 1, fused_captions: 1}"
)


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("scaling", monkeypatch)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("step_plan", monkeypatch)


@pytest.mark.parametrize(("size", "frames", "distil"), [*((*size, True) for size in SIZES), ("mplug2-tiny", 0, False)])
def test_operations_of_a_step_are_what_torch_counts(
    step: ModuleType, size: str, frames: int, distil: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = load_benchmark("fusion_stacks", monkeypatch).attention_kind("eager")
    config, plan = named_config(size, **SMALL), step.Plan(batch=3, text=12, frames=frames, queue=10, distil=distil)
    model, twin = step.build(config, plan)
    with eager, FlopCounterMode(display=False) as counter:
        step.loss_of_step(model, twin, step.inputs(config, plan), plan).backward()
    assert counter.get_total_flops() == step.step_flops(config, plan)
    assert all(parameter.grad is not None for parameter in model.parameters())  # every module is part of the plan
    assert all(parameter.grad is None for parameter in twin.parameters())


@pytest.mark.parametrize("size", ["mplug-tiny", "mplug2-tiny"])
def test_the_plan_is_the_task_s(step: ModuleType, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task draws its prefixes, so that what is padded and said differs a little from the plan."""
    measuring = load_benchmark("pretrain_step", monkeypatch)
    config = load_recipe("pretrain/flickr8k_mplug_small", [f"model={{name: {size}}}", f"settings={PUBLISHED}"])
    made = SimpleNamespace(frames=0, words=20)
    task, batch = measuring.prepare(config, 8, made, torch.device("cpu"))
    counted = measuring.count_flops(measuring.Step(task, batch, config, torch.device("cpu"), "fp32"))
    plan = step.Plan(batch=8, text=batch.text.ids.shape[1], queue=16)
    assert counted == pytest.approx(step.step_flops(task.model.config, plan), rel=0.03)


def kept_bytes(step: ModuleType, config: Any, plan: Any, bf16: bool) -> int:
    """Run the forwards and sum what autograd keeps of them, once each, weights and their copies apart."""
    model, twin = step.build(config, plan)
    given = step.inputs(config, plan)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *twin.parameters(), *given)}
    matrices = [one for one in model.parameters() if one.ndim > 1]
    shapes = {tuple(shape) for one in matrices for shape in (one.shape, one.flatten(1).shape, one.flatten(1).T.shape)}
    kept: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        cast = tensor.dtype is torch.bfloat16 and tuple(tensor.shape) in shapes  # of a weight
        if storage.data_ptr() not in known and not cast:
            kept[storage.data_ptr()] = storage  # held, so that no other tensor gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        step.loss_of_step(model, twin, given, plan)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(("size", "frames"), SIZES)
@pytest.mark.parametrize(("bf16", "dropout"), [(True, 0.1), (False, 0.0)])
def test_activations_are_what_autograd_keeps(
    step: ModuleType, size: str, frames: int, bf16: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: norms in fp32 under autocast, fused attention in bf16. Dropout masks are of the computing type on a CPU.
    norm = torch.nn.LayerNorm.forward
    monkeypatch.setattr(torch.nn.LayerNorm, "forward", lambda self, x: norm(self, x.float()))
    monkeypatch.setattr(layers, "attend", lambda query, keys, values, mask, _: F.scaled_dot_product_attention(query, keys, values, mask))
    memory = load_benchmark("step_memory", monkeypatch)
    config, plan = named_config(size, **SMALL, dropout=dropout), step.Plan(batch=3, text=12, frames=frames, queue=10)
    compute = 2 if bf16 else 4
    predicted = memory.activations(config, plan, memory.Kept(compute, compute if dropout else 0))
    assert predicted == pytest.approx(kept_bytes(step, config, plan, bf16), rel=0.01 if bf16 else 0.03)


@pytest.mark.parametrize(("size", "millions"), [("mplug-base", 350), ("mplug2-large", 900)])
def test_parameters_are_the_published_ones(monkeypatch: pytest.MonkeyPatch, step: ModuleType, size: str, millions: int) -> None:
    student, twin = load_benchmark("step_memory", monkeypatch).parameters(named_config(size), step.Plan(2))
    assert student / 1e6 == pytest.approx(millions, rel=0.1)
    assert student - twin == 2 * named_config(size).width + 2  # all but the matching head has a twin


@pytest.mark.parametrize(("size", "frames"), [("mplug-tiny", 0), ("mplug2-tiny", 4)])
@pytest.mark.parametrize("distil", [True, False])
def test_parameters_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch, step: ModuleType, size: str, frames: int, distil: bool) -> None:
    config, plan = named_config(size, **SMALL, vision_width=64), step.Plan(2, frames=frames, distil=distil)
    built = tuple(sum(parameter.numel() for parameter in one.parameters()) for one in step.build(config, plan))
    assert load_benchmark("step_memory", monkeypatch).parameters(config, plan) == built


def test_memory_by_sharing_and_recomputation(monkeypatch: pytest.MonkeyPatch, step: ModuleType) -> None:
    memory = load_benchmark("step_memory", monkeypatch)
    config, plan, counts = named_config("mplug-base"), step.Plan(64), (1_000_000, 800_000)
    alone = memory.memory(config, plan, memory.Kept(), counts=counts)
    assert [alone[name] for name in ("weights", "twin", "gradients", "AdamW", "bf16 copies")] == [4e6, 3.2e6, 4e6, 8e6, 2e6]
    shared = memory.memory(config, plan, memory.Kept(), shards=8, counts=counts)
    assert [shared[name] * 8 for name in ("weights", "twin", "gradients", "AdamW")] == [4e6, 3.2e6, 4e6, 8e6]
    assert shared["activations"] == alone["activations"]
    again = memory.memory(config, plan, memory.Kept(recompute=True), counts=counts)
    assert again["activations"] < alone["activations"] / 2.5
    double = memory.activations(config, step.Plan(128), memory.Kept())
    assert double == pytest.approx(2 * alone["activations"], rel=0.01)  # but for the keys of the batch itself


# ---------------------------------------------------------------------------------------------------------------- bytes moved


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("step_traffic", monkeypatch)


def test_bytes_by_hand(moving: ModuleType, step: ModuleType) -> None:
    config, plan, counts = named_config("mplug-tiny"), step.Plan(4), (1000, 500)  # features of 64 numbers
    features = 4 * (3 * 2 * 4 * 64 + 8)
    assert moving.traffic(config, plan, counts, gpus=1, shared_by=1) == dict.fromkeys(
        ("gather of weights", "reduction among sharers", "reduction among groups", "features"), 0
    )
    copied = moving.traffic(config, plan, counts, gpus=4, shared_by=1)
    assert copied == {
        "gather of weights": 0,
        "reduction among sharers": 0,
        "reduction among groups": 2 * 3 / 4 * 4000,
        "features": 3 * features,
    }
    shared = moving.traffic(config, plan, counts, gpus=16, shared_by=8)
    assert shared["gather of weights"] == 7 / 8 * (4 * 1000 + 2 * 500)
    assert shared["reduction among sharers"] == 7 / 8 * 4000
    assert shared["reduction among groups"] == 2 * 1 / 2 * 4000 / 8


def test_seconds_by_hand(moving: ModuleType) -> None:
    machine = moving.Machine(nvlink=100.0, network=40.0, efficiency=0.5)  # 50 and 20 bytes per second
    moved = {"gather of weights": 600.0, "reduction among sharers": 400.0, "reduction among groups": 10.0, "features": 5.0}
    assert moving.communication_seconds(moved, gpus=8, shared_by=8, machine=machine) == pytest.approx(1000 / 50 + 10 / 50 + 5 / 50)
    # Across nodes; the eight GPUs of a node reduce eight different parts through its cards.
    assert moving.communication_seconds(moved, 16, 8, machine) == pytest.approx(1000 / 50 + 8 * 10 / 20 + 5 / 20)
    assert moving.communication_seconds(moved, 16, 16, machine) == pytest.approx(1000 / 20 + 10 / 20 + 5 / 20)
    assert moving.communication_seconds(moved, 16, 1, machine) == pytest.approx(1000 / 50 + 10 / 20 + 5 / 20)


def test_throughput_by_hand(moving: ModuleType, step: ModuleType) -> None:
    machine = moving.Machine(flops=1e3, mfu=0.5)
    found = moving.expected(named_config("mplug-tiny"), step.Plan(4), (0, 0), work=2e3, gpus=1, sharing="DDP", machine=machine)
    assert (found.compute, found.communication, found.hidden, found.open) == (4.0, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="unknown way of sharing 'all'; one of DDP, hybrid, FSDP"):
        moving.sharers("all", 8, machine)


# -------------------------------------------------------------------------------------------------------------------- the page


def test_the_page_is_what_the_script_makes(scaling: ModuleType, tmp_path: Path) -> None:
    made = tmp_path / "scaling.md"
    assert scaling.main(["--page", str(made)]) == 0
    shipped = FOLDER.parent / "docs" / "scaling.md"
    assert shipped.read_text() == made.read_text(), "run: python benchmarks/scaling.py --page docs/scaling.md"


def test_check_compares_a_step(scaling: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, threads = tmp_path / "check.json", torch.get_num_threads()
    try:
        arguments = ["--check", "--sizes", "mplug-tiny", "--batch", "2", "--steps", "1", "--threads", "1", "--peak-tflops", "0.05"]
        assert scaling.main([*arguments, "--json", str(output)]) == 0
    finally:
        torch.set_num_threads(threads)
    (one,) = json.loads(output.read_text())["sizes"]
    assert one["seconds"] > 0 and one["mfu"] == pytest.approx(one["model_flops"] / 5e10 / one["seconds"])
    assert one["measured_bytes"] is None or one["measured_bytes"] > one["predicted_bytes"]["AdamW"]
    assert "mplug-tiny, fp32, batch 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mfu", "45"], "parts of a whole"),
        (["--gpus", "12"], "whole nodes of 8"),
        (["--check", "--batch", "1"], "--batch must be at least 2"),
    ],
)
def test_wrong_arguments_are_refused(scaling: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(arguments)
    assert message in capsys.readouterr().err
