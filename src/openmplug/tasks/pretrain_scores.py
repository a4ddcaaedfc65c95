"""How well each objective of pre-training does: what was asked of each record, what of it was right, and at what loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Prediction
from openmplug.tasks.readings import Reading

OBJECTIVES = ("itc", "itm", "mlm", "prefix", "instruction", "answer")

SCORES = {
    "itc_accuracy": "percent of pictures and texts whose nearest in their batch is right; depends on its size",
    "itm_accuracy": "percent of pairs told right: each picture with its text, and with the most similar wrong one of its batch",
    "mlm_accuracy": "percent of hidden pieces of words found; what is hidden follows from the record's id",
    "prefix_accuracy": "percent of next pieces named right in the second half of each text, [SEP] among them",
    "instruction_accuracy": "the same of whole texts",
    "answer_accuracy": "the same of the answers to questions",
}

Counts = dict[str, tuple[float, ...]]
"""Of one record, by objective: how much was asked, how much of it was right, the summed loss."""


class Said(NamedTuple):
    """What was said at W places: the record of each (W,), the ids wanted (W,), the logits (W, vocab)."""

    rows: Tensor
    wanted: Tensor
    logits: Tensor

    @classmethod
    def of(cls, reading: Reading, logits: Tensor) -> Said:
        """Take a reading's wanted places, a text a record."""
        return cls(reading.wanted.nonzero()[:, 0], reading.answers, logits)


def count_said(name: str, said: Said, counts: Sequence[Counts]) -> None:
    """Add what was said for one objective to the counts of each record."""
    right = (said.logits.argmax(dim=1) == said.wanted).tolist()
    lost = F.cross_entropy(said.logits.float(), said.wanted, reduction="none").tolist()
    for row, correct, loss in zip(said.rows.tolist(), right, lost, strict=True):
        asked, found, total = counts[row].get(name, (0, 0, 0.0))
        counts[row][name] = asked + 1, found + correct, total + loss


def pretraining_scores(predictions: Sequence[Prediction], mean_name: str) -> dict[str, float]:
    """Compute the share that is right of each objective in percent, the perplexity of words, and the mean of the shares."""
    scores: dict[str, float] = {}
    for name in OBJECTIVES:
        asked, found, lost = (sum(one.extra[name][part] for one in predictions if name in one.extra) for part in range(3))
        if asked:
            scores[f"{name}_accuracy"] = 100 * found / asked
        if asked and name not in ("itc", "itm"):
            scores[f"{name}_perplexity"] = math.exp(min(lost / asked, 700.0))
    shares = [value for name, value in scores.items() if name.endswith("_accuracy")]
    return {**scores, mean_name: sum(shares) / len(shares)} if shares else {}


def share_right(one: Prediction) -> float:
    """Return how much of all that was asked of a record was right, 0 to 1."""
    asked, found = (sum(one.extra[name][part] for name in OBJECTIVES if name in one.extra) for part in (0, 1))
    return found / asked if asked else 0.0
