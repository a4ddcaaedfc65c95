"""Untrained folders of the smallest model, one per task: what is tested is the way through, not what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openmplug.checkpoints.store import save_weights
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.data.transforms import ImageSettings
from openmplug.tasks import build_task

WORDS = "what colour is the small red circle ? how many green squares are there in this picture a an left of above"
SIZES = {"vision_width": 32, "vision_layers": 2, "vision_heads": 2, "width": 32, "heads": 2, "intermediate": 64, "embed_dim": 16}
MODEL = {"name": "mplug-tiny", "image_size": 32, "patch_size": 16, "text_layers": 1, "decoder_layers": 1, **SIZES}
SETTINGS: dict[str, dict[str, Any]] = {
    "vqa": {"num_beams": 2, "max_length": 5},
    "caption": {"num_beams": 2, "min_length": 2, "max_length": 6},
    "retrieval": {},
    "classification": {},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a task, with other settings where given."""
    made: dict[str, Path] = {}

    def get(task: str, **settings: Any) -> Path:
        key = f"{task} {settings}"
        if key not in made:
            torch.manual_seed(3)
            tokenizer = Tokenizer.from_vocab(build_vocabulary([WORDS], min_count=1))
            built = build_task(task, MODEL, tokenizer, {**SETTINGS[task], **settings})
            with torch.no_grad():
                for parameter in built.model.parameters():
                    # Larger than at initialization, so that pictures and words make a difference to what is said.
                    parameter.add_(torch.randn_like(parameter), alpha=0.25)
            folder = tmp_path_factory.mktemp(task)
            config = {
                "architecture": "mplug",
                "model": built.model.config.model_dump(mode="json"),
                "modules": list(built.model.modules_built),
                "task": task,
                "settings": built.settings.model_dump(mode="json"),
                "image": ImageSettings(size=32).model_dump(mode="json"),
            }
            save_weights(folder, built.model.state_dict(), config)
            tokenizer.save(folder)
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five different pictures as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths
