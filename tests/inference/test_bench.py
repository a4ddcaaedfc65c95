"""What ``openmplug bench`` measures: each kind of work, in each type, with the memory it took."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openmplug.errors import UsageError
from openmplug.inference import bench
from openmplug.inference.bench import Load, Speed, faster_dtype, measure, open_model, peak_memory_mib, possible_work
from tiny_models import tiny_model

LITTLE = Load(pictures=2, caption_tokens=3, answer_tokens=2, candidates=30, captions=3, repeat=1)
CPU = torch.device("cpu")


def test_all_work_is_measured_in_every_type() -> None:
    model = tiny_model()
    work = possible_work(model, [])
    assert work == ["caption", "answer", "rank", "match"]
    speeds = list(measure(model, work, ["bf16", "fp32"], LITTLE))
    assert [(one.dtype, one.work) for one in speeds] == [(dtype, kind) for dtype in ("fp32", "bf16") for kind in work]
    assert [one.unit for one in speeds[:4]] == ["captions", "answers", "candidates", "pairs"]
    for one, count in zip(speeds, [2, 2, 30, 6] * 2, strict=True):
        assert one.per_second == pytest.approx(count / one.seconds)
        assert one.peak_memory_mib is not None and one.peak_memory_mib > 50


def test_longer_texts_than_positions_are_not_asked_for() -> None:
    work = Load(pictures=1, caption_tokens=99, answer_tokens=99, candidates=1, captions=1, repeat=1)
    assert len(list(measure(tiny_model(), ["caption", "answer", "rank"], ["fp32"], work))) == 3


def test_a_folder_does_what_its_model_can(folders: Callable[..., Path]) -> None:
    assert possible_work(open_model(str(folders("caption")), CPU), []) == ["caption"]
    assert possible_work(open_model(str(folders("retrieval")), CPU), []) == ["match"]
    model = open_model(str(folders("vqa")), CPU)
    assert possible_work(model, []) == ["caption", "answer", "rank"]
    with pytest.raises(
        UsageError, match="a model of vision, text, fusion, decoder cannot do match; choose other work or a model with more"
    ):
        possible_work(model, ["match"])
    with pytest.raises(UsageError, match="unknown work sing; choose from caption, answer, rank, match"):
        possible_work(model, ["sing"])


def test_neither_folder_nor_size() -> None:
    with pytest.raises(UsageError, match="'mplug-bass' is neither a folder nor a known size; sizes: mplug-tiny, mplug-small"):
        open_model("mplug-bass", CPU)


def test_a_named_size_is_built() -> None:
    assert open_model("mplug-tiny", CPU).config.width == 128


def test_the_faster_type_counts_every_kind_of_work_alike() -> None:
    def speed(work: str, dtype: str, seconds: float) -> Speed:
        return Speed(work, dtype, "x", 1 / seconds, seconds, None)

    long_and_short = [
        speed("rank", "fp32", 100.0),
        speed("caption", "fp32", 1.0),
        speed("rank", "bf16", 110.0),
        speed("caption", "bf16", 0.5),
    ]
    assert faster_dtype(long_and_short) == "bf16"
    assert faster_dtype([*long_and_short[:3], speed("caption", "bf16", 0.99)]) == "fp32"


def test_memory_peaks_are_seen_and_reset() -> None:
    gc.collect()  # what other tests left must not be freed in between
    bench.reset_peak_memory(CPU)
    before = peak_memory_mib(CPU)
    block = torch.ones(128 * 2**20)  # 512 MiB; a system short of memory may take back pages of files meanwhile
    during = peak_memory_mib(CPU)
    assert before is not None and during is not None and during - before > 300
    del block


@pytest.mark.parametrize(("kernels", "types"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
def test_bf16_is_measured_where_there_is_any(kernels: bool, types: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "bf16_on_cpu", lambda: kernels)
    assert bench.dtypes_of(CPU) == types
    assert bench.dtypes_of(torch.device("mps")) == ["fp32"]
