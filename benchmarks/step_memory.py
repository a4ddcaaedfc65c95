"""Memory of one device in a pre-training step, by formula.

With P parameters that learn and P_t of the twin, N devices, fp32 weights and autocast:

    weights 4 P, twin 4 P_t, gradients 4 P, AdamW 8 P                 each / N where it is sharded
    bf16 copies of the weights 2 P                                    what autocast keeps for the backward pass
    queue 2 Q (4 E + 4)                                               both modalities, and the pictures' numbers
    activations                                                       what the forwards keep for the backward pass, below

Activations in bytes for each token: D the width, I the intermediate width, N heads, c bytes of the computing type (4 or 2), m bytes of a
dropout mask, k copies of an input that k linear layers share (autocast casts for each: k; fp32: 1):

    post-LN self-attention    D (c k_3 + 4 c + 4 + m) + 4 N + 8         inputs, q k v and their mixture, the norm's input and statistics
    post-LN cross-attention   D (3 c + 4 + m) + 4 N + 8                 and of each context token D (2 c + c k_2), in fp32 2 D c
    feed-forward              D (c + 4 + m) + 2 c I + 8
    CLIP's block              D (8 + 14 c) + 4 N + 16
    temporal module           D (4 + 2.5 c) + 8                         two in each layer of the tower, for clips
    word and position         D (4 + m) + 16
    word logits               D (3 c + 4) + 8 + 4 vocab, and 8 vocab more where the twin teaches
    similarities              16 for each feature in the queue and in the batch of all devices, for each picture with its text

Attention is fused: no probabilities are kept. With recomputation a layer keeps its input alone (and the decoder the keys and values it is
given); the largest layer's activations come back while it is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import flops
import torch
from step_plan import Plan, build_student

from openmplug.models.mplug import MPLUGConfig
from openmplug.models.mplug2 import MPLUG2Config

GIB = 2**30


@dataclass(frozen=True)
class Kept:
    """How activations are kept.

    Args:
        compute: Bytes of the computing type, ``c``: 2 under bf16 autocast, 4 in fp32.
        mask: Bytes of a dropout mask for each element, ``m``: 1 on GPUs, ``c`` on CPUs, 0 without dropout.
        recompute: Layers are computed again in the backward pass.
    """

    compute: int = 2
    mask: int = 1
    recompute: bool = False

    def copies(self, readers: int) -> int:
        """How often an input that several linear layers read is kept."""
        return readers if self.compute == 2 else 1


class Layers(NamedTuple):
    """Some equal layers of a stack: what each keeps, and what it keeps if it is computed again, in bytes of one picture."""

    count: int
    kept: int
    inputs: int


def _attention(kept: Kept, width: int, heads: int, readers: int) -> int:
    """What a token of a post-LN attention keeps: its ``readers`` linear layers' input, their outputs, mixture, norm."""
    c = kept.compute
    return width * (c * kept.copies(readers) + c * readers + c + 4 + kept.mask) + 4 * heads + 8


def _feed_forward(kept: Kept, width: int, intermediate: int) -> int:
    return width * (kept.compute + 4 + kept.mask) + 2 * kept.compute * intermediate + 8


def _context(kept: Kept, width: int) -> int:
    """What a token keeps that is projected to keys and values; in fp32 the token itself is its maker's."""
    c = kept.compute
    return width * (2 * c + (2 * c if c == 2 else 0))


def _block(config: MPLUGConfig, kept: Kept) -> int:
    return _attention(kept, config.width, config.heads, 3) + _feed_forward(kept, config.width, config.intermediate)


def _cross(config: MPLUGConfig, kept: Kept) -> int:
    return _attention(kept, config.width, config.heads, 1)


def vision_layers(config: MPLUGConfig, plan: Plan, kept: Kept) -> list[Layers]:
    """The tower, its projection and the universal layers."""
    wide, c, frames = config.vision_width, kept.compute, flops.kept_frames(config, plan.frames)
    tower, seen = frames * (1 + flops.patch_count(config)), flops.vision_tokens(config, plan.frames)
    layer = wide * (8 + 14 * c) + 4 * config.vision_heads + 16
    if plan.frames and isinstance(config, MPLUG2Config):
        layer += 2 * (wide * (4 + 2 * c + c // 2) + 8)
    found = [Layers(config.vision_layers, tower * layer, tower * 4 * wide)]
    ends = tower * (4 * wide + 8) + seen * (4 * wide + 8) + frames * flops.patch_count(config) * 3 * config.patch_size**2 * c
    if wide != config.width:
        ends += seen * (c * wide + config.width * (4 + kept.mask) + 8)
    ends += seen * 4 * config.width if c == 4 else 0  # the tokens that fusion reads; under autocast it keeps casts of them
    found.append(Layers(1, ends, ends))
    if isinstance(config, MPLUG2Config):
        own, cross, context = _block(config, kept), _cross(config, kept), _context(kept, config.width)
        gathering = config.latents * (own + cross) + seen * context
        giving = seen * (own + cross) + config.latents * context
        found.append(Layers(config.universal_layers - 1, gathering, 4 * config.width * config.latents + 2 * c * config.width * seen))
        found.append(Layers(1, giving, 4 * config.width * seen + 2 * c * config.width * config.latents))
        found.append(Layers(1, seen * (config.width * (4 + kept.mask) + 8), seen * (config.width * (4 + kept.mask) + 8)))
    return found


def text_layers(config: MPLUGConfig, tokens: int, kept: Kept) -> list[Layers]:
    """One text through the encoder."""
    words = tokens * (config.width * (4 + kept.mask) + 16)
    return [Layers(config.text_layers, tokens * _block(config, kept), tokens * 4 * config.width), Layers(1, words, words)]


def fusion_layers(config: MPLUGConfig, seen: int, tokens: int, kept: Kept, texts: int = 1, own_picture: bool = False) -> list[Layers]:
    """One picture of ``seen`` tokens with its texts; ``own_picture`` where its states are a copy made for this pass."""
    found, shared = [], 1
    for layer in range(config.fusion_layers):
        if layer in config.connected_layers:
            tokens_here = seen + tokens
            found.append(Layers(1, texts * tokens_here * _block(config, kept), texts * tokens_here * 4 * config.width))
            shared = texts
            continue
        kept_here = texts * tokens * (_block(config, kept) + _cross(config, kept)) + shared * seen * _context(kept, config.width)
        found.append(Layers(1, kept_here, texts * tokens * 4 * config.width))
    if kept.compute == 4:
        # What the last layer gives and a copied picture are read as they are; autocast's casts, counted with their readers, let them go.
        joined = seen + tokens if config.fusion_layers - 1 in config.connected_layers else tokens
        ends = 4 * config.width * (texts * joined + (seen if own_picture else 0))
        found.append(Layers(1, ends, ends))
    return found


def word_layers(config: MPLUGConfig, tokens: int, plan: Plan, kept: Kept) -> list[Layers]:
    """Logits of ``tokens`` words and their losses; never computed again."""
    c, width = kept.compute, config.width
    head = tokens * (width * (c + c + 4 + c) + 8 + (12 if plan.distil else 4) * config.vocab_size)
    return [Layers(1, head, head)]


def decoder_layers(config: MPLUGConfig, plan: Plan, seen: int, kept: Kept) -> list[Layers]:
    """The rest of a text behind its prefix, and the memory's keys and values for every layer."""
    tokens, context = plan.text, seen + plan.text
    memory = context * _context(kept, config.width)
    layer = tokens * (_block(config, kept) + _cross(config, kept))
    joined = context * config.width * 4 if kept.compute == 4 else 0  # [vision; text], which every layer reads
    ends = tokens * (config.width * (4 + kept.mask) + 16) + joined
    return [
        Layers(config.decoder_layers, layer + memory, tokens * 4 * config.width + memory),
        Layers(1, ends, ends),
        *word_layers(config, plan.said, plan, kept),
    ]


def activations(config: MPLUGConfig, plan: Plan, kept: Kept) -> int:
    """Bytes that the forwards of a step keep for its backward pass; of recomputed layers also what the largest one brings back."""
    seen = flops.vision_tokens(config, plan.frames)
    stacks = [
        *vision_layers(config, plan, kept),
        *(3 * text_layers(config, plan.text, kept)),
        *fusion_layers(config, seen, plan.text, kept, texts=4),
        *fusion_layers(config, seen, plan.text, kept, own_picture=True),
        *word_layers(config, plan.hidden, plan, kept),
        *decoder_layers(config, plan, seen, kept),
        Layers(1, 16 * plan.keys, 16 * plan.keys),  # log-probabilities and targets, both directions
    ]
    if not kept.recompute:
        return plan.batch * sum(one.count * one.kept for one in stacks)
    return plan.batch * (sum(one.count * one.inputs for one in stacks) + max(one.kept - one.inputs for one in stacks))


def parameters(config: MPLUGConfig, plan: Plan) -> tuple[int, int]:
    """Count what learns and what the twin has, on the modules themselves (built without memory)."""
    with torch.device("meta"):
        model = build_student(config, plan)
    counts = {name: sum(one.numel() for one in part.parameters()) for name, part in model.named_children()}
    # The twin has the family's own parts beside those it is asked for, and the projection that belongs to the tower.
    taught = {*type(model).selection(plan.taught, plan.frames > 0), "vision_projection"}
    return sum(counts.values()), sum(count for name, count in counts.items() if name in taught)


def memory(config: MPLUGConfig, plan: Plan, kept: Kept, shards: int = 1, counts: tuple[int, int] | None = None) -> dict[str, int]:
    """Bytes by purpose; the sum is an upper bound, as activations go while gradients come.

    Args:
        config: Sizes.
        plan: Of the step.
        kept: How activations are kept.
        shards: Devices that share weights, gradients, moments and twin (FSDP2); 1 = every device has all (DDP).
        counts: Parameters that learn and of the twin, where they are known already.
    """
    student, twin = counts or parameters(config, plan)
    # A sharded layer is gathered in bf16 when it is its turn: two layers at a time, of some dozens.
    copies = 0 if kept.compute == 4 else 2 * student if shards == 1 else 2 * 2 * student // max(1, config.vision_layers)
    return {
        "weights": 4 * student // shards,
        "twin": 4 * twin // shards,
        "gradients": 4 * student // shards,
        "AdamW": 8 * student // shards,
        "bf16 copies": copies,
        "queue": 2 * plan.queue * (4 * config.embed_dim + 4),
        "activations": activations(config, plan, kept),
    }
