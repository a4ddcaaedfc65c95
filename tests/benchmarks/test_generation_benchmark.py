"""The benchmark runs, and the side it compares against is correct: equal to the oracle of the tests, item by item."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmark_files import load_benchmark as load
from parity.plain import plain_beam_search, plain_rank
from tiny_models import random_ids, right_padded, tiny_decoder, tiny_model


@pytest.mark.parametrize("end_bias", [0.0, 4.0, 6.0])
@pytest.mark.parametrize("masked", [False, True])
def test_batched_plain_search_equals_the_oracle(end_bias: float, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load("plain", monkeypatch)
    for seed in range(4):
        decoder, states = tiny_decoder(seed, end_bias), torch.randn(3, 6, 32)
        mask = right_padded([6, 2, 4]) if masked else None
        found = plain.plain_beam_search(decoder, states, mask, num_beams=4, min_length=1, max_length=6)
        expected = plain_beam_search(decoder, states, mask, 4, 1, 6)
        assert [ids for ids, _ in found] == [item[0][0] for item in expected]
        assert [score for _, score in found] == pytest.approx([item[0][1] for item in expected], abs=1e-4)


def test_batched_plain_ranking_equals_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load("plain", monkeypatch)
    decoder, states, mask = tiny_decoder(0), torch.randn(2, 6, 32), right_padded([6, 2])
    ids, real = random_ids(7, 5), right_padded([5, 3, 4, 2, 5, 3, 4])
    found = plain.plain_rank(decoder, states, mask, ids, real, 4)
    for one, other in zip(found, plain_rank(decoder, states, mask, ids, real, 4), strict=True):
        torch.testing.assert_close(one, other)


def test_plain_ranking_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load("plain", monkeypatch)
    decoder, states = tiny_decoder(0), torch.randn(2, 6, 32)
    ids, real = random_ids(7, 5), right_padded([5, 3, 4, 2, 5, 3, 4])
    for one, other in zip(
        plain.plain_rank(decoder, states, None, ids, real, 6, per_call=4), plain_rank(decoder, states, None, ids, real, 6), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_plain_matching_fuses_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load("plain", monkeypatch)
    model = tiny_model(("fusion", "matching"))
    vision, text, mask = torch.randn(2, 5, 32), torch.randn(3, 4, 32), right_padded([4, 2, 3])
    with torch.no_grad():
        found = plain.plain_match(model, vision, text, mask, per_call=2)
        for i in range(2):
            for j in range(3):
                one = model.matching(model.fuse(vision[i : i + 1], text[j : j + 1], mask[j : j + 1]).text)[0, 1]
                torch.testing.assert_close(found[i, j], one, atol=1e-5, rtol=1e-5)


def test_made_up_answers_look_as_described(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = load("cases", monkeypatch)
    ids, real = cases.answer_list(1000, 30522, seed=0)
    assert len({tuple(row) for row in ids.tolist()}) == 1000
    words = real.sum(dim=1) - 2
    assert 0.5 < float((words == 1).float().mean()) < 0.7
    assert int(words.max()) <= 8
    assert 350 < len(set(ids[:, 1].tolist())) < 850  # many begin alike
    captions, mask = cases.caption_texts(64, 30522, 30)
    assert captions.shape == (64, 30) and 11.5 < float(mask.sum(dim=1).float().mean()) < 12.5


def run(benchmark: ModuleType, *arguments: str) -> int:
    threads = torch.get_num_threads()
    try:
        return int(benchmark.main(["--size", "mplug-tiny", "--repeat", "1", "--threads", "1", *arguments]))
    finally:
        torch.set_num_threads(threads)


def test_benchmark_runs_and_both_sides_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("generation", monkeypatch)
    output = tmp_path / "numbers.json"
    assert run(benchmark, "--only", "answer-4", "rank-100", "itm-2x64", "--json", str(output)) == 0
    printed = capsys.readouterr().out
    assert "answer, 10 tokens, batch 4" in printed and "rank 100 answers" in printed and "match 2 pictures x 64 captions" in printed
    cases = json.loads(output.read_text())["cases"]
    assert set(cases) == {"answer-4", "rank-100", "itm-2x64"}
    assert all(case["agreement"] == 1 and case["plain_seconds"] > 0 < case["our_seconds"] for case in cases.values())


def test_benchmark_of_bf16_weights_keeps_the_plain_side_in_fp32(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load("generation", monkeypatch)
    types = []
    work = benchmark.run_case

    def watched(case: object, ours: torch.nn.Module, plain: torch.nn.Module, *rest: object) -> object:
        types.append((ours.vision.patches.weight.dtype, plain.vision.patches.weight.dtype))
        return work(case, ours, plain, *rest)

    monkeypatch.setattr(benchmark, "run_case", watched)
    assert run(benchmark, "--dtype", "bf16", "--only", "rank-100") == 0
    assert types == [(torch.bfloat16, torch.float32)]
    assert "ours bf16, plain fp32" in capsys.readouterr().out


def test_different_results_fail_the_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("generation", monkeypatch)
    build = benchmark.cast_for_inference

    def broken(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        with torch.no_grad():
            model.decoder.head.bias.add_(torch.randn(len(model.decoder.head.bias)))
        return build(model, dtype)

    monkeypatch.setattr(benchmark, "cast_for_inference", broken)
    assert run(benchmark, "--only", "rank-100") == 1
    assert "the two sides gave different results: rank-100" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--repeat", "0"], ["--only", "caption-9"], ["--size", "mplug-bass"]])
def test_wrong_arguments_are_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = load("generation", monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
