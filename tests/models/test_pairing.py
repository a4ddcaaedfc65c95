"""Fusing a picture with many texts gives the class states that fusing each pair in full gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmplug.models.fusion import SkipConnectedFusion
from openmplug.models.pairing import PairFusion
from tiny_models import only_callable, randomise, right_padded


def fusion_with(layers: int, connected: tuple[int, ...]) -> SkipConnectedFusion:
    fusion = SkipConnectedFusion(width=32, heads=4, intermediate=48, layers=layers, connected=connected, dropout=0.1, attention_dropout=0.1)
    return randomise(fusion, seed=layers)


def pairs(tokens: int, seen: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    vision = torch.randn(seen, 32, generator=generator)
    return vision, torch.randn(5, tokens, 32, generator=generator), right_padded([tokens, 1, 2, tokens, tokens - 1], tokens)


STACKS = [(0, ()), (1, ()), (1, (0,)), (2, ()), (2, (0,)), (2, (1,)), (4, (2,)), (6, (3,)), (6, ()), (6, (2, 4)), (5, (0, 4)), (5, (1, 2))]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("tokens", "seen"), [(3, 29), (7, 5)])  # few words to many picture tokens, and the other way round
def test_class_states_equal_those_of_whole_pairs(stack: tuple[int, tuple[int, ...]], tokens: int, seen: int) -> None:
    fusion = fusion_with(*stack)
    vision, text, mask = pairs(tokens, seen)
    with torch.no_grad():
        expected = torch.cat([fusion(vision[None], text[i : i + 1], mask[i : i + 1]).text[:, 0] for i in range(5)])
        together = PairFusion(fusion)
        found = together.class_states(together.picture(vision), together.begin(text, mask), mask)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stack", [(6, (3,)), (5, (1, 2))])
def test_adapted_layers_are_only_called(stack: tuple[int, tuple[int, ...]]) -> None:
    fusion = fusion_with(*stack)
    vision, text, mask = pairs(3, 29)
    with torch.no_grad():
        expected = PairFusion(fusion).class_states(PairFusion(fusion).picture(vision), PairFusion(fusion).begin(text, mask), mask)
        only_callable(fusion)
        together = PairFusion(fusion)
        found = together.class_states(together.picture(vision), together.begin(text, mask), mask)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_padding_and_neighbours_change_nothing() -> None:
    together = PairFusion(fusion_with(6, (3,)))
    vision, text, mask = pairs(7, 11)
    with torch.no_grad():
        picture = together.picture(vision)
        all_five = together.class_states(picture, together.begin(text, mask), mask)
        alone = together.class_states(picture, together.begin(text[2:3, :2], mask[2:3, :2]), mask[2:3, :2])
        noise = text.masked_fill(~mask[..., None], 9.0)
        again = together.class_states(picture, together.begin(noise, mask), mask)
    torch.testing.assert_close(all_five[2:3], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(all_five, again, atol=1e-5, rtol=1e-5)
