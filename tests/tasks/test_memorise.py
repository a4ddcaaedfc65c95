"""Every task learns 8 samples by heart, in seconds of one thread: data, loss, gradients and predictions fit together."""

from __future__ import annotations

import time
from typing import Any

import torch

from tiny_tasks import captions, evaluation_batch, memorise, questions, tiny_task

LIMIT_SECONDS = 20
SMALLEST: dict[str, Any] = {"vision_layers": 1, "text_layers": 1, "fusion_layers": 2}


def test_answers_are_learned_by_heart() -> None:
    start, samples = time.process_time(), questions()
    task = tiny_task("vqa", {"num_beams": 3}, **SMALLEST)
    losses = memorise(task, samples, steps=80)
    with torch.no_grad():
        predictions = list(task.evaluate([evaluation_batch(task, samples)]))
    assert [one.text for one in predictions] == [sample.targets[0] for sample in samples]
    assert task.score(predictions) == {"accuracy": 100.0, "vqa_accuracy": 100.0, "exact_match": 100.0}
    assert losses[-1] < 0.3 < losses[0]
    assert time.process_time() - start < LIMIT_SECONDS


def test_captions_are_learned_by_heart() -> None:
    start, samples = time.process_time(), captions()
    task = tiny_task("caption", {"num_beams": 3, "min_length": 1, "max_length": 12}, vision_layers=1)
    losses = memorise(task, samples, steps=110)
    with torch.no_grad():
        predictions = list(task.evaluate([evaluation_batch(task, samples)]))
    assert [one.text for one in predictions] == [sample.targets[0] for sample in samples]
    assert task.score(predictions)["bleu_4"] > 0.99
    assert losses[-1] < 0.2 < losses[0]
    assert time.process_time() - start < LIMIT_SECONDS


def test_pairs_are_learned_by_heart() -> None:
    start, samples = time.process_time(), captions()
    # A warm temperature keeps the sampled negatives mixed: with a free one, eight sharp pairs show the matching head only the hardest.
    settings = {"queue_size": 16, "momentum": 0.9, "k_test": 8, "temperature_range": (0.5, 1.0)}
    task = tiny_task("retrieval", settings, **SMALLEST)
    memorise(task, samples, steps=80)
    with torch.no_grad():
        scores = task.score(list(task.evaluate([evaluation_batch(task, samples)])))
    assert scores["r_mean"] == 100.0
    assert time.process_time() - start < LIMIT_SECONDS
