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

from openmplug.batch import Batch, Item, Losses, Prediction, Sample
from openmplug.data.text import clean_caption
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError
from openmplug.metrics.retrieval import ranks_from_scores, retrieval_scores
from openmplug.tasks.alignment import AlignmentSettings, AlignmentTask, frames_of
from openmplug.tasks.base import Collator
from openmplug.tasks.decoding import stack_images
from openmplug.tasks.marks import Marks, Shown
from openmplug.tasks.reranking import Encoded, image_to_text, text_to_image


class RetrievalSettings(AlignmentSettings):
    """Settings of retrieval, besides those of ``AlignmentSettings``; defaults are the released recipe's.

    Args:
        masked_words: Probability of a caption's token to be replaced by [MASK] in training; the original masks none.
        matching_weight: Of the matching loss in the sum; the original's is 1. From scratch, matching stays at chance until pictures
            and texts are aligned, and until then its gradient only disturbs the encoders. 0 builds neither fusion nor matching head.
        k_test: Candidates that the matching head ranks; 0 keeps the order of the contrastive similarity.
        max_words: Words kept of a caption.
        max_text_length: Tokens of a caption in evaluation, [CLS] included.
    """

    masked_words: float = Field(default=0.0, ge=0, lt=1)
    matching_weight: float = Field(default=1.0, ge=0)
    k_test: int = Field(default=256, ge=0)
    max_words: int = Field(default=30, ge=1)
    max_text_length: int = Field(default=30, ge=2)

    @model_validator(mode="after")
    def _ranked_by_matching(self) -> RetrievalSettings:
        if self.matching_weight == 0 and self.k_test > 0:
            raise ValueError(f"k_test {self.k_test} needs the matching head, which matching_weight 0 leaves out; set k_test to 0")
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


class RetrievalTask(AlignmentTask):
    """Find pictures by text and texts by picture. Source: ``model_retrieval_mplug.py``."""

    Settings = RetrievalSettings
    model_modules = ("vision", "text", "fusion", "contrastive", "matching")
    metric = "r_mean"
    settings: RetrievalSettings

    @classmethod
    def needed_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts of the model; a weight of 0 leaves out what only matching uses."""
        return cls.model_modules if settings.matching_weight > 0 else ("vision", "text", "contrastive")

    def collator(self, training: bool) -> Collator:
        """Make the collator; training captions are cut by words only, up to the model's positions, as in the original."""
        positions = self.model.config.max_positions
        limit = positions if training else min(self.settings.max_text_length, positions)
        return RetrievalCollator(self.tokenizer, self.settings.max_words, limit, training)

    def forward(self, batch: Batch) -> Losses:
        """Compute contrastive plus matching loss; a loss of weight 0 is not computed."""
        assert batch.text is not None
        aligned = self.align(batch, self.read_ids(batch))
        if self.settings.matching_weight == 0:
            return Losses(aligned.loss, {"itc": aligned.loss.detach()})
        matching = self.match(self.some_texts(aligned, batch.samples_per_image))
        total = aligned.loss + self.settings.matching_weight * matching
        return Losses(total, {"itc": aligned.loss.detach(), "itm": matching.detach()})

    def read_ids(self, batch: Batch) -> Tensor:
        """Draw the tokens that are hidden in this forward; the special ones never are. The twin reads whole captions."""
        assert batch.text is not None
        text = batch.text
        if not self.training or self.settings.masked_words == 0:
            return text.ids
        hidden = (torch.rand(text.ids.shape, device=text.ids.device) < self.settings.masked_words) & text.mask
        for special in (self.tokenizer.cls_id, self.tokenizer.sep_id):
            hidden &= text.ids != special
        return text.ids.masked_fill(hidden, self.tokenizer.mask_id)

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
            vision_f.append(self.model.vision_features(tokens, frames_of(batch.images)))
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
