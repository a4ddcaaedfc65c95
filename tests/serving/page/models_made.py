"""Untrained folders of the smallest model that can do everything, with the words of the built-in shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openmplug.checkpoints.store import save_weights
from openmplug.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.models.families import build_network, named_config
from openmplug.tasks.grounding import BOX_WORDS

WORDS = (
    "what which way colour shape is are the a an of left right above below moves move moving first last does there how many things thing"
    " red green blue yellow purple black circle square triangle star cross circles squares at top middle bottom centre and while up down"
    " yes no 0 1 2 3 4 where relative to ?"
).split()

SIZES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 16,
    "vision_width": 32,
    "vision_layers": 1,
    "vision_heads": 2,
    "width": 32,
    "heads": 2,
}
SIZES |= {"intermediate": 64, "embed_dim": 16, "text_layers": 1, "decoder_layers": 1}


def make_model(folder: Path, seed: int = 0, task: str | None = None, **settings: Any) -> Path:
    """Write a model with random weights, spread wide enough that pictures and words change what it says."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_vocab([*SPECIAL_TOKENS, *WORDS, *BOX_WORDS])
    network = build_network(named_config("mplug-tiny", vocab_size=tokenizer.vocab_size, **SIZES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    config: dict[str, Any] = {"architecture": "mplug", "model": network.config.model_dump(mode="json")}
    config |= {"modules": list(network.modules_built), "task": task, "settings": settings}
    config |= {"image": ImageSettings(size=32).model_dump(mode="json")}
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, network.state_dict(), config)
    tokenizer.save(folder)
    return folder
