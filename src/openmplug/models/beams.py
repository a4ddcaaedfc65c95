"""The tokens of a beam search, written once and never copied.

When beams change places, their keys and values stay where they were written: each beam remembers in which place each of its tokens
lies, and a mask shows it those and no others. Copying them would read and write the whole cache of every layer at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openmplug.models.layers import KeyValueCache, KeyValues

if TYPE_CHECKING:
    from openmplug.models.decoder import DecoderMemory, DecoderState
    from openmplug.models.stepping import LayerStep


class BeamCache:
    """Keys and values of the tokens that the beams of B items have written, in the order (B, T, K, keys and values, N, D/N).

    Args:
        first: What the items have in common, a row each.
        beams: ``K``.
        capacity: Most tokens a text can have.
    """

    def __init__(self, first: KeyValueCache, beams: int, capacity: int) -> None:
        common = first.everything()
        keys = common.keys.permute(0, 2, 1, 3)  # (B, T, N, D/N)
        items, self.length, heads, width = keys.shape
        self._tokens = keys.new_empty(items, capacity, beams, 2, heads, width)
        # Common tokens lie in the first place; the others are masked, but what is there takes part in products.
        self._tokens[:, : self.length] = 0
        self._tokens[:, : self.length, 0, 0] = keys
        self._tokens[:, : self.length, 0, 1] = common.values.permute(0, 2, 1, 3)

    def append_joint(self, new: Tensor) -> KeyValues:
        """Add a token of every beam, keys and values side by side (B * K, 1, 2, N, D/N), and return all, (B, N, T * K, D/N).

        Raises:
            ValueError: If the cache is full.
        """
        if self.length == self._tokens.shape[1]:
            raise ValueError(f"the cache holds {self.length} tokens; allocate it with a larger max_length")
        self._tokens[:, self.length] = new.view(self._tokens[:, 0].shape)
        self.length += 1
        filled = self._tokens[:, : self.length]
        keys, values = (filled[:, :, :, side].flatten(1, 2).transpose(1, 2) for side in (0, 1))
        return KeyValues(keys, values)

    def keep(self, items: Tensor) -> None:
        """Keep some of the items."""
        self._tokens = self._tokens.index_select(0, items)


@dataclass(slots=True)
class BeamState:
    """A beam search under way: what ``TextDecoder.step`` needs of it, with K beams for each of B items.

    Args:
        memory: What the items attend to.
        caches: One a layer.
        layers: Ready for it.
        places: (B, K, T), in which place each token of each beam lies.
    """

    memory: DecoderMemory
    caches: list[BeamCache]
    layers: list[LayerStep]
    places: Tensor

    @staticmethod
    def of(state: DecoderState, beams: int, capacity: int) -> BeamState:
        """Let ``beams`` beams go on from every row of a decoding."""
        caches = [BeamCache(cache, beams, capacity) for cache in state.caches]
        device = state.memory.layers[0].keys.device
        places = torch.zeros(len(state.memory), beams, state.length, dtype=torch.int64, device=device)
        return BeamState(state.memory, caches, state.layers, places)

    @property
    def length(self) -> int:
        """Tokens decoded so far."""
        return self.caches[0].length

    def visible(self) -> Tensor:
        """Return what the next token of each beam sees, itself included, as a mask to be added: (B, 1, K, (T + 1) * K)."""
        items, beams, _ = self.places.shape
        own = torch.arange(beams, device=self.places.device)
        self.places = torch.cat([self.places, own.expand(items, beams)[:, :, None]], dim=2)
        seen = self.places[..., None] == own  # (B, K, T + 1, K)
        mask = torch.zeros(seen.shape, dtype=self.memory.layers[0].keys.dtype, device=own.device).masked_fill_(~seen, -torch.inf)
        return mask.flatten(2)[:, None]

    def reorder(self, parents: Tensor, items: Tensor | None = None) -> None:
        """Let beam k of an item continue its beam ``parents[item, k]`` (B, K); ``items`` keeps some of them."""
        self.places = self.places.gather(1, parents[:, :, None].expand_as(self.places))
        if items is not None:
            self.places, self.memory = self.places.index_select(0, items), self.memory.rows(items)
            for cache in self.caches:
                cache.keep(items)
