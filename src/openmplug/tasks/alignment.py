"""What retrieval and pre-training share: contrastive learning with momentum twin and queue, matching with hard negatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from openmplug import distributed
from openmplug.batch import Batch, Sample
from openmplug.config import Settings
from openmplug.data.sources import Draw, DrawCaptions
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import UsageError
from openmplug.models.fusion import Fused
from openmplug.models.momentum import FeatureQueue, MomentumTwin
from openmplug.models.network import Network
from openmplug.objectives.cached import drawn_again, draws, replayed
from openmplug.objectives.itm import Negatives, matching_loss, negative_weights, sample_negatives
from openmplug.tasks.base import Progress, Task
from openmplug.tasks.contrast import Ahead, Keys, contrast, everyones_keys, joined, shifted


class AlignmentSettings(Settings):
    """Settings of learning which picture and text belong together.

    Args:
        queue_size: Features kept from earlier batches, per modality. 0 means no queue and no twin: the pictures and texts of a batch
            are contrasted with each other and both sides get the gradient, as in CLIP. Small data from scratch wants that: there
            the features move too fast for a queue of old ones.
        momentum: Of the twin (the original uses 0.995 whatever its configuration says).
        alpha: Weight of the twin's soft targets, ramped up from 0 during the first epoch.
        captions_per_example: Captions of one picture that are learned together. The original takes 1. With more, a picture is read,
            augmented and encoded once for all of them; one of them, drawn at random, is fused. The batch counts pictures.
        temperature_range: Keep the learned temperature inside; None leaves it free, as the original's fine-tuning does.
        contrast_accumulated: With ``optim.accumulation``, contrast the pictures and texts of all micro-batches of a step with each other,
            as one large batch would, instead of each micro-batch with itself and the queue; the twin then moves once per step.
            Everything is encoded twice for that. Hard negatives still come from the micro-batch.
    """

    queue_size: int = Field(default=65536, ge=0)
    momentum: float = Field(default=0.995, ge=0, lt=1)
    alpha: float = Field(default=0.4, ge=0, le=1)
    captions_per_example: int = Field(default=1, ge=1)
    temperature_range: tuple[float, float] | None = None
    contrast_accumulated: bool = False

    @model_validator(mode="after")
    def _twin_and_range(self) -> AlignmentSettings:
        if self.queue_size == 0 and self.alpha > 0:
            raise ValueError(f"alpha {self.alpha} needs the momentum twin, which queue_size 0 leaves out; set alpha to 0 or keep a queue")
        if self.temperature_range is not None and not 0 < self.temperature_range[0] <= self.temperature_range[1]:
            raise ValueError(f"temperature_range {list(self.temperature_range)} is no range; expected 0 < low <= high")
        return self


def frames_of(images: Tensor) -> int:
    """Return how many frames clips (B, F, 3, H, W) have; pictures (B, 3, H, W) are one each."""
    return images.shape[1] if images.ndim == 5 else 1


@dataclass(frozen=True, slots=True)
class Aligned:
    """A batch of I pictures and R texts, encoded and contrasted; what is fused next starts from here.

    Shapes: vision (I, V, D), text (R, T, D), mask (R, T), ``rows`` (R,) the texts' places in the batch, ``pictures`` (I,) and ``index``
    (R,) numbers of the pictures, similarities over temperature ``i2t`` (I, R) and ``t2i`` (R, I) without gradient, ``loss`` scalar.
    """

    vision: Tensor
    text: Tensor
    mask: Tensor
    rows: Tensor
    pictures: Tensor
    index: Tensor
    i2t: Tensor
    t2i: Tensor
    loss: Tensor
    twin_vision: Tensor | None

    def take(self, rows: Tensor) -> Aligned:
        """Keep some texts (R',), in this order."""
        kept = {name: getattr(self, name)[rows] for name in ("text", "mask", "rows", "index", "t2i")}
        return replace(self, i2t=self.i2t[:, rows], **kept)


class AlignmentTask(Task):
    """Learns which picture and text belong together. Source: ``model_retrieval_mplug.py``."""

    settings: Any

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: Any, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        self.twin: MomentumTwin | None = None
        self.queue: FeatureQueue | None = None
        self._alpha = settings.alpha
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        self._ahead: list[Ahead] = []
        if training and settings.queue_size > 0:
            self.twin = MomentumTwin(model, paired=self.twin_modules(settings), momentum=settings.momentum)
            self.queue = FeatureQueue(settings.queue_size, model.config.embed_dim)

    @classmethod
    def twin_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts that have a slowly moving copy."""
        return ("vision", "text", "contrastive")

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Make one example of every ``captions_per_example`` captions of a picture."""
        step = self.settings.captions_per_example
        if step == 1:
            return [replace(sample, text=caption) for sample in samples for caption in sample.targets]
        return [
            replace(sample, text=chunk[0], parts=tuple(replace(sample, text=caption) for caption in chunk))
            for sample in samples
            for chunk in (sample.targets[first : first + step] for first in range(0, len(sample.targets), step))
        ]

    def draw(self) -> Draw | None:
        """Draw ``captions_per_example`` captions of a picture each time it is seen."""
        return DrawCaptions(self.settings.captions_per_example, parts=True)

    def begin_step(self, progress: Progress) -> None:
        """Ramp alpha, move the twin, keep the temperature in its range."""
        self._alpha = self.settings.alpha * (progress.fraction if progress.epoch == 0 else 1.0)
        if self.settings.temperature_range is not None:
            with torch.no_grad():
                self.model.contrastive.temperature.clamp_(*self.settings.temperature_range)
        if self.twin is not None:
            self.twin.update(self.model)

    def end_step(self) -> None:
        """Write the momentum features of the last forward to the queue."""
        if self._pending is not None and self.queue is not None:
            self.queue.push(*self._pending)
        self._pending = None

    def align(self, batch: Batch, ids: Tensor) -> Aligned:
        """Encode a training batch and contrast its pictures and texts with each other, and with the queue where there is one.

        Args:
            batch: Pictures or clips, and their texts.
            ids: What the student reads in the place of ``batch.text.ids`` (R, T); the twin reads the latter.
        """
        assert self.queue is not None or self.settings.queue_size == 0, f"training needs {type(self).__name__}(..., training=True)"
        assert batch.images is not None and batch.text is not None and batch.image_index is not None
        mask, index, counts = batch.text.mask, batch.image_index, batch.samples_per_image
        pictures = index if counts is None else index[counts.cumsum(dim=0) - counts]
        if self._ahead:
            return self._align_as_before(batch, self._ahead.pop(0), pictures, index)
        vision, text, vision_f, text_f = self._encode(batch, ids)
        own = self._keys(batch, vision_f, text_f, pictures, index)
        keys = own if self.queue is None else self._with_queue(own)
        loss, i2t, t2i = contrast(vision_f, text_f, pictures, index, keys, self.model.contrastive.temperature, self._alpha)
        rows = torch.arange(len(index), device=index.device)
        own_i2t, own_t2i = i2t[:, keys.own_text].detach(), t2i[:, keys.own_vision].detach()
        return Aligned(vision, text, mask, rows, pictures, index, own_i2t, own_t2i, loss, keys.twin_vision)

    def _encode(self, batch: Batch, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens (I, V, D) and (R, T, D), features (I, E) and (R, E)."""
        assert batch.images is not None and batch.text is not None
        vision, text = self.model.encode_images(batch.images), self.model.encode_text(ids, batch.text.mask)
        return vision, text, self.model.vision_features(vision, frames_of(batch.images)), self.model.contrastive.text_features(text)

    def _keys(self, batch: Batch, vision_f: Tensor, text_f: Tensor, pictures: Tensor, index: Tensor) -> Keys:
        """Return what the features of all processes' batches are, or where there is a twin, what its are."""
        return everyones_keys(vision_f, text_f, pictures, index) if self.queue is None else self._twins(batch, pictures, index)

    @torch.no_grad()
    def _twins(self, batch: Batch, pictures: Tensor, index: Tensor) -> Keys:
        """Encode the batch with the twin; remember what is to be written to the queue."""
        assert self.twin is not None and self.queue is not None and batch.images is not None and batch.text is not None
        twin, counts = self.twin.model, batch.samples_per_image
        tokens = twin.encode_images(batch.images)
        vision = twin.vision_features(tokens, frames_of(batch.images))
        text = twin.contrastive.text_features(twin.encode_text(batch.text.ids, batch.text.mask))
        keys = everyones_keys(vision, text, pictures, index)
        # What is written to the queue is the batch of all processes, so that all of them hold the same one.
        repeated = keys.vision if counts is None else distributed.gather(vision.repeat_interleave(counts, dim=0))
        self._pending = (repeated, keys.text, keys.text_index)
        return replace(keys, twin_vision=tokens)

    def _with_queue(self, keys: Keys) -> Keys:
        """Join what the queue holds."""
        assert self.queue is not None
        if len(keys.text_index) > self.settings.queue_size:
            raise UsageError(
                f"a batch of {len(keys.text_index)} does not fit into settings.queue_size={self.settings.queue_size};"
                " enlarge it or take a smaller batch"
            )
        return replace(
            keys,
            vision=torch.cat([keys.vision, self.queue.vision]),
            text=torch.cat([keys.text, self.queue.text]),
            vision_index=torch.cat([keys.vision_index, self.queue.index]),
            text_index=torch.cat([keys.text_index, self.queue.index]),
        )

    # --------------------------------------------------------------------------------- all micro-batches of a step at once

    @property
    def looks_ahead(self) -> bool:
        """Whether all micro-batches of a step are contrasted with each other."""
        return bool(self.settings.contrast_accumulated)

    def read_ids(self, batch: Batch) -> Tensor:
        """Return what the student reads in a training forward in the place of the texts (R, T)."""
        assert batch.text is not None
        return batch.text.ids

    def look_ahead(self, batches: Iterable[Batch]) -> None:
        """Contrast all micro-batches of a step and keep the gradient of each feature for their own forwards; see ``objectives.cached``."""
        self._ahead, noted = [], []
        for batch in batches:
            if batch.images is None:
                continue
            assert batch.image_index is not None
            index, counts = batch.image_index, batch.samples_per_image
            pictures = index if counts is None else index[counts.cumsum(dim=0) - counts]
            with torch.no_grad():
                ids, state = self.read_ids(batch), draws(index.device)
                _, _, *features = self._encode(batch, ids)
            vision_f, text_f = (one.detach().requires_grad_() for one in features)
            keys = self._keys(batch, vision_f, text_f, pictures, index)
            noted.append((ids, state, vision_f, text_f, pictures, index, replace(keys, twin_vision=None)))
        self._pending = None
        if not noted:
            return
        every = [one[-1] for one in noted]
        together = joined(every) if self.queue is None else self._with_queue(joined(every))
        temperature = self.model.contrastive.temperature.detach().clone().requires_grad_()
        losses, images, texts = [], 0, 0
        for _, _, vision_f, text_f, pictures, index, keys in noted:
            here = replace(together, own_vision=shifted(keys.own_vision, images), own_text=shifted(keys.own_text, texts))
            losses.append(contrast(vision_f, text_f, pictures, index, here, temperature, self._alpha)[0] * len(index))
            images, texts = images + len(keys.vision_index), texts + len(keys.text_index)
        loss = torch.stack(losses).sum() / sum(len(index) for *_, index, _ in noted)
        leaves = [leaf for _, _, vision_f, text_f, *_ in noted for leaf in (vision_f, text_f)]
        *gradients, of_temperature = torch.autograd.grad(loss, [*leaves, temperature])
        for number, (ids, state, *_, keys) in enumerate(noted):
            of_vision, of_text = gradients[2 * number : 2 * number + 2]
            kept = replace(keys, vision=keys.vision.detach(), text=keys.text.detach())
            # The trainer divides each micro-batch's loss by their number.
            scaled = (len(noted) * of_vision, len(noted) * of_text, of_temperature)
            self._ahead.append(Ahead(ids, state, kept, loss.detach(), *scaled))

    def _align_as_before(self, batch: Batch, ahead: Ahead, pictures: Tensor, index: Tensor) -> Aligned:
        """Encode a micro-batch again, now with gradients, and hand its features the gradients of the step's loss."""
        assert batch.text is not None and batch.images is not None
        with drawn_again(ahead.draws, index.device):
            vision, text, vision_f, text_f = self._encode(batch, ahead.ids)
        keys, twin_vision, temperature = ahead.keys, None, self.model.contrastive.temperature
        if self.queue is not None:
            counts, own = batch.samples_per_image, keys.vision[keys.own_vision]
            repeated = keys.vision if counts is None else distributed.gather(own.repeat_interleave(counts, dim=0))
            self._pending = (repeated, keys.text, keys.text_index)
            assert self.twin is not None
            if "fusion" in self.twin.model.modules_built:  # it teaches what follows
                with torch.no_grad():
                    twin_vision = self.twin.model.encode_images(batch.images)
        loss = replayed(ahead.loss, [(vision_f, ahead.vision), (text_f, ahead.text), (temperature, ahead.temperature)])
        with torch.no_grad(), torch.autocast(index.device.type, enabled=False):
            i2t = vision_f @ keys.text[keys.own_text].T / temperature
            t2i = text_f @ keys.vision[keys.own_vision].T / temperature
        rows = torch.arange(len(index), device=index.device)
        return Aligned(vision, text, batch.text.mask, rows, pictures, index, i2t, t2i, loss, twin_vision)

    @staticmethod
    def some_texts(aligned: Aligned, counts: Tensor | None, each: int = 1) -> Aligned:
        """Draw ``each`` of every picture's ``counts`` (I,) texts, one after the other, with repetition; None: each has one text.

        The first ones of all pictures, ``[::each]``, are one for each picture.
        """
        if counts is None:
            return aligned if each == 1 else aligned.take(aligned.rows.repeat_interleave(each))
        first = counts.cumsum(dim=0) - counts  # row of each picture's first text
        drawn = (torch.rand(len(counts), each, device=counts.device) * counts[:, None]).long()
        return aligned.take((first[:, None] + drawn).flatten())

    def match(self, aligned: Aligned) -> Tensor:
        """Compute the matching loss of pictures with one text each, against negatives drawn by similarity."""
        return matching_loss(self.matching_logits(aligned.vision, aligned.text, aligned.mask, self.draw_negatives(aligned)))

    @staticmethod
    def draw_negatives(aligned: Aligned) -> Negatives:
        """Draw a wrong picture for each text and a wrong text for each picture by their similarity."""
        return sample_negatives(negative_weights(aligned.i2t, aligned.t2i, aligned.pictures))

    def matching_logits(self, vision: Tensor, text: Tensor, mask: Tensor, negatives: Negatives) -> Tensor:
        """Fuse positives, (text, wrong picture) and (wrong text, picture) and classify them in this order, (3B, 2)."""
        texts = {"own": (text, mask), "wrong": (text[negatives.texts], mask[negatives.texts])}
        fused = fuse_together(self.model, vision, texts)
        wrong_picture = self.model.fuse(vision[negatives.images], text, mask)
        return torch.cat([self.model.matching(pair.text) for pair in (fused["own"], wrong_picture, fused["wrong"])])


def fuse_together(model: Network, vision: Tensor, texts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Fused]:
    """Fuse each picture with several texts in one call, so that its keys and values are projected once for all of them.

    Args:
        model: Fuses.
        vision: (B, V, D).
        texts: States (R, t, D) and mask (R, t) of each kind, of whatever lengths t; B divides R, row r is about picture ``r // (R / B)``.

    Returns:
        What ``model.fuse`` returns for each kind: text (R, t, D), and vision (R, V, D), or (B, V, D) where it is the same for all.
    """
    if not texts:
        return {}
    longest, pictures = max(mask.shape[1] for _, mask in texts.values()), len(vision)
    states = [F.pad(text, (0, 0, 0, longest - text.shape[1])).unflatten(0, (pictures, -1)) for text, _ in texts.values()]  # (B, k, T, D)
    masks = [F.pad(mask, (0, longest - mask.shape[1])).unflatten(0, (pictures, -1)) for _, mask in texts.values()]
    each = [mask.shape[1] for mask in masks]
    fused = model.fuse(vision, torch.cat(states, dim=1).flatten(0, 1), torch.cat(masks, dim=1).flatten(0, 1))
    read = fused.text.unflatten(0, (pictures, -1)).split(each, dim=1)
    # Without a connected layer the pictures come out as they went in, once each.
    shared = len(fused.vision) == pictures
    seen = [fused.vision] * len(each) if shared else [one.flatten(0, 1) for one in fused.vision.unflatten(0, (pictures, -1)).split(each, 1)]
    kinds = zip(texts.items(), seen, read, strict=True)
    return {name: Fused(of_one, text.flatten(0, 1)[:, : mask.shape[1]]) for (name, (_, mask)), of_one, text in kinds}
