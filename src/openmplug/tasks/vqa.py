"""Visual question answering: an open answer written by the decoder, or a ranking of given answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, model_validator

from openmplug.batch import Batch, Item, Losses, Prediction, Sample
from openmplug.config import Settings
from openmplug.data.text import ocr_words, question_with_context, target_text
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError
from openmplug.metrics.vqa import exact_match, vqa_accuracy
from openmplug.models.decoder import DecoderMemory
from openmplug.models.generation import Hypothesis
from openmplug.models.momentum import MomentumTwin
from openmplug.models.network import Network
from openmplug.models.ranking import AnswerTrie, Ranking, rank_with_trie
from openmplug.objectives.language import soft_token_losses, text_labels
from openmplug.tasks.base import Collator, Progress, Task
from openmplug.tasks.decoding import (
    answer_losses,
    check_generation,
    generate,
    grouped_by_image,
    memory_of_rows,
    question_memory,
    stack_images,
)
from openmplug.tasks.marks import Marks, marks_by


class VQASettings(Settings):
    """Settings of visual question answering; defaults are the released scripts'.

    Args:
        inference: ``generate`` writes the answer, ``rank`` chooses among ``answers``.
        num_beams: Beams of the search.
        min_length: Fewest new tokens, the end token among them.
        max_length: Most new tokens.
        questions_per_example: Questions about one picture that are learned together. The original takes 1. With more, a picture is
            read, augmented and encoded once for all of them: the tower is most of a training step. The batch counts pictures.
        max_question_length: Tokens of a question in training, [CLS] included; evaluation cuts only at the model's positions. The
            original takes 80 where words and objects of the picture stand behind the question.
        add_ocr: Append the words that were read in the picture, which a record has as ``ocr``: pairs of a position and a word.
        add_object: Append the objects that were found in it, which a record has as ``object_label``: names joined by ``&&``.
        answers: Candidates for ``rank``; empty means every answer of the training data.
        k_test: Candidates whose whole text is scored, chosen by their first token.
        metric: ``vqa`` is the official leave-one-out accuracy, ``exact_match`` compares whole strings.
        score_by: A field of the records (such as ``kind`` or ``answer_type``): the accuracy is also given for each of its values.
        distill: Keep a momentum twin. As in the original this alone does not change the loss.
        distillation_alpha: Weight of the twin's soft labels; the original passes none, so 0.
    """

    inference: Literal["generate", "rank"] = "generate"
    num_beams: int = Field(default=5, ge=1)
    min_length: int = Field(default=1, ge=0)
    max_length: int = Field(default=10, ge=1)
    questions_per_example: int = Field(default=1, ge=1)
    max_question_length: int = Field(default=25, ge=2)
    add_ocr: bool = False
    add_object: bool = False
    answers: tuple[str, ...] = ()
    k_test: int = Field(default=128, ge=1)
    metric: Literal["vqa", "exact_match"] = "vqa"
    score_by: str | None = None
    distill: bool = False
    distillation_alpha: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _lengths(self) -> VQASettings:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}; lower min_length")
        return self


@dataclass(frozen=True)
class VQACollator:
    """Items to a batch: pictures, questions, and in training the flattened answers with their weights."""

    tokenizer: Tokenizer
    question_length: int
    answer_length: int
    training: bool
    add_ocr: bool = False
    add_object: bool = False

    def __call__(self, items: list[Item]) -> Batch:
        """Stack pictures and tokenise.

        Raises:
            DataError: If a sample has no question, or in training no answer or one longer than the model's positions.
        """
        groups = [item.sample.parts or (item.sample,) for item in items]
        samples = [sample for group in groups for sample in group]
        for sample in samples:
            if not sample.text:
                raise DataError(f"record {sample.id!r} has no question; every record of a question-answering task needs one")
            if self.training and not sample.targets:
                raise DataError(f"record {sample.id!r} has no answer; training needs one for every question")
        questions = self.tokenizer([self._asked(sample) for sample in samples], max_length=self.question_length)
        counts = torch.tensor([len(group) for group in groups]) if len(samples) > len(groups) else None
        pixels = stack_images(items) if any(item.pixels is not None for item in items) else None
        batch = Batch(samples, images=pixels, text=questions, samples_per_image=counts)
        if not self.training:
            return batch
        answers = [target_text(answer) for sample in samples for answer in sample.targets]
        weights = [weight for sample in samples for weight in (sample.weights or (1.0,) * len(sample.targets))]
        targets = self.tokenizer(answers)
        if targets.ids.shape[1] > self.answer_length:
            longest = int(targets.mask.sum(dim=1).argmax())
            owner = [sample for sample in samples for _ in sample.targets][longest]
            raise DataError(
                f"record {owner.id!r} has an answer of {targets.ids.shape[1]} tokens, the model has positions for {self.answer_length};"
                " shorten it or raise model.max_positions"
            )
        return replace(
            batch,
            targets=targets,
            target_weights=torch.tensor(weights),
            targets_per_item=torch.tensor([len(sample.targets) for sample in samples]),
        )

    def _asked(self, sample: Sample) -> str:
        words, objects = ocr_words(sample.extra), sample.extra.get("object_label")
        return question_with_context(sample.text or "", words, objects, self.add_ocr, self.add_object)


class VQATask(Task):
    """Answer questions about pictures. Source: ``model_vqa_mplug.py`` of the original."""

    Settings = VQASettings
    model_modules = ("vision", "text", "fusion", "decoder")
    metric = "accuracy"
    settings: VQASettings

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: VQASettings, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        check_generation(model.config, settings.num_beams, settings.max_length)
        self._trie: tuple[tuple[str, ...], AnswerTrie] | None = None
        self.twin: MomentumTwin | None = None
        if training and (settings.distill or settings.distillation_alpha > 0):
            # The original never pairs its fusion twin, so it stays as it was copied.
            self.twin = MomentumTwin(model, paired=("vision", "text", "decoder"), unpaired=("fusion",))

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Make one example of every ``questions_per_example`` questions about a picture.

        For ranking, the training answers become the candidates unless some are given.

        Raises:
            DataError: If what is to stand behind the questions is in no record.
        """
        for wanted, column in (("add_ocr", "ocr"), ("add_object", "object_label")):
            if getattr(self.settings, wanted) and not any(column in sample.extra for sample in samples):
                raise DataError(
                    f"settings.{wanted} is on, and none of the {len(samples):,} training records has '{column}'; "
                    f"take data that has it, such as the lists of data.reader=mplug_vqa, or set settings.{wanted}=false"
                )
        if self.settings.inference == "rank" and not self.settings.answers:
            seen = dict.fromkeys(answer for sample in samples for answer in sample.targets)
            self.settings = self.settings.model_copy(update={"answers": tuple(seen)})
        return grouped_by_image(samples, self.settings.questions_per_example)

    def collator(self, training: bool) -> Collator:
        """Make the collator; evaluation leaves questions whole as the original does, up to the model's positions."""
        positions = self.model.config.max_positions
        limit = min(self.settings.max_question_length, positions) if training else positions
        return VQACollator(self.tokenizer, limit, positions + 1, training, self.settings.add_ocr, self.settings.add_object)

    def begin_step(self, progress: Progress) -> None:
        """Move the twin; the original does so in every forward."""
        if self.twin is not None:
            self.twin.update(self.model)

    def forward(self, batch: Batch) -> Losses:
        """Compute sum over answers of weight * cross-entropy, divided by the number of questions (not of answers or tokens)."""
        assert batch.targets is not None and batch.target_weights is not None and batch.targets_per_item is not None
        losses, memory = answer_losses(self.model, batch)
        alpha = self.settings.distillation_alpha
        if self.twin is not None and alpha > 0:
            with torch.no_grad():
                teacher = memory_of_rows(question_memory(self.twin.model, batch), batch.targets_per_item)
                soft = self.twin.model.decoder(batch.targets.ids, batch.targets.mask, teacher)[:, :-1].float().softmax(dim=-1)
            labels = text_labels(batch.targets.ids, batch.targets.mask)
            logits = self.model.decoder(batch.targets.ids, batch.targets.mask, memory)
            losses = (1 - alpha) * losses + alpha * soft_token_losses(logits, labels, soft).sum(dim=1)
        total = (losses * batch.target_weights).sum() / len(batch)
        return Losses(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> list[Prediction]:
        """Answer each question."""
        if self.settings.inference == "rank":
            return self._rank(batch, question_memory(self.model, batch))
        return [_prediction(sample, text, best.score) for sample, (text, best) in zip(batch.samples, self.write(batch), strict=True)]

    def write(self, batch: Batch) -> list[tuple[str, Hypothesis]]:
        """Write one answer per question; with each, the tokens it was made of."""
        settings = self.settings
        return generate(
            self.model.decoder,
            question_memory(self.model, batch),
            self.tokenizer,
            num_beams=settings.num_beams,
            min_length=settings.min_length,
            max_length=settings.max_length,
        )

    def rank(self, batch: Batch) -> Ranking:
        """Rank ``settings.answers`` for each question.

        Raises:
            DataError: If there are none.
        """
        return self._ranking(question_memory(self.model, batch))

    def _ranking(self, memory: DecoderMemory) -> Ranking:
        answers = self.settings.answers
        if not answers:
            raise DataError("settings.inference is 'rank' but there are no answers to rank; give settings.answers")
        if self._trie is None or self._trie[0] is not answers:  # built once for all batches
            tokens = self.tokenizer([target_text(answer) for answer in answers])
            self._trie = answers, AnswerTrie(tokens.ids, tokens.mask).to(memory.layers[0].keys.device)
        return rank_with_trie(self.model.decoder, memory, self._trie[1], k=min(self.settings.k_test, len(answers)))

    def _rank(self, batch: Batch, memory: DecoderMemory) -> list[Prediction]:
        ranking, answers = self._ranking(memory), self.settings.answers
        best, probability = ranking.indices[:, 0].tolist(), ranking.probabilities[:, 0].tolist()
        return [_prediction(sample, answers[i], p) for sample, i, p in zip(batch.samples, best, probability, strict=True)]

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute the accuracies in percent; ``accuracy`` is the one ``settings.metric`` names, ``accuracy_VALUE`` that of a kind."""
        answered = [one for one in predictions if one.references]
        if not answered:
            return {}
        official = [100.0 * vqa_accuracy(one.text, one.references) for one in answered]
        exact = [100.0 * exact_match(one.text, one.references) for one in answered]
        chosen = official if self.settings.metric == "vqa" else exact
        scores = {"accuracy": _mean(chosen), "vqa_accuracy": _mean(official), "exact_match": _mean(exact)}
        kinds: dict[str, list[float]] = {}
        for one, value in zip(answered, chosen, strict=True):
            if self.settings.score_by is not None and self.settings.score_by in one.extra:
                kinds.setdefault(str(one.extra[self.settings.score_by]), []).append(value)
        return scores | {f"accuracy_{kind}": _mean(values) for kind, values in sorted(kinds.items())}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark each answer by the accuracy that ``settings.metric`` names, 0 to 1."""
        name, worth = ("VQA accuracy", vqa_accuracy) if self.settings.metric == "vqa" else ("exact match", exact_match)
        return marks_by(name, lambda one: worth(one.text, one.references), predictions)

    def scorer(self) -> dict[str, str]:
        """Name the scorers."""
        return {
            "accuracy": self.settings.metric,
            "vqa_accuracy": "VQA v2: mean over leave-one-out annotators of min(matches / 3, 1), official normalisation, percent",
            "exact_match": "the answer equals an annotator's string, percent",
        }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _prediction(sample: Sample, text: str, score: float) -> Prediction:
    extra = {"image": sample.image, "question": sample.text, **sample.extra}
    return Prediction(sample.id, text, score, sample.references, extra)
