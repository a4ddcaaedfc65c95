"""What the tasks that write text share: the loss over a decoder, and generated ids back to words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Item, Sample, Tokens
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError, UsageError
from openmplug.models.decoder import DecoderMemory, TextDecoder
from openmplug.models.generation import Hypothesis, beam_search
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.network import Network
from openmplug.objectives.language import IGNORE, text_labels


def stack_images(items: Sequence[Item]) -> Tensor:
    """Stack the pixels of items to (B, C, H, W), or those of clips to (B, F, C, H, W).

    Raises:
        DataError: If pictures and clips come together, or a record has several pictures.
    """
    if several := next((item for item in items if item.further_pixels), None):
        raise DataError(
            f"record {several.sample.id!r} has {1 + len(several.further_pixels)} pictures, and this task reads one of each record; "
            "several are read by task classification with settings.images_per_example"
        )
    pixels = [item.pixels for item in items if item.pixels is not None]
    if len({one.shape for one in pixels}) > 1:
        kinds = " and ".join(sorted({"x".join(map(str, one.shape)) for one in pixels}))
        raise DataError(f"pictures and videos cannot share a batch (pixels {kinds}); put them into different splits")
    return torch.stack(pixels)


def ask_about(instruction: str, clips: bool) -> str:
    """Put what is asked about into an instruction: ``{kind}`` becomes "video" or "image"."""
    return instruction.replace("{kind}", "video" if clips else "image")


def grouped_by_image(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Make one example of up to ``most`` records about a picture, in order of the pictures' first appearance."""
    if most == 1:
        return list(samples)
    pictures: dict[str, list[Sample]] = {}
    for sample in samples:
        # Records about words alone share nothing: one example each.
        pictures.setdefault(sample.image or f"\0{sample.id}", []).append(sample)
    chunks = [about[first : first + most] for about in pictures.values() for first in range(0, len(about), most)]
    return [replace(chunk[0], parts=tuple(chunk)) for chunk in chunks]


def memory_of_rows(memory: DecoderMemory, counts: Tensor | None) -> DecoderMemory:
    """Fit the memory of B items to texts of which ``counts[b]`` (B,) belong to item b.

    Where every item has the same number the memory stays as it is: the decoder's attention shares it without a copy.
    """
    if counts is None or bool((counts == counts[0]).all()):
        return memory
    return memory.rows(torch.arange(len(counts), device=counts.device).repeat_interleave(counts))


def target_log_probs(decoder: TextDecoder, memory: DecoderMemory, targets: Tokens, labels: Tensor) -> Tensor:
    """Compute each row's summed cross-entropy, (R,).

    Only positions with a label go through the vocabulary head: with short answers and padding that is a fraction of them, and the
    head is the widest matrix of the decoder.

    Args:
        decoder: The decoder.
        memory: Of B items, B dividing R.
        targets: Texts (R, T).
        labels: (R, T), -100 = ignore.
    """
    hidden = decoder.hidden(targets.ids[:, :-1], targets.mask[:, :-1], memory)
    shifted = labels[:, 1:]
    wanted = shifted != IGNORE
    losses = F.cross_entropy(decoder.logits(hidden[wanted]).float(), shifted[wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    return losses.new_zeros(len(labels)).index_add(0, rows, losses)


def question_memory(model: Network, batch: Batch) -> DecoderMemory:
    """Let the decoder attend to questions and what they are about: pictures, clips, or nothing but the words."""
    assert batch.text is not None
    if batch.images is None:
        return model.text_memory(batch.text.ids, batch.text.mask)
    return model.answer_memory(batch.images, batch.text.ids, batch.text.mask, batch.samples_per_image)


def answer_losses(model: Network, batch: Batch) -> tuple[Tensor, DecoderMemory]:
    """Compute minus the log-probability of each answer, (N,), and return the memory of its question with it."""
    assert batch.targets is not None and batch.targets_per_item is not None
    memory = memory_of_rows(question_memory(model, batch), batch.targets_per_item)
    labels = text_labels(batch.targets.ids, batch.targets.mask)
    return target_log_probs(model.decoder, memory, batch.targets, labels), memory


def check_generation(config: MPLUGConfig, num_beams: int, max_length: int, prompt_length: int = 1) -> None:
    """Refuse settings that the model cannot generate with, when the task is built rather than at the first evaluation.

    Raises:
        UsageError: If there are more beams than words, or longer texts than positions.
    """
    if num_beams > config.vocab_size:
        raise UsageError(f"settings.num_beams={num_beams} exceeds the vocabulary of {config.vocab_size}; lower it")
    if prompt_length + max_length - 1 > config.max_positions:
        raise UsageError(
            f"settings.max_length={max_length} after {prompt_length} first tokens exceeds model.max_positions={config.max_positions};"
            " lower the one or raise the other"
        )


def generate(
    decoder: TextDecoder,
    memory: DecoderMemory,
    tokenizer: Tokenizer,
    *,
    num_beams: int,
    min_length: int,
    max_length: int,
    prompt: Sequence[int] = (),
) -> list[tuple[str, Hypothesis]]:
    """Write one text per item with the original's beam search and decode it."""
    # Not beam_search's own default: that is BERT's 101, and training began with the tokenizer's [CLS].
    begin = torch.tensor([list(prompt) or [tokenizer.cls_id]], device=memory.layers[0].keys.device).expand(len(memory), -1)
    found = beam_search(
        decoder, memory, num_beams=num_beams, min_length=min_length, max_length=max_length, prompt=begin, end_id=tokenizer.sep_id
    )
    return [(tokenizer.decode(best[0].ids), best[0]) for best in found]
