"""Where a phrase is: the decoder writes four coordinates as words. Source: ``model_grounding_mplug.py``.

Inference only; the readers and recipes that train it belong to the grounding benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from openmplug.config import Settings
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import EvalTransform, ImageSettings
from openmplug.errors import ModelError
from openmplug.models.network import Network
from openmplug.objectives.boxes import BINS, cxcywh_to_xyxy, tokens_to_boxes

FIRST_BIN, PREFIX = "[unused340]", "[unused339]"


class GroundingSettings(Settings):
    """Settings of grounding; defaults are the released scripts'.

    Args:
        max_text_length: Tokens of a phrase, [CLS] and [SEP] included; longer ones are cut.
        prefix_id: The word that begins a box; None = the id of ``[unused339]``.
        first_bin_id: The word of coordinate 0, the other 336 follow; None = the id of ``[unused340]``.
    """

    max_text_length: int = Field(default=20, ge=3)
    prefix_id: int | None = None
    first_bin_id: int | None = None


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


@dataclass(frozen=True, slots=True)
class Letterbox:
    """A picture resized by its long side and centred on a square: how to get back to its own pixels."""

    scale: float
    left: int
    top: int
    width: int
    height: int

    def to_picture(self, box: Tensor, size: int) -> Tensor:
        """Turn a cxcywh box (4,) of the square, 0 to 1, into corners in the picture's pixels, cut at its borders."""
        corners = cxcywh_to_xyxy(box) * size - torch.tensor([self.left, self.top] * 2, device=box.device)
        return (corners / self.scale).clamp(torch.zeros(4), torch.tensor([self.width, self.height] * 2))


def letterbox(image: Image.Image, settings: ImageSettings) -> tuple[Tensor, Letterbox]:
    """Resize the long side (bilinear), normalise and centre on a square of zeros.

    Returns:
        The pixels (3, size, size) and how to get back.
    """
    size = settings.size
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    # The original's rounding, which puts a half pixel up and left.
    left, top = (round((size - side) / 2 - 0.1) for side in (width, height))
    pixels = torch.zeros(3, size, size)
    pixels[:, top : top + height, left : left + width] = EvalTransform(settings).normalise(small)
    return pixels, Letterbox(scale, left, top, *image.size)


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
        logits = model.decoder.logits(model.decoder.step(new, state)[:, -1]).float()[:, words.first : words.first + BINS + 1]
        best = logits.log_softmax(dim=1).max(dim=1)
        new, scores = best.indices[:, None] + words.first, scores + best.values
        chosen.append(new)
    return tokens_to_boxes(torch.cat(chosen, dim=1), words.first), scores.exp()
