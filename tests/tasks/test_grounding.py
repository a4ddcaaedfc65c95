"""Grounding: what is learned of a box, which losses, what is predicted and how it is scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from pydantic import ValidationError
from torch.nn import functional as F

from openmplug.batch import Batch, Item, Prediction, Sample
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.data.transforms import ImageSettings
from openmplug.errors import DataError, ModelError
from openmplug.metrics.boxes import intersection_over_union
from openmplug.objectives.boxes import grounding_loss, near_bins, paired_grounding_loss, tokens_to_boxes
from openmplug.tasks import build_task
from openmplug.tasks.grounding import BOX_WORDS, GroundingSettings, GroundingTask, coordinate_logits
from tiny_models import SIZES
from tiny_tasks import WORDS

CROSS_ENTROPY: dict[str, Any] = {"loss": "cross_entropy", "boxes": {"scales": 1, "crop": 0.0, "jitter": 0.0, "move": False}}


def task_of(settings: dict[str, Any] | None = None, training: bool = True) -> GroundingTask:
    torch.manual_seed(0)
    words = Tokenizer.from_vocab(build_vocabulary([WORDS], size=800, min_count=1, own=BOX_WORDS))
    task = build_task("grounding", SIZES, words, settings or {}, training=training)
    assert isinstance(task, GroundingTask)
    return task


def record(number: int, text: str = "the red thing", image: str | None = None) -> Sample:
    left = 2.0 + 4 * number
    return Sample(str(number), image or f"{number}.png", text, box=(left, 3.0, left + 12, 21.0), extra={"kind": "ab"[number % 2]})


def items(task: GroundingTask, samples: Sequence[Sample], training: bool) -> list[Item]:
    """Paint each record's box red and transform as the loader does; 16 px as the tiny tower wants them."""
    transform = task.transform(ImageSettings(size=16, flip=0.0), training)
    found = []
    for sample in samples:
        picture = Image.new("RGB", (48, 24), "white")
        for part in sample.parts or (sample,):
            assert part.box is not None
            ImageDraw.Draw(picture).rectangle(part.box, fill="red")
        found.append(transform(sample, picture, random.Random(0)))
    return found


def batch_of(task: GroundingTask, samples: Sequence[Sample], training: bool = True) -> Batch:
    return task.collator(training)(items(task, task.examples(samples) if training else samples, training))


def test_a_batch() -> None:
    task = task_of({"boxes": CROSS_ENTROPY["boxes"]})
    batch = batch_of(task, [record(0), record(1, "the blue cup on the left")])
    assert batch.text is not None and batch.boxes is not None and batch.images is not None
    assert batch.images.shape == (2, 3, 16, 16) and batch.text.ids.shape == (2, 20)  # padded to one length, as in the original
    assert batch.text.ids[0, : int(batch.text.mask[0].sum())].tolist() == [*task.tokenizer.encode("the red thing"), task.tokenizer.sep_id]
    # 48 x 24 px on 16: a third, 4 px of nothing above.
    assert batch.boxes[0].tolist() == pytest.approx([8 / 3 / 16, (4 + 4) / 16, 4 / 16, 6 / 16])
    assert batch.placements == ()
    evaluated = batch_of(task, [record(0)], training=False)
    assert evaluated.boxes is None and evaluated.placements[0].top == 4


def test_phrases_of_a_picture_are_learned_together_with_the_same_loss() -> None:
    one = task_of(CROSS_ENTROPY).eval()
    several = task_of({**CROSS_ENTROPY, "phrases_per_example": 2}).eval()
    samples = [replace(record(n, text), image="same.png", box=record(0).box) for n, text in enumerate(["red ball", "blue cup", "a box"])]
    joined = batch_of(several, samples)
    assert joined.samples_per_image is not None and joined.samples_per_image.tolist() == [2, 1]
    assert joined.images is not None and len(joined.images) == 2 and len(joined) == 3
    single = batch_of(one, samples)
    with torch.no_grad():
        assert float(one(single).total) == pytest.approx(float(several(joined).total), rel=1e-5)


@pytest.mark.parametrize("loss", ["original", "paired", "cross_entropy"])
def test_the_loss_follows_from_the_scores_of_the_coordinates(loss: str) -> None:
    task = task_of({**CROSS_ENTROPY, "loss": loss}).eval()
    batch = batch_of(task, [record(0), record(1), record(4, "the blue cup")])
    assert batch.images is not None and batch.text is not None and batch.boxes is not None
    with torch.no_grad():
        memory = task.model.answer_memory(batch.images, batch.text.ids, batch.text.mask)
        bins = (batch.boxes * 336).floor().long()
        logits = coordinate_logits(task.model.decoder, memory, bins + task.words.first, task.words)
        losses = F.cross_entropy(logits.transpose(1, 2), bins, reduction="none")
        found = tokens_to_boxes(logits.argmax(dim=-1), 0)
        expected = {"original": grounding_loss, "paired": paired_grounding_loss}.get(loss, lambda each, *_: each.mean())
        result = task(batch)
    assert float(result.total) == pytest.approx(float(expected(losses, found, batch.boxes)), rel=1e-5)
    assert float(result.parts["token_loss"]) == pytest.approx(float(losses.mean()), rel=1e-5)


def test_coordinates_are_told_from_their_neighbours_also_in_bf16() -> None:
    task = task_of(CROSS_ENTROPY).eval()
    batch = batch_of(task, [record(0)])
    assert batch.images is not None and batch.text is not None and batch.boxes is not None
    near = task.model.decoder.embeddings.words.weight.data[task.words.first : task.words.first + 337]
    near.copy_(near[:1] + torch.linspace(0, 0.05, 337)[:, None] * near[:1])  # as a trained model's: each almost as the next
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        memory = task.model.answer_memory(batch.images, batch.text.ids, batch.text.mask)
        tokens = (batch.boxes * 336).floor().long() + task.words.first
        logits = coordinate_logits(task.model.decoder, memory, tokens, task.words)
    assert logits.dtype == torch.float32 and logits.shape == (1, 4, 337)
    assert all(len(each.unique()) > 300 for each in logits[0])  # of bf16's numbers there are some ten in so small a range


def test_paired_weights_are_each_samples_own() -> None:
    losses = torch.rand(3, 4)
    found, true = (torch.rand(3, 4) * 0.4 + 0.1 for _ in range(2))
    alone = [grounding_loss(losses[n : n + 1], found[n : n + 1], true[n : n + 1]) for n in range(3)]
    assert float(paired_grounding_loss(losses, found, true)) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)


def test_spread_targets_are_a_distribution_around_the_true_bin() -> None:
    bins = torch.tensor([[0, 100], [336, 200]])
    spread = near_bins(bins, 2.0)
    assert spread.shape == (2, 2, 337)
    torch.testing.assert_close(spread.sum(dim=-1), torch.ones(2, 2))
    assert torch.equal(spread.argmax(dim=-1), bins)
    assert float(spread[0, 1, 102] / spread[0, 1, 100]) == pytest.approx(0.6065, abs=1e-3)  # one standard deviation away
    with pytest.raises(ValidationError, match=r"spread 2\.0 has no meaning with loss original"):
        GroundingSettings(spread=2.0)


@pytest.mark.parametrize(
    "settings", [{"loss": "original"}, {"loss": "paired"}, {"loss": "cross_entropy"}, {"loss": "cross_entropy", "spread": 1.0}]
)
def test_a_step_lowers_the_loss_of_two_samples(settings: dict[str, Any]) -> None:
    task = task_of({**CROSS_ENTROPY, **settings})
    batch = batch_of(task, [record(0), record(6, "the blue cup")])
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        parts = task(batch)
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
        losses.append(float(parts.parts["token_loss"]))
    assert losses[-1] < losses[0]


def test_boxes_are_learned_by_heart() -> None:
    task = task_of({**CROSS_ENTROPY, "score_by": "kind"})
    samples = [record(n, text) for n, text in enumerate(["the red thing", "a blue cup", "the left ball", "one box"])]
    batch = batch_of(task, samples)
    optimizer = torch.optim.AdamW(task.parameters(), lr=4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        task(batch).total.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    task.eval()
    with torch.no_grad():
        predictions = list(task.evaluate([batch_of(task, samples, training=False)]))
    scores = task.score(predictions)
    assert scores["accuracy"] == 100.0 and scores["mean_iou"] > 0.8
    assert (scores["accuracy_a"], scores["accuracy_b"]) == (100.0, 100.0)
    for sample, one in zip(samples, predictions, strict=True):
        assert sample.box is not None
        assert one.extra["true_box"] == list(sample.box) and one.extra["phrase"] == sample.text
        assert one.extra["box"] == pytest.approx(sample.box, abs=2.0)  # a bin is 48 / 336 px, and each is rounded down
        assert one.extra["iou"] == pytest.approx(intersection_over_union(one.extra["box"], sample.box), abs=0.01)


def test_scores_by_hand() -> None:
    task = task_of(training=False)
    overlaps = [0.5, 0.4999, 1.0, 0.0]
    predictions = [Prediction(str(n), extra={"iou": value}) for n, value in enumerate(overlaps)]
    assert task.score([*predictions, Prediction("no box known")]) == {"accuracy": 50.0, "mean_iou": pytest.approx(0.499975)}
    assert task.score([Prediction("no box known")]) == {}
    assert intersection_over_union([0, 0, 4, 4], [2, 2, 6, 6]) == pytest.approx(4 / 28)
    assert intersection_over_union([0, 0, 1, 1], [3, 3, 4, 4]) == intersection_over_union([1, 1, 1, 1], [1, 1, 1, 1]) == 0.0


def test_a_found_box_is_cut_at_the_square_and_written_in_the_pictures_pixels() -> None:
    from openmplug.tasks.grounding import _prediction

    task = task_of(training=False)
    (item,) = items(task, [record(0)], training=False)
    assert item.placement is not None
    # Centre (0.5, 0.5), as large as the square, and twice as wide: the picture is rows 4 to 12 of 16.
    one = _prediction(item.sample, item.placement, torch.tensor([0.5, 0.5, 2.0, 1.0]), 0.25, 16)
    assert one.extra["box"] == [0.0, 0.0, 48.0, 24.0] and one.score == 0.25
    # The true box is 4 x 6 of 16 x 16, and the cut one is all of the square, not of the picture.
    assert one.extra["iou"] == pytest.approx(24 / 256)


def test_what_cannot_be_learned() -> None:
    task = task_of()
    with pytest.raises(DataError, match="record '0' has no box; training needs one for every phrase"):
        task.examples([replace(record(0), box=None)])
    with pytest.raises(DataError, match="record '0' has no phrase; grounding needs both"):
        task.collator(False)(items(task, [replace(record(0), text="")], training=False))
    with pytest.raises(DataError, match="record '0' has no picture; grounding needs both"):
        task.collator(False)([Item(replace(record(0), image=None))])
    with pytest.raises(ModelError, match=r"the vocabulary has no \[unused339\] and 337 words"):
        build_task("grounding", SIZES, Tokenizer.from_vocab(build_vocabulary([WORDS], size=400, min_count=1)), {})
