"""Pre-training: contrastive, matching, masked words, continuation of a prefix, description on instruction.

What one objective computed the next one reuses. The plan of a step on B pictures or clips with a text each, all objectives on and the
twin teaching:

============  =======  ====  ===============================================================================================
part          student  twin  of what
============  =======  ====  ===============================================================================================
vision        1        1     the pictures, for all objectives
text encoder  2        2     whole texts (contrastive, matching); what is masked, cut and asked, in one call
fusion        2        1     each picture with its text, a wrong text, and what is masked, cut and asked, in one call that
                             projects its keys and values once; and each text with a wrong picture
decoder       2        2     continuations of prefixes; descriptions on instruction
============  =======  ====  ===============================================================================================

Words alone (mPLUG-2's text corpora) are masked and continued, without fusion. Questions about pictures are answered as task ``vqa`` does,
and nothing else: a question describes no picture.

Sources: arXiv:2205.12005, arXiv:2302.00402. No release holds a pre-training script for pictures; what the papers leave open is chosen
here and listed in docs/deviations.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Losses, Prediction, Sample, Tokens
from openmplug.data.sources import asks
from openmplug.distributed import fair_count
from openmplug.errors import UsageError
from openmplug.models.fusion import Fused
from openmplug.objectives.itm import matching_loss
from openmplug.objectives.language import distilled_losses
from openmplug.tasks.alignment import Aligned, AlignmentSettings, AlignmentTask, frames_of, fuse_together
from openmplug.tasks.base import Collator
from openmplug.tasks.decoding import answer_losses, grouped_by_image, memory_of_rows, question_memory
from openmplug.tasks.marks import Marks, marks_by
from openmplug.tasks.pretrain_batches import PretrainCollator
from openmplug.tasks.pretrain_scores import SCORES, Counts, Said, count_said, pretraining_scores, share_right
from openmplug.tasks.readings import (
    Encoded,
    Reading,
    Readings,
    encode_readings,
    instruction_reading,
    masked_reading,
    prefix_reading,
    spoken,
)
from openmplug.tasks.vqa import VQACollator


class PretrainSettings(AlignmentSettings):
    """Settings of pre-training, besides those of ``AlignmentSettings``. An objective of weight 0 is not computed, its parts not built.

    Args:
        itc: Weight of the contrastive loss. The papers sum all objectives with weight 1.
        itm: Weight of the matching loss.
        mlm: Weight of masked words.
        prefix: Weight of the continuation of a prefix (mPLUG's PrefixLM).
        instruction: Weight of describing on an instruction (mPLUG-2's instruction-based language loss).
        answer: Weight of answering the questions of records that ask one about a picture or clip; a source or data set of their own.
        questions_per_example: Questions about one picture that are learned together.
        max_question_length: Tokens of a question in training, [CLS] included; the rest is cut off.
        instructions: What is asked of a picture; one is drawn for each batch. ``{kind}`` becomes "image" or "video". The papers print
            one, in mPLUG-2's first figure.
        fused_captions: Of a picture's ``captions_per_example``, how many are drawn to be masked, cut and asked for; one of them is matched.
            The tower is most of a step at small sizes: more words for the same picture cost little there.
        share: Of the words that are masked.
        distill: Let the twin teach masked words and what is written too, with weight ``alpha``: it then has a fusion and a decoder.
        per_token: Average the loss of what is written over its tokens. As released it is summed over a text's tokens and averaged over
            texts.
        universal: Whether mPLUG-2's universal layers take part in the masked words of texts alone; the original's leave them out.
        max_words: Words kept of a caption.
        max_text_length: Tokens of a text without picture, [CLS] included; the rest is cut off.
    """

    itc: float = Field(default=1.0, gt=0)
    itm: float = Field(default=1.0, ge=0)
    mlm: float = Field(default=1.0, ge=0)
    prefix: float = Field(default=1.0, ge=0)
    instruction: float = Field(default=0.0, ge=0)
    answer: float = Field(default=0.0, ge=0)
    questions_per_example: int = Field(default=1, ge=1)
    max_question_length: int = Field(default=25, ge=2)
    instructions: tuple[str, ...] = Field(default=("what does the {kind} describe?",), min_length=1)
    fused_captions: int = Field(default=1, ge=1)
    share: float = Field(default=0.15, gt=0, lt=1)
    distill: bool = True
    per_token: bool = False
    universal: bool = False
    max_words: int = Field(default=30, ge=1)
    max_text_length: int = Field(default=128, ge=2)
    temperature_range: tuple[float, float] | None = (0.001, 0.5)

    @model_validator(mode="after")
    def _says_something(self) -> PretrainSettings:
        if empty := [text for text in self.instructions if not text.strip()]:
            raise ValueError(f"instruction {empty[0]!r} is empty; say what is asked of a picture, or give settings.instruction no weight")
        return self

    @property
    def writes(self) -> bool:
        """Whether the decoder learns to write about pictures."""
        return self.prefix > 0 or self.instruction > 0


class PretrainTask(AlignmentTask):
    """All objectives of both papers, on pictures, clips and words."""

    Settings = PretrainSettings
    model_modules = ("vision", "text", "contrastive", "fusion", "matching", "language", "decoder")
    metric = "mean_accuracy"
    learns_targets = False
    settings: PretrainSettings

    @classmethod
    def needed_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts of the model; objectives of weight 0 need none."""
        wanted = {"vision", "text", "contrastive"}
        wanted |= {"fusion", "matching"} if settings.itm else set()
        wanted |= {"fusion", "language"} if settings.mlm else set()
        wanted |= {"fusion", "decoder"} if settings.writes or settings.answer else set()
        return tuple(name for name in cls.model_modules if name in wanted)

    @classmethod
    def twin_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts that have a slowly moving copy: what it takes to teach."""
        if not settings.distill or not (settings.mlm or settings.writes):
            return super().twin_modules(settings)
        return tuple(name for name in cls.needed_modules(settings) if name != "matching")

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Make one example of every ``captions_per_example`` captions of a picture, of its questions likewise, and one of each text alone.

        Raises:
            UsageError: If a record asks a question about a picture and answers have no weight.
        """
        asking = [sample for sample in samples if asks(sample)]
        if asking and not self.settings.answer:
            raise UsageError(
                f"record '{asking[0].id}' asks a question about a picture; give settings.answer a weight, or captions, or texts alone"
            )
        described = [sample for sample in samples if sample.image is not None and not asks(sample)]
        alone = [sample for sample in samples if sample.image is None]
        texts = [replace(sample, text=text) for sample in alone for text in ((sample.text,) if sample.text else sample.targets)]
        return [*super().examples(described), *grouped_by_image(asking, self.settings.questions_per_example), *texts]

    def collator(self, training: bool) -> Collator:
        """Make the collator; evaluation reads a record's first caption."""
        settings, longest = self.settings, self.model.config.max_positions - 1  # a continuation has [SEP] besides
        words_length = min(settings.max_text_length, longest)
        asked = min(settings.max_question_length, longest + 1) if training else longest + 1
        questions = VQACollator(self.tokenizer, asked, longest + 2, training=True)
        return PretrainCollator(self.tokenizer, settings.max_words, longest, words_length, settings.instructions, questions)

    # --------------------------------------------------------------------------------------------------------------- training

    def forward(self, batch: Batch) -> Losses:
        """Compute every objective of weight above 0."""
        assert batch.text is not None
        if batch.targets_per_item is not None:
            return self._answers(batch)
        if batch.images is None:
            return self._words_alone(batch.text)
        aligned = self.align(batch, batch.text.ids)
        chosen = self.some_texts(aligned, batch.samples_per_image, self.settings.fused_captions)
        readings = self._readings(Tokens(batch.text.ids[chosen.rows], chosen.mask), batch.targets)
        texts = encode_readings(self.model, readings)
        losses = {"itc": aligned.loss}
        if self.settings.itm:
            matched = chosen.take(torch.arange(0, len(chosen.rows), self.settings.fused_captions, device=chosen.rows.device))
            fused, losses["itm"] = self._match_and_fuse(matched, texts)
        else:
            fused = fuse_together(self.model, chosen.vision, texts)
        taught = self._taught(chosen, readings)
        for name, reading in readings.items():
            losses[name] = self._language_loss(name, reading, spoken(self.model, reading, fused[name]), taught.get(name))
        return self._sum(losses)

    def _readings(self, text: Tokens, instructions: Tokens | None, seeds: Sequence[str] | None = None) -> Readings:
        """Draw what each language objective reads of texts (B, T); with seeds, one per text, it is the same each time."""
        settings, device = self.settings, text.ids.device
        readings: dict[str, Reading] = {}
        if settings.mlm:
            readings["mlm"] = masked_reading(text, self.tokenizer, settings.share, seeds)
        if settings.prefix:
            share = torch.rand(len(text.ids), device=device) if seeds is None else torch.full((len(text.ids),), 0.5, device=device)
            readings["prefix"] = prefix_reading(text, self.tokenizer, share)
        if settings.instruction and instructions is not None:
            row = int(torch.randint(len(instructions.ids), ())) if seeds is None else 0
            asked = Tokens(instructions.ids[row : row + 1], instructions.mask[row : row + 1])
            readings["instruction"] = instruction_reading(text, self.tokenizer, asked)
        return readings

    def _match_and_fuse(self, matched: Aligned, texts: dict[str, Encoded]) -> tuple[dict[str, Fused], Tensor]:
        """Fuse every text of each picture in one call, and each text with a wrong picture; the matching loss comes with it."""
        negatives = self.draw_negatives(matched)
        pairs = {"own": (matched.text, matched.mask), "wrong text": (matched.text[negatives.texts], matched.mask[negatives.texts])}
        fused = fuse_together(self.model, matched.vision, {**pairs, **texts})
        wrong_picture = self.model.fuse(matched.vision[negatives.images], matched.text, matched.mask)
        ordered = (fused["own"], wrong_picture, fused["wrong text"])
        return fused, matching_loss(torch.cat([self.model.matching(pair.text) for pair in ordered]))

    @torch.no_grad()
    def _taught(self, chosen: Aligned, readings: Readings) -> dict[str, Tensor]:
        """Return the twin's logits (W, vocab) at the places to be learned; of nothing where it does not teach."""
        if self.twin is None or not self.settings.distill or self._alpha == 0:
            return {}
        assert chosen.twin_vision is not None
        twin = self.twin.model
        fused = fuse_together(twin, chosen.twin_vision, encode_readings(twin, readings))
        return {name: spoken(twin, reading, fused[name]) for name, reading in readings.items()}

    def _language_loss(self, name: str, reading: Reading, logits: Tensor, taught: Tensor | None = None) -> Tensor:
        losses = distilled_losses(logits, reading.answers, taught, self._alpha)
        by_token = self.settings.per_token or name == "mlm"
        return losses.sum() / (fair_count(losses.new_tensor(max(len(losses), 1))) if by_token else len(reading.ids))

    def _answers(self, batch: Batch) -> Losses:
        """Answer questions about pictures; summed over an answer's tokens and averaged over questions, unless ``per_token``."""
        assert batch.targets is not None and batch.target_weights is not None
        losses, _ = answer_losses(self.model, batch)
        learned = batch.targets.mask[:, 1:].sum() if self.settings.per_token else losses.new_tensor(len(batch))
        return self._sum({"answer": (losses * batch.target_weights).sum() / fair_count(learned.to(losses.dtype))})

    def _words_alone(self, text: Tokens) -> Losses:
        losses = {name: self._language_loss(name, reading, logits) for name, (reading, logits) in self._spoken_alone(text).items()}
        if not losses:
            raise UsageError("texts without pictures teach masked words and continuations; give settings.mlm or settings.prefix a weight")
        summed = self._sum(losses)
        return Losses(summed.total, {f"text_{name}": loss for name, loss in summed.parts.items()})

    def _spoken_alone(self, text: Tokens, seeds: Sequence[str] | None = None) -> dict[str, tuple[Reading, Tensor]]:
        """Read texts (B, T) without pictures and compute logits at the wanted places; the decoder attends to words only."""
        result = {}
        for name, reading in self._readings(text, None, seeds).items():
            encode = self.model.text if name == "mlm" and not self.settings.universal else self.model.encode_text
            states = encode(reading.ids, reading.mask)
            result[name] = reading, spoken(self.model, reading, Fused(states[:, :0], states))
        return result

    def _sum(self, losses: dict[str, Tensor]) -> Losses:
        total = torch.stack([getattr(self.settings, name) * loss for name, loss in losses.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in losses.items()})

    # ------------------------------------------------------------------------------------------------------------- evaluation

    def predict(self, batch: Batch) -> list[Prediction]:
        """Measure every objective; what is masked and cut follows from the record, contrast and matching from who else is in the batch."""
        assert batch.text is not None
        seeds = [sample.id for sample in batch.samples]
        counts: list[Counts] = [{} for _ in batch.samples]
        if batch.targets_per_item is not None:
            said = {"answer": self._answered(batch)}
        elif batch.images is None:
            said = {name: Said.of(*spoken) for name, spoken in self._spoken_alone(batch.text, seeds).items()}
        else:
            vision = self.model.encode_images(batch.images)
            text = self.model.encode_text(batch.text.ids, batch.text.mask)
            self._count_pairs(vision, text, batch, counts)
            readings = self._readings(batch.text, batch.targets, seeds)
            fused = fuse_together(self.model, vision, encode_readings(self.model, readings))
            said = {name: Said.of(reading, spoken(self.model, reading, fused[name])) for name, reading in readings.items()}
        for name, one in said.items():
            count_said(name, one, counts)
        return [
            Prediction(sample.id, sample.text or "", -sum(loss for *_, loss in kept.values()), sample.references, _told(sample, kept))
            for sample, kept in zip(batch.samples, counts, strict=True)
        ]

    def _answered(self, batch: Batch) -> Said:
        """Compute the logits of each next piece of the answers to each question."""
        assert batch.targets is not None and batch.targets_per_item is not None
        memory = memory_of_rows(question_memory(self.model, batch), batch.targets_per_item)
        hidden = self.model.decoder.hidden(batch.targets.ids[:, :-1], batch.targets.mask[:, :-1], memory)
        wanted = batch.targets.mask[:, 1:]
        owners = torch.arange(len(batch.targets_per_item), device=wanted.device).repeat_interleave(batch.targets_per_item)
        return Said(owners[wanted.nonzero()[:, 0]], batch.targets.ids[:, 1:][wanted], self.model.decoder.logits(hidden[wanted]))

    def _count_pairs(self, vision: Tensor, text: Tensor, batch: Batch, counts: list[Counts]) -> None:
        """Count for each record: asked, found, loss of finding its text and its picture in the batch; of telling right pairs from wrong."""
        assert batch.images is not None and batch.text is not None and batch.image_index is not None
        similarity = self.model.vision_features(vision, frames_of(batch.images)) @ self.model.contrastive.text_features(text).T
        similarity = similarity.float() / self.model.contrastive.temperature
        same = batch.image_index[:, None] == batch.image_index[None]
        lost = -(similarity.log_softmax(dim=1).diagonal() + similarity.log_softmax(dim=0).diagonal())
        found = [same.gather(1, table.argmax(dim=1)[:, None])[:, 0].int() for table in (similarity, similarity.T)]
        for kept, hits, loss in zip(counts, (found[0] + found[1]).tolist(), lost.tolist(), strict=True):
            kept["itc"] = 2, hits, loss
        if not self.settings.itm or bool(same.all()):
            return
        wrong = similarity.masked_fill(same, -math.inf).argmax(dim=1)  # the most similar wrong text
        mask = batch.text.mask
        fused = fuse_together(self.model, vision, {"own": (text, mask), "wrong": (text[wrong], mask[wrong])})
        logits = torch.stack([self.model.matching(fused[name].text).float() for name in ("own", "wrong")], dim=1)  # (B, 2, 2)
        labels = torch.tensor([1, 0], device=logits.device).expand(len(logits), -1)
        told = (logits.argmax(dim=2) == labels).sum(dim=1).tolist()
        lost = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(-1, 2).sum(dim=1)
        for kept, hits, loss in zip(counts, told, lost.tolist(), strict=True):
            kept["itm"] = 2, hits, loss

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute the share that is right of each objective in percent, the perplexity of words, and the mean of the shares."""
        return pretraining_scores(predictions, self.metric)

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark each record by the share of all it was asked that was right."""
        return marks_by("right of what was asked", share_right, predictions, full=None)

    def scorer(self) -> dict[str, str]:
        """Name the scores."""
        return dict(SCORES)


def _told(sample: Sample, kept: Counts) -> dict[str, Any]:
    return {"image": sample.image, **sample.extra, **kept}
