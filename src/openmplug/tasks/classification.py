"""Classification and regression of pictures, clips, sentences, pairs of sentences, and texts about pictures.

One head reads one class token: of the vision tokens, of the text, or of the fused text. No decoder is built.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Item, Losses, Prediction, Sample
from openmplug.config import Settings
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError, UsageError
from openmplug.metrics.accuracy import accuracy, f1, matthews, pearson, root_mean_square, spearman, top_k_accuracy
from openmplug.models.network import Network
from openmplug.tasks.base import Collator, Task
from openmplug.tasks.decoding import stack_images

MODULES = {"image": ("vision",), "text": ("text",), "image_text": ("vision", "text", "fusion")}
NUMBERS = ("pearson", "spearman", "correlation")
IN_PERCENT = 100.0


class ClassificationSettings(Settings):
    """Settings of classification and regression.

    Args:
        input: What is classified: ``image`` (a clip too), ``text`` (one sentence or two), or ``image_text``, a text about a picture.
        labels: The classes, in the order of the head's outputs; empty takes those of the training data, sorted.
        regression: Learn numbers, by mean squared error, instead of classes.
        number_range: Smallest and largest number; None takes the training data's. Predictions are cut to it.
        metric: The benchmark's score. ``f1_accuracy`` and ``correlation`` are the means of two, as GLUE averages them.
        positive: The class whose F1 counts; empty takes the last of ``labels``.
        majority: The class that guessing would name; empty takes the most frequent of the training data.
        max_text_length: Tokens of a text in training, [CLS] and, between two sentences, [SEP] included; the longer sentence is cut.
        label_smoothing: Share of the probability that the target spreads over all classes.
        mixing: Alpha of mixup and CutMix, one of which is applied to each training batch of pictures; 0 mixes nothing.
        patch_dropout: Share of a picture's patches that training leaves out (not of a clip's): half of them cost half as much.
        frozen: Learn the head alone, on features of a model that stays as it is: a linear probe.
        listed: Most classes whose probabilities a prediction lists.
    """

    input: Literal["image", "text", "image_text"] = "image"
    labels: tuple[str, ...] = ()
    regression: bool = False
    number_range: tuple[float, float] | None = None
    metric: Literal["accuracy", "top5", "mcc", "f1", "f1_accuracy", "pearson", "spearman", "correlation"] = "accuracy"
    positive: str = ""
    majority: str = ""
    max_text_length: int = Field(default=128, ge=4)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixing: float = Field(default=0.0, ge=0)
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    frozen: bool = False
    listed: int = Field(default=10, ge=5)

    @model_validator(mode="after")
    def _agree(self) -> ClassificationSettings:
        if self.regression != (self.metric in NUMBERS):
            fitting = NUMBERS if self.regression else ("accuracy", "top5", "mcc", "f1", "f1_accuracy")
            raise ValueError(f"metric {self.metric} with regression {self.regression}; choose one of {', '.join(fitting)}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {self.labels} name a class twice; name each once")
        if self.positive and self.labels and self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is none of the labels {', '.join(self.labels)}")
        if self.number_range is not None and self.number_range[0] >= self.number_range[1]:
            raise ValueError(f"number_range must be [smallest, largest], got {list(self.number_range)}")
        return self


@dataclass(frozen=True)
class ClassificationCollator:
    """Items to a batch: pictures, texts, and in training each item's class or number."""

    tokenizer: Tokenizer
    settings: ClassificationSettings
    text_length: int
    training: bool

    def __call__(self, items: list[Item]) -> Batch:
        """Stack pictures, tokenise, look classes up.

        Raises:
            DataError: If a sample has no picture or text, or in training no label or an unknown one.
        """
        samples, settings = [item.sample for item in items], self.settings
        images = text = labels = None
        if settings.input != "text":
            if bare := next((item.sample for item in items if item.pixels is None), None):
                raise DataError(f"record {bare.id!r} has no picture, and settings.input is '{settings.input}'; set it to 'text'")
            images = stack_images(items)
        if settings.input != "image":
            if bare := next((sample for sample in samples if not sample.text), None):
                raise DataError(f"record {bare.id!r} has no text, and settings.input is '{settings.input}'; set it to 'image'")
            text = self.tokenizer.pairs([sample.text or "" for sample in samples], self.text_length)
        if self.training:
            labels = torch.tensor([_target(sample, settings) for sample in samples])
        return Batch(samples, images=images, text=text, labels=labels)


def _target(sample: Sample, settings: ClassificationSettings) -> int | float:
    if not sample.targets:
        raise DataError(f"record {sample.id!r} has no label; training needs one for every record")
    label = sample.targets[0]
    if settings.regression:
        low, high = _range(settings)
        return (_number(label, sample.id) - low) / (high - low)
    if label not in settings.labels:
        raise DataError(f"record {sample.id!r} has the label {label!r}, which is none of {_some(settings.labels)}; correct settings.labels")
    return settings.labels.index(label)


def _number(label: str, where: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"record {where!r} has the label {label!r}, expected a number; leave out settings.regression to learn classes")
    return value


def _range(settings: ClassificationSettings) -> tuple[float, float]:
    return settings.number_range or (0.0, 1.0)


def _some(labels: Sequence[str], most: int = 5) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


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
        """Return the number of the head's outputs."""
        return {"classes": 1 if settings.regression else max(len(settings.labels), 1)}

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
                numbers = [_number(label, "with that label") for label in labels]
                given["number_range"] = (min(numbers), max(numbers))
            return given
        given["labels"] = tuple(given.get("labels") or sorted(labels, key=_label_order))
        given["majority"] = given.get("majority") or min(labels, key=lambda label: (-labels[label], label))
        return given

    def collator(self, training: bool) -> Collator:
        """Make the collator; evaluation leaves texts whole, up to the model's positions."""
        positions = self.model.config.max_positions
        limit = min(self.settings.max_text_length, positions) if training else positions
        return ClassificationCollator(self.tokenizer, self.settings, limit, training)

    def states(self, batch: Batch) -> Tensor:
        """Encode a batch to tokens (B, S, D) whose first one stands for the whole."""
        text = batch.text
        vision = None if batch.images is None else self.model.encode_images(batch.images)
        if text is None:
            assert vision is not None and batch.images is not None
            return _first_tokens(vision, batch.images, self.model)
        encoded = self.model.encode_text(text.ids, text.mask)
        return encoded if vision is None else self.model.fuse(vision, encoded, text.mask).text

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
            low, high = _range(settings)
            values = (low + (high - low) * logits[:, 0]).clamp(low, high).tolist()
            return [self._prediction(sample, f"{value:.6g}", value, {}) for sample, value in zip(batch.samples, values, strict=True)]
        best = logits.softmax(dim=1).topk(min(settings.listed, len(settings.labels)), dim=1)
        predictions = []
        for sample, indices, shares in zip(batch.samples, best.indices.tolist(), best.values.tolist(), strict=True):
            listed = {settings.labels[index]: round(share, 6) for index, share in zip(indices, shares, strict=True)}
            predictions.append(self._prediction(sample, settings.labels[indices[0]], shares[0], {"probabilities": listed}))
        return predictions

    def _prediction(self, sample: Sample, text: str, score: float, extra: dict[str, Any]) -> Prediction:
        asked = {name: value for name, value in (("image", sample.image), ("input", sample.text)) if value is not None}
        return Prediction(sample.id, text, score, sample.references, {**asked, **sample.extra, **extra})

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute all scores of the kind in percent, and of classes what naming the majority reaches; errors are in the data's unit."""
        known = [one for one in predictions if one.references]
        if not known:
            return {}
        if self.settings.regression:
            ours, theirs = [one.score for one in known], [_number(one.references[0], one.id) for one in known]
            scores = {"pearson": IN_PERCENT * pearson(ours, theirs), "spearman": IN_PERCENT * spearman(ours, theirs)}
            scores["correlation"] = (scores["pearson"] + scores["spearman"]) / 2
            mean = [sum(theirs) / len(theirs)] * len(theirs)
            return {**scores, "rmse": root_mean_square(ours, theirs), "constant_rmse": root_mean_square(mean, theirs)}
        true = [one.references[0] for one in known]
        named = [one.text for one in known]
        scores = self._class_scores(named, true)
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

    def scorer(self) -> dict[str, str]:
        """Name the scores."""
        if self.settings.regression:
            return {"pearson, spearman": "percent; correlation is their mean, as in GLUE", "constant_rmse": "of naming the split's mean"}
        return {
            "accuracy, f1, mcc": f"percent; f1 of class {self.settings.positive or (self.settings.labels or ('',))[-1]!r}",
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
