"""The causal text decoder: self-attention with a cache, cross-attention to a memory projected once per item."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.beams import BeamState
from openmplug.models.layers import BERT_NORM_EPS, KeyValueCache, KeyValues, PostNormCrossBlock
from openmplug.models.masks import causal_mask, causal_padding_mask, key_mask
from openmplug.models.packing import Linear, PackedLinear
from openmplug.models.stepping import LayerStep
from openmplug.models.text import TextEmbeddings, init_bert


@dataclass(slots=True)
class DecoderMemory:
    """What the decoder attends to: keys and values of every layer, B rows, and the mask (B, 1, 1, S) or None."""

    layers: list[KeyValues]
    mask: Tensor | None

    def __len__(self) -> int:
        return len(self.layers[0].keys)

    def rows(self, index: Tensor) -> DecoderMemory:
        """Pick items, with repetition."""
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return DecoderMemory([layer.rows(index) for layer in self.layers], mask)

    def narrow(self, first: int, count: int) -> DecoderMemory:
        """Pick consecutive items; views, not copies."""
        mask = None if self.mask is None else self.mask.narrow(0, first, count)
        return DecoderMemory([layer.narrow(first, count) for layer in self.layers], mask)

    def contiguous(self) -> DecoderMemory:
        """Lay the keys and values out for many steps."""
        return DecoderMemory([layer.contiguous() for layer in self.layers], self.mask)


@dataclass(slots=True)
class DecoderState:
    """A decoding under way: the memory of B items and the tokens of R rows so far, B dividing R; and the layers, ready for it."""

    memory: DecoderMemory
    caches: list[KeyValueCache]
    layers: list[LayerStep]

    @property
    def length(self) -> int:
        """Tokens decoded so far."""
        return self.caches[0].length

    def reorder(self, rows: Tensor, items: Tensor | None = None) -> None:
        """Let row i continue row ``rows[i]``; ``items`` keeps a part of the memory when items have finished."""
        for layer, cache in enumerate(self.caches):
            self.caches[layer] = cache.rows(rows)  # one by one: the next copy goes where the last one was freed
        if items is not None:
            self.memory = self.memory.rows(items)

    def fork(self, rows: Tensor, max_length: int) -> DecoderState:
        """Begin another decoding of at most ``max_length`` tokens whose row i continues row ``rows[i]``; this one stays as it is."""
        return DecoderState(self.memory, [cache.rows(rows, max_length) for cache in self.caches], self.layers)


class LanguageHead(nn.Module):
    """Width to vocabulary: Linear, GELU, LayerNorm, then the word table of the decoder itself (tied) and a bias."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.packed_words = PackedLinear()

    def transformed(self, x: Tensor) -> Tensor:
        """Compute what is multiplied with the word table, (..., D), of states (..., D)."""
        return self.norm(self.transform.gelu(x))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Compute logits (..., vocab) of states (..., D) with the word table (vocab, D)."""
        return self.logits(self.transformed(x), words)

    def logits(self, x: Tensor, words: Tensor) -> Tensor:
        """Compute logits (..., vocab) of transformed states (..., D)."""
        packed = self.packed_words.usable(x, (words, self.bias))
        return F.linear(x, words, self.bias) if packed is None else packed.linear(x)

    def pack(self, words: Tensor) -> None:
        """Pack the weights, the word table's too."""
        self.transform.pack()
        self.packed_words.pack((words, self.bias))


class TextDecoder(nn.Module):
    """Writes text about a memory.

    Shapes: ids (R, T), mask (R, T) bool, memory states (B, S, D) with B dividing R: row r belongs to item ``r // (R / B)``.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        heads: int,
        intermediate: int,
        layers: int,
        max_positions: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(vocab_size, width, max_positions, dropout)
        self.layers = nn.ModuleList(PostNormCrossBlock(width, heads, intermediate, dropout, attention_dropout) for _ in range(layers))
        self.head = LanguageHead(width, vocab_size)
        init_bert(self, width)

    def project_memory(self, states: Tensor, mask: Tensor | None = None) -> DecoderMemory:
        """Project the memory states (B, S, D) to every layer's keys and values, once for all rows and steps.

        Args:
            states: What to attend to.
            mask: (B, S) bool, None = all of it.
        """
        return DecoderMemory([self._block(i).project_memory(states) for i in range(len(self.layers))], key_mask(mask))

    def _block(self, index: int) -> PostNormCrossBlock:
        block = self.layers[index]
        assert isinstance(block, PostNormCrossBlock)
        return block

    def pack(self) -> None:
        """Pack the weights that every step reads, where that pays (fp32 on a CPU); they take their size in memory once more."""
        for index in range(len(self.layers)):
            self._block(index).pack()
        self.head.pack(self.embeddings.words.weight)

    def hidden(self, ids: Tensor, mask: Tensor, memory: DecoderMemory) -> Tensor:
        """Compute the states (R, T, D) of whole texts, each token seeing the ones before it."""
        x, visible = self.embeddings(ids), causal_padding_mask(mask)
        for layer, keys_values in zip(self.layers, memory.layers, strict=True):
            x = layer(x, keys_values, visible, memory.mask)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits (..., vocab) of states (..., D)."""
        return self.head(hidden, self.embeddings.words.weight)

    def logits_between(self, hidden: Tensor, first: int, last: int) -> Tensor:
        """Compute the logits (..., last - first) of the words from ``first`` to before ``last``, in fp32 also under autocast.

        Words that stand for numbers differ from their neighbours by less than bf16 has digits for; as good as the weights' own type then.
        """
        x = self.head.transformed(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(x.float(), self.embeddings.words.weight[first:last].float(), self.head.bias[first:last].float())

    def forward(self, ids: Tensor, mask: Tensor, memory: DecoderMemory) -> Tensor:
        """Compute the logits (R, T, vocab) at every position (not shifted)."""
        return self.logits(self.hidden(ids, mask, memory))

    def start(self, memory: DecoderMemory, rows: int, max_length: int) -> DecoderState:
        """Begin decoding ``rows`` sequences of at most ``max_length`` tokens; the weights must not change before it ends."""
        if not torch.is_grad_enabled():
            self.pack()
            memory = memory.contiguous()
        steps = [LayerStep(self._block(index), layer.keys) for index, layer in enumerate(memory.layers)]
        return DecoderState(memory, [KeyValueCache(rows, max_length, layer.keys) for layer in memory.layers], steps)

    def step(self, ids: Tensor, state: DecoderState | BeamState, positions: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """Add the tokens ids (R, t) to every row and return the states (R, t, D) at their positions.

        Args:
            ids: The new tokens.
            state: What came before; it grows. Of beams, one token at a time.
            positions: (R, t) where each token stands in its text; default one after the other.
            visible: (R, 1, t, tokens so far + t) bool, which tokens each new one sees; default itself and everything before.
        """
        new, past = ids.shape[1], state.length
        x = self.embeddings(ids, start=past, at=positions)
        if isinstance(state, BeamState):  # single tokens, without gradients
            x, seen = x[:, 0], state.visible()
            for step, keys_values, shared in zip(state.layers, state.memory.layers, state.caches, strict=True):
                x = step(x, keys_values, state.memory.mask, shared, seen)
            return x[:, None]
        # What is packed has no gradient, and training has dropout: both go the usual way.
        if new == 1 and visible is None and not self.training and not torch.is_grad_enabled():
            x = x[:, 0]
            for step, keys_values, cache in zip(state.layers, state.memory.layers, state.caches, strict=True):
                x = step(x, keys_values, state.memory.mask, cache)
            return x[:, None]
        if visible is None and new > 1:
            visible = causal_mask(new, past + new, ids.device)
        for layer, keys_values, cache in zip(self.layers, state.memory.layers, state.caches, strict=True):
            x = layer(x, keys_values, visible, state.memory.mask, cache)
        return x
