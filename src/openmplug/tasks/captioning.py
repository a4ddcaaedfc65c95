"""Captioning: the decoder writes about the vision tokens alone; no text encoder and no fusion are built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from openmplug.batch import Batch, Item, Losses, Prediction, Sample, Tokens
from openmplug.config import Settings
from openmplug.data.sources import Draw, DrawCaptions
from openmplug.data.text import target_text
from openmplug.data.tokenizer import Tokenizer
from openmplug.distributed import fair_count
from openmplug.errors import DataError, UsageError
from openmplug.metrics.captions import caption_scores, cider, ptb_tokenise
from openmplug.metrics.official import official_scores, require
from openmplug.models.decoder import DecoderMemory
from openmplug.models.generation import Hypothesis
from openmplug.models.network import Network
from openmplug.objectives.language import IGNORE, text_labels
from openmplug.tasks.base import Collator, Task
from openmplug.tasks.decoding import ask_about, check_generation, generate, memory_of_rows, stack_images, target_log_probs
from openmplug.tasks.marks import Marks
from openmplug.tasks.self_critical import CiderReward, self_critical_loss


class CaptionSettings(Settings):
    """Settings of captioning; defaults are the released scripts'.

    Args:
        prompt: Words every caption begins with; they are given to the decoder and excluded from the loss, in the original's way
            (the last prompt word is neither: see docs/deviations.md).
        generate_from: ``prompt`` gives the decoder the prompt (mPLUG's scripts), ``start`` lets it write from the beginning and keeps what
            stands behind the prompt, if it wrote it (mPLUG-2's scripts).
        instruction: What is asked of every picture, through the text encoder: the decoder then attends to the instruction as well, fused
            with the picture, as in mPLUG-2's first figure and in pre-training; ``{kind}`` becomes "image" or "video". Empty: vision tokens
            alone, the released scripts' way.
        num_beams: Beams of the search.
        min_length: Fewest new tokens.
        max_length: Most new tokens.
        max_text_length: Tokens of a training caption, [CLS] and [SEP] included; a cut caption loses its [SEP].
        captions_per_example: Captions of one picture that are learned together. The original takes 1. With 5, a picture is decoded,
            augmented and encoded once for five captions, so an epoch costs a third to a fifth; the batch counts pictures.
        self_critical: Learn from the CIDEr of what the model itself writes, ``num_beams`` captions of each picture, in the place of the
            given words; for a model that has learned those (``tasks.self_critical``).
        score_by: A field of the records (such as NoCaps' ``domain``): CIDEr is also given for each of its values, whose document
            frequencies are those of its own references.
        official: METEOR and SPICE beside the other scores, by their authors' Java programs (``metrics.official``).
    """

    prompt: str = ""
    generate_from: Literal["prompt", "start"] = "prompt"
    instruction: str = ""
    num_beams: int = Field(default=5, ge=1)
    min_length: int = Field(default=8, ge=0)
    max_length: int = Field(default=25, ge=1)
    max_text_length: int = Field(default=25, ge=3)
    captions_per_example: int = Field(default=1, ge=1)
    self_critical: bool = False
    score_by: str | None = None
    official: tuple[Literal["meteor", "spice"], ...] = ()

    @model_validator(mode="after")
    def _lengths(self) -> CaptionSettings:
        if self.self_critical and self.num_beams < 2:
            raise ValueError("self_critical compares captions of a picture with each other; num_beams must be 2 or more")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}; lower min_length")
        return self


@dataclass(frozen=True)
class CaptionCollator:
    """Items to a batch: pictures, and in training the captions of each, one after the other."""

    tokenizer: Tokenizer
    prompt: str
    max_text_length: int
    training: bool

    def __call__(self, items: list[Item]) -> Batch:
        """Stack pictures and tokenise.

        Raises:
            DataError: If a training sample has no caption.
        """
        samples = [item.sample for item in items]
        batch = Batch(samples, images=stack_images(items))
        if not self.training:
            return batch
        for sample in samples:
            if not sample.targets:
                raise DataError(f"record {sample.id!r} has no caption; training needs one for every picture")
        # No space between prompt and caption: the original's concatenation.
        texts = [target_text(caption.lower(), self.prompt) for sample in samples for caption in sample.targets]
        counts = torch.tensor([len(sample.targets) for sample in samples])
        return replace(batch, targets=self.tokenizer(texts, max_length=self.max_text_length), targets_per_item=counts)


class CaptioningTask(Task):
    """Describe pictures. Source: ``model_caption_mplug.py`` and its VATEX variant."""

    Settings = CaptionSettings
    model_modules = ("vision", "decoder")
    metric = "cider"
    settings: CaptionSettings

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: CaptionSettings, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        self._reward: CiderReward | None = None
        self._not_computed: dict[str, str] = {}
        if training:
            require(settings.official)  # now, not at the first validation
        self.prompt_ids = tokenizer.encode(settings.prompt) if settings.prompt else []
        check_generation(model.config, settings.num_beams, settings.max_length, max(len(self.prompt_ids) - 1, 1))
        if len(self.prompt_ids) - 1 >= settings.max_text_length:
            raise UsageError(
                f"a prompt of {len(self.prompt_ids) - 1} tokens and max_text_length {settings.max_text_length} leave nothing to learn; "
                "shorten the prompt or raise max_text_length"
            )

    @classmethod
    def needed_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts of the model; an instruction needs those that read."""
        return ("vision", "text", "fusion", "decoder") if settings.instruction else cls.model_modules

    @property
    def shardable(self) -> bool:
        """Whether the model learns without writing."""
        return not self.settings.self_critical

    def memory(self, images: Tensor) -> DecoderMemory:
        """Encode pictures (B, C, H, W) or clips (B, F, C, H, W), with the instruction if there is one, to what the decoder attends to."""
        asked = self.asked(images)
        if asked is None:
            return self.model.caption_memory(images)
        asked = asked.to(images.device)
        return self.model.answer_memory(images, asked.ids, asked.mask)

    def asked(self, images: Tensor) -> Tokens | None:
        """Return the instruction's tokens for each of these pictures (B, C, H, W) or clips (B, F, C, H, W); None where there is none."""
        if not self.settings.instruction:
            return None
        words = ask_about(self.settings.instruction, images.ndim == 5)
        asked = self.tokenizer([words], max_length=self.model.config.max_positions)
        return Tokens(asked.ids.expand(len(images), -1), asked.mask.expand(len(images), -1))

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Make one example of every ``captions_per_example`` captions of a picture; of all where the model's own are rewarded."""
        step = self.settings.captions_per_example
        if self.settings.self_critical:
            described = [sample for sample in samples if sample.references]
            self._reward = CiderReward(described) if described else None
            return described
        return [
            replace(sample, targets=sample.targets[first : first + step])
            for sample in samples
            for first in range(0, len(sample.targets), step)
        ]

    def draw(self) -> Draw | None:
        """Draw ``captions_per_example`` captions of a picture; the reward of the model's own needs those of all records at once."""
        return None if self.settings.self_critical else DrawCaptions(self.settings.captions_per_example)

    def collator(self, training: bool) -> Collator:
        """Make the collator."""
        # The last token is only predicted, never read, so it needs no position.
        limit = min(self.settings.max_text_length, self.model.config.max_positions + 1)
        return CaptionCollator(self.tokenizer, self.settings.prompt, limit, training)

    def forward(self, batch: Batch) -> Losses:
        """Compute the mean cross-entropy over all caption tokens of the batch, or the self-critical loss."""
        assert batch.images is not None and batch.targets is not None
        if self._reward is not None:
            return self_critical_loss(
                self.model.decoder,
                self.memory(batch.images),
                self.tokenizer,
                self._reward,
                batch.samples,
                prompt=self.given_ids,
                **self._search,
            )
        labels = text_labels(batch.targets.ids, batch.targets.mask, ignore_first=max(len(self.prompt_ids) - 1, 0))
        memory = memory_of_rows(self.memory(batch.images), batch.targets_per_item)
        losses = target_log_probs(self.model.decoder, memory, batch.targets, labels)
        total = losses.sum() / fair_count((labels[:, 1:] != IGNORE).sum())
        return Losses(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> list[Prediction]:
        """Write one caption per picture."""
        return [
            Prediction(sample.id, text, best.score, sample.references, {"image": sample.image, **sample.extra})
            for sample, (text, best) in zip(batch.samples, self.write(batch), strict=True)
        ]

    def write(self, batch: Batch) -> list[tuple[str, Hypothesis]]:
        """Write one caption per picture; with each, the tokens it was made of, ``given_ids`` first."""
        assert batch.images is not None
        captions = generate(self.model.decoder, self.memory(batch.images), self.tokenizer, prompt=self.given_ids, **self._search)
        return [(self._behind_prompt(text), best) for text, best in captions]

    def evaluate(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """Describe a whole split, after a look for what the official scorers need.

        Raises:
            EnvironmentProblem: If a score is asked for whose program cannot run here.
        """
        self._not_computed = require(self.settings.official)
        yield from super().evaluate(batches)

    @property
    def given_ids(self) -> list[int]:
        """What the decoder is given to go on from; empty where it begins after [CLS]."""
        return self.prompt_ids[:-1] if self.settings.generate_from == "prompt" else []

    @property
    def _search(self) -> dict[str, int]:
        settings = self.settings
        return {"num_beams": settings.num_beams, "min_length": settings.min_length, "max_length": settings.max_length}

    def _behind_prompt(self, text: str) -> str:
        if self.settings.generate_from == "prompt" or not self.settings.prompt:
            return text
        return text.split(self.settings.prompt)[-1].strip()

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute BLEU-1..4, ROUGE-L and CIDEr, and METEOR and SPICE if wanted, as fractions; ``cider_VALUE`` is that of a kind."""
        described = [one for one in predictions if one.references]
        if not described:
            return {}
        kinds: dict[str, list[Prediction]] = {}
        field = self.settings.score_by
        for one in described:
            if field is not None and field in one.extra:
                kinds.setdefault(str(one.extra[field]), []).append(one)
        official = [name for name in self.settings.official if name not in self._not_computed]
        scores = _scores(described) | official_scores(official, *_texts(described))
        return scores | {f"cider_{kind}": _scores(of_kind)["cider"] for kind, of_kind in sorted(kinds.items())}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark each caption by its own CIDEr, 0 to 10."""
        described = [one for one in predictions if one.references]
        texts = [ptb_tokenise(one.text) for one in described]
        values = iter(cider(texts, [[ptb_tokenise(text) for text in one.references] for one in described])[1] if described else ())
        return Marks("CIDEr", [float(next(values)) if one.references else None for one in predictions], full=None)

    def scorer(self) -> dict[str, str]:
        """Name the scorers, and say of one that was asked for why its score is missing."""
        named = {"tokenizer": "PTB-like, punctuation removed", "cider": "pycocoevalcap's CIDEr, document frequencies of the references"}
        programs = {"meteor": "METEOR 1.5 (Java)", "spice": "SPICE 1.0 (Java)"}
        missing = {name: f"not computed: {reason}" for name, reason in self._not_computed.items()}
        return {**named, **{name: programs[name] for name in self.settings.official}, **missing}


def _texts(described: Sequence[Prediction]) -> tuple[list[str], list[list[str]]]:
    return [one.text for one in described], [list(one.references) for one in described]


def _scores(described: Sequence[Prediction]) -> dict[str, float]:
    return dict(caption_scores(*_texts(described)))
