"""Words alone: summaries and hidden words, learned by heart; what is hidden, what is built."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from openmplug.batch import Item, Sample
from openmplug.errors import DataError, UsageError
from openmplug.objectives.language import IGNORE, mask_words
from openmplug.tasks import build_task
from openmplug.tasks.base import Task
from tiny_models import SIZES
from tiny_tasks import captions, evaluation_batch, memorise, random_task, tiny_task, tokenizer

LIMIT_SECONDS = 20
MPLUG2: dict[str, Any] = {
    **{**SIZES, "name": "mplug2-tiny", "connected_layers": ()},
    **{"universal_layers": 1, "latents": 4, "temporal_stride": 0},
}


def texts() -> list[Sample]:
    summaries = ["red ball", "red box", "two cup", "blue box", "ball", "square thing", "large cup", "small photo"]
    return [
        replace(sample, image=None, text=sample.targets[0], targets=(summary,), references=(summary,))
        for sample, summary in zip(captions(), summaries, strict=True)
    ]


def mplug2(name: str, settings: dict[str, Any]) -> Task:
    torch.manual_seed(0)
    return build_task(name, MPLUG2, tokenizer(), settings, training=True)


def test_summaries_are_learned_by_heart() -> None:
    start, samples = time.process_time(), texts()
    task = mplug2("summarization", {"num_beams": 2, "max_length": 8})
    assert task.model.modules_built == ("text", "universal", "decoder")
    losses = memorise(task, samples, steps=80)
    with torch.no_grad():
        predictions = list(task.evaluate([evaluation_batch(task, samples)]))
    assert [one.text for one in predictions] == [sample.targets[0] for sample in samples]
    assert task.score(predictions)["rouge_l"] == 100.0
    assert losses[-1] < 0.3 < losses[0]
    assert time.process_time() - start < LIMIT_SECONDS


def test_several_summaries_of_a_text_share_its_encoding() -> None:
    task = random_task("summarization", {"max_length": 8})
    double = replace(texts()[0], targets=("red ball", "a box"))
    collate = task.collator(training=True)
    with torch.no_grad():
        together, first, second = (
            float(task(collate([Item(replace(double, targets=targets))])).total) for targets in (double.targets, ("red ball",), ("a box",))
        )
    assert together == pytest.approx((first + second) / 2, rel=1e-5)  # equally long: 3 tokens each


def test_what_cannot_be_summarised() -> None:
    task = random_task("summarization", {"max_length": 8})
    with pytest.raises(DataError, match="record '3' has no text"):
        task.collator(training=False)([Item(Sample("3"))])
    with pytest.raises(DataError, match="record '3' has no summary; training needs one"):
        task.collator(training=True)([Item(Sample("3", text="a cup"))])
    with pytest.raises(UsageError, match="min_length 9 is above max_length 8"):
        tiny_task("summarization", {"min_length": 9, "max_length": 8})
    with pytest.raises(UsageError, match=r"settings\.max_length=90 .* exceeds model\.max_positions=24"):
        tiny_task("summarization", {"max_length": 90})


def test_hidden_words_follow_the_published_shares() -> None:
    ids = torch.randint(104, 1000, (400, 60))
    ids[:, 0] = 101
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0] = False
    masked = mask_words(ids, maskable, mask_id=103, vocab_size=1000)
    chosen = masked.labels != IGNORE
    assert not chosen[:, 0].any() and torch.equal(masked.ids[~chosen], ids[~chosen]) and torch.equal(masked.labels[chosen], ids[chosen])
    count = int(chosen.sum())
    assert count / int(maskable.sum()) == pytest.approx(0.15, abs=0.01)
    hidden, same = int((masked.ids[chosen] == 103).sum()), int((masked.ids[chosen] == ids[chosen]).sum())
    assert hidden / count == pytest.approx(0.8, abs=0.03) and same / count == pytest.approx(0.1, abs=0.03)


def test_every_text_teaches() -> None:
    ids = torch.tensor([[101, 200, 0], [101, 201, 202]])
    maskable = torch.tensor([[False, True, False], [False, True, True]])
    assert all((mask_words(ids, maskable, 103, 300, share=0.01).labels != IGNORE).any(dim=1).all() for _ in range(20))
    nothing = mask_words(ids, torch.zeros_like(maskable), 103, 300)
    assert torch.equal(nothing.ids, ids) and bool((nothing.labels == IGNORE).all())


@pytest.mark.parametrize("universal", [False, True])
def test_hidden_words_are_learned(universal: bool) -> None:
    start, samples = time.process_time(), [replace(sample, id=f"text {sample.id}") for sample in texts()]
    task = mplug2("mlm", {"universal": universal})
    assert task.model.modules_built == ("text", "universal", "language")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    memorise(task, samples, steps=250)
    changed = {name.split(".")[0] for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == ({"text", "universal", "language"} if universal else {"text", "language"})
    with torch.no_grad():
        scores = task.score(task.predict(evaluation_batch(task, samples)))
    assert scores["accuracy"] >= 75 and scores["perplexity"] < 5
    assert time.process_time() - start < LIMIT_SECONDS


def test_what_is_hidden_does_not_depend_on_the_batch() -> None:
    task, samples = random_task("mlm"), texts()
    with torch.no_grad():
        together = task.predict(evaluation_batch(task, samples))
        alone = [task.predict(evaluation_batch(task, [sample]))[0] for sample in reversed(samples)][::-1]
    assert [one.references for one in together] == [one.references for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], rel=1e-4)
    assert sum(one.extra["hidden"] for one in together) == sum(len(one.references[0].split()) for one in together) >= 8


def test_a_record_without_words() -> None:
    with pytest.raises(DataError, match="record '3' has no text; every record of masked language modelling needs one"):
        random_task("mlm").collator(training=True)([Item(Sample("3"))])
