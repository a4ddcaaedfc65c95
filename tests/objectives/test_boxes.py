"""Boxes as words, overlaps, and the grounding loss, by hand and by loops."""

from __future__ import annotations

import pytest
import torch

from openmplug.objectives.boxes import (
    box_tokens,
    cxcywh_to_xyxy,
    grounding_loss,
    pairwise_giou,
    pairwise_iou,
    tokens_to_boxes,
)

FIRST = 345


def test_corners() -> None:
    torch.testing.assert_close(cxcywh_to_xyxy(torch.tensor([[0.5, 0.4, 0.2, 0.6]])), torch.tensor([[0.4, 0.1, 0.6, 0.7]]))


def test_boxes_become_words_and_come_back_within_a_bin() -> None:
    boxes = torch.tensor([[0.0, 1.0, 0.5, 0.4999], [-0.3, 1.7, 0.001, 1 / 336]])
    tokens = box_tokens(boxes, FIRST)
    assert tokens.tolist() == [[345, 681, 513, 512], [345, 681, 345, 346]]
    back = tokens_to_boxes(tokens, FIRST)
    error = boxes.clamp(0, 1) - back
    assert bool((error >= -1e-6).all()) and bool((error < 1 / 336).all())
    assert torch.equal(box_tokens(tokens_to_boxes(torch.arange(FIRST, FIRST + 337), FIRST) + 1e-6, FIRST), torch.arange(FIRST, FIRST + 337))


def plain_overlap(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Return IoU, union and GIoU of two boxes, with the original's epsilon."""
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = inner / (union + 1e-5)
    return iou, union, iou - (hull - union) / (hull + 1e-5)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(count, 2, generator=generator), 0.05 + 0.5 * torch.rand(count, 2, generator=generator)], dim=1)


def test_overlaps_of_every_pair_equal_a_loop() -> None:
    a, b = cxcywh_to_xyxy(random_boxes(4, 0)), cxcywh_to_xyxy(random_boxes(3, 1))
    iou, union = pairwise_iou(a, b)
    giou = pairwise_giou(a, b)
    assert iou.shape == union.shape == giou.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            numbers = [float(table[i, j]) for table in (iou, union, giou)]
            assert numbers == pytest.approx(plain_overlap(a[i].tolist(), b[j].tolist()), abs=1e-5)


def test_overlaps_at_known_places() -> None:
    whole, left, far = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0], [2.0, 0.0, 3.0, 1.0]
    iou, _ = pairwise_iou(torch.tensor([whole]), torch.tensor([whole, left, far]))
    torch.testing.assert_close(iou, torch.tensor([[1.0, 0.5, 0.0]]), atol=1e-4, rtol=0)
    giou = pairwise_giou(torch.tensor([whole]), torch.tensor([whole, left, far]))
    torch.testing.assert_close(giou, torch.tensor([[1.0, 0.5, -1 / 3]]), atol=1e-4, rtol=0)


def plain_loss(token_losses: torch.Tensor, predicted: torch.Tensor, target: torch.Tensor) -> float:
    """Sum the outer product term by term."""
    total, count = 0.0, len(target)
    for i in range(count):
        for j in range(count):
            corners = [cxcywh_to_xyxy(boxes[j : j + 1])[0].tolist() for boxes in (predicted, target)]
            miss = 1 - plain_overlap(*corners)[2]
            for c in range(4):
                total += float(token_losses[i, c]) * min(abs(float(predicted[j, c] - target[j, c])), 5.0) * miss
    return total / (count * count * 4)


@pytest.mark.parametrize("count", [1, 3])
def test_loss_equals_a_loop(count: int) -> None:
    losses, predicted, target = torch.rand(count, 4), random_boxes(count, 2), random_boxes(count, 3)
    assert float(grounding_loss(losses, predicted, target)) == pytest.approx(plain_loss(losses, predicted, target), rel=1e-4)


def test_loss_of_a_right_box_is_zero_and_only_the_tokens_get_a_gradient() -> None:
    losses, target = torch.rand(2, 4, requires_grad=True), random_boxes(2, 3)
    assert float(grounding_loss(losses, target, target).detach()) == pytest.approx(0.0, abs=1e-6)
    grounding_loss(losses, random_boxes(2, 2), target).backward()
    assert losses.grad is not None and bool((losses.grad > 0).all())


def test_samples_weigh_each_other() -> None:
    """The original's broadcast: a sample whose own box is right still pays for its neighbour's error."""
    losses = torch.tensor([[1.0] * 4, [0.0] * 4])
    target = random_boxes(2, 3)
    predicted = torch.stack([target[0], random_boxes(1, 5)[0]])
    assert float(grounding_loss(losses, predicted, target)) > 0
    assert float(grounding_loss(losses[:1], predicted[:1], target[:1])) == pytest.approx(0.0, abs=1e-6)
