"""Clips to tokens: mPLUG-2's VideoFormer, as the image tower plus what passes between frames.

The image tower (``vision.py``) stays as it is and sees every frame; ``TemporalModules`` hold all that a clip needs besides: two local
temporal modules per layer and, where frames are merged in time, the outer taps of the patch convolution. Without them, and for a
single picture, the tower alone runs: the temporal parts are skipped, as figure 2 of the paper draws it.

Source: ``clip_video.py`` of the released mPLUG-2 (arXiv:2302.00402).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.layers import CLIP_NORM_EPS, QUICK, PreNormBlock, quick_gelu
from openmplug.models.packing import Linear
from openmplug.models.vision import VisionTransformer


class FrameMixing(nn.Module):
    """A depthwise convolution over three neighbouring frames, zeros beyond the ends.

    Shapes: weight (C, 3), taps of the frame before, the frame itself, the frame after.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 3))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, F, ..., C) along F."""
        before, here, after = self.weight.to(x.dtype).unbind(1)
        mixed = torch.addcmul(self.bias.to(x.dtype), x, here)
        if x.shape[1] > 1:
            # In place: what is between memory and the result here is nothing but reading and writing it.
            mixed[:, 1:].addcmul_(x[:, :-1], before)
            mixed[:, :-1].addcmul_(x[:, 1:], after)
        return mixed


class LocalTemporal(nn.Module):
    """x + what each place learns from the same place in the neighbouring frames; nothing at first, as the last layer starts at zero.

    LayerNorm, half the width, three frames mixed, QuickGELU, full width. The class token of a frame takes no part.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.reduce = Linear(width, width // 2)
        self.mixing = FrameMixing(width // 2)
        self.expand = Linear(width // 2, width)

    def reset_parameters(self) -> None:
        """Start as the identity: inner layers as PyTorch's, the last one zero."""
        self.norm.reset_parameters()
        self.reduce.reset_parameters()
        bound = 3**-0.5  # of a depthwise convolution with three taps
        nn.init.uniform_(self.mixing.weight, -bound, bound)
        nn.init.uniform_(self.mixing.bias, -bound, bound)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        self.reduce.pack(copy)
        self.expand.pack(copy)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transform the tokens of frames x (B * F, 1 + P, D)."""
        hidden = self.mixing(self.reduce(self.norm(x)).unflatten(0, (-1, frames))).flatten(0, 1)  # (B * F, 1 + P, D/2)
        # The class tokens went along, one in P: to leave them out would copy everything twice.
        if torch.is_grad_enabled():
            return x + F.pad(self.expand(quick_gelu(hidden))[:, 1:], (0, 0, 1, 0))
        change = self.expand(F.silu(hidden.mul_(QUICK), inplace=True).div_(QUICK))
        change[:, 0] = 0
        return change.add_(x) if change.dtype == x.dtype else x + change  # under autocast the sums stay fp32


class TemporalLayer(nn.Module):
    """The two local temporal modules of one layer of the tower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = LocalTemporal(width)
        self.after = LocalTemporal(width)


@dataclass(frozen=True, slots=True)
class _AroundFrames:
    """A ``TemporalLayer`` on clips of so many frames, as the tower's layers take it."""

    layer: TemporalLayer
    frames: int

    def before(self, x: Tensor) -> Tensor:
        return self.layer.before(x, self.frames)

    def after(self, x: Tensor) -> Tensor:
        return self.layer.after(x, self.frames)


class TemporalModules(nn.Module):
    """All that an image tower lacks to encode clips.

    Args:
        width: Of the tower.
        layers: Of the tower.
        patch_size: Of the tower.
        stride: 0 keeps every frame; else the patch convolution reaches over three frames and moves on by ``stride``, so that F frames
            become ``(F - 1) // stride + 1``.

    Shapes: outer_taps (2, D, 3, p, p): the convolution's kernel for the frame before and the frame after; the one for the frame itself
    is the image tower's, so that a tower of images starts a tower of clips (kernel inflation) and serves single pictures.
    """

    outer_taps: nn.Parameter | None

    def __init__(self, width: int, layers: int, patch_size: int, stride: int = 0) -> None:
        super().__init__()
        self.stride = stride
        self.layers = nn.ModuleList(TemporalLayer(width) for _ in range(layers))
        self.outer_taps = nn.Parameter(torch.empty(2, width, 3, patch_size, patch_size)) if stride else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the identity: a clip is then encoded frame by frame, as by the image tower."""
        for layer in self.layers:
            assert isinstance(layer, TemporalLayer)
            layer.before.reset_parameters()
            layer.after.reset_parameters()
        if self.outer_taps is not None:
            nn.init.zeros_(self.outer_taps)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        for layer in self.layers:
            assert isinstance(layer, TemporalLayer)
            layer.before.pack(copy)
            layer.after.pack(copy)

    def patches(self, tower: VisionTransformer, clips: Tensor) -> Tensor:
        """Project the patches of clips (B, F, 3, H, W) to (B, F', P, D)."""
        if self.outer_taps is None:
            return tower.patches(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        cut = tower.patches.cut(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (B, F, P, 3 * p * p)
        own = F.linear(cut[:, :: self.stride], tower.patches.weight.flatten(1))
        before, after = self.outer_taps.flatten(2)
        padded, kept = F.pad(cut, (0, 0, 0, 0, 1, 1)), own.shape[1]  # frame t lies at t + 1
        earlier, later = padded[:, :: self.stride][:, :kept], padded[:, 2 :: self.stride]
        return own + F.linear(earlier, before) + F.linear(later, after)


def encode_clips(tower: VisionTransformer, temporal: TemporalModules | None, clips: Tensor) -> Tensor:
    """Encode clips (B, F, 3, H, W) to (B, 1 + F' * P, D).

    The class tokens of the frames are averaged to one, the patch tokens of all frames follow, frame after frame; the tower's last norm
    comes after that. There is no position in time: order is seen by the temporal modules alone.

    Args:
        tower: The image tower.
        temporal: None encodes frame by frame, as modules fresh from initialisation do.
        clips: Normalised pixels.

    Raises:
        ValueError: If the frames are not of the size the tower was built for.
    """
    tower.check_size(clips)
    patches = temporal.patches(tower, clips) if temporal else tower.patches(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
    frames = patches.shape[1]
    x = tower.begin(patches.flatten(0, 1))  # (B * F', 1 + P, D)
    for index, layer in enumerate(tower.layers):
        assert isinstance(layer, PreNormBlock)
        if temporal is None:
            x = layer(x)
        else:
            around = temporal.layers[index]
            assert isinstance(around, TemporalLayer)
            x = layer(x, _AroundFrames(around, frames))
    x = x.unflatten(0, (-1, frames))  # (B, F', 1 + P, D)
    return tower.output_norm(torch.cat([x[:, :, 0].mean(dim=1, keepdim=True), x[:, :, 1:].flatten(1, 2)], dim=1))
