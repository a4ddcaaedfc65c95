"""The vision transformer against the CLIP of ``transformers``, its projection, and the resizing of positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from openmplug.models.layers import PreNormBlock
from openmplug.models.vision import VisionProjection, VisionTransformer, leave_out_patches, resize_positions
from tiny_models import randomise, tiny_model

WIDTH, HEADS, LAYERS, SIZE, PATCH = 24, 3, 2, 24, 8
BLOCK = {
    "self_attn.out_proj": "attention.output",
    "layer_norm1": "attention_norm",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "expand",
    "mlp.fc2": "contract",
}
OUTSIDE = {
    "embeddings.class_embedding": "class_token",
    "embeddings.patch_embedding.weight": "patches.weight",
    "embeddings.position_embedding.weight": "positions",
    "pre_layrnorm.weight": "input_norm.weight",
    "pre_layrnorm.bias": "input_norm.bias",
    "post_layernorm.weight": "output_norm.weight",
    "post_layernorm.bias": "output_norm.bias",
}


def ours_of(key: str, tensors: dict[str, Tensor]) -> Tensor:
    """Find the tensor of ours that is called ``key`` in CLIP; theirs has three matrices where ours has one."""
    key = key.removeprefix("vision_model.")
    if key in OUTSIDE:
        return tensors[OUTSIDE[key]]
    name, kind = key.rsplit(".", 1)
    _, _, number, rest = name.split(".", 3)
    for place, part in enumerate(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")):
        if rest == part:
            return tensors[f"layers.{number}.attention.qkv.{kind}"].chunk(3)[place]
    return tensors[f"layers.{number}.{BLOCK[rest]}.{kind}"]


def pair() -> tuple[VisionTransformer, CLIPVisionModel]:
    ours = randomise(VisionTransformer(SIZE, PATCH, WIDTH, LAYERS, HEADS, 0.0))
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="quick_gelu",
    )
    config._attn_implementation = "eager"
    clip, state = CLIPVisionModel(config).eval(), ours.state_dict()
    theirs = [key for key in clip.state_dict() if not key.endswith("position_ids")]
    loaded = clip.load_state_dict({key: ours_of(key, state) for key in theirs}, strict=False)
    assert not [key for key in loaded.missing_keys if not key.endswith("position_ids")]
    assert sum(parameter.numel() for parameter in clip.parameters()) == sum(parameter.numel() for parameter in ours.parameters())
    return ours, clip


def last_norm(clip: CLIPVisionModel) -> nn.Module:
    return next(module for name, module in clip.named_modules() if name.endswith("post_layernorm"))


def test_vision_transformer_equals_clip_forward_and_gradient() -> None:
    ours, clip = pair()
    images = torch.randn(2, 3, SIZE, SIZE)
    out = ours(images)
    # CLIP norms the class token alone; mPLUG norms every token.
    expected = last_norm(clip)(clip(pixel_values=images).last_hidden_state)
    assert out.shape == (2, 1 + (SIZE // PATCH) ** 2, WIDTH)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(out.shape)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(dict(ours.named_parameters()))
    for name, parameter in clip.named_parameters():
        theirs = parameter.grad
        assert theirs is not None
        torch.testing.assert_close(ours_of(name, gradients), theirs, atol=1e-5 * max(1.0, float(theirs.abs().max())), rtol=1e-5)


def test_patches_are_in_reading_order() -> None:
    ours = randomise(VisionTransformer(16, 8, WIDTH, 0, HEADS, 0.0))
    with torch.no_grad():
        ours.positions.zero_()
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, :8, 8:] = 1.0  # upper right: the second patch, after the class token the third token
    tokens, empty = ours(images)[0], ours(torch.zeros_like(images))[0]
    assert [bool((a != b).any()) for a, b in zip(tokens, empty, strict=True)] == [False, False, True, False, False]


@pytest.mark.parametrize("shape", [(1, 3, 24, 16), (1, 1, 24, 24), (1, 3, 32, 32)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    model = VisionTransformer(24, 8, WIDTH, 1, HEADS, 0.0)
    with pytest.raises(ValueError, match=r"images have shape \(1, .*\), expected \(B, 3, 24, 24\); resize them or set model.image_size"):
        model(torch.zeros(shape))


def test_fresh_weights_have_clip_s_spread() -> None:
    torch.manual_seed(0)
    fresh = VisionTransformer(32, 8, 128, 8, 4, 0.0)
    block = fresh.layers[0]
    assert isinstance(block, PreNormBlock)
    assert float(block.attention.qkv.weight.detach().std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(block.contract.weight.detach().std()) == pytest.approx(128**-0.5 * 16**-0.5, rel=0.05)
    assert float(block.expand.weight.detach().std()) == pytest.approx(256**-0.5, rel=0.05)
    assert not block.attention.qkv.bias.any()
    assert bool(fresh(torch.randn(1, 3, 32, 32)).isfinite().all())


# ------------------------------------------------------------------------------------------------------------------ projection


def test_projection_is_linear_then_norm() -> None:
    layer, x = randomise(VisionProjection(24, 32, 0.5)), torch.randn(2, 5, 24)
    y = x @ layer.linear.weight.T + layer.linear.bias
    expected = (y - y.mean(-1, keepdim=True)) / (
        y.var(-1, unbiased=False, keepdim=True) + 1e-12
    ).sqrt() * layer.norm.weight + layer.norm.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert layer.norm.eps == 1e-12
    layer.train()
    assert (layer(x) == 0).float().mean() > 0.2, "dropout comes last"


def test_projection_is_built_only_where_the_widths_differ() -> None:
    assert not hasattr(tiny_model(("vision",)), "vision_projection")
    model = tiny_model(("vision",), vision_width=24, vision_heads=3)
    images = torch.randn(1, 3, 16, 16)
    assert model.encode_images(images).shape == (1, 5, 32)
    torch.testing.assert_close(model.encode_images(images), model.vision_projection(model.vision(images)))


def test_frames_are_encoded_one_by_one_and_joined() -> None:
    model, frames = tiny_model(("vision",)), torch.randn(2, 3, 3, 16, 16)
    out = model.encode_images(frames)
    assert out.shape == (2, 15, 32)
    torch.testing.assert_close(out[1, 5:10], model.encode_images(frames[1, 1:2])[0], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------------- positions


def plain_resize(grid: Tensor, size: int) -> Tensor:
    """Resize (g, g, D) bilinearly, sample points at pixel centres, edges held."""
    side = len(grid)
    out = torch.empty(size, size, grid.shape[2])
    for row in range(size):
        for column in range(size):
            y, x = (min(max((place + 0.5) * side / size - 0.5, 0.0), side - 1.0) for place in (row, column))
            top, left = int(y), int(x)
            low, right = min(top + 1, side - 1), min(left + 1, side - 1)
            upper = grid[top, left] * (1 - (x - left)) + grid[top, right] * (x - left)
            lower = grid[low, left] * (1 - (x - left)) + grid[low, right] * (x - left)
            out[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@pytest.mark.parametrize(("old", "new"), [(3, 5), (5, 3), (4, 8), (4, 4)])
def test_positions_are_resized_bilinearly(old: int, new: int) -> None:
    table = torch.randn(1 + old * old, 6)
    out = resize_positions(table, 1 + new * new)
    assert torch.equal(out[0], table[0])
    torch.testing.assert_close(out[1:], plain_resize(table[1:].view(old, old, 6), new).view(-1, 6), atol=1e-5, rtol=1e-5)


def test_positions_of_equal_size_stay_and_keep_their_type() -> None:
    table = torch.randn(17, 6).half()
    assert torch.equal(resize_positions(table, 17), table)


@pytest.mark.parametrize(("rows", "wanted", "named"), [(16, 17, 16), (17, 12, 12)])
def test_positions_without_a_square_grid_are_refused(rows: int, wanted: int, named: int) -> None:
    with pytest.raises(ValueError, match=f"a position table of {named} rows is not one class token and a square grid; resize only square"):
        resize_positions(torch.randn(rows, 4), wanted)


def test_patches_left_out_differ_from_picture_to_picture_and_only_in_training() -> None:
    tokens = torch.arange(2 * 17 * 4, dtype=torch.float32).reshape(2, 17, 4)
    kept = leave_out_patches(tokens, 0.5)
    assert kept.shape == (2, 9, 4) and torch.equal(kept[:, 0], tokens[:, 0])
    rows = [[int(token[0]) // 4 - 17 * row for token in kept[row, 1:]] for row in range(2)]
    assert all(row == sorted(set(row)) and row[0] >= 1 and row[-1] <= 16 for row in rows) and rows[0] != rows[1]
    assert leave_out_patches(tokens, 0.99).shape == (2, 2, 4)
    tower = tiny_model(("vision",)).vision
    images = torch.randn(2, 3, 16, 16)
    whole = tower(images)
    tower.patch_dropout = 0.5
    assert torch.equal(tower(images), whole)
    assert tower.train()(images).shape == (2, 3, 32)
