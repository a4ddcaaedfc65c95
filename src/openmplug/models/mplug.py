"""mPLUG: its configuration, its named sizes, and the model that builds just the modules a task needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from openmplug.config import Settings
from openmplug.models.network import Network
from openmplug.models.text import TextEncoder

MODULES = ("vision", "text", "fusion", "decoder", "contrastive", "matching", "classification", "language")


class MPLUGConfig(Settings):
    """Sizes of a model. The defaults are mPLUG base.

    ``connected_layers`` names the fusion layers (from 0) that are connected attention. ``vision_dropout`` is on attention
    probabilities (0.1 in the released towers). ``classes`` are what a classification head tells apart, ``class_tokens`` how many tokens
    it reads side by side (2 of a pair of pictures); a task that has such a head sets them.
    """

    name: str = "mplug-base"
    image_size: int = Field(default=256, gt=0)
    patch_size: int = Field(default=16, gt=0)
    vision_width: int = Field(default=768, gt=0)
    vision_layers: int = Field(default=12, ge=0)
    vision_heads: int = Field(default=12, gt=0)
    vision_dropout: float = Field(default=0.1, ge=0, lt=1)
    width: int = Field(default=768, gt=0)
    heads: int = Field(default=12, gt=0)
    intermediate: int = Field(default=3072, gt=0)
    text_layers: int = Field(default=6, ge=0)
    fusion_layers: int = Field(default=6, ge=0)
    connected_layers: tuple[int, ...] = (3,)
    decoder_layers: int = Field(default=12, ge=1)
    vocab_size: int = Field(default=30522, gt=0)
    max_positions: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    embed_dim: int = Field(default=256, gt=0)
    classes: int = Field(default=0, ge=0)
    class_tokens: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> MPLUGConfig:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; choose one that is")
        for width, heads in ((self.vision_width, self.vision_heads), (self.width, self.heads)):
            if width % heads:
                raise ValueError(f"width {width} is not a multiple of {heads} heads; choose heads that divide it")
        outside = [layer for layer in self.connected_layers if not 0 <= layer < self.fusion_layers]
        if outside:
            raise ValueError(f"connected_layers {outside} are not among the {self.fusion_layers} fusion layers (counted from 0)")
        return self

    def block_sizes(self) -> dict[str, Any]:
        """Return what every BERT-style layer is built with."""
        return {
            "width": self.width,
            "heads": self.heads,
            "intermediate": self.intermediate,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
        }

    def word_sizes(self) -> dict[str, int]:
        """Return what every table of words is built with."""
        return {"vocab_size": self.vocab_size, "max_positions": self.max_positions}


# Base and large: released code and README (arXiv:2205.12005). Huge was never released: its 24 text layers are published, BERT-large's
# width is inferred from them. Tiny and small are ours: for tests, the quickstart, and training from scratch on a CPU.
SIZES: dict[str, dict[str, Any]] = {
    "mplug-tiny": {
        "image_size": 64,
        "patch_size": 8,
        "vision_width": 128,
        "vision_layers": 4,
        "vision_heads": 4,
        "vision_dropout": 0.0,
        "width": 128,
        "heads": 4,
        "intermediate": 512,
        "text_layers": 2,
        "fusion_layers": 2,
        "connected_layers": (1,),
        "decoder_layers": 2,
        "vocab_size": 2000,
        "max_positions": 64,
        "attention_dropout": 0.0,
        "embed_dim": 64,
    },
    "mplug-small": {
        "image_size": 160,
        "patch_size": 16,
        "vision_width": 256,
        "vision_layers": 6,
        "vision_heads": 4,
        "vision_dropout": 0.0,
        "width": 256,
        "heads": 4,
        "intermediate": 1024,
        "text_layers": 3,
        "fusion_layers": 3,
        "connected_layers": (),
        "decoder_layers": 3,
        "vocab_size": 8000,
        "max_positions": 64,
        "attention_dropout": 0.0,
        "embed_dim": 128,
    },
    "mplug-base": {},
    "mplug-large": {
        "image_size": 224,
        "patch_size": 14,
        "vision_width": 1024,
        "vision_layers": 24,
        "vision_heads": 16,
        "connected_layers": (),
    },
    "mplug-huge": {
        "image_size": 224,
        "patch_size": 14,
        "vision_width": 1024,
        "vision_layers": 24,
        "vision_heads": 16,
        "width": 1024,
        "heads": 16,
        "intermediate": 4096,
        "text_layers": 24,
        "connected_layers": (),
    },
}


class MPLUG(Network):
    """mPLUG, with the modules named and no others.

    Args:
        config: Sizes.
        modules: Any of ``MODULES``. Captioning needs vision and decoder only. None means all but the language
            head of masked words, and a classification head only where ``config.classes`` says of how many.

    Raises:
        UsageError: If a module is unknown.
    """

    MODULES = MODULES
    config: MPLUGConfig

    def __init__(self, config: MPLUGConfig, modules: Collection[str] | None = None) -> None:
        super().__init__(config, modules)
        modules = self.modules_built
        block, words = config.block_sizes(), config.word_sizes()
        self._build_tower()
        if "text" in modules:
            self.text = TextEncoder(layers=config.text_layers, **words, **block)
        self._build_fusion_and_heads()

    @classmethod
    def selection(cls, modules: Sequence[str], clips: bool = False) -> tuple[str, ...]:
        """Name the modules a task needs: those it declares. Frames of a clip are pictures to this family."""
        return tuple(modules)

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) to (B, V, D), or frames (B, F, 3, H, W) to (B, F * V, D), frame after frame."""
        if images.ndim == 5:
            return self.encode_images(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1, 2)
        tokens = self.vision(images)
        return self.vision_projection(tokens) if hasattr(self, "vision_projection") else tokens

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ids (B, T) with mask (B, T) to (B, T, D), before any fusion."""
        return self.text(ids, mask)

    def by_patch(self, values: Tensor, frames: int = 1) -> Tensor:
        """Arrange values (..., V) by patch, (..., F, h, w): every frame has its own class token."""
        side = self.config.image_size // self.config.patch_size
        return values.unflatten(-1, (frames, -1))[..., 1:].unflatten(-1, (side, side))

    def vision_features(self, vision: Tensor, frames: int = 1) -> Tensor:
        """Project class tokens to features (B, E); those of a clip's frames are averaged."""
        return self.contrastive.vision_features(vision, frames)
