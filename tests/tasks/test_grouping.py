"""Learning several texts of one picture together gives the loss and gradient of learning them one by one."""

from __future__ import annotations

import pytest
import torch

from openmplug.batch import Item, Sample
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.errors import DataError, UsageError
from openmplug.tasks import build_task
from openmplug.tasks.base import Task

MODEL = {
    "name": "mplug-tiny",
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 32,
    "vision_layers": 1,
    "vision_heads": 2,
    "width": 32,
    "heads": 2,
    "intermediate": 64,
    "text_layers": 1,
    "decoder_layers": 1,
}
WORDS = ["what colour is it", "is it red or blue", "how many", "a red circle", "blue square yes no two"]


def build(name: str, **settings: int) -> Task:
    """Build a tiny task with fixed weights."""
    torch.manual_seed(0)
    return build_task(name, MODEL, Tokenizer.from_vocab(build_vocabulary(WORDS * 2, 400, 1)), settings, training=True).eval()


def loss_and_gradient(task: Task, items: list[Item]) -> tuple[float, torch.Tensor]:
    """Compute the loss of one batch and the gradient of the vision tower's class token."""
    losses = task(task.collator(training=True)(items))
    losses.total.backward()
    gradient = task.model.vision.class_token.grad
    assert gradient is not None
    return losses.total.item(), gradient


@pytest.mark.parametrize("name", ["vqa", "caption"])
def test_grouped_examples_equal_single_ones(name: str) -> None:
    """Two pictures with two and one texts: uneven groups, so that rows are expanded."""
    pictures = {"a.png": torch.randn(3, 16, 16), "b.png": torch.randn(3, 16, 16)}
    if name == "vqa":
        samples = [
            Sample("1", "a.png", "what colour is it", ("red", "blue"), (0.7, 0.3)),
            Sample("2", "a.png", "how many", ("two",)),
            Sample("3", "b.png", "is it red or blue", ("no",)),
        ]
        single, grouped = build(name), build(name, questions_per_example=2)
    else:
        samples = [Sample("1", "a.png", targets=("a red circle", "two")), Sample("3", "b.png", targets=("blue square yes",))]
        single, grouped = build(name), build(name, captions_per_example=2)
    ones, groups = single.examples(samples), grouped.examples(samples)
    assert (len(ones), len(groups)) == (3, 2)
    expected = loss_and_gradient(single, [Item(one, pictures[one.image or ""]) for one in ones])
    found = loss_and_gradient(grouped, [Item(one, pictures[one.image or ""]) for one in groups])
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-7)


def test_settings_the_model_cannot_generate_with_are_refused() -> None:
    """At construction, not at the first evaluation."""
    with pytest.raises(UsageError, match=r"settings.max_length=65 after 1 first tokens exceeds model.max_positions=64"):
        build("caption", min_length=1, max_length=65)
    with pytest.raises(UsageError, match=r"settings.num_beams=5000 exceeds the vocabulary of \d+; lower it"):
        build("vqa", num_beams=5000)


def test_an_answer_longer_than_the_positions_is_named() -> None:
    """The record, not a crash inside the model."""
    task = build("vqa")
    sample = Sample("7", "a.png", "how many", ("two " * 80,))
    with pytest.raises(DataError, match=r"record '7' has an answer of 82 tokens, the model has positions for 65"):
        task.collator(training=True)([Item(sample, torch.zeros(3, 16, 16))])


def test_a_saved_model_of_any_name_can_be_built_again() -> None:
    """Only a recipe's short form needs a known name."""
    task = build("vqa")
    dumped = {**task.model.config.model_dump(mode="json"), "name": "my-model"}
    assert build_task("vqa", dumped, task.tokenizer, {}).model.config.name == "my-model"
