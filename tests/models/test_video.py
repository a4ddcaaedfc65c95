"""mPLUG-2's tower over clips and its universal layers against a plain version, written from the paper and the original's key names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.checkpoints.export import keymap_of
from openmplug.models.mplug2 import MPLUG2
from openmplug.models.video import encode_clips
from tiny_models import random_ids, right_padded, tiny_model2

VISION = ("vision", "temporal", "universal")
State = dict[str, Tensor]


def originals(model: MPLUG2) -> State:
    """Return a model's weights under the original's names and in its shapes, each to be differentiated by."""
    state = keymap_of(model.config, model.modules_built).restore(model.state_dict())
    return {key: value.clone().requires_grad_() for key, value in state.items()}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attend head by head; (B, T, D) over (B, S, D)."""
    width = query.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width)
        mixed.append(scores.softmax(dim=-1) @ value[..., part])
    return torch.cat(mixed, dim=-1)


def local_temporal(state: State, name: str, x: Tensor, frames: int) -> Tensor:
    """Add what the original's ``lmhra`` makes of the patch tokens, as convolutions over (B, C, T, H, W)."""
    tokens = norm(state, f"{name}.ln", x[:, 1:], 1e-5).unflatten(0, (-1, frames))  # (B, F, P, D)
    side = math.isqrt(tokens.shape[2])
    volume = tokens.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
    hidden = F.conv3d(volume, state[f"{name}.down_proj.weight"], state[f"{name}.down_proj.bias"])
    hidden = F.conv3d(hidden, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=(1, 0, 0), groups=hidden.shape[1])
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    change = F.conv3d(hidden, state[f"{name}.up_proj.weight"], state[f"{name}.up_proj.bias"])
    change = change.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    return torch.cat([x[:, :1], x[:, 1:] + change], dim=1)


def plain_tower(state: State, clips: Tensor, heads: int, layers: int, stride: int) -> Tensor:
    """Encode clips (B, F, 3, H, W) as the original's VideoFormer."""
    visual, kernel = "visual_encoder.visual", state["visual_encoder.visual.conv1.weight"]
    patch = kernel.shape[-1]
    x = F.conv3d(clips.transpose(1, 2), kernel, stride=(stride or 1, patch, patch), padding=(1, 0, 0) if stride else 0)  # (B, D, F', h, w)
    batch, frames = x.shape[0], x.shape[2]
    x = x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)  # (B * F', P, D)
    x = torch.cat([state[f"{visual}.class_embedding"].expand(len(x), 1, -1), x], dim=1) + state[f"{visual}.positional_embedding"]
    x = norm(state, f"{visual}.ln_pre", x, 1e-5)
    for layer in range(layers):
        name = f"{visual}.transformer.resblocks.{layer}"
        x = local_temporal(state, f"{name}.lmhra1", x, frames)
        before = norm(state, f"{name}.ln_1", x, 1e-5)
        query, key, value = (before @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]).chunk(3, dim=-1)
        x = x + linear(state, f"{name}.attn.out_proj", attention(query, key, value, heads))
        x = local_temporal(state, f"{name}.lmhra2", x, frames)
        hidden = linear(state, f"{name}.mlp.c_fc", norm(state, f"{name}.ln_2", x, 1e-5))
        x = x + linear(state, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    x = x.unflatten(0, (batch, frames))
    x = torch.cat([x[:, :, 0].mean(dim=1, keepdim=True), x[:, :, 1:].flatten(1, 2)], dim=1)
    return norm(state, f"{visual}.ln_post", x, 1e-5)


def plain_bert_layer(state: State, name: str, x: Tensor, heads: int, memory: Tensor | None) -> Tensor:
    """Self-attention, attention to a memory, feed-forward; no mask."""
    for part, context in (("attention", x), ("crossattention", memory)):
        if context is None:
            continue
        query, key, value = (
            linear(state, f"{name}.{part}.self.{one}", source) for one, source in (("query", x), ("key", context), ("value", context))
        )
        mixed = linear(state, f"{name}.{part}.output.dense", attention(query, key, value, heads))
        x = norm(state, f"{name}.{part}.output.LayerNorm", x + mixed, 1e-12)
    hidden = F.gelu(linear(state, f"{name}.intermediate.dense", x))
    return norm(state, f"{name}.output.LayerNorm", x + linear(state, f"{name}.output.dense", hidden), 1e-12)


def plain_universal(state: State, vision: Tensor, heads: int, first: int, count: int) -> Tensor:
    """Let queries gather from the vision tokens, layer by layer; in the last one the tokens read them, and are added and normalised."""
    states = state[f"text_encoder.encoder.layer.{first}.latents"].expand(len(vision), -1, -1)
    for number in range(first, first + count - 1):
        states = plain_bert_layer(state, f"text_encoder.encoder.layer.{number}", states, heads, vision)
    read = plain_bert_layer(state, f"text_encoder.encoder.layer.{first + count - 1}", vision, heads, states)
    return norm(state, "visn_emb_norm", vision + read, 1e-12)


@pytest.mark.parametrize("universal", [1, 2, 3])
@pytest.mark.parametrize(("stride", "frames"), [(0, 1), (0, 4), (2, 5), (3, 7), (2, 1)])
def test_clips_and_gradients_are_the_plain_ones(stride: int, frames: int, universal: int) -> None:
    model = tiny_model2(VISION, temporal_stride=stride, universal_layers=universal).double()
    config, state = model.config, originals(model)
    clips = torch.randn(2, frames, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    raw = plain_tower(state, clips, config.vision_heads, config.vision_layers, stride)
    kept = (frames - 1) // stride + 1 if stride else frames
    assert raw.shape == (2, 1 + 4 * kept, 32)
    torch.testing.assert_close(encode_clips(model.vision, model.temporal, clips), raw, atol=1e-9, rtol=1e-9)
    with torch.no_grad():  # another way, in place
        torch.testing.assert_close(encode_clips(model.vision, model.temporal, clips), raw.detach(), atol=1e-9, rtol=1e-9)
    expected = plain_universal(state, raw, config.heads, config.text_layers - universal, universal)
    found = model.encode_images(clips)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    own = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    ours = keymap_of(config, model.modules_built).restore(own)
    for key, parameter in state.items():
        assert parameter.grad is not None, key
        torch.testing.assert_close(ours[key], parameter.grad, atol=1e-7, rtol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


@torch.no_grad()
def test_text_passes_the_universal_layers_as_ordinary_ones() -> None:
    model = tiny_model2(("text", "universal")).double()
    state, config = originals(model), model.config
    ids, mask = random_ids(2, 6), right_padded([6, 6])
    x = model.text(ids, mask)
    for number in range(config.text_layers - config.universal_layers, config.text_layers):
        x = plain_bert_layer(state, f"text_encoder.encoder.layer.{number}", x, config.heads, None)
    torch.testing.assert_close(model.encode_text(ids, mask), x, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_neither_padding_nor_the_batch_matters() -> None:
    model = tiny_model2()
    clips = torch.randn(3, 4, 3, 16, 16)
    together = model.encode_images(clips)
    torch.testing.assert_close(model.encode_images(clips[1:2]), together[1:2], atol=1e-5, rtol=1e-5)
    ids = random_ids(3, 8)
    padded = model.encode_text(ids, right_padded([8, 5, 3]))
    torch.testing.assert_close(model.encode_text(ids[1:2, :5], right_padded([5])), padded[1:2, :5], atol=1e-5, rtol=1e-5)
    garbage = ids.clone()
    garbage[1, 5:] = 117
    torch.testing.assert_close(model.encode_text(garbage, right_padded([8, 5, 3]))[1, :5], padded[1, :5], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_picture_is_a_clip_of_one_frame_without_temporal_parts() -> None:
    images = torch.randn(2, 3, 16, 16)
    plain = tiny_model2(("vision", "universal"))
    torch.testing.assert_close(plain.encode_images(images[:, None]), plain.encode_images(images), atol=1e-6, rtol=1e-6)
    # The temporal parts are passed over by pictures, whatever they have learned, and are the identity before they have learned anything.
    for stride in (0, 2):
        learned = tiny_model2(VISION, temporal_stride=stride)
        learned.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(learned.encode_images(images), plain.encode_images(images), atol=0, rtol=0)
        assert not torch.allclose(learned.encode_images(images[:, None]), plain.encode_images(images), atol=1e-2)
        learned.temporal.reset_parameters()
        torch.testing.assert_close(learned.encode_images(images[:, None]), plain.encode_images(images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stride", [0, 2])
def test_fresh_temporal_parts_see_frame_by_frame(stride: int) -> None:
    """Kernel inflation: what an image tower knows is what the video tower begins with."""
    model = tiny_model2(VISION, temporal_stride=stride)
    model.temporal.reset_parameters()
    clips = torch.randn(2, 5, 3, 16, 16)
    seen = clips[:, ::stride] if stride else clips
    frames = model.vision(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])  # (B, F', 1 + P, D)
    found = encode_clips(model.vision, model.temporal, clips)
    torch.testing.assert_close(found[:, 1:], frames[:, :, 1:].flatten(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, encode_clips(model.vision, None, seen), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_is_seen_by_the_temporal_parts_alone() -> None:
    model = tiny_model2(VISION)
    clips = torch.randn(1, 4, 3, 16, 16)
    forwards, backwards = (encode_clips(model.vision, model.temporal, one)[:, 0] for one in (clips, clips.flip(1)))
    assert not torch.allclose(forwards, backwards, atol=1e-2)
    forwards, backwards = (encode_clips(model.vision, None, one)[:, 0] for one in (clips, clips.flip(1)))
    torch.testing.assert_close(forwards, backwards, atol=1e-5, rtol=1e-5)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        tiny_model2(VISION).encode_images(torch.zeros(1, 2, 3, 24, 24))
