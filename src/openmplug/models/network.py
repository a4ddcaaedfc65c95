"""What tasks ask of a model, whichever family it is of: encode, fuse, and what the decoder attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from openmplug.errors import UsageError
from openmplug.models.decoder import DecoderMemory, LanguageHead, TextDecoder
from openmplug.models.fusion import CoAttentionLayer, ConnectedLayer, Fused, SkipConnectedFusion
from openmplug.models.heads import ClassificationHead, ContrastiveHead, MatchingHead
from openmplug.models.layers import PostNormBlock, PostNormCrossBlock, PreNormBlock
from openmplug.models.mimetic import start_fusion, start_text, start_tower
from openmplug.models.text import TextEncoder, init_bert
from openmplug.models.vision import VisionProjection, VisionTransformer


class Network(nn.Module, ABC):
    """A model of one family, with the modules named and no others.

    Class attributes:
        MODULES: Every module of the family, in the order they are built.
        LAYERS: What the towers and stacks are made of, the outermost of each, with the methods besides ``forward`` that compute with
            its weights: sharded training gathers the weights of such a layer when one of them is called, and compiles the layer.
        config: Sizes; a ``MPLUGConfig`` or ``MPLUG2Config``.

    Attributes:
        modules_built: Those of ``MODULES`` that this one has.
    """

    MODULES: ClassVar[tuple[str, ...]]
    LAYERS: ClassVar[dict[type[nn.Module], tuple[str, ...]]] = {
        PreNormBlock: (),
        PostNormBlock: (),
        PostNormCrossBlock: ("memory",),
        CoAttentionLayer: (),
        ConnectedLayer: (),
    }
    config: Any
    vision: VisionTransformer
    text: TextEncoder
    fusion: SkipConnectedFusion
    decoder: TextDecoder
    contrastive: ContrastiveHead
    matching: MatchingHead
    classification: ClassificationHead
    language: LanguageHead

    def __init__(self, config: Any, modules: Collection[str] | None) -> None:
        super().__init__()
        if modules is None:
            modules = [name for name in self.MODULES if name != "language" and (name != "classification" or config.classes)]
        unknown = sorted(set(modules) - set(self.MODULES))
        if unknown:
            raise UsageError(f"unknown modules {unknown}; choose from {', '.join(self.MODULES)}")
        self.config = config
        self.modules_built = tuple(name for name in self.MODULES if name in modules)

    def _build_tower(self) -> None:
        """Build the image tower, and its projection where the widths differ."""
        config = self.config
        if "vision" in self.modules_built:
            self.vision = VisionTransformer(
                config.image_size, config.patch_size, config.vision_width, config.vision_layers, config.vision_heads, config.vision_dropout
            )
            if config.vision_width != config.width:
                self.vision_projection = VisionProjection(config.vision_width, config.width, config.dropout)

    def _build_fusion_and_heads(self) -> None:
        """Build what every family has behind its encoders; in this order, as the seed's values follow from it."""
        config, modules, block, words = self.config, self.modules_built, self.config.block_sizes(), self.config.word_sizes()
        if "fusion" in modules:
            self.fusion = SkipConnectedFusion(layers=config.fusion_layers, connected=config.connected_layers, **block)
        if "decoder" in modules:
            self.decoder = TextDecoder(layers=config.decoder_layers, **words, **block)
        if "contrastive" in modules:
            self.contrastive = ContrastiveHead(config.width, config.embed_dim)
        if "matching" in modules:
            self.matching = MatchingHead(config.width)
        if "classification" in modules:
            self.classification = ClassificationHead(config.width, config.classes, config.class_tokens)
        if "language" in modules:
            self.language = LanguageHead(config.width, config.vocab_size)
            init_bert(self.language, config.width)

    def start_mimetic(self, modules: Collection[str]) -> None:
        """Begin new modules nearer to where training leads than noise is; see ``models.mimetic``.

        Args:
            modules: Those that have no weights yet. The vision part begins like a trained one; text encoder, fusion and the head
                of masked words begin as the decoder, where that has weights.
        """
        if "vision" in modules:
            start_tower(self.vision)
        if "decoder" in self.modules_built and "decoder" not in modules:
            if "text" in modules:
                start_text(self.text, self.decoder)
            if "fusion" in modules:
                start_fusion(self.fusion, self.decoder)
            if "language" in modules:
                self.language.load_state_dict(self.decoder.head.state_dict())

    @classmethod
    @abstractmethod
    def selection(cls, modules: Sequence[str], clips: bool = False) -> tuple[str, ...]:
        """Name the modules of this family that a task needs.

        Args:
            modules: What the task declares, in mPLUG's names: the parts every family has.
            clips: The task will see videos.
        """

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) or clips (B, F, 3, H, W) to vision tokens (B, V, D)."""

    @abstractmethod
    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ids (B, T) with mask (B, T) to (B, T, D), before any fusion."""

    @abstractmethod
    def vision_features(self, vision: Tensor, frames: int = 1) -> Tensor:
        """Project what ``encode_images`` made of pictures, or of clips of so many frames, to L2-normalised features (B, E)."""

    @property
    def frame_step(self) -> int:
        """How many frames of a clip become one frame of vision tokens."""
        return 1

    @abstractmethod
    def by_patch(self, values: Tensor, frames: int = 1) -> Tensor:
        """Arrange a value per vision token, (..., V), by the patches it stands for, (..., F', h, w); class tokens have none.

        Args:
            values: In the order of what ``encode_images`` returns.
            frames: Of a clip; F' of them are left where a model merges frames.
        """

    def fuse(self, vision: Tensor, text: Tensor, text_mask: Tensor) -> Fused:
        """Fuse vision (B, V, D) and text (R, T, D), B dividing R."""
        return self.fusion(vision, text, text_mask)

    def decoder_memory(self, fused: Fused, text_mask: Tensor) -> DecoderMemory:
        """Let the decoder attend to [vision; text] of a fused pair."""
        mask = torch.cat([text_mask.new_ones(fused.vision.shape[:2]), text_mask], dim=1)
        return self.decoder.project_memory(torch.cat([fused.vision, fused.text], dim=1), mask)

    def answer_memory(self, images: Tensor, ids: Tensor, mask: Tensor, texts_per_image: Tensor | None = None) -> DecoderMemory:
        """Encode pictures and questions and project what the decoder attends to (VQA, grounding).

        Args:
            images: (I, 3, H, W) or (I, F, 3, H, W).
            ids: Questions (B, T).
            mask: (B, T) bool.
            texts_per_image: (I,) how many consecutive questions each picture has; None = one.
        """
        vision = self.encode_images(images)
        if texts_per_image is not None:
            vision = vision.repeat_interleave(texts_per_image, dim=0)
        return self.decoder_memory(self.fuse(vision, self.encode_text(ids, mask), mask), mask)

    def caption_memory(self, images: Tensor) -> DecoderMemory:
        """Encode pictures and project what the decoder attends to (captioning: vision tokens only)."""
        return self.decoder.project_memory(self.encode_images(images))

    def text_memory(self, ids: Tensor, mask: Tensor) -> DecoderMemory:
        """Encode texts and project what the decoder attends to (summarisation)."""
        return self.decoder.project_memory(self.encode_text(ids, mask), mask)
