"""bf16 weights: what is cast and what is not, results near fp32's, and when it pays."""

from __future__ import annotations

import copy

import pytest
import torch

from openmplug.models import packing, precision
from openmplug.models.families import named_config
from openmplug.models.generation import beam_search, next_words, sample
from openmplug.models.mplug import MPLUG
from openmplug.models.pairing import PairFusion
from openmplug.models.precision import LinearSeconds, bf16_pays, cast_for_inference, choose_inference_dtype, measure_linear
from openmplug.models.ranking import rank_answers
from tiny_models import random_ids, right_padded, tiny_model

needs_bf16 = pytest.mark.skipif(not packing.bf16_on_cpu(), reason="this CPU has no bf16 kernels")
BF16 = torch.bfloat16


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 0.05) -> None:
    """Within a share of the largest value: bf16 has about three digits, and the tiny models have large random weights."""
    assert found.shape == expected.shape
    assert float((found.float() - expected.float()).abs().max()) <= share * float(expected.float().abs().max())


def test_what_needs_digits_stays_fp32() -> None:
    model = cast_for_inference(tiny_model(), BF16)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    kept = {name for name, dtype in types.items() if dtype is torch.float32}
    assert set(types.values()) == {torch.float32, BF16}
    assert all("norm" in name or "positions" in name or "types" in name or name.startswith(("contrastive", "matching")) for name in kept)
    assert {
        "vision.patches.weight",
        "text.embeddings.words.weight",
        "decoder.head.bias",
        "fusion.layers.0.block.feed_forward.expand.weight",
    }.isdisjoint(kept)
    assert types["vision.positions"] is BF16 and not any(parameter.requires_grad for parameter in model.parameters())


def test_casting_to_fp32_changes_nothing() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    for name, value in cast_for_inference(model, torch.float32).state_dict().items():
        assert torch.equal(value, before[name])


@torch.no_grad()
def test_every_module_is_near_fp32() -> None:
    model = tiny_model()
    small = cast_for_inference(copy.deepcopy(model), BF16)
    images, ids, mask = torch.randn(2, 3, 16, 16), random_ids(2, 5), right_padded([5, 3])
    sides = []
    for side in (model, small):
        vision, text = side.encode_images(images), side.encode_text(ids, mask)
        fused = side.fuse(vision, text, mask)
        sides.append((vision, text[mask], side.contrastive.vision_features(vision), side.contrastive.text_features(text), fused.text[mask]))
        together = PairFusion(side.fusion)
        states = together.class_states(together.picture(vision[0]), together.begin(text, mask), mask)
        sides[-1] += (states, side.matching(states[:, None]))
    for expected, found in zip(*sides, strict=True):
        close(found, expected, 0.1)
    assert sides[1][0].dtype is BF16
    assert sides[1][2].dtype is sides[1][3].dtype is sides[1][6].dtype is torch.float32


@torch.no_grad()
def test_texts_are_written_and_answers_ranked() -> None:
    model = tiny_model(("vision", "decoder"))
    small = cast_for_inference(copy.deepcopy(model), BF16)
    images = torch.randn(2, 3, 16, 16)
    memory, exact = small.caption_memory(images), model.caption_memory(images)
    assert memory.layers[0].keys.dtype is BF16
    for item in beam_search(small.decoder, memory, num_beams=3, max_length=6):
        assert item[0].score <= 0 and len(item[0].ids) <= 7
    assert len(sample(small.decoder, memory, max_length=4, temperature=0.0)) == 2
    ids = torch.tensor([[101, word, 105, 102] for word in range(104, 112)])
    found, expected = (rank_answers(d.decoder, m, ids, ids != 0, 8) for d, m in ((small, memory), (model, exact)))
    ours, theirs = (torch.zeros(2, 8).scatter(1, one.indices, one.probabilities) for one in (found, expected))
    assert float((ours - theirs).abs().max()) < 0.15


@torch.no_grad()
@pytest.mark.parametrize("forbidden", [None, 7])
def test_best_words_are_ordered_by_fp32_scores(forbidden: int | None) -> None:
    """The bf16 product only finds candidates: values and order are those of an fp32 head over the same states and weights."""
    torch.manual_seed(0)
    decoder = cast_for_inference(tiny_model(("decoder",)), BF16).decoder
    decoder.head.bias.mul_(8)  # large logits: bf16 alone would make ties of them
    hidden = torch.randn(6, 32).to(BF16)
    values, words = next_words(decoder, hidden, 3, forbidden)
    logits = decoder.head.transformed(hidden).float() @ decoder.embeddings.words.weight.float().T + decoder.head.bias.float()
    expected = logits - logits.logsumexp(dim=1, keepdim=True)
    if forbidden is not None:
        expected[:, forbidden] = -1e20
    best = expected.topk(3, dim=1)
    assert torch.equal(words, best.indices)
    torch.testing.assert_close(values, best.values, atol=2e-2, rtol=0)
    torch.testing.assert_close(values - values[:, :1], best.values - best.values[:, :1], atol=1e-4, rtol=1e-4)


@needs_bf16
def test_large_bf16_layers_are_packed_and_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = named_config(
        "mplug-base",
        image_size=32,
        vision_layers=1,
        decoder_layers=1,
        text_layers=1,
        fusion_layers=2,
        connected_layers=(1,),
        vocab_size=2000,
    )
    model = MPLUG(config).eval()
    packed = cast_for_inference(copy.deepcopy(model), BF16)
    usual = copy.deepcopy(packed)  # copies leave the packed weights behind
    assert packed.vision.layers[0].expand.packed._copy is not None and usual.vision.layers[0].expand.packed._copy is None
    images, ids, mask = torch.randn(2, 3, 32, 32), random_ids(2, 5), right_padded([5, 3])
    with torch.no_grad():
        found, expected, exact = (
            side.fuse(side.encode_images(images), side.encode_text(ids, mask), mask) for side in (packed, usual, model)
        )
    for one, other, reference in zip(found, expected, exact, strict=True):
        close(one, other, 0.02)
        close(one, reference, 0.05)
    for faster in (False, True):
        monkeypatch.setattr(packing, "onednn_is_faster", lambda faster=faster: faster)
        fp32 = cast_for_inference(copy.deepcopy(model), torch.float32)
        held = fp32.vision.layers[0].expand.packed._copy
        assert (held is not None) == faster and (held is None or not held.copied)  # no gain from a copy there
        assert fp32.decoder.layers[0].feed_forward.expand.packed._copy is not None
        with torch.no_grad():
            states = fp32.fuse(fp32.encode_images(images), fp32.encode_text(ids, mask), mask)
        for one, reference in zip(states, exact, strict=True):
            torch.testing.assert_close(one, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("seconds", "pays"),
    [
        (None, False),
        (LinearSeconds(2.0, 1.0, 8.0, 1.0), True),
        (LinearSeconds(1.1, 1.0, 1.1, 1.0), False),  # too little to bother
        (LinearSeconds(0.9, 1.0, 8.0, 1.0), False),  # slower at what a step does
        (LinearSeconds(2.0, 1.0, 1.0, 9.0), False),
    ],
)
def test_when_bf16_pays(seconds: LinearSeconds | None, pays: bool) -> None:
    assert bf16_pays(seconds) is pays


def test_the_choice_follows_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measure_linear", lambda width: LinearSeconds(2.0, 1.0, 2.0, 1.0))
    assert choose_inference_dtype(torch.device("cpu")) is BF16
    monkeypatch.setattr(precision, "measure_linear", lambda width: None)
    assert choose_inference_dtype(torch.device("cpu")) is torch.float32
    assert choose_inference_dtype(torch.device("mps")) is torch.float32


def test_no_bf16_kernels_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_on_cpu", lambda: False)
    assert measure_linear.__wrapped__() is None


@needs_bf16
def test_the_measurement_is_real_and_made_once() -> None:
    first = measure_linear()
    assert first is not None and measure_linear() is first
    assert 0 < min(first.step_fp32, first.step_bf16, first.encoding_fp32, first.encoding_bf16) < 10
