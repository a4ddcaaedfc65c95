"""The text encoder against the BERT of ``transformers``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from openmplug.models.text import TextEncoder
from tiny_models import random_ids, right_padded, tiny_model

BLOCK = {
    "attention.self.query": "self_attention.attention.query",
    "attention.self.key": "self_attention.attention.key",
    "attention.self.value": "self_attention.attention.value",
    "attention.output.dense": "self_attention.attention.output",
    "attention.output.LayerNorm": "self_attention.norm",
    "intermediate.dense": "feed_forward.expand",
    "output.dense": "feed_forward.contract",
    "output.LayerNorm": "feed_forward.norm",
}
EMBEDDINGS = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "types", "LayerNorm": "norm"}


def to_ours(key: str) -> str:
    """Rename one key of BERT's."""
    name, kind = key.rsplit(".", 1)
    if name.startswith("embeddings."):
        return f"embeddings.{EMBEDDINGS[name.removeprefix('embeddings.')]}.{kind}"
    _, _, number, rest = name.split(".", 3)
    return f"layers.{number}.{BLOCK[rest]}.{kind}"


def encoder() -> TextEncoder:
    return tiny_model(("text",)).text


def reference_of(ours: TextEncoder) -> BertModel:
    """Build BERT with the same weights."""
    config = BertConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
    )
    config._attn_implementation = "eager"
    bert = BertModel(config, add_pooling_layer=False).eval()
    state = ours.state_dict()
    names = [key for key in bert.state_dict() if not key.endswith(("position_ids", "token_type_ids"))]
    assert {to_ours(name) for name in names} == set(state), "the two have different parameters"
    bert.load_state_dict({name: state[to_ours(name)] for name in names}, strict=False)
    return bert


def test_text_encoder_equals_bert_forward_and_gradient() -> None:
    ours = encoder()
    bert = reference_of(ours)
    ids, mask = random_ids(3, 7), right_padded([7, 4, 5])
    ids = ids.masked_fill(~mask, 0)
    out, expected = ours(ids, mask), bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(out.shape)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in bert.named_parameters():
        theirs = parameter.grad
        assert theirs is not None
        # Gradients sum over all tokens, so 1e-5 is meant relative to the largest of each.
        torch.testing.assert_close(gradients[to_ours(name)], theirs, atol=1e-5 * max(1.0, float(theirs.abs().max())), rtol=1e-5)


def test_padding_changes_nothing() -> None:
    ours, ids = encoder(), random_ids(1, 5)
    mask = torch.ones_like(ids, dtype=torch.bool)
    padded, padded_mask = torch.cat([ids, torch.full((1, 3), 7)], dim=1), right_padded([5], 8)
    torch.testing.assert_close(ours(padded, padded_mask)[:, :5], ours(ids, mask), atol=1e-6, rtol=1e-5)


def test_padding_row_gets_no_gradient_and_starts_at_zero() -> None:
    fresh = TextEncoder(120, 32, 4, 48, 1, 24, 0.0, 0.0)
    words = fresh.embeddings.words.weight
    assert not words[0].any()
    fresh(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)).square().sum().backward()
    assert words.grad is not None and not words.grad.any()


@pytest.mark.parametrize(("width", "std"), [(768, 0.02), (48, 0.08)])
def test_fresh_weights_are_bert_s_and_wider_in_narrow_models(width: int, std: float) -> None:
    torch.manual_seed(0)
    fresh = TextEncoder(500, width, 4, 2 * width, 1, 24, 0.0, 0.0)
    for name, parameter in fresh.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not parameter.any()
        elif parameter.numel() > 1500:
            assert float(parameter.detach().std()) == pytest.approx(std, rel=0.05), name


def test_positions_can_start_later() -> None:
    embeddings, ids = encoder().embeddings, random_ids(1, 6)
    whole: Tensor = embeddings(ids)
    torch.testing.assert_close(embeddings(ids[:, 4:], start=4), whole[:, 4:])


@pytest.mark.parametrize(("length", "start"), [(25, 0), (3, 22)])
def test_a_text_beyond_the_position_table_is_refused(length: int, start: int) -> None:
    with pytest.raises(ValueError, match="text of 25 tokens, the model has 24 positions; shorten the text"):
        encoder().embeddings(random_ids(1, length), start=start)
