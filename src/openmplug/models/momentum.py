"""The momentum twin and the feature queues. The task steps them, between a forward and the next; no ``forward`` does."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.families import build_network
from openmplug.models.network import Network


class MomentumTwin(nn.Module):
    """A slowly moving copy of a model: ``twin = m * twin + (1 - m) * model``, parameters only.

    Args:
        model: The student.
        paired: Modules that follow the student.
        unpaired: Modules that are copied once and then stand still (the original never updates its fusion twin).
        momentum: ``m``; 0.995 in the originals, whatever their configuration says.
    """

    def __init__(self, model: Network, paired: Collection[str], unpaired: Collection[str] = (), momentum: float = 0.995) -> None:
        super().__init__()
        self.momentum = momentum
        # What the family adds to these parts (universal layers, temporal modules) follows the student too.
        followed = type(model).selection(tuple(paired), clips="temporal" in model.modules_built)
        self.model = build_network(model.config, {*followed, *unpaired})
        self.paired = tuple(name for name in self.model.modules_built if name in followed)
        if "vision" in self.paired and hasattr(model, "vision_projection"):
            self.paired = (*self.paired, "vision_projection")
        self.requires_grad_(False)
        self.copy_from(model)

    @torch.no_grad()
    def copy_from(self, model: Network) -> None:
        """Make the twin equal to the student, unpaired modules too."""
        for name, child in self.model.named_children():
            child.load_state_dict(getattr(model, name).state_dict())

    @torch.no_grad()
    def update(self, model: Network) -> None:
        """Move every paired parameter a little towards the student, in one foreach call.

        Where both are cut into pieces alike, each process moves its own.
        """
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for name in self.paired:
            mine += map(_own_piece, getattr(self.model, name).parameters())
            theirs += map(_own_piece, getattr(model, name).parameters())
        torch._foreach_lerp_(mine, theirs, 1.0 - self.momentum)


def _own_piece(parameter: Tensor) -> Tensor:
    """Return what this process holds of a parameter: all of it, or its piece (a view)."""
    piece: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return piece


class FeatureQueue(nn.Module):
    """The last features of the momentum encoders and the numbers of their pictures.

    Shapes: vision (Q, E), text (Q, E) with unit rows (random at first), index (Q,) int64 (-100 at first), pointer (1,).
    """

    vision: Tensor
    text: Tensor
    index: Tensor
    pointer: Tensor

    def __init__(self, length: int, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("vision", F.normalize(torch.randn(length, embed_dim), dim=-1))
        self.register_buffer("text", F.normalize(torch.randn(length, embed_dim), dim=-1))
        self.register_buffer("index", torch.full((length,), -100))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def push(self, vision: Tensor, text: Tensor, index: Tensor) -> None:
        """Overwrite the oldest entries with features (B, E) and picture numbers (B,).

        A batch that reaches over the end goes on at the front (the original demands that batches divide the queue).

        Raises:
            ValueError: If the batch is longer than the queue.
        """
        length = len(self.index)
        if len(index) > length:
            raise ValueError(f"a batch of {len(index)} does not fit into a queue of {length}; enlarge queue_size")
        places = (self.pointer + torch.arange(len(index), device=index.device)) % length
        self.vision[places] = vision.detach().to(self.vision.dtype)
        self.text[places] = text.detach().to(self.text.dtype)
        self.index[places] = index
        self.pointer.copy_((self.pointer + len(index)) % length)
