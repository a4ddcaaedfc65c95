"""The forwards of one pre-training step, what they cost, and the step itself in plain code to measure and to count.

Both families, for B pictures or clips with a text each: the plan of ``tasks/pretrain.py``, masked words and a prefix beside contrast and
matching, no instruction. Texts are padded to the longest, T; a prefix and its continuation too, as some of a batch are nearly as long.

    vision encoder     the pictures, once
    text encoder       the texts (contrast and matching); hidden words and prefixes in one call
    fusion             own text, wrong text, hidden words and prefix of a picture in one call (4 B rows), its keys and values projected
                       once; each text with a wrong picture (B rows)
    language head      at hidden words only
    decoder            the rest of the text against [vision; prefix] of the fused prefix; logits of what is to be said
    twin, no gradient  the pictures and the texts; where it teaches words too, hidden words and prefixes as the student

Whatever learns costs three times its forward, pixels excepted (``flops.py``); the twin once. Recomputed layers are not counted: model
FLOPs are what the model needs, not what a setting spends.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import flops
import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.models.families import build_network, network_class
from openmplug.models.fusion import Fused
from openmplug.models.momentum import MomentumTwin
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.network import Network
from openmplug.objectives.itc import positive_targets, soft_cross_entropy, soft_targets
from openmplug.objectives.itm import matching_loss
from openmplug.tasks.alignment import fuse_together

LEARNED = ("vision", "text", "fusion", "decoder", "contrastive", "matching", "language")
ALPHA = 0.4


@dataclass(frozen=True)
class Plan:
    """What a step sees.

    Args:
        batch: Pictures or clips of one device, each with a text.
        text: Tokens of a text, [CLS] and [SEP] included.
        frames: Of a clip; 0 = pictures.
        queue: Features kept of earlier batches, per modality.
        devices: Whose features are contrasted with each other.
        mask_share: Of the words that are hidden.
        distil: The twin teaches hidden words and the decoder too, not only contrast.
    """

    batch: int
    text: int = 30
    frames: int = 0
    queue: int = 65536
    devices: int = 1
    mask_share: float = 0.15
    distil: bool = True

    @property
    def hidden(self) -> int:
        """Hidden words of a text."""
        return max(1, ceil(self.mask_share * (self.text - 2)))

    @property
    def said(self) -> int:
        """Tokens that the decoder has to say: half of a text, the mean of a drawn split."""
        return self.text - self.text // 2

    @property
    def taught(self) -> tuple[str, ...]:
        """Modules that the twin has too."""
        return tuple(name for name in LEARNED if name != "matching") if self.distil else ("vision", "text", "contrastive")

    @property
    def keys(self) -> int:
        """Features that each picture and text is contrasted with."""
        return self.batch * self.devices + self.queue


class Pass(NamedTuple):
    """One forward of a step: FLOPs of one picture forward and backward."""

    what: str
    forward: int
    backward: int


def passes(config: MPLUGConfig, plan: Plan) -> list[Pass]:
    """List the forwards of a step, those of the twin last."""
    seen, texts = flops.vision_tokens(config, plan.frames), flops.text(config, plan.text)
    vision = flops.vision(config, plan.frames)
    words = flops.language_head(config, plan.hidden)
    decoded = flops.decoder(config, plan.text, seen + plan.text, plan.said)
    contrasted = 2 * flops.linear(1, config.embed_dim, plan.keys)

    def learned(what: str, forward: int) -> Pass:
        return Pass(what, forward, 2 * forward)

    student = [
        Pass("vision encoder", vision, 2 * vision - flops.patches(config, plan.frames)),
        learned("text encoder: texts", texts),
        learned("text encoder: hidden words, prefix", 2 * texts),
        learned("fusion: four texts of a picture", flops.fusion(config, seen, plan.text, texts_per_picture=4)),
        learned("fusion: wrong picture", flops.fusion(config, seen, plan.text)),
        learned("language head", words),
        learned("decoder", decoded),
        learned("contrastive and matching heads", flops.contrastive(config, plan.frames) + 3 * flops.matching(config)),
        Pass("similarities", contrasted, contrasted),
    ]
    twin = {
        "vision encoder": vision,
        "text encoder": texts,
        "contrastive head": flops.contrastive(config, plan.frames),
        "similarities": contrasted,
    }
    if plan.distil:
        read = 2 * texts + flops.fusion(config, seen, plan.text, texts_per_picture=2)
        twin |= {"hidden words, prefix": read + words, "decoder": decoded}
    return student + [Pass(f"twin: {what}", forward, 0) for what, forward in twin.items()]


def step_flops(config: MPLUGConfig, plan: Plan) -> int:
    """Model FLOPs of one device's step."""
    return plan.batch * sum(one.forward + one.backward for one in passes(config, plan))


# ------------------------------------------------------------------------------------------------------------------ the step


def build_student(config: MPLUGConfig, plan: Plan) -> Network:
    """Build the model that learns on torch's default device, with what the plan needs."""
    return build_network(config, network_class(config).selection(LEARNED, plan.frames > 0)).train()


def build(config: MPLUGConfig, plan: Plan) -> tuple[Network, MomentumTwin]:
    """Build the model that learns, and its twin with what it teaches."""
    model = build_student(config, plan)
    return model, MomentumTwin(model, plan.taught).train()


class Inputs(NamedTuple):
    """A made-up batch: images (B, 3, H, W) or (B, F, 3, H, W), ids (B, T), and features in the queue (Q, E)."""

    images: Tensor
    ids: Tensor
    queue: Tensor


def inputs(config: MPLUGConfig, plan: Plan) -> Inputs:
    """Make random pictures, full texts and a full queue on torch's default device."""
    frames = (plan.frames,) if plan.frames else ()
    images = torch.randn(plan.batch, *frames, 3, config.image_size, config.image_size)
    ids = torch.randint(104, config.vocab_size, (plan.batch, plan.text))
    return Inputs(images, ids, F.normalize(torch.randn(plan.queue, config.embed_dim), dim=-1))


class Words(NamedTuple):
    """What a model said of hidden words, and of the rest behind a prefix: logits (B * W, vocab) and (B * S, vocab)."""

    hidden: Tensor
    rest: Tensor


def _read(model: Network, ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Encode what hidden words and prefixes are read from, in one call."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    hidden, prefix = model.encode_text(ids.repeat(2, 1), mask.repeat(2, 1)).chunk(2)
    return {"hidden": (hidden, mask), "prefix": (prefix, mask)}


def _say(model: Network, fused: dict[str, Fused], ids: Tensor, plan: Plan) -> Words:
    hidden = fused["hidden"].text[:, 1 : 1 + plan.hidden].flatten(0, 1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    written = model.decoder.hidden(ids, mask, model.decoder_memory(fused["prefix"], mask))
    rest = model.decoder.logits(written[:, : plan.said].flatten(0, 1))
    return Words(model.language(hidden, model.text.embeddings.words.weight), rest)


def _language_loss(said: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """Cross-entropy of logits (N, vocab) with labels (N,), mixed with the twin's beliefs."""
    loss = F.cross_entropy(said.float(), labels)
    return loss if taught is None else (1 - ALPHA) * loss + ALPHA * soft_cross_entropy(said, taught.float().softmax(dim=-1))


def loss_of_step(model: Network, twin: MomentumTwin, given: Inputs, plan: Plan) -> Tensor:
    """Compute the four losses of a step; call it under autocast where that is wanted, and ``backward`` on the result.

    Wrong pictures and texts are the neighbours in the batch: choosing hard ones costs nothing that shows.
    """
    images, ids, queue = given
    mask, frames = torch.ones_like(ids, dtype=torch.bool), max(1, plan.frames)
    with torch.no_grad():
        seen = twin.model.encode_images(images)
        read = twin.model.encode_text(ids, mask)
        keys_v = torch.cat([twin.model.vision_features(seen, frames), queue])
        keys_t = torch.cat([twin.model.contrastive.text_features(read), queue])
        taught = None
        if plan.distil:
            taught = _say(twin.model, fuse_together(twin.model, seen, _read(twin.model, ids)), ids, plan)
    vision, text = model.encode_images(images), model.encode_text(ids, mask)
    vision_f, text_f = model.vision_features(vision, frames), model.contrastive.text_features(text)
    with torch.autocast(images.device.type, enabled=False):
        temperature, numbers = model.contrastive.temperature, torch.arange(len(images), device=images.device)
        positives = positive_targets(numbers, torch.cat([numbers, numbers.new_full((len(queue),), -100)]))
        total = torch.zeros((), device=images.device)
        for mine, own, keys in ((vision_f, keys_v, keys_t), (text_f, keys_t, keys_v)):
            with torch.no_grad():
                targets = soft_targets(own[: len(images)] @ keys.T / temperature, positives, ALPHA)
            total = total + soft_cross_entropy(mine @ keys.T / temperature, targets) / 2
    texts = {"own": (text, mask), "wrong text": (text.roll(1, 0), mask), **_read(model, ids)}
    fused = fuse_together(model, vision, texts)
    wrong_picture = model.fuse(vision.roll(1, 0), text, mask)
    ordered = (fused["own"], wrong_picture, fused["wrong text"])
    total = total + matching_loss(torch.cat([model.matching(pair.text) for pair in ordered]))
    said = _say(model, fused, ids, plan)
    total = total + _language_loss(said.hidden, ids[:, 1 : 1 + plan.hidden].flatten(), taught and taught.hidden)
    return total + _language_loss(said.rest, ids[:, : plan.said].flatten(), taught and taught.rest)
