"""Records of several pictures: read, collated, encoded, told apart by their order, scored, and refused where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from openmplug.batch import Batch, Item, Sample
from openmplug.data.checking import check_split
from openmplug.data.epochs import EpochSampler
from openmplug.data.images import FolderImages
from openmplug.data.loading import ImageTextDataset, build_loader
from openmplug.data.readers import Split
from openmplug.data.readers.joined import join_splits
from openmplug.data.splits import shuffle_images
from openmplug.data.transforms import EvalTransform, ImageSettings
from openmplug.errors import DataError, UsageError
from openmplug.tasks import build_task
from openmplug.tasks.classification import ClassificationTask
from tiny_models import SIZES, SIZES2, randomise
from tiny_tasks import memorise, tiny_task, tokenizer

SETTINGS: dict[str, Any] = {"input": "image_text", "labels": ("False", "True"), "images_per_example": 2, "consistency_by": "sentence_id"}
WORDS = ["the left thing is red", "two cup", "the large box is on the right", "is it small ?", "no photo", "one thing"]


def noise(number: int) -> torch.Tensor:
    return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(number))


def pairs(count: int = 6) -> list[Item]:
    """Make records of two pictures each; no picture is in two records."""
    made = []
    for n in range(count):
        label = ("False", "True")[n % 2]
        extra = {"sentence_id": str(n // 2)}
        sample = Sample(str(n), f"{n}l.png", WORDS[n], (label,), (1.0,), (label,), n, extra, further_images=(f"{n}r.png",))
        made.append(Item(sample, noise(2 * n), further_pixels=(noise(2 * n + 1),)))
    return made


def pair_task(training: bool = False, family: dict[str, Any] = SIZES, **settings: Any) -> ClassificationTask:
    task = build_task("classification", family, tokenizer(), {**SETTINGS, **settings}, training)
    assert isinstance(task, ClassificationTask)
    randomise(task.model)
    return task.eval()


def swapped(item: Item) -> Item:
    (right,), left = item.further_pixels, item.pixels
    assert left is not None
    return replace(item, pixels=right, further_pixels=(left,))


# --------------------------------------------------------------------------------------------------------------------- the task


@pytest.mark.parametrize("family", [SIZES, SIZES2])
def test_shapes_and_what_is_built(family: dict[str, Any]) -> None:
    task = pair_task(family=family)
    batch = task.collator(training=True)(pairs(3))
    assert batch.images is not None and batch.text is not None and batch.labels is not None
    assert batch.images.shape == (6, 3, 16, 16) and batch.images_per_sample == 2
    assert torch.equal(batch.images[2], noise(2)) and torch.equal(batch.images[3], noise(3))
    assert len(batch.text.ids) == 3 and batch.labels.tolist() == [0, 1, 0] and len(batch) == 3
    assert task.model.classification.transform.weight.shape == (32, 64) and task.model.config.class_tokens == 2
    with torch.no_grad():
        assert task.states(batch).shape == (3, 1, 64) and task.logits(batch).shape == (3, 2)


def test_nothing_but_the_first_layer_of_the_head_is_larger() -> None:
    one, two = (pair_task(images_per_example=count).model for count in (1, 2))
    theirs = {name: value.shape for name, value in one.state_dict().items()}
    ours = {name: value.shape for name, value in two.state_dict().items()}
    assert {name for name in ours if ours[name] != theirs[name]} == {"classification.transform.weight"}


def test_the_order_of_the_pictures_matters() -> None:
    task, items = pair_task(), pairs()
    collate = task.collator(training=False)
    with torch.no_grad():
        straight, turned = (task.logits(collate(each)) for each in (items, [swapped(item) for item in items]))
    assert not torch.allclose(straight, turned, atol=1e-2)


def test_a_batch_of_pairs_and_one_picture_at_a_time_give_the_same() -> None:
    task, items = pair_task(), pairs()
    model, batch = task.model, task.collator(training=False)(items)
    with torch.no_grad():
        together = task.logits(batch)
        alone = torch.cat([task.logits(task.collator(training=False)([item])) for item in items])
        assert batch.text is not None and batch.images is not None
        # Each picture fused in a call of its own, left ones and right ones.
        text = model.encode_text(batch.text.ids, batch.text.mask)
        fused = [model.fuse(model.encode_images(batch.images[side::2]), text, batch.text.mask).text[:, 0] for side in (0, 1)]
        by_hand = model.classification(torch.cat(fused, dim=1)[:, None])
    assert torch.allclose(together, alone, atol=1e-5) and torch.allclose(together, by_hand, atol=1e-5)


def test_a_text_is_encoded_once_and_all_pictures_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    task, rows = pair_task(), []
    text, vision = task.model.encode_text, task.model.encode_images
    monkeypatch.setattr(task.model, "encode_text", lambda ids, mask: (rows.append(("text", len(ids))), text(ids, mask))[1])
    monkeypatch.setattr(task.model, "encode_images", lambda images: (rows.append(("vision", len(images))), vision(images))[1])
    with torch.no_grad():
        task.logits(task.collator(training=False)(pairs(4)))
    assert sorted(rows) == [("text", 4), ("vision", 8)]


def test_pairs_that_only_their_order_tells_apart_are_learned() -> None:
    items = []
    for n in range(8):
        left, right = (noise(0), noise(1)) if n % 2 else (noise(1), noise(0))
        label = ("False", "True")[n % 2]
        items.append(
            Item(Sample(str(n), "l", "red on the left", (label,), (1.0,), (label,), n, further_images=("r",)), left, None, (right,))
        )
    torch.manual_seed(0)
    task = tiny_task("classification", {**SETTINGS, "consistency_by": ""})
    batch = task.collator(training=True)(items)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    task.train()
    for _ in range(60):
        optimizer.zero_grad()
        task(batch).total.backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        assert [one.text for one in task.predict(batch)] == [item.sample.targets[0] for item in items]


def test_consistency_by_hand() -> None:
    task, items = pair_task(majority="True"), pairs()
    with torch.no_grad():
        predictions = task.predict(task.collator(training=False)(items))
    assert predictions[0].extra["image"] == ["0l.png", "0r.png"]
    true = [item.sample.targets[0] for item in items]  # three sentences of two records each
    right = [replace(one, text=text) for one, text in zip(predictions, true, strict=True)]
    assert task.score(right)["consistency"] == task.score(right)["accuracy"] == 100.0
    wrong = [*right[:3], replace(right[3], text="False"), *right[4:]]
    scores = task.score(wrong)
    assert scores["accuracy"] == pytest.approx(500 / 6) and scores["consistency"] == pytest.approx(200 / 3)
    assert task.scorer()["consistency"] == "percent of the values of 'sentence_id' whose records are all right"
    assert "consistency" not in task.score([replace(one, extra={}) for one in wrong])


def test_the_text_alone_is_a_control() -> None:
    task = pair_task(input="text")
    assert task.model.modules_built == ("text", "classification") and task.model.config.class_tokens == 1
    batch = task.collator(training=True)(pairs(2))
    assert batch.images is None and batch.images_per_sample == 1
    memorise(task, [replace(item.sample, image=None, further_images=()) for item in pairs()], steps=2)


# --------------------------------------------------------------------------------------------------- data set, control, checking


def folder_of(tmp_path: Path) -> FolderImages:
    for n in range(3):
        for side, colour in (("l", 40), ("r", 200)):
            Image.new("RGB", (8, 8), (colour, 60 * n, 0)).save(tmp_path / f"{n}{side}.png")
    return FolderImages(tmp_path)


def test_both_pictures_are_read_and_one_that_cannot_be_is_the_failure(tmp_path: Path) -> None:
    images, samples = folder_of(tmp_path), [item.sample for item in pairs(3)]
    (tmp_path / "1r.png").write_bytes(b"none")
    dataset = ImageTextDataset(samples, images, EvalTransform(ImageSettings(size=16)), on_error="skip")
    item = dataset[0, 0]
    assert item.pixels is not None and item.pixels.shape == item.further_pixels[0].shape == (3, 16, 16)
    assert item.pixels[0].mean() < item.further_pixels[0][0].mean()
    loader = build_loader(dataset, EpochSampler(3, 3, shuffle=False), pair_task().collator(training=False))
    (batch,) = loader
    assert isinstance(batch, Batch) and [sample.id for sample in batch.samples] == ["0", "2"]
    assert [(one.id, one.name) for one in batch.failures] == [("1", "1r.png")] and "is not a picture" in batch.failures[0].reason


def test_the_blind_control_moves_all_pictures_of_a_record_together() -> None:
    samples = [item.sample for item in pairs()]
    samples.append(replace(samples[0], id="again"))
    moved = shuffle_images(samples)
    assert {one.pictures for one in moved} == {one.pictures for one in samples}
    assert not any(set(before.pictures) & set(after.pictures) for before, after in zip(samples, moved, strict=True))
    assert moved[-1].pictures == moved[0].pictures


def test_joined_splits_and_the_check_know_every_picture(tmp_path: Path) -> None:
    images, samples = folder_of(tmp_path), [item.sample for item in pairs(3)]
    split = Split("dev", samples, images)
    both = join_splits([split, replace(split, name="train")])
    assert both.samples[3].pictures == ("train/0l.png", "train/0r.png")
    assert all(name in both.images for sample in both.samples for name in sample.pictures)
    (tmp_path / "2r.png").unlink()
    report = check_split(split)
    assert report.pictures == 6 and report.missing == ["2r.png"] and report.opened == 5 and report.unused == 0


# --------------------------------------------------------------------------------------------------------------- what is refused


def test_another_number_of_pictures_than_the_settings_say() -> None:
    (item,) = pairs(1)
    with pytest.raises(DataError, match=r"record '0' has 2 pictures, and settings\.images_per_example is 1; set it to 2"):
        pair_task(images_per_example=1).collator(training=False)([item])
    with pytest.raises(DataError, match=r"record '0' has 1 picture, and settings\.images_per_example is 2; set it to 1"):
        pair_task().collator(training=False)([replace(item, further_pixels=())])
    with pytest.raises(DataError, match=r"record '0' has 2 pictures, and this task reads one of each record; several are read by task"):
        tiny_task("caption", {"max_length": 8, "min_length": 1}).collator(training=True)([item])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "image"}, r"images_per_example 2 with input 'image' and mixing 0; set input to 'image_text' and mixing to 0"),
        ({"mixing": 0.8}, r"images_per_example 2 with input 'image_text' and mixing 0\.8; set input"),
        ({"regression": True, "metric": "pearson", "images_per_example": 1}, "consistency_by 'sentence_id' with regression"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_task("classification", {**SETTINGS, **settings})
