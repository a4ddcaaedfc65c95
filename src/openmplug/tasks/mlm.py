"""Masked language modelling of words alone: the text encoder fills in what was hidden."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Item, Losses, Prediction, Tokens
from openmplug.config import Settings
from openmplug.data.tokenizer import Tokenizer
from openmplug.distributed import fair_count
from openmplug.errors import DataError
from openmplug.objectives.language import IGNORE, Masked, mask_words
from openmplug.tasks.base import Collator, Task
from openmplug.tasks.marks import Marks, marks_by


class MaskedWordsSettings(Settings):
    """Settings of masked language modelling.

    Args:
        share: Of the words that are hidden.
        universal: Whether mPLUG-2's universal layers take part. The original's text-only path (``mode="text"``) leaves them out.
        max_text_length: Tokens of a text, [CLS] included; the rest is cut off.
    """

    share: float = Field(default=0.15, gt=0, lt=1)
    universal: bool = False
    max_text_length: int = Field(default=128, ge=2)


@dataclass(frozen=True)
class TextCollator:
    """Items to a batch of texts."""

    tokenizer: Tokenizer
    text_length: int

    def __call__(self, items: list[Item]) -> Batch:
        """Tokenise.

        Raises:
            DataError: If a sample has no text.
        """
        samples = [item.sample for item in items]
        if bare := next((sample for sample in samples if not sample.text), None):
            raise DataError(f"record {bare.id!r} has no text; every record of masked language modelling needs one")
        return Batch(samples, text=self.tokenizer([sample.text or "" for sample in samples], max_length=self.text_length))


class MaskedWordsTask(Task):
    """Fill in hidden words. Source: BERT; in mPLUG-2's paper the language loss of text alone."""

    Settings = MaskedWordsSettings
    model_modules = ("text", "language")
    metric = "accuracy"
    learns_targets = False
    settings: MaskedWordsSettings

    def collator(self, training: bool) -> Collator:
        """Make the collator; training and evaluation cut alike."""
        return TextCollator(self.tokenizer, min(self.settings.max_text_length, self.model.config.max_positions))

    def _hide(self, batch: Batch, fixed: bool = False) -> Masked:
        assert batch.text is not None
        seeds = [sample.id for sample in batch.samples] if fixed else None
        return hide_words(batch.text, self.tokenizer, self.settings.share, seeds)

    def logits(self, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Compute logits (W, vocab) of the W places that ``wanted`` (B, T) marks; only these go through the vocabulary."""
        states = self.model.encode_text(ids, mask) if self.settings.universal else self.model.text(ids, mask)
        return self.model.language(states[wanted], self.model.text.embeddings.words.weight).float()

    def forward(self, batch: Batch) -> Losses:
        """Compute the mean cross-entropy of the hidden words."""
        assert batch.text is not None
        masked = self._hide(batch)
        wanted = masked.labels != IGNORE
        total = F.cross_entropy(self.logits(masked.ids, batch.text.mask, wanted), masked.labels[wanted], reduction="sum")
        total = total / fair_count(wanted.sum()).clamp(min=1)
        return Losses(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> list[Prediction]:
        """Fill in hidden words, the same ones of a text at every evaluation."""
        assert batch.text is not None
        masked = self._hide(batch, fixed=True)
        wanted = masked.labels != IGNORE
        logits, true = self.logits(masked.ids, batch.text.mask, wanted), masked.labels[wanted]
        named, losses = logits.argmax(dim=1).tolist(), F.cross_entropy(logits, true, reduction="none").tolist()
        counts, first, predictions = wanted.sum(dim=1).tolist(), 0, []
        for sample, count in zip(batch.samples, counts, strict=True):
            part = slice(first, first + count)
            first += count
            texts = [" ".join(self.tokenizer.vocab[index] for index in ids) for ids in (named[part], true[part].tolist())]
            right = sum(one == other for one, other in zip(named[part], true[part].tolist(), strict=True))
            extra = {"input": sample.text, "hidden": count, "right": right}
            predictions.append(Prediction(sample.id, texts[0], -sum(losses[part]), (texts[1],), extra))
        return predictions

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute the share of hidden words found, in percent, and the perplexity of a hidden word."""
        hidden = sum(one.extra["hidden"] for one in predictions)
        if not hidden:
            return {}
        right, likelihood = sum(one.extra["right"] for one in predictions), sum(one.score for one in predictions)
        return {"accuracy": 100 * right / hidden, "perplexity": math.exp(min(-likelihood / hidden, 700.0))}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark each text by the share of its hidden words that were found."""
        return marks_by("hidden words found", lambda one: one.extra["right"] / max(one.extra["hidden"], 1), predictions, full=None)

    def scorer(self) -> dict[str, str]:
        """Name the scores."""
        return {"accuracy": "percent of hidden pieces of words found", "hidden": "a function of the record's id and its text's length"}


def hide_words(text: Tokens, tokenizer: Tokenizer, share: float, seeds: Sequence[str] | None = None) -> Masked:
    """Hide words of each text, as ``mask_words`` does; special tokens stay.

    Args:
        text: (B, T).
        tokenizer: Says which tokens are special.
        share: Of the words.
        seeds: One string per text, from which follows what is hidden of it, in whatever batch it is; None draws anew.
    """
    ids = text.ids
    special = torch.tensor([tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id], device=ids.device)
    maskable = text.mask & ~torch.isin(ids, special)
    known = (tokenizer.mask_id, tokenizer.vocab_size, share)
    if seeds is None:
        return mask_words(ids, maskable, *known)
    hidden, labels = ids.clone(), torch.full_like(ids, IGNORE)
    for row, (seed, length) in enumerate(zip(seeds, text.mask.sum(dim=1).tolist(), strict=True)):
        # Without its padding, so that a text is masked alike in every batch.
        part = slice(row, row + 1), slice(0, length)
        one = mask_words(ids[part].cpu(), maskable[part].cpu(), *known, generator=_generator(seed))
        hidden[row, :length], labels[row, :length] = one.ids[0].to(ids.device), one.labels[0].to(ids.device)
    return Masked(hidden, labels)


def _generator(name: str) -> torch.Generator:
    digest = hashlib.sha256(f"masked words/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
