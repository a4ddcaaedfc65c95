"""What the language objectives of pre-training read and have to say: masked words, a prefix and its continuation, an instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Tokens
from openmplug.data.tokenizer import Tokenizer
from openmplug.models.decoder import DecoderMemory
from openmplug.models.fusion import Fused
from openmplug.models.network import Network
from openmplug.objectives.language import IGNORE, Split, split_prefix, text_labels
from openmplug.tasks.mlm import hide_words


class Reading(NamedTuple):
    """What one objective reads, ids (B, t) with mask, and has to say.

    ``labels`` (B, t) are the hidden words of masked ones. Where the decoder writes they are (B, u), beside what it is given, ``written``
    (B, u) with mask.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    written: Tokens | None = None

    @property
    def wanted(self) -> Tensor:
        """Say which of the places (B, t), or (B, u - 1) behind each written id, have something to learn."""
        return (self.labels if self.written is None else self.labels[:, 1:]) != IGNORE

    @property
    def answers(self) -> Tensor:
        """Return the ids to be said at the wanted places, (W,)."""
        return (self.labels if self.written is None else self.labels[:, 1:])[self.wanted]


Readings = Mapping[str, Reading]
Encoded = tuple[Tensor, Tensor]
"""States (B, t, D) and mask (B, t)."""


def masked_reading(text: Tokens, tokenizer: Tokenizer, share: float, seeds: Sequence[str] | None = None) -> Reading:
    """Hide words of texts (B, T); with seeds, one per text, the same ones each time."""
    hidden = hide_words(text, tokenizer, share, seeds)
    return Reading(hidden.ids, text.mask, hidden.labels)


def prefix_reading(text: Tokens, tokenizer: Tokenizer, share: Tensor) -> Reading:
    """Cut each text (B, T) behind ``share`` (B,) of it, from 0 to below 1."""
    return _written(split_prefix(text.ids, text.mask, share, tokenizer.sep_id))


def instruction_reading(text: Tokens, tokenizer: Tokenizer, instruction: Tokens) -> Reading:
    """Ask for the whole of each text (B, T) by one instruction (1, t)."""
    rows = len(text.ids)
    whole = _written(split_prefix(text.ids, text.mask, torch.zeros(rows, device=text.ids.device), tokenizer.sep_id))
    return whole._replace(ids=instruction.ids.expand(rows, -1), mask=instruction.mask.expand(rows, -1))


def _written(split: Split) -> Reading:
    # Cut to the longest: prefix and continuation share the length of the text between them.
    read, written = (int(mask.sum(dim=1).max()) for mask in (split.prefix_mask, split.target_mask))
    target = Tokens(split.target[:, :written], split.target_mask[:, :written])
    return Reading(split.prefix[:, :read], split.prefix_mask[:, :read], text_labels(target.ids, target.mask), target)


def encode_readings(model: Network, readings: Readings) -> dict[str, Encoded]:
    """Encode what all objectives read in one call of the text encoder."""
    if not readings:
        return {}
    lengths = [reading.mask.shape[1] for reading in readings.values()]
    ids = torch.cat([F.pad(reading.ids, (0, max(lengths) - reading.ids.shape[1])) for reading in readings.values()])
    masks = torch.cat([F.pad(reading.mask, (0, max(lengths) - reading.mask.shape[1])) for reading in readings.values()])
    states = model.encode_text(ids, masks).chunk(len(readings))
    return {name: (of_one[:, :length], readings[name].mask) for name, of_one, length in zip(readings, states, lengths, strict=True)}


def spoken(model: Network, reading: Reading, fused: Fused) -> Tensor:
    """Compute logits (W, vocab) at the wanted places; only these go through the vocabulary.

    Args:
        model: Has a decoder where the reading is one to write, else a language head.
        reading: Of B texts.
        fused: What became of them: vision (B, V, D), V = 0 for words alone, and text (B, t, D).
    """
    if reading.written is None:
        return model.language(fused.text[reading.wanted], model.text.embeddings.words.weight)
    memory = _memory(model, fused, reading.mask)
    # The last id is only to be said, never read.
    hidden = model.decoder.hidden(reading.written.ids[:, :-1], reading.written.mask[:, :-1], memory)
    return model.decoder.logits(hidden[reading.wanted])


def _memory(model: Network, fused: Fused, mask: Tensor) -> DecoderMemory:
    """Let the decoder attend to vision (B, V, D), or (R, V, D), and text (R, t, D)."""
    if len(fused.vision) < len(fused.text):
        fused = Fused(fused.vision.repeat_interleave(len(fused.text) // len(fused.vision), dim=0), fused.text)
    return model.decoder_memory(fused, mask)
