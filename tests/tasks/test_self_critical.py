"""Self-critical captions: the reward is the corpus' own CIDEr, the loss is the formula, and the model's own captions get better."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from openmplug.errors import UsageError
from openmplug.metrics import ngrams
from openmplug.metrics.captions import cider
from openmplug.metrics.ngrams import DocumentFrequencies
from openmplug.models.generation import beam_search
from openmplug.tasks.captioning import CaptioningTask
from openmplug.tasks.self_critical import CiderReward
from tiny_tasks import captions, memorise, random_task, tiny_task, training_batch

SETTINGS = {"num_beams": 3, "min_length": 1, "max_length": 6, "self_critical": True}
WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "vision_dropout": 0.0}


def task_with(**settings: object) -> CaptioningTask:
    task = random_task("caption", {**SETTINGS, **settings}, training=True, **WITHOUT_DROPOUT)
    assert isinstance(task, CaptioningTask)
    return task.train()


def described() -> list:
    return [replace(sample, references=(*sample.targets, "a small thing")) for sample in captions()]


# -------------------------------------------------------------------------------------------------------- document frequencies


def test_frequencies_are_a_plain_count_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items = [[" ".join(rng.choice([*"abcdef"], rng.integers(0, 7))) for _ in range(rng.integers(1, 4))] for _ in range(50)]
    counted: list[Counter] = [Counter() for _ in range(4)]
    for several in items:
        for order in range(4):
            words = [text.split() for text in several]
            counted[order].update({tuple(one[n : n + order + 1]) for one in words for n in range(len(one) - order)})
    for chunk in (7, 1000):
        monkeypatch.setattr(ngrams, "_CHUNK", chunk)
        frequencies = DocumentFrequencies(items)
        assert frequencies.documents == 50
        for order in range(4):
            corpus = ngrams.Corpus([" ".join(gram) for gram in counted[order]], [[""]] * len(counted[order]))
            grams = corpus.orders[order]
            assert frequencies.of(order, grams.keys)[grams.gram].tolist() == [*counted[order].values()]
        unknown = ngrams.Corpus(["x y z a"], [["q"]]).orders
        assert [frequencies.of(order, unknown[order].keys).max() for order in range(1, 4)] == [0, 0, 0]


def test_with_its_own_frequencies_a_set_scores_as_ever() -> None:
    hypotheses = ["a dog runs", "a cat sits on a mat", "", "two dogs"]
    references = [["a dog is running", "the dog runs"], ["a cat on a mat"], ["nothing at all"], ["two dogs", "dogs play"]]
    expected = cider(hypotheses, references)[1]
    frequencies = DocumentFrequencies(references)
    assert cider(hypotheses, references, frequencies)[1] == pytest.approx(expected)
    alone = [cider([text], [given], frequencies)[0] for text, given in zip(hypotheses, references, strict=True)]
    assert alone == pytest.approx(expected)
    assert cider(hypotheses[:1], references[:1])[0] == 0  # what rewards of a single picture would be without them


def test_no_references_are_refused() -> None:
    with pytest.raises(ValueError, match="no references to count"):
        CiderReward(captions()[:0])


# ---------------------------------------------------------------------------------------------------------------------- the loss


def test_loss_is_the_formula() -> None:
    task, samples = task_with(), described()
    batch = training_batch(task, samples)
    losses = task(batch)
    assert batch.images is not None
    found = beam_search(
        task.model.decoder.eval(),
        task.model.caption_memory(batch.images),
        num_beams=3,
        num_return=3,
        min_length=1,
        max_length=6,
        prompt=torch.full((len(samples), 1), 101),
        end_id=102,
    )
    reward = CiderReward(samples)
    expected, best = [], []
    for sample, several in zip(samples, found, strict=True):
        rewards = [float(reward([[task.tokenizer.decode(one.ids)]], [sample])) for one in several]
        best.append(max(rewards))
        expected += [-one.score / len(one.ids) * (own - sum(rewards) / 3) for one, own in zip(several, rewards, strict=True)]
    assert any(value != 0 for value in expected)
    assert losses.total.item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert losses.parts["best_reward"].item() == pytest.approx(sum(best) / len(best), abs=1e-5)


def test_under_autocast_every_weight_of_the_decoder_still_learns() -> None:
    # A search under autocast leaves cast weights without a graph in its cache.
    task = task_with()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = task(training_batch(task, described()))
    losses.total.backward()
    still = [name for name, value in task.model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    # Positions beyond the longest caption, and a bias that a softmax takes no notice of.
    assert all(name.endswith("key.bias") for name in still), still


def test_its_own_captions_get_better() -> None:
    samples = described()
    taught = tiny_task("caption", {**SETTINGS, "self_critical": False}, **WITHOUT_DROPOUT)
    memorise(taught, samples, steps=12)  # words, but not yet the right ones
    task = tiny_task("caption", SETTINGS, **WITHOUT_DROPOUT).train()
    task.model.load_state_dict(taught.model.state_dict())
    batch = training_batch(task, samples)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    rewards = []
    for _ in range(20):
        losses = task(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        rewards.append(losses.parts["reward"].item())
    assert sum(rewards[-3:]) > 1.3 * sum(rewards[:3]) > 0, rewards


# ------------------------------------------------------------------------------------------------------------------ the settings


def test_each_picture_is_one_example_with_all_its_captions() -> None:
    samples = described()
    assert [one.targets for one in task_with().examples(samples)] == [one.targets for one in samples]
    assert task_with().examples([replace(samples[0], references=())]) == []


def test_one_beam_has_nothing_to_compare_with() -> None:
    with pytest.raises(UsageError, match="num_beams must be 2 or more"):
        task_with(num_beams=1)
