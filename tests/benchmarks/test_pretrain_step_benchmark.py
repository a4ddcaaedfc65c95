"""The benchmark of a training step runs on recipes of every kind, its operations are the plan's, its numbers follow from each other."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmark_files import load_benchmark
from openmplug.engine.recipe import load_recipe
from openmplug.models.families import named_config

FEW = "--device cpu --threads 1 --batch 2 --count-batch 2 --steps 1 --warmup 0 --profile-steps 1 --peak-tflops 0.05".split()
TINY = "model.name=mplug-tiny model.image_size=16 model.vision_layers=1 model.decoder_layers=1".split()


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("pretrain_step", monkeypatch)


def run(benchmark: ModuleType, *arguments: str) -> int:
    threads = torch.get_num_threads()
    try:
        return int(benchmark.main([*arguments, *FEW]))
    finally:
        torch.set_num_threads(threads)


def test_numbers_follow_from_each_other(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "step.json"
    settings = ["model.name=mplug2-tiny", "run.gradient_checkpointing=true"]
    arguments = ["mlm/texts_mplug2_base", *settings, "--json", str(output), "--modes", "eager", "compiled", "--backend", "eager"]
    assert run(benchmark, *arguments) == 0
    facts = json.loads(output.read_text())
    assert set(facts["modes"]) == {"eager", "compiled"}
    for one in facts["modes"].values():
        assert one["samples_per_second"] == pytest.approx(2 / one["seconds"])
        assert one["mfu"] == pytest.approx(2 * facts["flops_per_sample"] / one["seconds"] / 5e10)
        assert len(one["costs"]) == 5 and 0 < sum(cost["share"] for cost in one["costs"]) <= 1
        shares = [cost["share"] for cost in one["costs"]]
        assert shares == sorted(shares, reverse=True)
    printed = capsys.readouterr().out
    assert "mlm/texts_mplug2_base, mplug2-tiny, 64 px, batch 2, fp32" in printed and "| compiled |" in printed


def test_operations_of_a_step_are_those_of_the_formulas(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    flops = load_benchmark("flops", monkeypatch)
    config = load_recipe("retrieval/coco_mplug_large", [*TINY, "settings.queue_size=8"])
    task, batch = benchmark.prepare(config, 2, SimpleNamespace(frames=0, words=6), torch.device("cpu"))
    counted = benchmark.count_flops(benchmark.Step(task, batch, config, torch.device("cpu"), "fp32"))
    sizes = named_config("mplug-tiny", image_size=16, vision_layers=1, decoder_layers=1)
    seen, tokens = flops.vision_tokens(sizes), batch.text.ids.shape[1]
    encoded = flops.vision(sizes) + flops.text(sizes, tokens) + flops.contrastive(sizes)
    fused = flops.fusion(sizes, seen, tokens, 2) + flops.fusion(sizes, seen, tokens) + 3 * flops.matching(sizes)
    # Similarities with 2 + 8 features each way: the student's forward and backward, the twin's forward.
    similarities = 3 * 2 * flops.linear(1, sizes.embed_dim, 10)
    assert counted == 2 * (3 * (encoded + fused) - flops.patches(sizes) + encoded + similarities)


@pytest.mark.parametrize(
    "arguments",
    [
        ["vqa/easy_vqa_mplug_tiny"],
        ["caption/moving_mplug2_tiny", "--frames", "2"],
        ["grounding/shapes_mplug_tiny"],
        ["classification/cifar10_mplug2_tiny"],
        ["classification/stsb_mplug2_tiny"],
        ["retrieval/coco_mplug_large", *TINY, "settings.queue_size=8"],
    ],
    ids=lambda arguments: arguments[0].split("/")[0] + arguments[0].split("/")[1][:4],
)
def test_every_kind_of_task_can_be_measured(benchmark: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(benchmark, *arguments, "--modes", "eager") == 0
    assert "| eager | " in capsys.readouterr().out


def test_what_cannot_be_compiled_or_does_not_fit_says_so(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Optimizer:
        def zero_grad(self, set_to_none: bool) -> None:
            self.cleared = set_to_none

    def failing(error: Exception) -> object:
        def step() -> None:
            raise error

        step.device, step.optimizer = torch.device("cpu"), Optimizer()
        return step

    assert benchmark.measure(failing(torch.OutOfMemoryError("out of memory")), 1, 0) == {"problem": "out of memory"}
    found = benchmark.measure(failing(RuntimeError("no compiler\nat all")), 1, 0)
    assert found == {"problem": "RuntimeError: no compiler"}
    assert "| compiled | RuntimeError: no compiler |" in benchmark.report({"modes": {"compiled": found}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval/coco_mplug_lage"], "did you mean 'retrieval/coco_mplug_large'"),
        (["vqa/easy_vqa_mplug_tiny", "optim.lt=1"], "unknown setting 'optim.lt'"),
        (["vqa/easy_vqa_mplug_tiny", "--profile-steps", "0"], "must be at least 2"),
    ],
)
def test_wrong_arguments_are_refused(benchmark: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([*FEW, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_peak_is_given_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = load_benchmark("rates", monkeypatch)
    assert rates.peak(torch.device("cpu"), "bf16", 2.5) == (2.5e12, "given")
    assert rates.measured_peak(torch.device("cpu"), "fp32", side=64, runs=1) > 0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert rates.peak(torch.device("cuda"), "bf16").flops == 989e12
    monkeypatch.setattr(rates, "measured_peak", lambda device, precision, side: 1.0)
    assert rates.peak(torch.device("cuda"), "fp32").source == "a fp32 product of 8192 x 8192 matrices, measured here"
