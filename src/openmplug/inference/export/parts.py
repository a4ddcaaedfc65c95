"""The parts a model is taken into: what goes in, what comes out, and which sizes may change.

A part is a module of tensors in and tensors out. Together they do what the model does: pictures and words are encoded, fused,
projected once to what the decoder attends to (``memory``), and the decoder adds tokens to a cache that goes in as ``past`` and comes out
as ``present``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openmplug.models.layers import KeyValues
from openmplug.models.network import Network

Names = dict[str, tuple[str | int, ...]]


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: Of its file.
        module: Computes it.
        inputs: Name -> shape: sizes that may change are words, the others numbers. In the order of the module's arguments.
        outputs: Names of what comes out, in order.
        draw: Makes inputs for the given sizes (word -> number), random ones.
        most: Word -> its largest size, where there is one.
    """

    name: str
    module: nn.Module
    inputs: Names
    outputs: tuple[str, ...]
    draw: Callable[[dict[str, int]], tuple[Tensor, ...]]
    most: dict[str, int]

    @property
    def sizes(self) -> tuple[str, ...]:
        """The words of all sizes that may change."""
        return tuple(dict.fromkeys(size for shape in self.inputs.values() for size in shape if isinstance(size, str)))


class VisionPart(nn.Module):
    """Pictures (B, 3, S, S) or clips (B, F, 3, S, S) to states (B, V, D), and features (B, E) where there is a contrastive head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encode; shapes as the class says."""
        states = self.network.encode_images(pixels)
        if "contrastive" not in self.network.modules_built:
            return (states,)
        return states, self.network.vision_features(states, pixels.shape[1] if pixels.ndim == 5 else 1)


class TextPart(nn.Module):
    """Ids (B, T) and mask (B, T) to states (B, T, D), and features (B, E) where there is a contrastive head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Encode; shapes as the class says."""
        states = self.network.encode_text(ids, mask)
        if "contrastive" not in self.network.modules_built:
            return (states,)
        return states, self.network.contrastive.text_features(states)


class FusionPart(nn.Module):
    """States of pictures (B, V, D) and texts (B, T, D), mask (B, T) to both fused, and the probability (B,) that they belong together."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, vision: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Fuse; shapes as the class says."""
        fused = self.network.fuse(vision, text, mask)
        if "matching" not in self.network.modules_built:
            return fused.vision, fused.text
        return fused.vision, fused.text, self.network.matching(fused.text).float().softmax(dim=-1)[:, 1]


class MemoryPart(nn.Module):
    """What the decoder attends to (B, S, D), projected once to keys and values of every layer (L, 2, B, N, S, D/N)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, states: Tensor) -> Tensor:
        """Project; shapes as the class says."""
        memory = self.decoder.project_memory(states)
        return torch.stack([torch.stack([layer.keys, layer.values]) for layer in memory.layers])


class _Grown:
    """A cache whose tensors go in and come out, where ``KeyValueCache`` fills buffers."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def append(self, new: KeyValues) -> KeyValues:
        """Add tokens and return everything so far."""
        self.keys, self.values = torch.cat([self.keys, new.keys], dim=2), torch.cat([self.values, new.values], dim=2)
        return KeyValues(self.keys, self.values)


class DecoderPart(nn.Module):
    """One step: new tokens (R, t) behind the past ones to the logits (R, vocab) of the last, and the cache grown by them.

    ``past`` and ``present`` are (L, 2, R, N, tokens, D/N); an empty past has 0 tokens.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, ids: Tensor, past: Tensor, memory: Tensor, memory_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one step; shapes as the class says, ``memory`` (L, 2, R, N, S, D/N), ``memory_mask`` (R, S) bool."""
        old, new = past.shape[4], ids.shape[1]
        places = torch.arange(new, device=ids.device) + old
        x = self.decoder.embeddings(ids, at=places[None].expand(ids.shape[0], -1))
        visible = torch.arange(old + new, device=ids.device)[None] <= places[:, None]
        present = []
        for number, layer in enumerate(self.decoder.layers):
            cache = _Grown(past[number, 0], past[number, 1])
            x = layer(x, KeyValues(memory[number, 0], memory[number, 1]), visible, memory_mask[:, None, None], cache)
            present.append(torch.stack([cache.keys, cache.values]))
        return self.decoder.logits(x[:, -1]), torch.stack(present)


def only(network: Network, *names: str) -> Network:
    """Return a view of a model that has these modules and no others: a file holds every weight of what it is taken of."""
    view = copy.copy(network)
    view._modules = {name: module for name, module in network._modules.items() if name in names}
    return view


def parts_of(network: Network, frames: int | None = None) -> list[Part]:
    """Return the parts that a model has.

    Args:
        network: In evaluation mode, fp32.
        frames: Frames of a clip, for a model that sees clips: that number is fixed in the part ``clip``.
    """
    config, built = network.config, network.modules_built
    side, width, heads = config.image_size, config.width, config.heads
    words, places, layers = config.vocab_size, config.max_positions, config.decoder_layers
    contrast = ("features",) if "contrastive" in built else ()
    parts: list[Part] = []

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape)

    def mask(rows: int, length: int) -> Tensor:
        return torch.arange(length)[None] < torch.randint(1, length + 1, (rows, 1))

    def ids(rows: int, length: int) -> Tensor:
        return torch.randint(0, words, (rows, length))

    if "vision" in built:
        vision = VisionPart(only(network, "vision", "vision_projection", "temporal", "universal", "contrastive"))
        outputs = ("states", *contrast)
        parts.append(
            Part("vision", vision, {"pixels": ("batch", 3, side, side)}, outputs, lambda s: (normal(s["batch"], 3, side, side),), {})
        )
        if frames is not None:
            clips: Names = {"pixels": ("batch", frames, 3, side, side)}
            parts.append(Part("clip", vision, clips, outputs, lambda s: (normal(s["batch"], frames, 3, side, side),), {}))
    if "text" in built:
        shapes: Names = {"ids": ("batch", "tokens"), "mask": ("batch", "tokens")}
        drawn = lambda s: (ids(s["batch"], s["tokens"]), mask(s["batch"], s["tokens"]))  # noqa: E731 - as its neighbours
        parts.append(
            Part(
                "text",
                TextPart(only(network, "text", "universal", "contrastive")),
                shapes,
                ("states", *contrast),
                drawn,
                {"tokens": places},
            )
        )
    if "fusion" in built:
        shapes = {"vision": ("batch", "patches", width), "text": ("batch", "tokens", width), "mask": ("batch", "tokens")}
        parts.append(
            Part(
                "fusion",
                FusionPart(only(network, "fusion", "matching")),
                shapes,
                ("vision_fused", "text_fused", *(("match",) if "matching" in built else ())),
                lambda s: (
                    normal(s["batch"], s["patches"], width),
                    normal(s["batch"], s["tokens"], width),
                    mask(s["batch"], s["tokens"]),
                ),
                {"tokens": places},
            )
        )
    if "decoder" in built:
        shapes = {"states": ("batch", "seen", width)}
        parts.append(Part("memory", MemoryPart(network), shapes, ("memory",), lambda s: (normal(s["batch"], s["seen"], width),), {}))
        each = width // heads
        shapes = {
            "ids": ("rows", "new"),
            "past": (layers, 2, "rows", heads, "past", each),
            "memory": (layers, 2, "rows", heads, "seen", each),
            "memory_mask": ("rows", "seen"),
        }
        parts.append(
            Part(
                "decoder",
                DecoderPart(network),
                shapes,
                ("logits", "present"),
                lambda s: (
                    ids(s["rows"], s["new"]),
                    normal(layers, 2, s["rows"], heads, s["past"], each),
                    normal(layers, 2, s["rows"], heads, s["seen"], each),
                    mask(s["rows"], s["seen"]),
                ),
                {"new": places, "past": places - 1},
            )
        )
    return parts
