"""Text to text: the decoder writes about the encoded text. Summaries, headlines, or any other text made of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field, model_validator

from openmplug.batch import Batch, Item, Losses, Prediction
from openmplug.config import Settings
from openmplug.data.text import target_text
from openmplug.data.tokenizer import Tokenizer
from openmplug.distributed import fair_count
from openmplug.errors import DataError
from openmplug.metrics.rouge import rouge_scores
from openmplug.models.decoder import DecoderMemory
from openmplug.models.network import Network
from openmplug.objectives.language import IGNORE, text_labels
from openmplug.tasks.base import Collator, Task
from openmplug.tasks.decoding import check_generation, generate, memory_of_rows, target_log_probs
from openmplug.tasks.marks import Marks, marks_by


class SummarizationSettings(Settings):
    """Settings of text-to-text tasks. The paper gives none; these suit Gigaword's headlines.

    Args:
        num_beams: Beams of the search.
        min_length: Fewest new tokens.
        max_length: Most new tokens.
        max_text_length: Tokens of the text in training, [CLS] included; evaluation cuts only at the model's positions.
        max_summary_length: Tokens of a training summary, [CLS] and [SEP] included; a cut one loses its [SEP].
    """

    num_beams: int = Field(default=5, ge=1)
    min_length: int = Field(default=1, ge=0)
    max_length: int = Field(default=30, ge=1)
    max_text_length: int = Field(default=192, ge=2)
    max_summary_length: int = Field(default=32, ge=3)

    @model_validator(mode="after")
    def _lengths(self) -> SummarizationSettings:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}; lower min_length")
        return self


@dataclass(frozen=True)
class SummarizationCollator:
    """Items to a batch: texts, and in training the summaries of each, one after the other."""

    tokenizer: Tokenizer
    text_length: int
    summary_length: int
    training: bool

    def __call__(self, items: list[Item]) -> Batch:
        """Tokenise.

        Raises:
            DataError: If a sample has no text, or in training no summary.
        """
        samples = [item.sample for item in items]
        for sample in samples:
            if not sample.text:
                raise DataError(f"record {sample.id!r} has no text; every record of a text-to-text task needs one")
            if self.training and not sample.targets:
                raise DataError(f"record {sample.id!r} has no summary; training needs one for every text")
        batch = Batch(samples, text=self.tokenizer([sample.text or "" for sample in samples], max_length=self.text_length))
        if not self.training:
            return batch
        texts = [target_text(summary) for sample in samples for summary in sample.targets]
        counts = torch.tensor([len(sample.targets) for sample in samples])
        return replace(batch, targets=self.tokenizer(texts, max_length=self.summary_length), targets_per_item=counts)


class SummarizationTask(Task):
    """Write a summary of each text."""

    Settings = SummarizationSettings
    model_modules = ("text", "decoder")
    metric = "rouge_l"
    settings: SummarizationSettings

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: SummarizationSettings, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        check_generation(model.config, settings.num_beams, settings.max_length)

    def collator(self, training: bool) -> Collator:
        """Make the collator."""
        positions, settings = self.model.config.max_positions, self.settings
        # A summary's last token is only predicted, never read, so it needs no position.
        longest = min(settings.max_text_length, positions) if training else positions
        return SummarizationCollator(self.tokenizer, longest, min(settings.max_summary_length, positions + 1), training)

    def _memory(self, batch: Batch) -> DecoderMemory:
        assert batch.text is not None
        return self.model.text_memory(batch.text.ids, batch.text.mask)

    def forward(self, batch: Batch) -> Losses:
        """Compute the mean cross-entropy over all summary tokens of the batch."""
        assert batch.targets is not None
        labels = text_labels(batch.targets.ids, batch.targets.mask, ignore_first=1)
        memory = memory_of_rows(self._memory(batch), batch.targets_per_item)
        total = target_log_probs(self.model.decoder, memory, batch.targets, labels).sum() / fair_count((labels[:, 1:] != IGNORE).sum())
        return Losses(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> list[Prediction]:
        """Write one summary per text."""
        settings = self.settings
        written = generate(
            self.model.decoder,
            self._memory(batch),
            self.tokenizer,
            num_beams=settings.num_beams,
            min_length=settings.min_length,
            max_length=settings.max_length,
        )
        return [
            Prediction(sample.id, text, best.score, sample.references, {"input": sample.text, **sample.extra})
            for sample, (text, best) in zip(batch.samples, written, strict=True)
        ]

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute ROUGE-1, ROUGE-2 and ROUGE-L, F1 in percent."""
        known = [one for one in predictions if one.references]
        if not known:
            return {}
        scores = rouge_scores([one.text for one in known], [one.references for one in known])
        return {name: 100 * value for name, value in scores.items()}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark each summary by its own ROUGE-L, 0 to 1."""
        return marks_by("ROUGE-L", lambda one: rouge_scores([one.text], [one.references])["rouge_l"], predictions, full=None)

    def scorer(self) -> dict[str, str]:
        """Name the scorer."""
        return {"rouge": "F1 in percent, Porter stems of words above three letters, no stop words removed, as ROUGE-1.5.5 -n 2 -m"}
