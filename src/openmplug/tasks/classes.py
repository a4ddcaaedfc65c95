"""Records to be classified: what may be set, and items to a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from openmplug.batch import Batch, Item, Sample
from openmplug.config import Settings
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError
from openmplug.tasks.decoding import stack_images

NUMBERS = ("pearson", "spearman", "correlation")


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
        images_per_example: Pictures of each record, with ``image_text``: the text is fused with each, and the head reads their class
            tokens side by side, in the record's order.
        texts_per_example: Texts about one picture that are learned together, from one reading and one encoding of it, with ``image_text``.
            The batch then counts pictures.
        consistency_by: A field of the records, such as ``sentence_id``: those with equal values belong together, and ``consistency`` is the
            share of such groups in which every class is right. It is left out where records lack the field.
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
    images_per_example: int = Field(default=1, ge=1)
    texts_per_example: int = Field(default=1, ge=1)
    consistency_by: str = ""
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
        if self.images_per_example > 1 and (self.input == "image" or self.mixing > 0):
            found = f"input '{self.input}' and mixing {self.mixing:g}"
            raise ValueError(f"images_per_example {self.images_per_example} with {found}; set input to 'image_text' and mixing to 0")
        if self.texts_per_example > 1 and (self.input != "image_text" or self.images_per_example > 1):
            found = f"input '{self.input}' and images_per_example {self.images_per_example}"
            raise ValueError(
                f"texts_per_example {self.texts_per_example} with {found}; it takes texts about one picture: 'image_text' and 1"
            )
        if self.consistency_by and self.regression:
            raise ValueError(f"consistency_by {self.consistency_by!r} with regression: only classes are right or wrong; leave one out")
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
            DataError: If a sample has no picture or text, another number of pictures than the settings say, or in training no label or an
                unknown one.
        """
        settings = self.settings
        groups = [item.sample.parts or (item.sample,) for item in items]
        samples = [sample for group in groups for sample in group]
        images = text = labels = None
        if settings.input != "text":
            if bare := next((item.sample for item in items if item.pixels is None), None):
                raise DataError(f"record {bare.id!r} has no picture, and settings.input is '{settings.input}'; set it to 'text'")
            images = _stack(items, settings.images_per_example)
        if settings.input != "image":
            if bare := next((sample for sample in samples if not sample.text), None):
                raise DataError(f"record {bare.id!r} has no text, and settings.input is '{settings.input}'; set it to 'image'")
            text = self.tokenizer.pairs([sample.text or "" for sample in samples], self.text_length)
        if self.training:
            labels = torch.tensor([_target(sample, settings) for sample in samples])
        each = 1 if images is None else settings.images_per_example
        counts = torch.tensor([len(group) for group in groups]) if len(samples) > len(groups) else None
        return Batch(samples, images=images, text=text, labels=labels, images_per_sample=each, samples_per_image=counts)


def _stack(items: Sequence[Item], each: int) -> Tensor:
    """Stack the pictures of all records, those of one record behind each other, to (B * each, C, H, W)."""
    for item in items:
        if (found := 1 + len(item.further_pixels)) != each:
            pictures = "1 picture" if found == 1 else f"{found} pictures"
            raise DataError(f"record {item.sample.id!r} has {pictures}, and settings.images_per_example is {each}; set it to {found}")
    return stack_images([Item(item.sample, pixels) for item in items for pixels in (item.pixels, *item.further_pixels)])


def _target(sample: Sample, settings: ClassificationSettings) -> int | float:
    if not sample.targets:
        raise DataError(f"record {sample.id!r} has no label; training needs one for every record")
    label = sample.targets[0]
    if settings.regression:
        low, high = number_range_of(settings)
        return (number(label, sample.id) - low) / (high - low)
    if label not in settings.labels:
        raise DataError(f"record {sample.id!r} has the label {label!r}, which is none of {_some(settings.labels)}; correct settings.labels")
    return settings.labels.index(label)


def number(label: str, where: str) -> float:
    """Return a label as the number it is.

    Raises:
        DataError: If it is none; ``where`` is the record's id.
    """
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"record {where!r} has the label {label!r}, expected a number; leave out settings.regression to learn classes")
    return value


def number_range_of(settings: ClassificationSettings) -> tuple[float, float]:
    """Return the smallest and largest number, 0 and 1 where nothing is known."""
    return settings.number_range or (0.0, 1.0)


def _some(labels: Sequence[str], most: int = 5) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
