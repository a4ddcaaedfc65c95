"""Image-text retrieval: contrastive learning with momentum and queue, matching with hard negatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from openmplug.batch import Batch, Item, Losses, Prediction, Sample, Tokens
from openmplug.config import Settings
from openmplug.data.text import clean_caption
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError, UsageError
from openmplug.metrics.retrieval import ranks_from_scores, retrieval_scores
from openmplug.models.momentum import FeatureQueue, MomentumTwin
from openmplug.models.network import Network
from openmplug.objectives.itc import positive_targets, soft_cross_entropy, soft_targets
from openmplug.objectives.itm import Negatives, matching_loss, negative_weights, sample_negatives
from openmplug.tasks.base import Collator, Progress, Task
from openmplug.tasks.decoding import stack_images
from openmplug.tasks.marks import Marks, Shown
from openmplug.tasks.reranking import Encoded, image_to_text, text_to_image


class RetrievalSettings(Settings):
    """Settings of retrieval; defaults are the released recipe's.

    Args:
        queue_size: Features kept from earlier batches, per modality. 0 means no queue and no twin: the pictures and texts of a batch
            are contrasted with each other and both sides get the gradient, as in CLIP. Small data from scratch wants that: there
            the features move too fast for a queue of old ones.
        momentum: Of the twin (the original uses 0.995 whatever its configuration says).
        alpha: Weight of the twin's soft targets, ramped up from 0 during the first epoch.
        captions_per_example: Captions of one picture that are learned together. The original takes 1. With more, a picture is read,
            augmented and encoded once for all of them; one of them, drawn at random, also learns to match. The batch counts pictures.
        masked_words: Probability of a caption's token to be replaced by [MASK] in training; the original masks none.
        matching_weight: Of the matching loss in the sum; the original's is 1. From scratch, matching stays at chance until pictures
            and texts are aligned, and until then its gradient only disturbs the encoders. 0 builds neither fusion nor matching head.
        k_test: Candidates that the matching head ranks; 0 keeps the order of the contrastive similarity.
        max_words: Words kept of a caption.
        max_text_length: Tokens of a caption in evaluation, [CLS] included.
        temperature_range: Keep the learned temperature inside; None leaves it free, as the original's fine-tuning does.
    """

    queue_size: int = Field(default=65536, ge=0)
    momentum: float = Field(default=0.995, ge=0, lt=1)
    alpha: float = Field(default=0.4, ge=0, le=1)
    captions_per_example: int = Field(default=1, ge=1)
    masked_words: float = Field(default=0.0, ge=0, lt=1)
    matching_weight: float = Field(default=1.0, ge=0)
    k_test: int = Field(default=256, ge=0)
    max_words: int = Field(default=30, ge=1)
    max_text_length: int = Field(default=30, ge=2)
    temperature_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> RetrievalSettings:
        if self.queue_size == 0 and self.alpha > 0:
            raise ValueError(f"alpha {self.alpha} needs the momentum twin, which queue_size 0 leaves out; set alpha to 0 or keep a queue")
        if self.matching_weight == 0 and self.k_test > 0:
            raise ValueError(f"k_test {self.k_test} needs the matching head, which matching_weight 0 leaves out; set k_test to 0")
        if self.temperature_range is not None and not 0 < self.temperature_range[0] <= self.temperature_range[1]:
            raise ValueError(f"temperature_range {list(self.temperature_range)} is no range; expected 0 < low <= high")
        return self


@dataclass(frozen=True)
class RetrievalCollator:
    """Items to a batch: in training each example's captions, in evaluation all captions of each picture, one after the other."""

    tokenizer: Tokenizer
    max_words: int
    max_text_length: int
    training: bool

    def __call__(self, items: list[Item]) -> Batch:
        """Stack pictures, clean and tokenise captions.

        Raises:
            DataError: If a sample has no caption.
        """
        samples = [item.sample for item in items]
        captions = [_captions(sample) if self.training else sample.references for sample in samples]
        for sample, texts in zip(samples, captions, strict=True):
            if not texts:
                raise DataError(f"record {sample.id!r} has no caption; retrieval needs at least one for every picture")
        words = [clean_caption(text, self.max_words) for texts in captions for text in texts]
        batch = Batch(samples, images=stack_images(items), text=self.tokenizer(words, max_length=self.max_text_length))
        counts = torch.tensor([len(texts) for texts in captions])
        if not self.training:
            return replace(batch, targets_per_item=counts)
        index = torch.tensor([sample.image_index for sample in samples]).repeat_interleave(counts)
        if len(index) == len(samples):
            return replace(batch, image_index=index)
        parts = [part for sample in samples for part in sample.parts or (sample,)]
        return replace(batch, samples=parts, image_index=index, samples_per_image=counts)


def _captions(sample: Sample) -> tuple[str, ...]:
    """Return one text per part, or none at all where a part has no text: texts and parts stay in step."""
    texts = tuple(part.text for part in sample.parts or (sample,) if part.text)
    return texts if len(texts) == len(sample.parts or (sample,)) else ()


def _frames(images: Tensor) -> int:
    """Return how many frames clips (B, F, 3, H, W) have; pictures (B, 3, H, W) are one each."""
    return images.shape[1] if images.ndim == 5 else 1


@dataclass(frozen=True, slots=True)
class Keys:
    """What a batch's pictures and texts are contrasted with; the batch's own come first.

    Shapes: vision (K, E), text (N, E), and the numbers of their pictures (K,) and (N,).
    """

    vision: Tensor
    text: Tensor
    vision_index: Tensor
    text_index: Tensor


class RetrievalTask(Task):
    """Find pictures by text and texts by picture. Source: ``model_retrieval_mplug.py``."""

    Settings = RetrievalSettings
    model_modules = ("vision", "text", "fusion", "contrastive", "matching")
    metric = "r_mean"
    settings: RetrievalSettings

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: RetrievalSettings, training: bool = False) -> None:
        super().__init__(model, tokenizer, settings)
        self.twin: MomentumTwin | None = None
        self.queue: FeatureQueue | None = None
        self._alpha = settings.alpha
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        if training and settings.queue_size > 0:
            self.twin = MomentumTwin(model, paired=("vision", "text", "contrastive"), momentum=settings.momentum)
            self.queue = FeatureQueue(settings.queue_size, model.config.embed_dim)

    @classmethod
    def needed_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts of the model; a weight of 0 leaves out what only matching uses."""
        return cls.model_modules if settings.matching_weight > 0 else ("vision", "text", "contrastive")

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

    def collator(self, training: bool) -> Collator:
        """Make the collator; training captions are cut by words only, up to the model's positions, as in the original."""
        positions = self.model.config.max_positions
        limit = positions if training else min(self.settings.max_text_length, positions)
        return RetrievalCollator(self.tokenizer, self.settings.max_words, limit, training)

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

    def forward(self, batch: Batch) -> Losses:
        """Compute contrastive plus matching loss; a loss of weight 0 is not computed."""
        assert self.queue is not None or self.settings.queue_size == 0, "training needs RetrievalTask(..., training=True)"
        assert batch.images is not None and batch.text is not None and batch.image_index is not None
        ids, mask, index, counts = self._mask_words(batch.text), batch.text.mask, batch.image_index, batch.samples_per_image
        first = None if counts is None else counts.cumsum(dim=0) - counts  # row of each picture's first text
        pictures = index if first is None else index[first]
        vision, text = self.model.encode_images(batch.images), self.model.encode_text(ids, mask)
        vision_f = self.model.vision_features(vision, _frames(batch.images))
        text_f = self.model.contrastive.text_features(text)
        keys = Keys(vision_f, text_f, pictures, index) if self.queue is None else self._twin_and_queue(batch, pictures, index)
        # Similarities are divided by about 0.07: bf16 would leave two digits, so this part is always fp32.
        with torch.autocast(vision.device.type, enabled=False):
            temperature = self.model.contrastive.temperature
            i2t, t2i = vision_f @ keys.text.T / temperature, text_f @ keys.vision.T / temperature
            targets_i2t, targets_t2i = positive_targets(pictures, keys.text_index), positive_targets(index, keys.vision_index)
            if self._alpha > 0:
                with torch.no_grad():
                    vision_m, text_m = keys.vision[: len(pictures)], keys.text[: len(index)]
                    targets_i2t = soft_targets(vision_m @ keys.text.T / temperature, targets_i2t, self._alpha)
                    targets_t2i = soft_targets(text_m @ keys.vision.T / temperature, targets_t2i, self._alpha)
            contrastive = (soft_cross_entropy(i2t, targets_i2t) + soft_cross_entropy(t2i, targets_t2i)) / 2
        if self.settings.matching_weight == 0:
            return Losses(contrastive, {"itc": contrastive.detach()})
        i2t, t2i = i2t[:, : len(index)].detach(), t2i[:, : len(pictures)].detach()
        if first is not None and counts is not None:
            chosen = first + (torch.rand(len(counts), device=counts.device) * counts).long()
            text, mask, i2t, t2i = text[chosen], mask[chosen], i2t[:, chosen], t2i[chosen]
        negatives = sample_negatives(negative_weights(i2t, t2i, pictures))
        matching = matching_loss(self.matching_logits(vision, text, mask, negatives))
        total = contrastive + self.settings.matching_weight * matching
        return Losses(total, {"itc": contrastive.detach(), "itm": matching.detach()})

    def _mask_words(self, text: Tokens) -> Tensor:
        """Draw the tokens that are hidden in this forward; the special ones never are. The twin reads whole captions."""
        if not self.training or self.settings.masked_words == 0:
            return text.ids
        hidden = (torch.rand(text.ids.shape, device=text.ids.device) < self.settings.masked_words) & text.mask
        for special in (self.tokenizer.cls_id, self.tokenizer.sep_id):
            hidden &= text.ids != special
        return text.ids.masked_fill(hidden, self.tokenizer.mask_id)

    @torch.no_grad()
    def _twin_and_queue(self, batch: Batch, pictures: Tensor, index: Tensor) -> Keys:
        """Encode the batch with the twin and join what the queue holds; remember what is to be written to it."""
        assert self.twin is not None and self.queue is not None and batch.images is not None and batch.text is not None
        if len(index) > self.settings.queue_size:
            raise UsageError(
                f"a batch of {len(index)} does not fit into settings.queue_size={self.settings.queue_size};"
                " enlarge it or take a smaller batch"
            )
        twin, counts = self.twin.model, batch.samples_per_image
        vision = twin.vision_features(twin.encode_images(batch.images), _frames(batch.images))
        text = twin.contrastive.text_features(twin.encode_text(batch.text.ids, batch.text.mask))
        self._pending = (vision if counts is None else vision.repeat_interleave(counts, dim=0), text, index)
        return Keys(
            torch.cat([vision, self.queue.vision]),
            torch.cat([text, self.queue.text]),
            torch.cat([pictures, self.queue.index]),
            torch.cat([index, self.queue.index]),
        )

    def matching_logits(self, vision: Tensor, text: Tensor, mask: Tensor, negatives: Negatives) -> Tensor:
        """Fuse positives, (text, wrong picture) and (wrong text, picture) and classify them in this order, (3B, 2).

        Each picture meets its own text and its wrong text in one call, so that its keys and values are projected once for both.
        """
        both = torch.stack([text, text[negatives.texts]], dim=1).flatten(0, 1)  # (2B, T, D)
        both_mask = torch.stack([mask, mask[negatives.texts]], dim=1).flatten(0, 1)
        own = self.model.matching(self.model.fuse(vision, both, both_mask).text).unflatten(0, (-1, 2))
        wrong_picture = self.model.matching(self.model.fuse(vision[negatives.images], text, mask).text)
        return torch.cat([own[:, 0], wrong_picture, own[:, 1]])

    def predict(self, batch: Batch) -> list[Prediction]:
        """Rank within one batch; ``evaluate`` ranks within the whole split."""
        return list(self.evaluate([batch]))

    def encode(self, batches: Iterable[Batch]) -> tuple[Encoded, list[Sample], list[int]]:
        """Encode every picture and caption once.

        Returns:
            The encoded split, its samples, and the number of captions of each.
        """
        samples: list[Sample] = []
        counts: list[int] = []
        vision: list[Tensor] = []
        vision_f: list[Tensor] = []
        text: list[Tensor] = []
        masks: list[Tensor] = []
        text_f: list[Tensor] = []
        for batch in batches:
            assert batch.images is not None and batch.text is not None and batch.targets_per_item is not None
            tokens, words, mask = (
                self.model.encode_images(batch.images),
                self.model.encode_text(batch.text.ids, batch.text.mask),
                batch.text.mask,
            )
            vision_f.append(self.model.vision_features(tokens, _frames(batch.images)))
            text_f.append(self.model.contrastive.text_features(words))
            if self.settings.k_test == 0:  # nothing will be fused: only the features of a large split fit into memory
                tokens, words, mask = tokens[:, :0], words[:, :0], mask[:, :0]
            vision.append(tokens)
            text += words.unbind(0)
            masks += mask.unbind(0)
            samples += batch.samples
            counts += batch.targets_per_item.tolist()
        if not samples:
            raise DataError("no picture could be read, so there is nothing to rank; see the failures")
        states, mask = pad_sequence(text, batch_first=True), pad_sequence(masks, batch_first=True)
        return Encoded(torch.cat(vision), torch.cat(vision_f), states, mask, torch.cat(text_f)), samples, counts

    def evaluate(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """Rank the whole split both ways; one prediction per picture, with its ranks and its best caption."""
        split, samples, counts = self.encode(batches)
        bounds = [0, *torch.tensor(counts).cumsum(0).tolist()]
        own_texts = [range(low, high) for low, high in pairwise(bounds)]
        owner = [[picture] for picture, count in enumerate(counts) for _ in range(count)]
        k_text, k_image = min(self.settings.k_test, bounds[-1]), min(self.settings.k_test, len(samples))
        text_ranks: list[int] = []
        best: list[tuple[int, float]] = []
        # The original adds the similarity for videos and does not for pictures.
        add_similarity = any(sample.clip for sample in samples)
        for rows in image_to_text(self.model, split, k_text, add_similarity):
            done = len(text_ranks)
            text_ranks += ranks_from_scores(rows.cpu().numpy(), own_texts[done : done + len(rows)]).tolist()
            values, indices = rows.max(dim=1)
            best += zip(indices.tolist(), values.tolist(), strict=True)
        image_ranks: list[int] = []
        found: list[tuple[int, float]] = []
        for rows in text_to_image(self.model, split, k_image, add_similarity):
            done = len(image_ranks)
            image_ranks += ranks_from_scores(rows.cpu().numpy(), owner[done : done + len(rows)]).tolist()
            values, indices = rows.max(dim=1)
            found += zip(indices.tolist(), values.tolist(), strict=True)
        captions = [text for sample in samples for text in sample.references]
        for number, sample in enumerate(samples):
            low, high = bounds[number], bounds[number + 1]
            choice, score = best[number]
            extra = {
                "image": sample.image,
                "text_rank": text_ranks[number],
                "image_ranks": image_ranks[low:high],
                "best_images": [samples[index].image for index, _ in found[low:high]],
                "best_image_scores": [value for _, value in found[low:high]],
                **sample.extra,
            }
            yield Prediction(sample.id, captions[choice], score, sample.references, extra)

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Compute recall at 1, 5, 10 both ways in percent, and their mean."""
        text_ranks = [one.extra["text_rank"] for one in predictions]
        image_ranks = [rank for one in predictions for rank in one.extra["image_ranks"]]
        return dict(retrieval_scores(text_ranks, image_ranks)) if text_ranks else {}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Mark the search for each picture by its first caption: 1 / rank of the right picture."""
        certainty = [one.extra["best_image_scores"][0] for one in predictions]
        return Marks("reciprocal rank", [1 / (1 + one.extra["image_ranks"][0]) for one in predictions], certainty=certainty)

    def shown(self, prediction: Prediction) -> Shown:
        """Show what was searched for, what was found first and where the right picture came; and the caption chosen for it."""
        extra = prediction.extra
        found, rank, right = extra["best_images"][0], extra["image_ranks"][0], extra["image"]
        pictures = ((right, "found first, right"),) if found == right else ((found, "found first"), (right, "meant"))
        asked = (("Searched for", prediction.references[0]), ("Place of the right picture", f"{rank + 1:,}"))
        return Shown(pictures, (*asked, ("Text found for it", f"{prediction.text} (a right one came {extra['text_rank'] + 1:,})")))

    def scorer(self) -> dict[str, str]:
        """Name the protocol."""
        k = self.settings.k_test
        order = f"contrastive top {k}, ranked by the matching logit (for videos plus the similarity)" if k else "contrastive similarity"
        return {"protocol": f"{order}; txt = picture to text, percent"}
