"""Contrastive targets and losses against numbers worked out by hand and loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from openmplug.objectives.itc import positive_targets, soft_cross_entropy, soft_targets


def test_everything_of_the_same_picture_shares_the_target() -> None:
    targets = positive_targets(torch.tensor([7, 8, 7]), torch.tensor([7, 8, 7, -100, 7, 9]))
    third = 1 / 3
    torch.testing.assert_close(targets, torch.tensor([[third, 0, third, 0, third, 0], [0, 1, 0, 0, 0, 0], [third, 0, third, 0, third, 0]]))


def test_an_empty_queue_s_entries_are_nobody_s_positives() -> None:
    targets = positive_targets(torch.tensor([0, 1]), torch.tensor([0, 1, -100, -100, -100]))
    assert torch.equal(targets, torch.eye(2, 5))


def test_soft_targets_by_hand() -> None:
    similarities = torch.tensor([[math.log(3.0), 0.0]])
    targets = soft_targets(similarities, torch.tensor([[0.0, 1.0]]), 0.4)
    torch.testing.assert_close(targets, torch.tensor([[0.4 * 0.75, 0.4 * 0.25 + 0.6]]))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, torch.tensor(0.7)])
def test_soft_targets_are_distributions(alpha: torch.Tensor | float) -> None:
    targets = soft_targets(torch.randn(4, 9), positive_targets(torch.arange(4), torch.cat([torch.arange(4), torch.arange(5)])), alpha)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))


def test_loss_by_hand() -> None:
    similarities = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert float(soft_cross_entropy(similarities, targets)) == pytest.approx(expected)


def test_loss_of_one_positive_is_cross_entropy() -> None:
    similarities = torch.randn(5, 8, requires_grad=True)
    loss = soft_cross_entropy(similarities, torch.eye(5, 8))
    expected = F.cross_entropy(similarities, torch.arange(5))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, similarities)[0] for one in (loss, expected)))


def test_loss_equals_a_loop() -> None:
    similarities, targets = torch.randn(3, 6), torch.rand(3, 6)
    total = 0.0
    for row, target in zip(similarities.tolist(), targets.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(value) for value in row))
        total -= sum(weight * (value - normaliser) for value, weight in zip(row, target, strict=True))
    assert float(soft_cross_entropy(similarities, targets)) == pytest.approx(total / 3, rel=1e-5)


def test_half_precision_is_summed_in_single() -> None:
    similarities = (torch.randn(2, 4) * 20).bfloat16()
    assert soft_cross_entropy(similarities, torch.eye(2, 4)).dtype is torch.float32
    assert soft_targets(similarities, torch.eye(2, 4), 0.5).dtype is torch.float32
