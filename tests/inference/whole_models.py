"""Models with every part of a family, random, behind the front door."""

from __future__ import annotations

from typing import Any

import torch

from inference.conftest import WORDS
from openmplug.data.clips import VideoSettings
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.data.transforms import ImageSettings
from openmplug.inference.model import Model
from tiny_models import tiny_model, tiny_model2


def a_model(family: str = "mplug", seed: int = 0, words: str = WORDS, **sizes: Any) -> Model:
    """Return a model that was trained for nothing in particular."""
    tokenizer = Tokenizer.from_vocab(build_vocabulary([words], min_count=1))
    make = tiny_model if family == "mplug" else tiny_model2
    network = make(seed=seed, vocab_size=tokenizer.vocab_size, max_positions=40, **sizes)
    config = {
        "architecture": family,
        "task": None,
        "settings": {},
        "image": ImageSettings(size=16).model_dump(mode="json"),
        "video": VideoSettings(frames=5).model_dump(mode="json"),
    }
    return Model(network, tokenizer, config, torch.device("cpu"), "fp32", batch_size=3)
