"""What pre-training reads at a time: pictures or clips with captions, questions about them, or words alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from openmplug.batch import Batch, Item
from openmplug.data.sources import asks
from openmplug.data.text import clean_caption
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError
from openmplug.tasks.decoding import ask_about, stack_images
from openmplug.tasks.vqa import VQACollator


@dataclass(frozen=True)
class PretrainCollator:
    """Items to a batch of pictures, clips or words alone; of pictures the batch's ``targets`` are the instructions, a row each."""

    tokenizer: Tokenizer
    max_words: int
    text_length: int
    words_length: int
    instructions: tuple[str, ...]
    questions: VQACollator

    def __call__(self, items: list[Item]) -> Batch:
        """Stack pictures, clean and tokenise texts; a record without a text of its own has the first of its captions.

        Raises:
            DataError: If a record has neither, or pictures and words alone, or questions and captions, come together.
        """
        asking = [asks(item.sample) for item in items]
        if all(asking):
            return self.questions(items)
        if any(asking):
            raise DataError("questions and captions cannot share a batch; put them into different sources")
        groups = [item.sample.parts or (item.sample,) for item in items]
        samples = [sample for group in groups for sample in group]
        texts = [sample.text or next(iter(sample.targets or sample.references), "") for sample in samples]
        if bare := next((sample for sample, text in zip(samples, texts, strict=True) if not text), None):
            raise DataError(f"record {bare.id!r} has no text; pre-training needs one for every record")
        pictured = [item.pixels is not None for item in items]
        if any(pictured) != all(pictured):
            raise DataError("records with and without pictures cannot share a batch; put them into different sources")
        if not any(pictured):
            return Batch(samples, text=self.tokenizer(texts, max_length=self.words_length))
        asked = [ask_about(text, samples[0].clip) for text in self.instructions]
        return Batch(
            samples,
            images=stack_images(items),
            text=self.tokenizer([clean_caption(text, self.max_words) for text in texts], max_length=self.text_length),
            targets=self.tokenizer(asked, max_length=self.text_length),
            image_index=torch.tensor([sample.image_index for sample in samples]),
            samples_per_image=torch.tensor([len(group) for group in groups]) if len(samples) > len(groups) else None,
        )
