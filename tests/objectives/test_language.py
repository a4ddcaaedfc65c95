"""Next-token losses against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from openmplug.objectives.language import IGNORE, distilled_losses, soft_token_losses, split_prefix, text_labels, token_losses


def log_softmax(row: list[float]) -> list[float]:
    normaliser = math.log(sum(math.exp(value) for value in row))
    return [value - normaliser for value in row]


def example() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, 5), torch.tensor([[0, 1, IGNORE, 4], [2, 3, 0, IGNORE]])


def test_labels_are_the_text_without_padding_and_prompt() -> None:
    ids = torch.tensor([[101, 5, 6, 102], [101, 7, 102, 0]])
    mask = ids != 0
    assert text_labels(ids, mask).tolist() == [[101, 5, 6, 102], [101, 7, 102, IGNORE]]
    assert text_labels(ids, mask, ignore_first=2).tolist() == [[IGNORE, IGNORE, 6, 102], [IGNORE, IGNORE, 102, IGNORE]]
    assert ids.tolist()[0] == [101, 5, 6, 102], "the ids stay as they are"


def test_padding_is_told_by_the_mask_and_not_by_the_id() -> None:
    assert text_labels(torch.tensor([[101, 0, 3]]), torch.tensor([[True, True, False]])).tolist() == [[101, 0, IGNORE]]


def test_token_losses_equal_a_loop() -> None:
    logits, labels = example()
    expected = [
        [0.0 if label == IGNORE else -log_softmax(row)[label] for row, label in zip(rows[:-1], wanted[1:], strict=True)]
        for rows, wanted in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    losses = token_losses(logits, labels)
    assert losses.shape == (2, 3)
    torch.testing.assert_close(losses, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert float(losses[0, 1]) == float(losses[1, 2]) == 0.0


def test_certain_and_uniform_logits() -> None:
    labels = torch.tensor([[0, 3]])
    certain = torch.zeros(1, 2, 4)
    certain[0, 0, 3] = 50.0
    assert float(token_losses(certain, labels)) == pytest.approx(0.0, abs=1e-6)
    assert float(token_losses(torch.zeros(1, 2, 4), labels)) == pytest.approx(math.log(4))


def test_the_last_position_predicts_nothing() -> None:
    logits, labels = example()
    changed = logits.clone()
    changed[:, -1] = 99.0
    assert torch.equal(token_losses(changed, labels), token_losses(logits, labels))


@pytest.mark.parametrize("dim", [-1, 1])
def test_soft_losses_equal_a_loop(dim: int) -> None:
    logits, labels = example()
    soft = torch.randn(2, 3, 5).softmax(dim=-1)
    expected = torch.zeros(2, 3)
    for row in range(2):
        table = logits[row, :-1]
        columns = torch.tensor([log_softmax(line) for line in (table.tolist() if dim == -1 else table.T.tolist())])
        log_probs = columns if dim == -1 else columns.T
        for place in range(3):
            if labels[row, place + 1] != IGNORE:
                expected[row, place] = -sum(float(log_probs[place, word] * soft[row, place, word]) for word in range(5))
    torch.testing.assert_close(soft_token_losses(logits, labels, soft, dim=dim), expected, atol=1e-5, rtol=1e-5)


def test_a_certain_teacher_gives_the_ordinary_loss() -> None:
    logits, labels = example()
    certain = torch.nn.functional.one_hot(labels[:, 1:].clamp(min=0), 5).float()
    torch.testing.assert_close(soft_token_losses(logits, labels, certain), token_losses(logits, labels))


def test_half_precision_is_summed_in_single() -> None:
    logits, labels = example()
    assert token_losses(logits.bfloat16(), labels).dtype is torch.float32
    assert soft_token_losses(logits.bfloat16(), labels, torch.rand(2, 3, 5)).dtype is torch.float32


def test_a_text_is_cut_where_its_share_says() -> None:
    ids = torch.tensor([[101, 11, 12, 13, 14], [101, 21, 22, 0, 0], [101, 31, 0, 0, 0]])
    mask = ids > 0
    split = split_prefix(ids, mask, torch.tensor([0.5, 0.0, 0.99]), sep_id=102)
    assert [row[kept].tolist() for row, kept in zip(split.prefix, split.prefix_mask, strict=True)] == [[101, 11, 12], [101], [101]]
    written = [row[kept].tolist() for row, kept in zip(split.target, split.target_mask, strict=True)]
    assert written == [[101, 13, 14, 102], [101, 21, 22, 102], [101, 31, 102]]
    assert not split.prefix[~split.prefix_mask].any() and not split.target[~split.target_mask].any()


@pytest.mark.parametrize("words", [1, 2, 7])
def test_something_is_left_to_write_wherever_the_cut_falls(words: int) -> None:
    ids = torch.arange(101, 101 + words + 1).repeat(400, 1)
    share = torch.rand(400, generator=torch.Generator().manual_seed(words))
    split = split_prefix(ids, torch.ones_like(ids, dtype=torch.bool), share, sep_id=7)
    read, written = split.prefix_mask.sum(dim=1), split.target_mask.sum(dim=1)
    assert set(read.tolist()) == set(range(1, words + 1)) and bool((read + written == words + 3).all())
    for row in range(400):
        rejoined = [*split.prefix[row, : read[row]].tolist(), *split.target[row, 1 : written[row]].tolist()]
        assert rejoined == [*ids[row].tolist(), 7]


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_teacher_s_share_equals_a_loop(alpha: float) -> None:
    torch.manual_seed(0)
    logits, labels, teacher = torch.randn(4, 6), torch.tensor([0, 5, 2, 2]), torch.randn(4, 6)
    expected = []
    for row, label in enumerate(labels.tolist()):
        said = torch.tensor(log_softmax(logits[row].tolist()))
        believed = torch.tensor(log_softmax(teacher[row].tolist())).exp()
        expected.append(float(-(1 - alpha) * said[label] - alpha * (believed * said).sum()))
    assert distilled_losses(logits, labels, teacher, alpha).tolist() == pytest.approx(expected, rel=1e-5)
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(distilled_losses(logits, labels, None, alpha), plain)
