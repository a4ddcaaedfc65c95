"""Classes and numbers of pictures, clips, sentences and pairs: what is built, learned, predicted and scored."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from openmplug.batch import Item, Prediction, Sample
from openmplug.data.text import sentence_pair
from openmplug.errors import DataError, UsageError
from openmplug.tasks import build_task, find_task
from openmplug.tasks.classes import ClassificationSettings
from openmplug.tasks.classification import ClassificationTask, mix_images
from tiny_models import SIZES
from tiny_tasks import evaluation_batch, items, memorise, random_task, tiny_task, tokenizer, training_batch

LIMIT_SECONDS = 20
WORDS = ["a red ball", "two cup", "the large box", "is it small ?", "no photo", "one thing", "a blue cup", "on the left"]
LABELS = ("cat", "dog", "owl")
MPLUG2: dict[str, Any] = {
    **{**SIZES, "name": "mplug2-tiny", "connected_layers": ()},
    **{"universal_layers": 1, "latents": 4, "temporal_stride": 0},
}


def labelled(text: bool = True) -> list[Sample]:
    return [
        Sample(str(n), f"{n}.jpg", WORDS[n] if text else None, (LABELS[n % 3],), (1.0,), (LABELS[n % 3],), n) for n in range(len(WORDS))
    ]


def built(family: dict[str, Any], settings: dict[str, Any], seed: int = 0) -> ClassificationTask:
    torch.manual_seed(seed)
    task = build_task("classification", family, tokenizer(), {"labels": LABELS, **settings}, training=True)
    assert isinstance(task, ClassificationTask)
    return task


@pytest.mark.parametrize(
    ("family", "kind", "modules"),
    [
        (SIZES, "image", ("vision", "classification")),
        (SIZES, "text", ("text", "classification")),
        (SIZES, "image_text", ("vision", "text", "fusion", "classification")),
        (MPLUG2, "image", ("vision", "universal", "classification")),
        (MPLUG2, "text", ("text", "universal", "classification")),
        (MPLUG2, "image_text", ("vision", "text", "universal", "fusion", "classification")),
    ],
)
def test_only_what_the_input_needs_is_built_and_learned_by_heart(family: dict[str, Any], kind: str, modules: tuple[str, ...]) -> None:
    start, samples = time.process_time(), labelled()
    task = built(family, {"input": kind})
    assert task.model.modules_built == modules and task.model.config.classes == 3
    losses = memorise(task, samples, steps=60)
    with torch.no_grad():
        predictions = list(task.evaluate([evaluation_batch(task, samples)]))
    assert [one.text for one in predictions] == [sample.targets[0] for sample in samples]
    assert task.score(predictions)["accuracy"] == 100.0
    assert losses[-1] < 0.2 < losses[0]
    assert time.process_time() - start < LIMIT_SECONDS


def test_numbers_are_learned_by_heart() -> None:
    values = ["0", "5", "2.5", "1", "4", "3.2", "0.4", "2"]
    samples = [replace(sample, targets=(value,), references=(value,)) for sample, value in zip(labelled(), values, strict=True)]
    settings = find_task("classification").prepared({"input": "text", "regression": True, "metric": "correlation"}, samples)
    assert settings["number_range"] == (0.0, 5.0)
    task = tiny_task("classification", settings)
    memorise(task, samples, steps=60)
    with torch.no_grad():
        predictions = task.predict(evaluation_batch(task, samples))
    assert [one.score for one in predictions] == pytest.approx([float(value) for value in values], abs=0.2)
    scores = task.score(predictions)
    assert scores["correlation"] == pytest.approx((scores["pearson"] + scores["spearman"]) / 2) and scores["correlation"] > 98
    assert scores["constant_rmse"] == pytest.approx(1.64692, abs=1e-4) and scores["rmse"] < 0.2
    assert task.metric == "correlation" in scores


def test_predictions_are_probabilities_sorted() -> None:
    task = random_task("classification", {"input": "image", "labels": tuple("abcdefgh"), "listed": 5, "majority": "b"})
    samples = [replace(sample, references=("a",)) for sample in labelled()]
    with torch.no_grad():
        predictions = task.predict(evaluation_batch(task, samples))
    for one in predictions:
        listed = one.extra["probabilities"]
        assert len(listed) == 5 and list(listed.values()) == sorted(listed.values(), reverse=True) and sum(listed.values()) < 1
        assert one.text == next(iter(listed)) and one.score == pytest.approx(listed[one.text], abs=1e-6)
    scores = task.score(predictions)
    assert scores["top5"] >= scores["accuracy"] and scores["majority_accuracy"] == 0.0
    assert task.score([replace(one, references=()) for one in predictions]) == {}


def test_one_item_and_a_batch_give_the_same() -> None:
    task = random_task("classification", {"input": "image_text", "labels": LABELS})
    samples = labelled()
    with torch.no_grad():
        together = task.predict(evaluation_batch(task, samples))
        alone = [task.predict(evaluation_batch(task, [sample]))[0] for sample in samples]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-5)


def test_texts_about_one_picture_are_learned_from_one_encoding_of_it() -> None:
    task = random_task("classification", {"input": "image_text", "labels": LABELS, "texts_per_example": 3})
    samples = [replace(labelled()[n % 2], id=str(n), image=f"{n // 4}.jpg") for n in range(5)]
    assert [[one.id for one in each.parts] for each in task.examples(samples)] == [["0", "1", "2"], ["3"], ["4"]]
    batch = training_batch(task, samples)
    assert batch.images is not None and len(batch.images) == 3 and len(batch) == 5
    alone = replace(batch, images=batch.images.repeat_interleave(torch.tensor([3, 1, 1]), dim=0), samples_per_image=None)
    with torch.no_grad():
        assert task(batch).total.item() == pytest.approx(task(alone).total.item(), abs=1e-5)


def test_where_texts_alone_are_read_no_picture_is() -> None:
    task = random_task("classification", {"input": "text", "labels": LABELS})
    samples = [replace(one, further_images=("x.jpg",)) for one in labelled()]
    assert all(not one.pictures for one in task.examples(samples)) and [one.text for one in task.examples(samples)] == list(WORDS)
    assert training_batch(task, samples).images is None


def test_classes_come_from_the_training_data() -> None:
    prepared = find_task("classification").prepared
    samples = [Sample(str(n), targets=(label,)) for n, label in enumerate(["10", "9", "9", "-1"])]
    assert prepared({}, samples) == {"labels": ("-1", "9", "10"), "majority": "9"}
    assert prepared({"labels": ["9", "10"]}, samples)["labels"] == ("9", "10")
    with pytest.raises(DataError, match=r"none of the 1 training records has a label; name their column: data\.columns={label: NAME}"):
        prepared({}, [Sample("0")])
    with pytest.raises(DataError, match="has the label 'nan', expected a number"):
        prepared({"regression": True}, [Sample("0", targets=("nan",))])
    assert find_task("caption").prepared({"num_beams": 2}, samples) == {"num_beams": 2}


def test_the_scores_of_two_classes_and_of_naming_the_majority() -> None:
    task = random_task("classification", {"input": "text", "labels": ("0", "1"), "majority": "1", "metric": "mcc"})
    batch = evaluation_batch(task, [replace(sample, references=(str(n % 4 // 3),)) for n, sample in enumerate(labelled())])
    with torch.no_grad():
        predictions = [replace(one, text=text) for one, text in zip(task.predict(batch), "00010000", strict=True)]
    scores = task.score(predictions)  # true: 0 0 0 1 0 0 0 1
    assert scores["accuracy"] == 87.5 and scores["f1"] == pytest.approx(100 * 2 / 3) and scores["mcc"] == pytest.approx(65.4653670708)
    assert scores["f1_accuracy"] == pytest.approx((scores["f1"] + 87.5) / 2)
    assert (scores["majority_accuracy"], scores["majority_f1"], scores["majority_mcc"]) == (25.0, pytest.approx(40.0), 0.0)
    assert task.metric == "mcc"


def test_label_smoothing_is_in_the_loss() -> None:
    samples, losses = labelled(), []
    for share in (0.0, 0.3):
        task = random_task("classification", {"input": "text", "labels": LABELS, "label_smoothing": share})
        with torch.no_grad():
            batch = training_batch(task, samples)
            logits = task.logits(batch)  # type: ignore[attr-defined]
            losses.append(float(task(batch).total))
    assert batch.labels is not None
    target = torch.nn.functional.one_hot(batch.labels, 3) * 0.7 + 0.1
    assert losses[1] == pytest.approx(float(-(target * logits.log_softmax(dim=1)).sum(dim=1).mean()), rel=1e-5)
    assert losses[0] == pytest.approx(float(-logits.log_softmax(dim=1)[range(8), batch.labels].mean()), rel=1e-5)


def test_mixed_pictures_hold_the_share_they_state() -> None:
    black_white = torch.stack([torch.full((3, 32, 32), float(value)) for value in (0, 0, 1, 1)])
    kinds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixed, others, share = mix_images(black_white, alpha=1.0)
        true = share * black_white + (1 - share) * black_white[others]
        assert mixed.mean(dim=(1, 2, 3)) == pytest.approx(true.mean(dim=(1, 2, 3)), abs=1e-5)
        different = [row for row in range(4) if not torch.equal(black_white[row], black_white[others[row]])]
        kinds |= {"cut" if set(mixed[row].unique().tolist()) <= {0.0, 1.0} else "blend" for row in different}
    assert kinds == {"cut", "blend"}


def test_mixing_and_leaving_patches_out_are_for_training_only() -> None:
    task = random_task("classification", {"input": "image", "labels": LABELS, "mixing": 1.0, "patch_dropout": 0.5})
    batch = training_batch(task, labelled())
    with torch.no_grad():
        assert float(task(batch).total) == float(task(batch).total)
        task.train()
        assert len({float(task(batch).total) for _ in range(4)}) > 1


def test_a_probe_learns_the_head_alone() -> None:
    task = built(MPLUG2, {"input": "image", "frozen": True})
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    memorise(task, labelled(), steps=5)
    changed = {name.split(".")[0] for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classification"}


def test_a_family_that_reads_clips_as_pictures_averages_their_class_tokens() -> None:
    task = random_task("classification", {"input": "image", "labels": LABELS})
    samples = labelled(text=False)[:2]
    single = [item.pixels for item in items(samples)]
    still = [Item(sample, torch.stack([pixels, pixels])) for sample, pixels in zip(samples, single, strict=True) if pixels is not None]
    moving = [Item(sample, torch.stack([single[0], single[1]])) for sample in samples if single[0] is not None and single[1] is not None]
    collate = task.collator(training=False)
    with torch.no_grad():
        pictures, clips, both = (task.logits(collate(each)) for each in (items(samples), still, moving))  # type: ignore[attr-defined]
    assert torch.allclose(pictures, clips, atol=1e-5)
    assert torch.allclose(both[0], both[1], atol=1e-5) and not torch.allclose(both[0], pictures[0], atol=1e-3)


def test_the_longer_sentence_of_a_pair_is_cut() -> None:
    task = random_task("classification", {"input": "text", "labels": LABELS, "max_text_length": 6})
    sample = Sample("0", text=sentence_pair("red blue green round", "one two"), targets=("cat",))
    batch = task.collator(training=True)([Item(sample)])
    assert batch.text is not None
    assert [task.tokenizer.vocab[index] for index in batch.text.ids[0].tolist()] == ["[CLS]", "red", "blue", "[SEP]", "one", "two"]


@pytest.mark.parametrize(
    ("settings", "sample", "message"),
    [
        ({"input": "image"}, Sample("7", text="a cup", targets=("cat",)), "record '7' has no picture, and settings.input is 'image'"),
        ({"input": "text"}, Sample("7", targets=("cat",)), "record '7' has no text, and settings.input is 'text'"),
        ({"input": "text"}, Sample("7", text="a cup"), "record '7' has no label; training needs one"),
        ({"input": "text"}, Sample("7", text="a", targets=("fox",)), "'7' has the label 'fox', which is none of cat, dog, owl"),
    ],
)
def test_records_that_cannot_be_learned(settings: dict[str, Any], sample: Sample, message: str) -> None:
    with pytest.raises(DataError, match=message):
        random_task("classification", {"labels": LABELS, **settings}).collator(training=True)([Item(sample)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "pearson", "labels": LABELS}, "metric pearson with regression False; choose one of accuracy"),
        ({"regression": True}, "metric accuracy with regression True; choose one of pearson"),
        ({"labels": ["a", "a"]}, "name a class twice"),
        ({"labels": ["a", "b"], "positive": "c"}, "positive 'c' is none of the labels a, b"),
        ({"regression": True, "metric": "pearson", "number_range": [5, 0]}, r"number_range must be \[smallest, largest\]"),
        ({"labels": LABELS, "input": "text", "texts_per_example": 2}, "texts_per_example 2 with input 'text' and images_per_example 1"),
        ({}, r"settings\.labels is empty; name the classes"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_task("classification", settings)


def test_classes_are_marked_by_equality_and_numbers_by_distance() -> None:
    told = [Prediction("0", "cat", 0.9, ("cat",)), Prediction("1", "dog", 0.6, ("cat",)), Prediction("2", "dog", 0.6)]
    marks = ClassificationTask.marks(cast(Any, SimpleNamespace(settings=ClassificationSettings(labels=("cat", "dog")))), told)
    assert (list(marks.values), marks.classes) == ([1.0, 0.0, None], ("cat", "dog"))
    numbers = [Prediction("0", "2.5", 2.5, ("4",)), Prediction("1", "1", 1.0)]
    measured = ClassificationSettings(regression=True, number_range=(0, 5), metric="pearson")
    marks = ClassificationTask.marks(cast(Any, SimpleNamespace(settings=measured)), numbers)
    assert (list(marks.values), marks.full) == ([-1.5, None], None)
