"""The vision transformer of CLIP, as mPLUG uses it: every token after the last norm, no projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.layers import BERT_NORM_EPS, CLIP_NORM_EPS, PreNormBlock


def resize_positions(table: Tensor, tokens: int) -> Tensor:
    """Resize a position table of a square patch grid to another square grid.

    Token 0 (class) is kept; the grid is resized bilinearly without corner alignment or anti-aliasing.

    Args:
        table: (1 + g*g, D).
        tokens: Wanted rows, ``1 + h*h``.

    Returns:
        (tokens, D), float32 arithmetic, the table's type.

    Raises:
        ValueError: If either grid is not square.

    Source: the checkpoint loaders of the original mPLUG (bilinear; the imported bicubic variant is never used there).
    """
    old, new = (round((count - 1) ** 0.5) for count in (len(table), tokens))
    for count, side in ((len(table), old), (tokens, new)):
        if count != 1 + side * side:
            raise ValueError(f"a position table of {count} rows is not one class token and a square grid; resize only square images")
    grid = table[1:].float().unflatten(0, (old, old)).permute(2, 0, 1)[None]  # (1, D, g, g)
    resized = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=False)
    return torch.cat([table[:1], resized[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)])


class PatchEmbedding(nn.Module):
    """Cut images into patches and project each: the convolution of CLIP with stride = kernel and no bias.

    It is computed as one matrix product: on CPUs the convolution's bf16 backward costs as much as a whole transformer layer.
    """

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))

    def forward(self, images: Tensor) -> Tensor:
        """Project (B, 3, H, W) to (B, P, D), patches row by row."""
        return F.linear(self.cut(images), self.weight.flatten(1))

    def cut(self, images: Tensor) -> Tensor:
        """Cut (B, 3, H, W) into patches (B, P, 3 * p * p), row by row."""
        size = self.patch_size
        cut = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, 3, h, p, w, p)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2).to(self.weight.dtype)


class VisionTransformer(nn.Module):
    """Pixels to tokens.

    Args:
        image_size: Side of the square image in pixels.
        patch_size: Side of a patch in pixels; must divide ``image_size`` (the original drops a remainder silently).
        width: ``D`` of the tokens.
        layers: Number of blocks.
        heads: Attention heads (CLIP: width / 64).
        attention_dropout: 0.1 in mPLUG's towers, active in training only.

    Attributes:
        patch_dropout: Share of a picture's patches that training leaves out, drawn for each picture: 0 unless a task sets it. Learning
            from half of the patches costs half, and blurs a small data set like other dropout.

    Shapes: images (B, 3, H, W) normalised -> tokens (B, 1 + P, D), token 0 is the class token.
    """

    patch_dropout: float = 0.0

    def __init__(self, image_size: int, patch_size: int, width: int, layers: int, heads: int, attention_dropout: float) -> None:
        super().__init__()
        self.image_size = image_size
        self.patches = PatchEmbedding(patch_size, width)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + (image_size // patch_size) ** 2, width))
        self.input_norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.layers = nn.ModuleList(PreNormBlock(width, heads, attention_dropout) for _ in range(layers))
        self.output_norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as CLIP does, scaled by width and depth."""
        width = len(self.class_token)
        attention_std, depth = width**-0.5, (2 * max(len(self.layers), 1)) ** -0.5
        nn.init.normal_(self.class_token, std=attention_std)
        nn.init.normal_(self.positions, std=attention_std)
        nn.init.normal_(self.patches.weight, std=(3 * self.patches.patch_size**2) ** -0.5)
        for layer in self.layers:
            assert isinstance(layer, PreNormBlock)
            nn.init.normal_(layer.attention.qkv.weight, std=attention_std)
            nn.init.normal_(layer.attention.output.weight, std=attention_std * depth)
            nn.init.normal_(layer.expand.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(layer.contract.weight, std=attention_std * depth)
            for linear in (layer.attention.qkv, layer.attention.output, layer.expand, layer.contract):
                nn.init.zeros_(linear.bias)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        for layer in self.layers:
            assert isinstance(layer, PreNormBlock)
            layer.pack(copy)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W).

        Raises:
            ValueError: If the images are not of the size the model was built for.
        """
        self.check_size(images)
        x = self.begin(self.patches(images))
        if self.training and self.patch_dropout:
            x = leave_out_patches(x, self.patch_dropout)
        for layer in self.layers:
            x = layer(x)
        return self.output_norm(x)

    def check_size(self, images: Tensor) -> None:
        """Refuse pixels (..., 3, H, W) of another size than the position table's.

        Raises:
            ValueError: If they are.
        """
        if tuple(images.shape[-3:]) != (3, self.image_size, self.image_size):
            expected = f"({'B, F' if images.ndim == 5 else 'B'}, 3, {self.image_size}, {self.image_size})"
            raise ValueError(f"images have shape {tuple(images.shape)}, expected {expected}; resize them or set model.image_size")

    def begin(self, patches: Tensor) -> Tensor:
        """Put the class token before projected patches (B, P, D) and add the positions: (B, 1 + P, D), what the first layer takes."""
        x = torch.cat([self.class_token.to(patches.dtype).expand(patches.shape[0], 1, -1), patches], dim=1)
        return self.input_norm(x + self.positions.to(x.dtype))


def leave_out_patches(tokens: Tensor, share: float) -> Tensor:
    """Leave out a random share of the patches of tokens (B, 1 + P, D); the class token and the order stay, at least one patch does.

    Source: arXiv:2208.07220 (PatchDropout).
    """
    rows, patches = len(tokens), tokens.shape[1] - 1
    kept = max(1, round(patches * (1 - share)))
    drawn = torch.rand(rows, patches, device=tokens.device).topk(kept, dim=1).indices.sort(dim=1).values + 1
    index = torch.cat([drawn.new_zeros(rows, 1), drawn], dim=1)
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


class VisionProjection(nn.Module):
    """Vision width to text width: Linear, LayerNorm (1e-12), dropout. Built only where the two differ (mPLUG large)."""

    def __init__(self, vision_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_width, width)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project (B, V, vision width) to (B, V, D)."""
        return self.dropout(self.norm(self.linear(tokens)))
