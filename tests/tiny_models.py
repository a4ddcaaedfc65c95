"""The smallest models that still have every part, for the tests: built in milliseconds, with weights that matter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.decoder import TextDecoder
from openmplug.models.mplug import MPLUG, MPLUGConfig
from openmplug.models.mplug2 import MPLUG2, MPLUG2Config

M = TypeVar("M", bound=nn.Module)

# No two sizes are equal by chance where a mix-up could hide behind it, except the two widths, as in mPLUG base.
SIZES: dict[str, Any] = {
    "name": "mplug-tiny",
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_dropout": 0.0,
    "width": 32,
    "heads": 4,
    "intermediate": 48,
    "text_layers": 2,
    "fusion_layers": 3,
    "connected_layers": (1,),
    "decoder_layers": 2,
    "vocab_size": 120,
    "max_positions": 24,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "embed_dim": 12,
}

SIZES2: dict[str, Any] = {
    **SIZES,
    "name": "mplug2-tiny",
    "text_layers": 5,
    "universal_layers": 3,
    "latents": 7,
    "fusion_layers": 2,
    "connected_layers": (),
    "temporal_stride": 0,
}


def tiny_config(**overrides: Any) -> MPLUGConfig:
    """Return the tiny sizes, with single values replaced."""
    return MPLUGConfig(**{**SIZES, **overrides})


@torch.no_grad()
def randomise(module: M, seed: int = 0, std: float = 0.3) -> M:
    """Draw every parameter anew, norms and biases too: at its start a model hardly depends on them, so errors would not show."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
            if isinstance(child, nn.LayerNorm) and parameter is child.weight:
                parameter.add_(1.0)
    return module.eval()


def tiny_model(modules: Collection[str] | None = None, seed: int = 0, **overrides: Any) -> MPLUG:
    """Build a tiny model with random weights, in eval mode."""
    model = randomise(MPLUG(tiny_config(**overrides), modules), seed)
    if hasattr(model, "contrastive"):
        nn.init.constant_(model.contrastive.temperature, 0.07)
    return model


def tiny_config2(**overrides: Any) -> MPLUG2Config:
    """Return the tiny sizes of mPLUG-2, with single values replaced."""
    return MPLUG2Config(**{**SIZES2, **overrides})


def tiny_model2(modules: Collection[str] | None = None, seed: int = 0, **overrides: Any) -> MPLUG2:
    """Build a tiny mPLUG-2 with random weights, the temporal modules' too, in eval mode."""
    model = randomise(MPLUG2(tiny_config2(**overrides), modules), seed)
    if hasattr(model, "contrastive"):
        nn.init.constant_(model.contrastive.temperature, 0.07)
    return model


def tiny_decoder(seed: int = 0, end_bias: float = 0.0, **overrides: Any) -> TextDecoder:
    """Build a decoder alone; ``end_bias`` makes [SEP] likelier, so that texts end at different steps."""
    decoder = tiny_model(("decoder",), seed, **overrides).decoder
    with torch.no_grad():
        decoder.head.bias[102] += end_bias
    return decoder


def right_padded(lengths: Collection[int], width: int | None = None) -> Tensor:
    """Make a mask (B, T) with the given numbers of real tokens."""
    return torch.arange(width or max(lengths)) < torch.tensor(list(lengths))[:, None]


def random_ids(rows: int, length: int, seed: int = 0, vocab_size: int = 120) -> Tensor:
    """Draw ids (rows, length) of ordinary words after a [CLS]."""
    ids = torch.randint(104, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 101
    return ids


class Called(nn.Module):
    """Stands for an adapted or quantised layer: it can be called, and what else openmplug asks of its layers, but has no weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.beneath = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.beneath(x)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(self.beneath(x))

    def pack(self, copy: bool = True) -> None:
        return None


def only_callable(module: nn.Module) -> None:
    """Put every linear layer below a module beneath one that can only be called."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Called(child))
