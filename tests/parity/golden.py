"""One golden case: its inputs, the comparisons, and the rule that nothing stored goes unread."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from openmplug.checkpoints.keymap import Converted, KeyMap
from openmplug.checkpoints.originals import original_keymap, split_momentum
from openmplug.data.tokenizer import Tokenizer
from openmplug.models.families import build_network, network_class
from openmplug.models.fusion import connected_layers
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.mplug2 import MPLUG2Config
from openmplug.models.network import Network

MASKED_LOGIT_ATOL = 2e-3  # grounding logits carry an additive -10000, which costs fp32 three digits


def as_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo the F16 storage of exactly representable tensors."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@dataclass
class Ledger:
    """What was compared and how far off it was. ``close`` fails the case if anything stored was not read."""

    compared: int = 0
    worst: float = 0.0
    worst_name: str = "-"
    unread: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def note(self, name: str, error: float, ok: bool, detail: str) -> None:
        """Record one comparison."""
        self.compared += 1
        self.unread.discard(name)
        if not error <= self.worst:
            self.worst, self.worst_name = error, name
        if not ok:
            self.faults.append(f"{name}: {detail}")

    def close(self) -> None:
        """Fail on any difference and on anything nobody looked at."""
        faults = [*self.faults, *(f"{name}: stored, but nothing compared it" for name in sorted(self.unread))]
        assert not faults, "\n".join(faults)


class Case:
    """A folder of golden vectors made by one of the original models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.family: str = self.config["family"]
        self.io = as_float32(load_file(folder / "io.safetensors"))
        self.tolerance: dict[str, Any] = self.config["tolerance"]
        self.settings: dict[str, Any] = self.config["config"]
        self.bert: dict[str, Any] = self.config["bert_config_fields"]
        # Inputs count too: an input no computation reads would mean that something was not exercised.
        self.ledger = Ledger(unread=set(self.io))
        self.ledger.unread |= {f"{kind}.{key}" for kind in ("grad_norms", "grad_norms_distill") for key in self.config.get(kind, {})}
        self.ledger.unread |= {key for key in self.config if key in SCALARS}

    # ----------------------------------------------------------------------------------------------- inputs and weights

    def get(self, name: str) -> Tensor:
        """Read an input."""
        self.ledger.unread.discard(name)
        return self.io[name]

    def mask(self, name: str) -> Tensor:
        """Read a mask as bool."""
        return self.get(name).bool()

    def unused(self, name: str, reason: str) -> None:
        """Mark an input that the original itself does not use."""
        assert reason
        self.ledger.unread.discard(name)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The original state dict."""
        path = self.folder / self.config.get("weights_from", "weights.safetensors")
        return as_float32(load_file(path))

    @property
    def text_layers(self) -> int:
        """Text layers that run; grounding cuts the stack to stride_layer layers."""
        layers = int(self.bert["text_encoder_layers"])
        return min(layers, int(self.bert["stride_layer"])) if self.family == "mplug_grounding" else layers

    @property
    def model_config(self) -> MPLUGConfig:
        """Our configuration of the case's sizes."""
        bert, clip = self.bert, self.config["clip"]
        sizes: dict[str, Any] = dict(
            name="golden",
            image_size=self.settings["image_res"],
            patch_size=clip["vision_patch_size"],
            vision_width=clip["vision_width"],
            vision_layers=clip["vision_layers"],
            vision_heads=clip["vision_width"] // 64,
            width=bert["hidden_size"],
            heads=bert["num_attention_heads"],
            intermediate=bert["intermediate_size"],
            text_layers=self.text_layers,
            fusion_layers=bert["fusion_layers"],
            connected_layers=connected_layers(bert["stride_layer"], bert["fusion_layers"]),
            decoder_layers=bert["text_decode_layers"],
            vocab_size=bert["vocab_size"],
            max_positions=bert["max_position_embeddings"],
            embed_dim=self.settings.get("embed_dim", 256),
        )
        if not self.family.startswith("mplug2"):
            return MPLUGConfig(**sizes)
        first = next(key for key in self.weights if re.fullmatch(r"text_encoder\.encoder\.layer\.\d+\.latents", key))
        return MPLUG2Config(
            **sizes,
            universal_layers=bert["num_uni_layer"],
            latents=len(self.weights[first]),
            temporal_stride=self.settings["temporal_stride"] if self.settings["temporal_downsampling"] else 0,
        )

    def selection(self, modules: tuple[str, ...]) -> tuple[str, ...]:
        """Name the modules that a task needs of this case's family."""
        return network_class(self.model_config).selection(modules, clips=True)

    def keymap(self, modules: tuple[str, ...]) -> KeyMap:
        """The rename rules of this case."""
        start = self.bert["num_hidden_layers"] - self.bert["fusion_layers"]
        return original_keymap(self.model_config, start, modules)

    def convert(self, modules: tuple[str, ...]) -> Converted:
        """Convert the student's weights."""
        return self.keymap(modules).convert(split_momentum(self.weights)[0])

    def model(self, modules: tuple[str, ...]) -> Network:
        """Build our model with the case's weights; every parameter must be there."""
        model = build_network(self.model_config, modules)
        model.load_state_dict(self.convert(modules).tensors, strict=True)
        return model.eval()

    def load_twin(self, twin: Network) -> None:
        """Give a momentum twin the stored momentum weights, every parameter of it."""
        stored = self.keymap(twin.modules_built).convert(split_momentum(self.weights)[1]).tensors
        known = {key: value for key, value in stored.items() if key in twin.state_dict()}
        missing = set(twin.state_dict()) - set(known)
        assert missing <= {"contrastive.temperature"}, f"the case stores no momentum weights for {sorted(missing)}"
        twin.load_state_dict(known, strict=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The case's vocabulary."""
        folder = (self.folder / self.config["weights_from"]).parent if "weights_from" in self.config else self.folder
        return Tokenizer.from_vocab_file(folder / "vocab.txt")

    # ------------------------------------------------------------------------------------------------------ comparisons

    def same(self, name: str, ours: Tensor, atol: float | None = None, rtol: float | None = None) -> None:
        """Compare a stored tensor with ours; integers must be equal."""
        theirs = self.io[name]
        if ours.shape != theirs.shape:
            self.ledger.note(name, float("inf"), False, f"shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}")
            return
        if not theirs.is_floating_point():
            wrong = int((ours != theirs).sum())
            self.ledger.note(name, float(wrong), wrong == 0, f"{wrong} of {theirs.numel()} ids differ")
            return
        atol, rtol = self._tolerance(name) if atol is None else (atol, rtol or 0.0)
        ours = ours.detach().float()
        difference = (ours - theirs).abs()
        ok = bool(torch.isfinite(ours).all()) and bool((difference <= atol + rtol * theirs.abs()).all())
        error = float(difference.max()) if difference.numel() else 0.0
        self.ledger.note(name, error, ok, f"largest difference {error:.3g}, allowed {atol:g} + {rtol:g} * |value|")

    def _tolerance(self, name: str) -> tuple[float, float]:
        """Choose (atol, rtol) from the case's own list."""
        given = self.tolerance
        kind = name.split(".", 1)[0]
        if kind == "grad" or "scst_grad" in name:
            # Absolute part: a gradient's small entries carry the rounding of its large ones.
            return given["grad_rtol"] * float(self.io[name].abs().max()), given["grad_rtol"]
        if kind == "after_step" and "queues_atol" in given:
            return given["queues_atol"], 0.0
        if "loss" in name and "loss_rtol" in given:
            return 1e-6, given["loss_rtol"]
        if ("score" in name or "eval_" in name or name in ("out.v2t", "out.t2v")) and "scores_atol" in given:
            return given["scores_atol"], 0.0
        if "probs" in name and "probs_atol" in given:
            return given["probs_atol"], 0.0
        return given.get("activations_atol", given.get("scores_atol", 2e-4)), given.get("activations_rtol", 0.0)

    def gradients(self, model: Network, keymap: KeyMap, norms: str = "grad_norms", tensors: bool = True) -> None:
        """Compare every stored gradient and every listed gradient norm, and that what has none there has none here."""
        own = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
        ours = keymap.restore(own)
        listed: dict[str, float] = self.config[norms]
        largest = max(listed.values())
        for key, norm in listed.items():
            if key not in ours:
                self.ledger.note(f"{norms}.{key}", float("inf"), False, "we have no such gradient")
                continue
            value = float(ours[key].norm())
            # Key biases have a true gradient of 0: their norms are rounding noise, hence the absolute part.
            ok = abs(value - norm) <= self.tolerance["grad_rtol"] * norm + 1e-6 * largest
            self.ledger.note(f"{norms}.{key}", abs(value - norm), ok, f"norm {value:.7g}, expected {norm:.7g}")
        extra = [name for name, gradient in ours.items() if name not in listed and bool(gradient.any())]
        if extra:
            self.ledger.faults.append(f"parameters with a gradient that the original does not train: {extra[:5]}")
        for key in self.config["params_without_grad"]:
            if keymap.reason_ignored(key) is None and key in ours and bool(ours[key].any()):
                self.ledger.faults.append(f"{key} has a gradient here and none in the original")
        if not tensors:
            return
        for name in [name for name in self.io if name.startswith("grad.")]:
            if name.removeprefix("grad.") in ours:
                self.same(name, ours[name.removeprefix("grad.")])

    def scalar(self, name: str, ours: float, theirs: float, atol: float) -> None:
        """Compare a number of ``config.json``."""
        self.ledger.note(name, abs(ours - theirs), abs(ours - theirs) <= atol, f"{ours}, expected {theirs}")


SCALARS = ("itm_eval_metrics", "stats")
