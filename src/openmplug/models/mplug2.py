"""mPLUG-2: its configuration, its named sizes, and the model that builds just the modules a task selects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from openmplug.models.mimetic import start_temporal
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.network import Network
from openmplug.models.text import TextEncoder
from openmplug.models.universal import UniversalLayers
from openmplug.models.video import TemporalModules, encode_clips

MODULES = ("vision", "temporal", "text", "universal", "fusion", "decoder", "contrastive", "matching", "classification", "language")


class MPLUG2Config(MPLUGConfig):
    """Sizes of an mPLUG-2 model: mPLUG's, and what it has besides. The defaults are mPLUG-2 base.

    ``text_layers`` counts every layer that words pass, the last ``universal_layers`` of which are the universal ones. ``latents`` are
    their queries. ``temporal_stride`` 0 keeps every frame of a clip; else frames are merged in time by that factor.
    """

    name: str = "mplug2-base"
    image_size: int = Field(default=224, gt=0)
    text_layers: int = Field(default=12, ge=0)
    fusion_layers: int = Field(default=3, ge=0)
    connected_layers: tuple[int, ...] = ()
    universal_layers: int = Field(default=2, ge=1)
    latents: int = Field(default=50, ge=1)
    temporal_stride: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _layers_split(self) -> MPLUG2Config:
        if self.universal_layers > self.text_layers:
            raise ValueError(
                f"universal_layers {self.universal_layers} is above text_layers {self.text_layers}; they are the last ones among these"
            )
        return self


# Base and large: released configuration files and README (arXiv:2302.00402). Tiny and small are ours, as mPLUG's are.
SIZES: dict[str, dict[str, Any]] = {
    "mplug2-tiny": {
        "image_size": 64,
        "patch_size": 16,
        "vision_width": 128,
        "vision_layers": 4,
        "vision_heads": 4,
        "vision_dropout": 0.0,
        "width": 128,
        "heads": 4,
        "intermediate": 512,
        "text_layers": 3,
        "universal_layers": 1,
        "latents": 16,
        "fusion_layers": 2,
        "decoder_layers": 2,
        "vocab_size": 2000,
        "max_positions": 64,
        "attention_dropout": 0.0,
        "embed_dim": 64,
    },
    "mplug2-small": {
        "image_size": 112,
        "patch_size": 16,
        "vision_width": 256,
        "vision_layers": 6,
        "vision_heads": 4,
        "vision_dropout": 0.0,
        "width": 256,
        "heads": 4,
        "intermediate": 1024,
        "text_layers": 4,
        "universal_layers": 2,
        "latents": 32,
        "fusion_layers": 2,
        "decoder_layers": 3,
        "vocab_size": 8000,
        "max_positions": 128,
        "attention_dropout": 0.0,
        "embed_dim": 128,
    },
    "mplug2-base": {},
    "mplug2-large": {
        "patch_size": 14,
        "vision_width": 1024,
        "vision_layers": 24,
        "vision_heads": 16,
        "width": 1024,
        "heads": 16,
        "intermediate": 4096,
        "text_layers": 24,
        "fusion_layers": 6,
    },
}


class MPLUG2(Network):
    """mPLUG-2, with the modules named and no others.

    ``vision`` is the image tower, ``temporal`` what it needs besides for clips, ``universal`` serves vision and text alike.

    Args:
        config: Sizes.
        modules: Any of ``MODULES``; ``selection`` names those of a task. None means all but the language
            head of masked words, and a classification head only where ``config.classes`` says of how many.

    Raises:
        UsageError: If a module is unknown.
    """

    MODULES = MODULES
    config: MPLUG2Config

    def __init__(self, config: MPLUG2Config, modules: Collection[str] | None = None) -> None:
        super().__init__(config, modules)
        modules = self.modules_built
        block, words = config.block_sizes(), config.word_sizes()
        self._build_tower()
        if "temporal" in modules:
            self.temporal = TemporalModules(config.vision_width, config.vision_layers, config.patch_size, config.temporal_stride)
        if "text" in modules:
            self.text = TextEncoder(layers=config.text_layers - config.universal_layers, **words, **block)
        if "universal" in modules:
            self.universal = UniversalLayers(layers=config.universal_layers, latents=config.latents, **block)
        self._build_fusion_and_heads()

    def start_mimetic(self, modules: Collection[str]) -> None:
        """Begin new modules nearer to where training leads than noise is, temporal ones where their tower is new too."""
        super().start_mimetic(modules)
        # Beside a loaded tower new temporal modules begin as the identity, or they would spoil what it sees.
        if {"vision", "temporal"} <= {*modules}:
            start_temporal(self.temporal)

    @classmethod
    def selection(cls, modules: Sequence[str], clips: bool = False) -> tuple[str, ...]:
        """Name the modules a task needs: vision and text bring the universal layers, clips the temporal modules.

        Example:
            >>> MPLUG2.selection(("vision", "decoder"), clips=True)
            ('vision', 'temporal', 'universal', 'decoder')
        """
        wanted = {*modules}
        if "vision" in wanted or "text" in wanted:
            wanted.add("universal")
        if "vision" in wanted and clips:
            wanted.add("temporal")
        return tuple(name for name in cls.MODULES if name in wanted)

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) to (B, 1 + P, D), or clips (B, F, 3, H, W) to (B, 1 + F' * P, D); token 0 is the class token.

        A picture skips the temporal modules. A model without them encodes clips frame by frame.
        """
        tokens = encode_clips(self.vision, getattr(self, "temporal", None), images) if images.ndim == 5 else self.vision(images)
        if hasattr(self, "vision_projection"):
            tokens = self.vision_projection(tokens)
        return self.universal(tokens)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ids (B, T) with mask (B, T) to (B, T, D), universal layers included."""
        return self.universal.read_text(self.text(ids, mask), mask)

    @property
    def frame_step(self) -> int:
        """The temporal stride, where temporal modules merge frames."""
        return (self.temporal.stride or 1) if hasattr(self, "temporal") else 1

    def by_patch(self, values: Tensor, frames: int = 1) -> Tensor:
        """Arrange values (..., V) by patch, (..., F', h, w): a clip has one class token, and fewer frames where they are merged."""
        side = self.config.image_size // self.config.patch_size
        return values[..., 1:].unflatten(-1, (-1, side, side))

    def vision_features(self, vision: Tensor, frames: int = 1) -> Tensor:
        """Project the class token, a clip's one too, to features (B, E)."""
        return self.contrastive.vision_features(vision)
