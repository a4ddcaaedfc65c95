"""Hard negatives and the matching loss."""

from __future__ import annotations

import math

import pytest
import torch

from openmplug.objectives.itm import NegativeWeights, matching_loss, negative_weights, sample_negatives


def test_weights_are_similarities_without_the_same_picture() -> None:
    image_to_text = torch.tensor([[0.0, math.log(2.0), 0.0], [5.0, 5.0, 5.0], [0.0, 0.0, 9.0]])
    text_to_image = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, math.log(3.0)], [0.0, 0.0, 0.0]])
    weights = negative_weights(image_to_text, text_to_image, torch.tensor([4, 6, 4]))
    torch.testing.assert_close(weights.texts_for_images[0], torch.tensor([0.0, 0.5, 0.0]))
    torch.testing.assert_close(weights.texts_for_images[1], torch.tensor([1 / 3, 0.0, 1 / 3]))
    torch.testing.assert_close(weights.images_for_texts[0], torch.tensor([0.0, 1 / 3, 0.0]))
    total = 1 + math.exp(3.0) + 3  # not renormalised after the zeros
    torch.testing.assert_close(weights.images_for_texts[1], torch.tensor([1 / total, 0.0, 3 / total]))


def test_negatives_never_show_the_same_picture() -> None:
    index = torch.tensor([1, 2, 1, 3])
    weights = negative_weights(torch.randn(4, 4), torch.randn(4, 4), index)
    for seed in range(50):
        drawn = sample_negatives(weights, torch.Generator().manual_seed(seed))
        assert not (index[drawn.images] == index).any()
        assert not (index[drawn.texts] == index).any()


def test_draws_follow_the_weights() -> None:
    table = torch.tensor([[0.0, 0.3, 0.1]]).expand(3000, -1)
    drawn = sample_negatives(NegativeWeights(table, table.flip(1)), torch.Generator().manual_seed(0))
    assert torch.bincount(drawn.images, minlength=3).tolist() == pytest.approx([0, 2250, 750], abs=100)
    assert torch.bincount(drawn.texts, minlength=3).tolist() == pytest.approx([750, 2250, 0], abs=100)


def test_pictures_are_drawn_before_texts() -> None:
    """The order is the original's: with one seed both draw the same negatives."""
    tables = NegativeWeights(torch.rand(5, 5), torch.rand(5, 5))
    drawn = sample_negatives(tables, torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(9)
    assert torch.equal(drawn.images, torch.multinomial(tables.images_for_texts, 1, generator=generator)[:, 0])
    assert torch.equal(drawn.texts, torch.multinomial(tables.texts_for_images, 1, generator=generator)[:, 0])


def test_a_batch_of_one_picture_draws_uniformly() -> None:
    weights = negative_weights(torch.randn(3, 3), torch.randn(3, 3), torch.tensor([5, 5, 5]))
    assert not weights.images_for_texts.any()
    drawn = sample_negatives(NegativeWeights(*(table[:1].expand(3000, -1) for table in weights)), torch.Generator().manual_seed(0))
    assert torch.bincount(drawn.images).tolist() == pytest.approx([1000] * 3, abs=120)
    assert sample_negatives(negative_weights(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0]))).texts.tolist() == [0]


def test_one_row_without_candidates_leaves_the_others_alone() -> None:
    table = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for seed in range(20):
        assert sample_negatives(NegativeWeights(table, table), torch.Generator().manual_seed(seed)).images[1] == 2


def test_weights_carry_no_gradient() -> None:
    similarities = torch.randn(2, 2, requires_grad=True)
    assert not any(table.requires_grad for table in negative_weights(similarities, similarities, torch.arange(2)))


def test_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])  # one match, two that do not
    expected = -(math.log(0.75) + math.log(0.5) + math.log(0.8)) / 3
    assert float(matching_loss(logits)) == pytest.approx(expected)


def test_index_1_means_match() -> None:
    right = torch.tensor([[-9.0, 9.0]] * 2 + [[9.0, -9.0]] * 4)
    assert float(matching_loss(right)) < 1e-6
    assert float(matching_loss(right.flip(1))) > 10
