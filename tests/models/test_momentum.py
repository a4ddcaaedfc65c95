"""The momentum twin and the feature queue."""

from __future__ import annotations

import pytest
import torch

from openmplug.models.momentum import FeatureQueue, MomentumTwin
from tiny_models import randomise, tiny_model

PAIRED = ("vision", "text", "contrastive")


def test_twin_starts_equal_and_frozen_and_holds_only_what_it_was_asked_for() -> None:
    model = tiny_model(vision_width=24, vision_heads=3)
    twin = MomentumTwin(model, PAIRED, unpaired=("fusion",))
    student = dict(model.named_parameters())
    names = {name for name, _ in twin.model.named_parameters()}
    assert {name.split(".")[0] for name in names} == {"vision", "vision_projection", "text", "fusion", "contrastive"}
    for name, parameter in twin.model.named_parameters():
        assert torch.equal(parameter, student[name]), name
        assert parameter.data_ptr() != student[name].data_ptr()
        assert not parameter.requires_grad


def test_update_is_the_moving_average_of_paired_parameters_and_the_others_stand_still() -> None:
    model = tiny_model(vision_width=24, vision_heads=3)
    twin = MomentumTwin(model, PAIRED, unpaired=("fusion",), momentum=0.9)
    old = {name: parameter.clone() for name, parameter in twin.model.named_parameters()}
    randomise(model, seed=7)
    student = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in (1, 2):
        twin.update(model)
        for name, parameter in twin.model.named_parameters():
            kept = 1.0 if name.startswith("fusion.") else 0.9**step
            torch.testing.assert_close(parameter, kept * old[name] + (1 - kept) * student[name], atol=1e-6, rtol=1e-6)
    assert all(torch.equal(parameter, student[name]) for name, parameter in model.named_parameters()), "the student does not move"


def test_projection_of_a_paired_vision_tower_moves_with_it() -> None:
    model = tiny_model(vision_width=24, vision_heads=3)
    assert "vision_projection" in MomentumTwin(model, PAIRED).paired
    assert "vision_projection" not in MomentumTwin(tiny_model(), PAIRED).paired


def test_copy_makes_unpaired_modules_equal_too() -> None:
    model = tiny_model()
    twin = MomentumTwin(model, PAIRED, unpaired=("fusion",))
    randomise(model, seed=7)
    twin.copy_from(model)
    student = dict(model.named_parameters())
    assert all(torch.equal(parameter, student[name]) for name, parameter in twin.model.named_parameters())


def test_momentum_of_zero_follows_at_once_and_default_is_the_original_s() -> None:
    model = tiny_model()
    assert MomentumTwin(model, PAIRED).momentum == 0.995
    twin = MomentumTwin(model, PAIRED, momentum=0.0)
    randomise(model, seed=7)
    twin.update(model)
    assert torch.equal(twin.model.text.embeddings.words.weight, model.text.embeddings.words.weight)


# ----------------------------------------------------------------------------------------------------------------------- queue


def rows(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index = torch.arange(first, first + count)
    vision = index[:, None].float().expand(-1, 3)
    return vision, -vision, index


def test_fresh_queue_holds_unit_rows_of_no_picture() -> None:
    queue = FeatureQueue(5, 3)
    for features in (queue.vision, queue.text):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    assert queue.index.tolist() == [-100] * 5
    assert queue.pointer.tolist() == [0]


def test_queue_overwrites_the_oldest_and_wraps_around() -> None:
    queue = FeatureQueue(5, 3)
    queue.push(*rows(0, 3))
    assert queue.index.tolist() == [0, 1, 2, -100, -100]
    assert queue.pointer.tolist() == [3]
    queue.push(*rows(3, 4))  # reaches over the end
    assert queue.index.tolist() == [5, 6, 2, 3, 4]
    assert queue.vision[:, 0].tolist() == [5, 6, 2, 3, 4]
    assert queue.text[:, 2].tolist() == [-5, -6, -2, -3, -4]
    assert queue.pointer.tolist() == [2]
    queue.push(*rows(10, 5))
    assert queue.index.tolist() == [13, 14, 10, 11, 12]


def test_queue_refuses_a_batch_longer_than_itself_and_stays_as_it_was() -> None:
    queue = FeatureQueue(2, 3)
    before = queue.vision.clone()
    with pytest.raises(ValueError, match="a batch of 3 does not fit into a queue of 2; enlarge queue_size"):
        queue.push(*rows(0, 3))
    assert torch.equal(queue.vision, before)


def test_queue_is_state_without_gradient() -> None:
    queue = FeatureQueue(4, 3)
    vision, text, index = rows(0, 2)
    queue.push(vision.clone().requires_grad_() * 2, text, index)
    assert set(queue.state_dict()) == {"vision", "text", "index", "pointer"}
    assert not any(tensor.requires_grad for tensor in queue.state_dict().values())
    assert not list(queue.parameters())
