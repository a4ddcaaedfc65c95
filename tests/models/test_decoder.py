"""The decoder: stepping with a cache equals the whole forward, and no token sees what comes after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Tokens
from openmplug.models import packing
from openmplug.models.decoder import DecoderMemory, TextDecoder
from openmplug.objectives.language import text_labels, token_losses
from openmplug.tasks.decoding import target_log_probs
from tiny_models import only_callable, random_ids, right_padded, tiny_decoder


def memory_of(decoder: TextDecoder, items: int, masked: bool, seed: int = 0) -> tuple[Tensor, Tensor | None, DecoderMemory]:
    """Return memory states (B, 6, D), their mask, and both projected."""
    states = torch.randn(items, 6, 32, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    mask = right_padded([6, 3, 5, 1][:items], 6) if masked else None
    return states, mask, decoder.project_memory(states, mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("parts", [[1] * 7, [3, 1, 1, 2], [7]])
def test_stepping_equals_the_whole_forward_at_every_position(parts: list[int], each: int, masked: bool) -> None:
    decoder = tiny_decoder()
    states, mask, memory = memory_of(decoder, 2, masked)
    ids = random_ids(2 * each, 7)
    repeated = None if mask is None else mask.repeat_interleave(each, dim=0)
    whole = decoder(ids, torch.ones_like(ids, dtype=torch.bool), decoder.project_memory(states.repeat_interleave(each, dim=0), repeated))
    with torch.no_grad():
        state = decoder.start(memory, len(ids), 7)
        logits = [decoder.logits(decoder.step(part, state)) for part in ids.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.detach(), atol=2e-5, rtol=1e-5)
    assert state.length == 7


def test_reordered_rows_continue_what_they_are_told_to() -> None:
    decoder = tiny_decoder()
    _, _, memory = memory_of(decoder, 3, True)
    ids, rows, items = random_ids(3, 4), torch.tensor([2, 2, 0, 0]), torch.tensor([2, 0])
    with torch.no_grad():
        state = decoder.start(memory, 3, 5)
        decoder.step(ids, state)
        state.reorder(rows, items)
        new = torch.tensor([[105], [106], [107], [108]])
        out = decoder.logits(decoder.step(new, state))[:, 0]
        whole = torch.cat([ids[rows], new], dim=1)
        expected = decoder(whole, torch.ones_like(whole, dtype=torch.bool), memory.rows(rows))[:, -1]
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-5)
    assert len(state.memory) == 2


def test_no_token_sees_the_ones_after_it_nor_padding() -> None:
    decoder = tiny_decoder()
    _, _, memory = memory_of(decoder, 2, True)
    ids, mask = random_ids(2, 6), right_padded([6, 4])
    before = decoder(ids, mask, memory)
    changed = ids.clone()
    changed[0, 4:] = 110
    changed[1, 4:] = 111
    after = decoder(changed, mask, memory)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[0, 4], before[0, 4])


def test_masked_memory_is_not_seen() -> None:
    decoder = tiny_decoder()
    states, mask, memory = memory_of(decoder, 2, True)
    assert mask is not None
    ids = random_ids(2, 4)
    all_real = torch.ones_like(ids, dtype=torch.bool)
    noise = decoder.project_memory(torch.where(mask[..., None], states, 9.0), mask)
    torch.testing.assert_close(decoder(ids, all_real, noise), decoder(ids, all_real, memory))
    assert not torch.allclose(decoder(ids, all_real, decoder.project_memory(states)), decoder(ids, all_real, memory))


def test_head_is_tied_to_the_words_and_trains_the_padding_row() -> None:
    decoder = tiny_decoder()
    words = decoder.embeddings.words.weight
    hidden = torch.randn(2, 32)
    x = F.gelu(hidden @ decoder.head.transform.weight.T + decoder.head.transform.bias)
    x = F.layer_norm(x, (32,), decoder.head.norm.weight, decoder.head.norm.bias, 1e-12)
    torch.testing.assert_close(decoder.logits(hidden), x @ words.T + decoder.head.bias)
    _, _, memory = memory_of(decoder, 1, False)
    ids = random_ids(1, 4)
    token_losses(decoder(ids, torch.ones_like(ids, dtype=torch.bool), memory), ids).sum().backward()
    assert words.grad is not None and bool(words.grad[0].any()), "through the head, not through the look-up"
    assert "head.words" not in "".join(dict(decoder.named_parameters()))


@pytest.mark.parametrize("each", [1, 3])
def test_target_log_probs_equal_the_cross_entropy_of_all_logits(each: int) -> None:
    decoder = tiny_decoder()
    states, _, memory = memory_of(decoder, 2, True)
    ids, mask = random_ids(2 * each, 6), right_padded([6, 2, 4, 5, 3, 6][: 2 * each], 6)
    labels = text_labels(ids, mask, ignore_first=2)
    wanted = [states, *decoder.parameters()]
    ours = target_log_probs(decoder, memory, Tokens(ids, mask), labels)
    plain = token_losses(decoder(ids, mask, memory), labels).sum(dim=1)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    weights = torch.rand(len(ids))
    gradients = [torch.autograd.grad((losses * weights).sum(), wanted, retain_graph=True) for losses in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=1e-4)


def test_target_log_probs_of_rows_without_labels_are_zero() -> None:
    decoder = tiny_decoder()
    _, _, memory = memory_of(decoder, 1, False)
    ids, mask = random_ids(2, 4), right_padded([4, 1])
    losses = target_log_probs(decoder, memory, Tokens(ids, mask), text_labels(ids, mask))
    assert float(losses[0].detach()) > 0
    assert float(losses[1].detach()) == 0


def test_memory_rows_are_picked_with_repetition() -> None:
    decoder = tiny_decoder()
    _, mask, memory = memory_of(decoder, 3, True)
    assert mask is not None
    picked = memory.rows(torch.tensor([2, 0, 2]))
    assert len(memory) == len(picked) == 3
    assert picked.mask is not None and torch.equal(picked.mask[:, 0, 0], mask[[2, 0, 2]])
    assert torch.equal(picked.layers[1].values, memory.layers[1].values[[2, 0, 2]])


def test_a_decoding_longer_than_announced_is_refused() -> None:
    decoder = tiny_decoder()
    _, _, memory = memory_of(decoder, 1, False)
    state = decoder.start(memory, 1, 2)
    decoder.step(random_ids(1, 2), state)
    with pytest.raises(ValueError, match="the cache holds 2 tokens, 3 were given; allocate it with a larger max_length"):
        decoder.step(random_ids(1, 1), state)


def test_a_step_of_adapted_layers_only_calls_them() -> None:
    decoder = tiny_decoder()
    _, _, memory = memory_of(decoder, 2, True)
    ids = random_ids(4, 5)
    with torch.no_grad():
        expected = decoder(ids, torch.ones_like(ids, dtype=torch.bool), memory)
        only_callable(decoder)
        state = decoder.start(memory, 4, 5)
        found = torch.cat([decoder.logits(decoder.step(part, state)) for part in ids.split(1, dim=1)], dim=1)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_a_step_with_gradients_has_them_though_weights_were_packed() -> None:
    decoder = TextDecoder(300, width=768, heads=12, intermediate=1024, layers=1, max_positions=8, dropout=0.1, attention_dropout=0.1).eval()
    states = torch.randn(1, 3, 768)
    with torch.no_grad():
        state = decoder.start(decoder.project_memory(states), 1, 2)
    assert decoder.layers[0].feed_forward.expand.packed._copy is not None or not packing._AVAILABLE
    decoder.step(torch.tensor([[101]]), state).pow(3).sum().backward()
    for name in ("self_attention.attention.output", "cross_attention.attention.query", "feed_forward.expand"):
        gradient = decoder.layers[0].get_submodule(name).weight.grad
        assert gradient is not None and bool(gradient.any())
