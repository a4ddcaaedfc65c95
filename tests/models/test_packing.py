"""Packed weights: same numbers, never stale, never in the way of training or copying."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from openmplug.models import packing
from openmplug.models.decoder import TextDecoder
from openmplug.models.generation import beam_search
from openmplug.models.layers import Attention
from openmplug.models.packing import Linear

needs_onednn = pytest.mark.skipif(not packing._AVAILABLE, reason="weights are packed on x86 CPUs with oneDNN only")


@pytest.fixture
def linear() -> Linear:
    torch.manual_seed(0)
    return Linear(1024, 768).eval()


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 1024), (5, 1, 1024), (300, 1024)])
def test_same_numbers(linear: Linear, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    expected = F.linear(x, linear.weight, linear.bias)
    linear.pack()
    with torch.no_grad():
        found = linear(x)
    assert linear.packed._copy is not None
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_weights_as_they_are_give_the_same_numbers(linear: Linear, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "onednn_is_faster", lambda: True)
    linear.pack(copy=False)
    held = linear.packed._copy
    assert held is not None and held.packed.data_ptr() == linear.weight.data_ptr()  # no memory of its own
    x, other = torch.randn(rows, 1024), torch.randn(rows, 768)
    with torch.no_grad():
        expected = F.linear(x, linear.weight, linear.bias)
        torch.testing.assert_close(linear(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(linear.gelu(x), F.gelu(expected), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(linear.add(x, other), expected + other, atol=1e-5, rtol=1e-5)
        linear.bias.add_(1)
        torch.testing.assert_close(linear(x), expected + 1, atol=1e-5, rtol=1e-5)
        linear.pack(copy=False)
        linear.pack()
        assert linear.packed._copy is not None and linear.packed._copy.copied
        linear.pack(copy=False)
        assert linear.packed._copy.copied  # few rows want the copy, once there is one


@needs_onednn
def test_weights_as_they_are_stay_where_that_is_no_gain(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "onednn_is_faster", lambda: False)
    linear.pack(copy=False)
    assert linear.packed._copy is None
    monkeypatch.setattr(packing, "onednn_is_faster", lambda: True)
    linear.bfloat16().pack(copy=False)
    assert linear.packed._copy is None


@needs_onednn
def test_gelu_and_several_layers_in_one_product() -> None:
    torch.manual_seed(0)
    attention, x = Attention(768, 12, 0.0), torch.randn(5, 2, 768)
    with torch.no_grad():
        query, own = attention.project_self(x)
        attention.pack(own=True)
        packed_query, packed_own = attention.project_self(x)
        assert attention._packed_self._copy is not None
        for found, expected in ((packed_query, query), (packed_own.keys, own.keys), (packed_own.values, own.values)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        attention.value.bias.add_(1)
        assert (attention.project_self(x)[1].values - own.values).mean() > 0.99
        expected = attention.output.gelu(x)
        attention.output.pack()
        torch.testing.assert_close(attention.output.gelu(x), expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_changed_weight_is_seen(linear: Linear) -> None:
    linear.pack()
    x = torch.randn(5, 1024)
    with torch.no_grad():
        linear.weight.mul_(2)
        torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))
        linear.load_state_dict({"weight": torch.zeros(768, 1024), "bias": torch.zeros(768)})
        assert not linear(x).any()


@needs_onednn
def test_a_training_step_between_decodings_is_seen(linear: Linear) -> None:
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, fused=True)  # fused steps do not count as a change of the weight
    x = torch.randn(5, 1024)
    linear.pack()
    with torch.no_grad():
        before = linear(x)
    linear(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = linear(x)
    torch.testing.assert_close(after, F.linear(x, linear.weight, linear.bias).detach())
    assert (after - before).abs().max() > 1


@needs_onednn
def test_other_precisions_go_the_usual_way(linear: Linear) -> None:
    linear.pack()
    x = torch.randn(5, 1024)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x).dtype is torch.bfloat16
    assert linear.to(torch.float64)(x.double()).dtype is torch.float64


def test_small_weights_are_not_packed() -> None:
    small = Linear(64, 64)
    small.pack()
    assert small.packed._copy is None


@needs_onednn
def test_copies_and_files_leave_it_behind(linear: Linear) -> None:
    linear.pack()
    twin = copy.deepcopy(linear)
    assert twin.packed._copy is None
    assert linear.packed._copy is not None
    assert list(linear.state_dict()) == ["weight", "bias"]


@needs_onednn
def test_decoding_packs_and_finds_the_same_texts() -> None:
    torch.manual_seed(0)
    decoder = TextDecoder(
        2000, width=768, heads=12, intermediate=3072, layers=1, max_positions=16, dropout=0.0, attention_dropout=0.0
    ).eval()
    states = torch.randn(2, 7, 768)
    with torch.no_grad():
        found = beam_search(decoder, decoder.project_memory(states), num_beams=3, min_length=6, max_length=6)
        assert decoder.head.packed_words._copy is not None
        ids = torch.tensor([item[0].ids for item in found])
        logits = decoder(ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool), decoder.project_memory(states))
    with torch.enable_grad():  # drops the packed weights: the same forward the usual way
        usual = decoder(ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool), decoder.project_memory(states))
    assert decoder.head.packed_words._copy is None
    torch.testing.assert_close(logits, usual.detach(), atol=2e-5, rtol=1e-5)
    scores = usual.detach().log_softmax(-1).gather(2, ids[:, 1:, None]).sum(dim=(1, 2)) / ((5 + 6) / 6) ** 0.6
    torch.testing.assert_close(torch.tensor([item[0].score for item in found]), scores, atol=1e-4, rtol=1e-4)
