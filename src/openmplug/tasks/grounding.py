"""Where a phrase is: the decoder writes four coordinates as words. Source: ``model_grounding_mplug.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Item, Losses, Placement, Prediction, Sample
from openmplug.config import Settings
from openmplug.data.box_transforms import BoxSettings, EvalBoxes, TrainBoxes, to_picture
from openmplug.data.loading import SampleTransform
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.errors import DataError, ModelError
from openmplug.metrics.boxes import intersection_over_union
from openmplug.models.decoder import DecoderMemory, TextDecoder
from openmplug.models.network import Network
from openmplug.objectives.boxes import BINS, box_tokens, cxcywh_to_xyxy, grounding_loss, near_bins, paired_grounding_loss, tokens_to_boxes
from openmplug.tasks.base import Collator, Task
from openmplug.tasks.decoding import grouped_by_image, stack_images
from openmplug.tasks.marks import Marks, overlap_marks

FIRST_BIN, PREFIX = "[unused340]", "[unused339]"
BOX_WORDS = tuple(f"[unused{number}]" for number in range(339, 340 + BINS + 1))
GOOD_OVERLAP = 0.5


class GroundingSettings(Settings):
    """Settings of grounding; defaults are the released scripts'.

    Args:
        max_text_length: Tokens of a phrase, [CLS] and [SEP] included; longer ones are cut.
        prefix_id: The word that begins a box; None = the id of ``[unused339]``.
        first_bin_id: The word of coordinate 0, the other 336 follow; None = the id of ``[unused340]``.
        loss: ``original`` weighs the cross-entropy of the four words by how far the box is off, and each sample's by all samples' errors
            (``objectives.boxes.grounding_loss``), as released. ``paired`` weighs it by the sample's own error, the formula that must have
            been meant. ``cross_entropy`` weighs nothing. Both weights vanish as boxes come near, and with them the gradient: enough for a
            pre-trained model, while one that is trained from scratch comes to a halt.
        spread: With ``cross_entropy``, coordinates near the true one count too: the standard deviation, in bins of 1/336, of the normal
            distribution that is the target. A word knows nothing of its neighbours; from scratch on few boxes it has to be told. 0 = none.
        phrases_per_example: Phrases about one picture that are learned together, from one reading and one encoding of it. The original
            takes 1. The batch counts pictures.
        score_by: A field of the records: the accuracy is also given for each of its values.
        boxes: How pictures and boxes are transformed.
    """

    max_text_length: int = Field(default=20, ge=3)
    prefix_id: int | None = None
    first_bin_id: int | None = None
    loss: Literal["original", "paired", "cross_entropy"] = "original"
    spread: float = Field(default=0.0, ge=0)
    phrases_per_example: int = Field(default=1, ge=1)
    score_by: str | None = None
    boxes: BoxSettings = BoxSettings()

    @model_validator(mode="after")
    def _agree(self) -> GroundingSettings:
        if self.spread and self.loss != "cross_entropy":
            raise ValueError(f"spread {self.spread} has no meaning with loss {self.loss}; set loss to cross_entropy, or leave spread out")
        return self


@dataclass(frozen=True, slots=True)
class BoxWords:
    """The ids that stand for coordinates: the prefix, and the first of 337 bins in a row."""

    prefix: int
    first: int

    @classmethod
    def of(cls, settings: GroundingSettings, tokenizer: Tokenizer) -> BoxWords:
        """Find the ids in the settings or the vocabulary.

        Raises:
            ModelError: If the vocabulary has no such words.
        """
        ids = [settings.prefix_id, settings.first_bin_id]
        for place, word in enumerate((PREFIX, FIRST_BIN)):
            if ids[place] is None:
                ids[place] = tokenizer.token_to_id(word)
        prefix, first = ids
        if prefix is None or first is None or first + BINS >= tokenizer.vocab_size:
            raise ModelError(f"the vocabulary has no {PREFIX} and {BINS + 1} words from {FIRST_BIN} on, with which boxes are written")
        return cls(prefix, first)


def locate(model: Network, images: Tensor, ids: Tensor, mask: Tensor, words: BoxWords) -> tuple[Tensor, Tensor]:
    """Write the box of each phrase greedily.

    Args:
        model: With vision, text, fusion and decoder, in eval mode.
        images: (B, 3, H, W).
        ids: Phrases (B, T).
        mask: (B, T) bool.
        words: Ids of the coordinates.

    Returns:
        Boxes (B, 4), cxcywh from 0 to 1 of the square, and the probability of each (B,).
    """
    memory = model.answer_memory(images, ids, mask)
    state = model.decoder.start(memory, len(images), 4)
    new = torch.full((len(images), 1), words.prefix, device=images.device)
    chosen, scores = [], torch.zeros(len(images), device=images.device)
    for _ in range(4):
        # Only coordinates may be written; the original adds -10000 to every other word.
        logits = _of_bins(model.decoder, model.decoder.step(new, state)[:, -1], words)
        best = logits.log_softmax(dim=1).max(dim=1)
        new, scores = best.indices[:, None] + words.first, scores + best.values
        chosen.append(new)
    return tokens_to_boxes(torch.cat(chosen, dim=1), words.first), scores.exp()


def coordinate_logits(decoder: TextDecoder, memory: DecoderMemory, tokens: Tensor, words: BoxWords) -> Tensor:
    """Score the 337 coordinates at each of the four places, given the true ones before it.

    Args:
        decoder: The decoder.
        memory: Of B pictures with their phrases.
        tokens: True boxes as ids (B, 4).
        words: Ids of the coordinates.

    Returns:
        (B, 4, 337) fp32.
    """
    inputs = torch.cat([torch.full_like(tokens[:, :1], words.prefix), tokens[:, :-1]], dim=1)
    hidden = decoder.hidden(inputs, torch.ones_like(inputs, dtype=torch.bool), memory)
    return _of_bins(decoder, hidden, words)


def _of_bins(decoder: TextDecoder, hidden: Tensor, words: BoxWords) -> Tensor:
    return decoder.logits_between(hidden, words.first, words.first + BINS + 1)


@dataclass(frozen=True)
class GroundingCollator:
    """Items to a batch: pictures, phrases, boxes where they are known, and the way back to the pictures."""

    tokenizer: Tokenizer
    phrase_length: int
    training: bool

    def __call__(self, items: list[Item]) -> Batch:
        """Stack pictures and tokenise phrases.

        Raises:
            DataError: If a sample has no phrase or no picture.
        """
        groups = [item.sample.parts or (item.sample,) for item in items]
        samples = [sample for group in groups for sample in group]
        for sample in samples:
            if not sample.text or sample.image is None:
                raise DataError(f"record {sample.id!r} has no {'picture' if sample.text else 'phrase'}; grounding needs both")
        boxes = [box for item in items for box in item.boxes]
        return Batch(
            samples,
            images=stack_images(items),
            text=self.tokenizer.encode_phrases([sample.text or "" for sample in samples], self.phrase_length),
            samples_per_image=torch.tensor([len(group) for group in groups]) if len(samples) > len(groups) else None,
            boxes=torch.tensor(boxes) if self.training else None,
            placements=tuple(item.placement for item in items if item.placement is not None),
        )


class GroundingTask(Task):
    """Find what a phrase names. Source: ``model_grounding_mplug.py`` and ``grounding_mplug.py`` of the original."""

    Settings = GroundingSettings
    model_modules = ("vision", "text", "fusion", "decoder")
    metric = "accuracy"
    own_words = BOX_WORDS
    learns_targets = False
    settings: GroundingSettings

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: GroundingSettings, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        self.words = BoxWords.of(settings, tokenizer)

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Make one example of every ``phrases_per_example`` phrases about a picture.

        Raises:
            DataError: If a record has no box.
        """
        if bare := next((sample for sample in samples if sample.box is None), None):
            raise DataError(f"record {bare.id!r} has no box; training needs one for every phrase")
        return grouped_by_image(samples, self.settings.phrases_per_example)

    def transform(self, image: ImageSettings, training: bool) -> SampleTransform:
        """Change picture, phrases and boxes together."""
        return TrainBoxes(image, self.settings.boxes) if training else EvalBoxes(image, self.settings.boxes)

    def collator(self, training: bool) -> Collator:
        """Make the collator; phrases are padded to one length, as in the original."""
        length = min(self.settings.max_text_length, self.model.config.max_positions)
        return GroundingCollator(self.tokenizer, length, training)

    def forward(self, batch: Batch) -> Losses:
        """Compute the loss of the four coordinates, given the true ones before each."""
        assert batch.images is not None and batch.text is not None and batch.boxes is not None
        memory = self.model.answer_memory(batch.images, batch.text.ids, batch.text.mask, batch.samples_per_image)
        tokens = box_tokens(batch.boxes, self.words.first)
        logits, bins = coordinate_logits(self.model.decoder, memory, tokens, self.words), tokens - self.words.first
        settings = self.settings
        targets = near_bins(bins, settings.spread).flatten(0, 1) if settings.spread else bins.flatten()
        losses = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none").view_as(bins)
        predicted = logits.detach().argmax(dim=-1)  # (B, 4)
        found = tokens_to_boxes(predicted, 0)
        if settings.loss == "original":
            total = grounding_loss(losses, found, batch.boxes)
        elif settings.loss == "paired":
            total = paired_grounding_loss(losses, found, batch.boxes)
        else:
            total = losses.mean()
        error = (found - batch.boxes).abs().mean()
        return Losses(total, {"loss": total.detach(), "token_loss": losses.detach().mean(), "box_error": error})

    def predict(self, batch: Batch) -> list[Prediction]:
        """Find each phrase's box, in the pixels of its picture."""
        assert batch.images is not None and batch.text is not None
        found, scores = locate(self.model, batch.images, batch.text.ids, batch.text.mask, self.words)
        size = batch.images.shape[-1]
        rows = zip(batch.samples, batch.placements, found.cpu(), scores.tolist(), strict=True)
        return [_prediction(sample, placement, box, score, size) for sample, placement, box, score in rows]

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute in percent how many boxes fit, ``accuracy_VALUE`` of a kind, and the mean overlap (0 to 1)."""
        overlaps = [float(one.extra["iou"]) for one in predictions if "iou" in one.extra]
        if not overlaps:
            return {}
        kinds: dict[str, list[float]] = {}
        for one in predictions:
            if self.settings.score_by is not None and {self.settings.score_by, "iou"} <= one.extra.keys():
                kinds.setdefault(str(one.extra[self.settings.score_by]), []).append(float(one.extra["iou"]))
        by_kind = {f"accuracy_{kind}": _share(values) for kind, values in sorted(kinds.items())}
        return {"accuracy": _share(overlaps), "mean_iou": sum(overlaps) / len(overlaps), **by_kind}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark each box by its overlap with the right one."""
        return overlap_marks(predictions)

    def scorer(self) -> dict[str, str]:
        """Name the scores."""
        return {
            "accuracy": f"boxes whose intersection over union with the true one is {GOOD_OVERLAP} or more, percent",
            "mean_iou": "mean intersection over union, 0 to 1, on the square the model sees; found boxes are cut at its borders",
        }


def _share(overlaps: Sequence[float]) -> float:
    return 100.0 * sum(value >= GOOD_OVERLAP for value in overlaps) / len(overlaps)


def _prediction(sample: Sample, placement: Placement, box: Tensor, score: float, size: int) -> Prediction:
    x, y, width, height = box.tolist()
    corners = [round(each, 2) for each in to_picture((x, y, width, height), placement, size)]
    extra = {"image": sample.image, "phrase": sample.text, **sample.extra, "box": corners}
    if sample.box is not None:
        # As the original: on the square, and only the found box is cut. A cut at the picture's borders would flatter.
        shifts, scales = (placement.left, placement.top) * 2, (placement.scale_x, placement.scale_y) * 2
        true = [(shift + each * scale) / size for each, shift, scale in zip(sample.box, shifts, scales, strict=True)]
        cut = cxcywh_to_xyxy(box).clamp(0, 1).tolist()
        extra |= {"true_box": list(sample.box), "iou": round(intersection_over_union(cut, true), 6)}
    return Prediction(sample.id, "", score, sample.references, extra)
