"""Adapters and their base made one ordinary folder of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from openmplug.checkpoints.adapters import folder_hash, holds_adapters
from openmplug.checkpoints.atomic import atomic_folder
from openmplug.config import validate
from openmplug.data.clips import VideoSettings
from openmplug.data.transforms import ImageSettings
from openmplug.engine.models import find_model, load_task, write_model
from openmplug.errors import UsageError


def merge(run: Path, output: Path, base: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the model that adapters and their base are together.

    Args:
        run: A folder of adapters, or a run's folder, for its best checkpoint.
        output: Where to; must not be there yet.
        base: Where the base is now; empty takes the place it had.

    Returns:
        ``adapters``, ``output``, ``sha256`` of the merged weights and ``parameters``.

    Raises:
        UsageError: If the folder holds no adapters, or ``output`` is there already.
        ModelError: If the adapters or their base cannot be used.
        EnvironmentProblem: If the folder cannot be written.
    """
    folder, output = find_model(run), Path(output)
    if not holds_adapters(folder):
        raise UsageError(f"'{folder}' holds no adapters, it is an ordinary model already; merge a run that was trained with lora.rank")
    if output.exists():
        raise UsageError(f"--output '{output}' is there already; give a folder that is not")
    task, config = load_task(folder, torch.device("cpu"), base=[find_model(place) for place in base])
    with atomic_folder(output) as writing:
        image = validate(ImageSettings, config["image"], where="image")
        video = validate(VideoSettings, config["video"], where="video") if "video" in config else None
        write_model(writing, task, config["task"], image, video=video)
    count = sum(parameter.numel() for parameter in task.model.parameters())
    return {"adapters": str(folder), "output": str(output), "sha256": folder_hash(output), "parameters": count}
