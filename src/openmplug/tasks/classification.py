"""Classification and regression of pictures, clips, sentences, pairs of sentences, and texts about pictures.

One head reads one class token: of the vision tokens, of the text, or of the fused text; where a text is about several pictures, that
of each fusion, side by side. No decoder is built.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Losses, Prediction, Sample
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError, UsageError
from openmplug.metrics.accuracy import accuracy, consistency, f1, matthews, pearson, root_mean_square, spearman, top_k_accuracy
from openmplug.models.network import Network
from openmplug.tasks.base import Collator, Task
from openmplug.tasks.classes import ClassificationCollator, ClassificationSettings, number, number_range_of
from openmplug.tasks.decoding import grouped_by_image
from openmplug.tasks.marks import Marks, distance_marks, exact_marks

MODULES = {"image": ("vision",), "text": ("text",), "image_text": ("vision", "text", "fusion")}
IN_PERCENT = 100.0


class ClassificationTask(Task):
    """Name the class, or estimate the number, of a picture, clip, text or pair."""

    Settings = ClassificationSettings
    model_modules = ("vision", "classification")
    metric = "accuracy"
    settings: ClassificationSettings

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: ClassificationSettings, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        if not settings.regression and not settings.labels:
            raise UsageError("settings.labels is empty; name the classes, or build the task from training data, which has them")
        self.metric = settings.metric
        if hasattr(model, "vision"):
            model.vision.patch_dropout = settings.patch_dropout
        if settings.frozen and training:
            model.requires_grad_(False)
            model.classification.requires_grad_(True)

    @classmethod
    def needed_modules(cls, settings: ClassificationSettings) -> tuple[str, ...]:
        """Name the parts that the input needs, and the head."""
        return (*MODULES[settings.input], "classification")

    @classmethod
    def model_sizes(cls, settings: ClassificationSettings) -> dict[str, Any]:
        """Return the number of the head's outputs and, where a text is about several pictures, of the class tokens it reads."""
        sizes = {"classes": 1 if settings.regression else max(len(settings.labels), 1)}
        several = settings.input == "image_text" and settings.images_per_example > 1
        return {**sizes, "class_tokens": settings.images_per_example} if several else sizes

    @classmethod
    def prepared(cls, settings: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
        """Take classes, range and most frequent class from the training data where the settings leave them open.

        Raises:
            DataError: If no record has a label, or a number is none.
        """
        given = dict(settings)
        labels = Counter(sample.targets[0] for sample in samples if sample.targets)
        if not labels:
            raise DataError(f"none of the {len(samples):,} training records has a label; name their column: data.columns={{label: NAME}}")
        if given.get("regression"):
            if given.get("number_range") is None:
                numbers = [number(label, "with that label") for label in labels]
                given["number_range"] = (min(numbers), max(numbers))
            return given
        given["labels"] = tuple(given.get("labels") or sorted(labels, key=_label_order))
        given["majority"] = given.get("majority") or min(labels, key=lambda label: (-labels[label], label))
        return given

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Make one example of every ``texts_per_example`` texts about a picture; where texts alone are read, no picture is decoded."""
        if self.settings.input == "text":
            return [replace(sample, image=None, further_images=(), clip=False) for sample in samples]
        return grouped_by_image(samples, self.settings.texts_per_example)

    def collator(self, training: bool) -> Collator:
        """Make the collator; evaluation leaves texts whole, up to the model's positions."""
        positions = self.model.config.max_positions
        limit = min(self.settings.max_text_length, positions) if training else positions
        return ClassificationCollator(self.tokenizer, self.settings, limit, training)

    def states(self, batch: Batch) -> Tensor:
        """Encode a batch to tokens (B, S, D) whose first one stands for the whole; of K pictures a sample, to (B, 1, K * D)."""
        text = batch.text
        vision = None if batch.images is None else self.model.encode_images(batch.images)
        if text is None:
            assert vision is not None and batch.images is not None
            return _first_tokens(vision, batch.images, self.model)
        encoded = self.model.encode_text(text.ids, text.mask)
        if vision is None:
            return encoded
        each, mask = batch.images_per_sample, text.mask
        if each == 1:
            if (counts := batch.samples_per_image) is not None:
                vision = vision.repeat_interleave(counts, dim=0)
            return self.model.fuse(vision, encoded, mask).text
        # The text is encoded once and fused with each of its pictures; the head tells them apart by their places.
        encoded, mask = encoded.repeat_interleave(each, dim=0), mask.repeat_interleave(each, dim=0)  # (B * K, T, D)
        fused = self.model.fuse(vision, encoded, mask).text[:, 0]  # (B * K, D)
        return fused.unflatten(0, (-1, each)).flatten(1)[:, None]  # (B, 1, K * D)

    def logits(self, batch: Batch) -> Tensor:
        """Compute the head's outputs (B, classes), fp32."""
        if self.settings.frozen:
            with torch.no_grad():
                states = self.states(batch)
        else:
            states = self.states(batch)
        return self.model.classification(states).float()

    def forward(self, batch: Batch) -> Losses:
        """Compute the mean cross-entropy, or the mean squared error in units of the range."""
        labels, settings = batch.labels, self.settings
        assert labels is not None
        if settings.regression:
            total = F.mse_loss(self.logits(batch)[:, 0], labels.float())
        elif settings.mixing > 0 and batch.images is not None and self.training:
            images, others, share = mix_images(batch.images, settings.mixing)
            logits = self.logits(Batch(batch.samples, images=images, text=batch.text))
            ours, theirs = (F.cross_entropy(logits, each, label_smoothing=settings.label_smoothing) for each in (labels, labels[others]))
            total = share * ours + (1 - share) * theirs
        else:
            total = F.cross_entropy(self.logits(batch), labels, label_smoothing=settings.label_smoothing)
        return Losses(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> list[Prediction]:
        """Name each sample's class, with the probabilities of the likeliest, or estimate its number."""
        logits, settings = self.logits(batch), self.settings
        if settings.regression:
            low, high = number_range_of(settings)
            values = (low + (high - low) * logits[:, 0]).clamp(low, high).tolist()
            return [self._prediction(sample, f"{value:.6g}", value, {}) for sample, value in zip(batch.samples, values, strict=True)]
        best = logits.softmax(dim=1).topk(min(settings.listed, len(settings.labels)), dim=1)
        predictions = []
        for sample, indices, shares in zip(batch.samples, best.indices.tolist(), best.values.tolist(), strict=True):
            listed = {settings.labels[index]: round(share, 6) for index, share in zip(indices, shares, strict=True)}
            predictions.append(self._prediction(sample, settings.labels[indices[0]], shares[0], {"probabilities": listed}))
        return predictions

    def _prediction(self, sample: Sample, text: str, score: float, extra: dict[str, Any]) -> Prediction:
        seen = list(sample.pictures) if sample.further_images else sample.image
        asked = {name: value for name, value in (("image", seen), ("input", sample.text)) if value is not None}
        return Prediction(sample.id, text, score, sample.references, {**asked, **sample.extra, **extra})

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute all scores of the kind in percent, and of classes what naming the majority reaches; errors are in the data's unit."""
        known = [one for one in predictions if one.references]
        if not known:
            return {}
        if self.settings.regression:
            ours, theirs = [one.score for one in known], [number(one.references[0], one.id) for one in known]
            scores = {"pearson": IN_PERCENT * pearson(ours, theirs), "spearman": IN_PERCENT * spearman(ours, theirs)}
            scores["correlation"] = (scores["pearson"] + scores["spearman"]) / 2
            mean = [sum(theirs) / len(theirs)] * len(theirs)
            return {**scores, "rmse": root_mean_square(ours, theirs), "constant_rmse": root_mean_square(mean, theirs)}
        true = [one.references[0] for one in known]
        named = [one.text for one in known]
        scores = self._class_scores(named, true)
        field = self.settings.consistency_by
        if field and all(field in one.extra for one in known):
            groups = [str(one.extra[field]) for one in known]
            scores["consistency"] = IN_PERCENT * consistency(named, true, groups)
        if len(self.settings.labels) > 5:
            scores["top5"] = IN_PERCENT * top_k_accuracy([list(one.extra["probabilities"]) for one in known], true, 5)
        if majority := self.settings.majority:
            guessed = self._class_scores([majority] * len(true), true)
            scores |= {f"majority_{name}": value for name, value in guessed.items()}
        return scores

    def _class_scores(self, named: Sequence[str], true: Sequence[str]) -> dict[str, float]:
        labels = self.settings.labels
        scores = {"accuracy": IN_PERCENT * accuracy(named, true)}
        if len(labels) == 2:
            scores["f1"] = IN_PERCENT * f1(named, true, self.settings.positive or labels[-1])
            scores["f1_accuracy"] = (scores["f1"] + scores["accuracy"]) / 2
            scores["mcc"] = IN_PERCENT * matthews(named, true)
        return scores

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark a class by equality, a number by how far it is off."""
        return distance_marks(predictions) if self.settings.regression else exact_marks(predictions, self.settings.labels)

    def scorer(self) -> dict[str, str]:
        """Name the scores."""
        together = self.settings.consistency_by
        if self.settings.regression:
            return {"pearson, spearman": "percent; correlation is their mean, as in GLUE", "constant_rmse": "of naming the split's mean"}
        return {
            "accuracy, f1, mcc": f"percent; f1 of class {self.settings.positive or (self.settings.labels or ('',))[-1]!r}",
            **({"consistency": f"percent of the values of {together!r} whose records are all right"} if together else {}),
            "majority": f"the most frequent class in training, {self.settings.majority!r}, named for every record",
        }


def _label_order(label: str) -> tuple[int, float, str]:
    """Sort whole numbers by value, before names by the alphabet."""
    return (0, int(label), "") if label.lstrip("-").isdecimal() else (1, 0, label)


def _first_tokens(vision: Tensor, images: Tensor, model: Network) -> Tensor:
    """Return tokens that begin with one class token: a family that reads a clip as pictures has one a frame, and they are averaged."""
    each = 1 + (model.config.image_size // model.config.patch_size) ** 2
    if images.ndim == 4 or vision.shape[1] != images.shape[1] * each:
        return vision
    return vision.unflatten(1, (images.shape[1], each))[:, :, 0].mean(dim=1, keepdim=True)


def mix_images(images: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
    """Mix each picture or clip (B, ..., H, W) of a batch with another one: half of the batches by mixup, half by CutMix.

    Args:
        images: (B, 3, H, W) or (B, F, 3, H, W).
        alpha: Of the Beta(alpha, alpha) distribution that the share is drawn from, > 0.

    Returns:
        The mixed pictures, the partners' places (B,), and the share of the first one's label.

    Source: arXiv:1710.09412 (mixup) and arXiv:1905.04899 (CutMix).
    """
    others = torch.randperm(len(images), device=images.device)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if torch.rand(()) < 0.5:
        return share * images + (1 - share) * images[others], others, share
    height, width = images.shape[-2:]
    h, w = (round(side * math.sqrt(1 - share)) for side in (height, width))
    top, left = (int(torch.randint(side - cut + 1, ())) for side, cut in ((height, h), (width, w)))
    mixed = images.clone()
    mixed[..., top : top + h, left : left + w] = images[others][..., top : top + h, left : left + w]
    return mixed, others, 1 - h * w / (height * width)
