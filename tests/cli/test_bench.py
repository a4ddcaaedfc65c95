"""``openmplug bench``: one document or one table, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from cli.command import run


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_json_document() -> None:
    outcome = run("bench", "mplug-tiny", "--quick", "--json", "--threads", "1", "--only", "match", "--only", "answer", "--device", "cpu")
    report = json.loads(outcome.out)
    assert (report["model"], report["device"], report["threads"], report["quick"]) == ("mplug-tiny", "cpu", 1, True)
    assert {one["work"] for one in report["speeds"]} == {"match", "answer"}
    assert all(one["per_second"] > 0 and one["peak_memory_mib"] > 0 for one in report["speeds"])
    assert report["default_dtype"] in ("fp32", "bf16")
    types = {one["dtype"] for one in report["speeds"]}
    assert report["faster_dtype"] in types if len(types) > 1 else report["faster_dtype"] is None


def test_a_table() -> None:
    outcome = run("bench", "mplug-tiny", "--quick", "--threads", "1", "--only", "match", "--dtype", "fp32", "--device", "cpu")
    assert outcome.out.startswith("mplug-tiny on cpu, 1 threads")
    assert "pairs" in outcome.out and "fp32" in outcome.out
    assert "load(…) chooses: fp32" in outcome.err and "faster here" not in outcome.err


def test_refusals() -> None:
    assert "'mplug-bass' is neither a folder nor a known size" in run("bench", "mplug-bass").error(2)
    assert "unknown work sing" in run("bench", "mplug-tiny", "--only", "sing").error(2)
    assert "dtype 'fp8' cannot be measured on cpu; choose from fp32" in run(
        "bench", "mplug-tiny", "--dtype", "fp8", "--device", "cpu"
    ).error(2)
