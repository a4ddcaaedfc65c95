"""Contrastive learning over the batch of all processes: what a batch is contrasted with, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.objectives.itc import positive_targets, soft_cross_entropy, soft_targets


@dataclass(frozen=True, slots=True)
class Keys:
    """What a batch's pictures and texts are contrasted with; the batch's own come first.

    Shapes: vision (K, E), text (N, E), and the numbers of their pictures (K,) and (N,); ``twin_vision`` (I, V, D), what the twin sees in
    the batch's pictures, None without a twin. Of several processes the batch is that of all; ``own_vision`` and ``own_text`` are
    this one's places in it.
    """

    vision: Tensor
    text: Tensor
    vision_index: Tensor
    text_index: Tensor
    own_vision: slice
    own_text: slice
    twin_vision: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was contrasted before a micro-batch's own forward, and what that needs of it.

    Shapes: ``ids`` (R, T) that were read, ``draws`` the generators' state before, ``keys`` of the batch without the queue, ``loss`` scalar
    of the whole step, and its gradients with respect to vision features (I, E), text features (R, E) and the temperature (1,).
    """

    ids: Tensor
    draws: list[Tensor]
    keys: Keys
    loss: Tensor
    vision: Tensor
    text: Tensor
    temperature: Tensor


def contrast(
    vision_f: Tensor, text_f: Tensor, pictures: Tensor, index: Tensor, keys: Keys, temperature: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Contrast features with keys.

    Args:
        vision_f: Of the pictures, (I, E).
        text_f: Of the texts, (R, E).
        pictures: Numbers of the pictures, (I,).
        index: Numbers of the texts' pictures, (R,).
        keys: K of vision and N of text.
        temperature: (1,).
        alpha: Weight of the soft targets that the batch's own keys give.

    Returns:
        The loss (scalar), and similarities over temperature (I, N) and (R, K).
    """
    # Similarities are divided by about 0.07: bf16 would leave two digits, so this part is always fp32.
    with torch.autocast(vision_f.device.type, enabled=False):
        i2t, t2i = vision_f @ keys.text.T / temperature, text_f @ keys.vision.T / temperature
        targets_i2t, targets_t2i = positive_targets(pictures, keys.text_index), positive_targets(index, keys.vision_index)
        if alpha > 0:
            with torch.no_grad():
                vision_m, text_m = keys.vision[keys.own_vision], keys.text[keys.own_text]
                targets_i2t = soft_targets(vision_m @ keys.text.T / temperature, targets_i2t, alpha)
                targets_t2i = soft_targets(text_m @ keys.vision.T / temperature, targets_t2i, alpha)
        loss = (soft_cross_entropy(i2t, targets_i2t) + soft_cross_entropy(t2i, targets_t2i)) / 2
    return loss, i2t, t2i


def shifted(place: slice, by: int) -> slice:
    """Move a slice."""
    return slice(place.start + by, place.stop + by)


def everyones_keys(vision: Tensor, text: Tensor, pictures: Tensor, index: Tensor) -> Keys:
    """Gather the features (I, E) and (R, E) of a batch, and the numbers of their pictures, from all processes, with gradient."""
    images, texts = distributed.row_counts(len(vision)), distributed.row_counts(len(text))
    return Keys(
        distributed.gather_with_gradient(vision, images),
        distributed.gather_with_gradient(text, texts),
        distributed.gather(pictures, images),
        distributed.gather(index, texts),
        distributed.own_rows(images),
        distributed.own_rows(texts),
    )


def joined(keys: Sequence[Keys]) -> Keys:
    """Join the keys of several batches, in this order; the places of the process's own are left out."""
    return Keys(
        torch.cat([one.vision for one in keys]),
        torch.cat([one.text for one in keys]),
        torch.cat([one.vision_index for one in keys]),
        torch.cat([one.text_index for one in keys]),
        slice(0, 0),
        slice(0, 0),
    )
