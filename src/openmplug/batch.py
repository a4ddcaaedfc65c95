"""The dataclasses that cross folders: what readers, tasks and the engine hand to each other.

Shape letters as in ``openmplug.models``: ``B`` batch, ``C`` channels, ``H W`` pixels, ``T`` text tokens, ``N`` rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor, device

Coordinates = tuple[float, float, float, float]
"""A box: ``xyxy``, left, top, right, bottom in pixels, or ``cxcywh``, centre and size from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of several texts, right-padded.

    Shapes: ids (N, T) int64, mask (N, T) bool, True = real token.
    """

    ids: Tensor
    mask: Tensor

    def to(self, target: device | str, non_blocking: bool = False) -> Tokens:
        """Return the same tokens on another device."""
        return Tokens(self.ids.to(target, non_blocking=non_blocking), self.mask.to(target, non_blocking=non_blocking))


@dataclass(frozen=True, slots=True)
class Sample:
    """One record as a reader yields it: words and names only, no pixels.

    Args:
        id: Unique within its split; the key of the record in ``predictions.jsonl``.
        image: Name of the picture or video inside the split's ``ImageSource``, or None for words alone.
        further_images: Names of the record's other pictures, in order, where it is about several: ``image`` is the first of them.
        clip: ``image`` names a video (a file, an animation or a folder of frames), to be sampled as ``RunConfig.video`` says.
        text: The question (VQA), or the one caption of a training pair.
        targets: Texts to learn to write: unique answers in order of appearance, or captions.
        weights: One weight per target; empty means 1.0 each.
        references: Everything an annotator wrote, for scoring (10 VQA answers, 5 captions).
        image_index: Number of the picture; equal numbers are positives of each other in contrastive learning.
        extra: Fields of the record that a task may need, such as ``question_id``.
        parts: Records about this picture that are learned together, so that it is read and encoded once; empty = the record itself.
        box: Where in the picture ``text`` points, xyxy in the picture's own pixels; None = not known or not asked.
        source: Name of the source it was drawn from, where several are trained on together.
    """

    id: str
    image: str | None = None
    text: str | None = None
    targets: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    references: tuple[str, ...] = ()
    image_index: int = -1
    extra: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Sample, ...] = ()
    clip: bool = False
    further_images: tuple[str, ...] = ()
    box: Coordinates | None = None
    source: str = ""

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of all pictures of the record, in order; none for words alone."""
        return () if self.image is None else (self.image, *self.further_images)


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that could not be read: which one, the one-line reason, and of several sources the one it came from."""

    id: str
    name: str
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies on the square that the model sees: a pixel x of it is at ``left + scale_x * x``, likewise y.

    Args:
        scale_x: Pixels of the square to one of the picture, across.
        scale_y: The same, down.
        left: Where the picture's left edge is, px of the square.
        top: Where its upper edge is.
        width: Of the picture in its own pixels.
        height: Likewise.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Item:
    """A sample with its pixels float32, (C, H, W) of a picture or (F, C, H, W) of a clip, or with the reason why there are none.

    ``further_pixels`` are those of its further pictures, each (C, H, W).
    Where boxes are asked for, ``boxes`` has that of the sample, or of each of its parts, cxcywh of the square, and ``placement`` says
    how a found box gets back to the picture.
    """

    sample: Sample
    pixels: Tensor | None = None
    failure: Failure | None = None
    further_pixels: tuple[Tensor, ...] = ()
    boxes: tuple[Coordinates, ...] = ()
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a task's collator makes of a list of items.

    Shapes: images (I, C, H, W) or (I, F, C, H, W), text (B, T), targets (N, T) with N = sum(targets_per_item), target_weights (N,),
    targets_per_item (B,) int64, image_index (B,) int64, labels (B,) of classes int64 or of numbers float32, boxes (B, 4) cxcywh from
    0 to 1 of the square; placements, one per image, where boxes are looked for. There is one image per sample (I = B), unless
    ``samples_per_image`` (I,) int64 says how many consecutive samples share each, or ``images_per_sample`` is above 1: then each sample
    has so many consecutive ones (I = B * images_per_sample).
    """

    samples: list[Sample]
    images: Tensor | None = None
    text: Tokens | None = None
    targets: Tokens | None = None
    target_weights: Tensor | None = None
    targets_per_item: Tensor | None = None
    image_index: Tensor | None = None
    samples_per_image: Tensor | None = None
    labels: Tensor | None = None
    images_per_sample: int = 1
    boxes: Tensor | None = None
    placements: tuple[Placement, ...] = ()
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, target: device | str, non_blocking: bool = False) -> Batch:
        """Return the same batch with every tensor on ``target``."""
        moved: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor | Tokens):
                moved[item.name] = value.to(target, non_blocking=non_blocking)
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss to differentiate (scalar) and its named parts (detached scalars, for the log)."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line of ``predictions.jsonl``.

    Args:
        id: The sample's id.
        text: The answer or caption; empty where the task predicts ranks.
        score: Length-normalised log probability, or the task's own score.
        references: What annotators wrote, carried along for scoring.
        extra: Task-specific fields (ranks, candidates, image name, question).
    """

    id: str
    text: str = ""
    score: float = 0.0
    references: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
