"""The model folders at both ends of a run: the ones it starts from and the one it leaves.

A new task takes each part of its model from the first folder of ``init_from`` that has it, and keeps the seed's values for the rest. A
trained folder holds weights, configuration and vocabulary, and is all that is needed to make its task again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmplug.checkpoints.store import WEIGHTS, load_shared, load_weights, read_config, save_weights
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.engine.recipe import RunConfig
from openmplug.engine.tracking import Display
from openmplug.engine.trainer import BEST, LAST
from openmplug.errors import ModelError
from openmplug.tasks import build_task
from openmplug.tasks.base import Task

VOCABULARY = "vocab.txt"


def new_task(config: RunConfig, tokenizer: Tokenizer, display: Display) -> Task:
    """Build the task from the seed, and from the weights of ``init_from`` where it has them."""
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    task = build_task(config.task, config.model, tokenizer, config.settings, training=True)
    if config.init_from:
        missing = _load_parts(task, config.init_from, tokenizer, display)
        if missing:
            display.say(f"{', '.join(missing)}: new, no weights were given")
        twin = getattr(task, "twin", None)
        if twin is not None:
            twin.copy_from(task.model)
    return task


def _load_parts(task: Task, folders: Sequence[Path], tokenizer: Tokenizer, display: Display) -> list[str]:
    """Load each part of the model from the first folder that has it and return the parts that none has.

    Raises:
        ModelError: If a folder's vocabulary is another one, or a part does not fit.
    """
    missing = sorted({name.split(".")[0] for name in task.model.state_dict()})
    for folder in map(find_model, folders):
        if Tokenizer.from_vocab_file(folder / VOCABULARY) != tokenizer:
            raise ModelError(
                f"the vocabulary of '{folder}' is not the run's; start from weights of one vocabulary, or leave out tokenizer.vocab"
            )
        before, missing = missing, load_shared(folder, task.model, missing)
        display.say(f"{', '.join(part for part in before if part not in missing)}: from '{folder}'")
        if not missing:
            break
    return missing


def write_model(folder: Path, task: Task, name: str, image: ImageSettings) -> None:
    """Write what a trained folder holds: weights, configuration, vocabulary."""
    config = {
        "architecture": "mplug",
        "model": task.model.config.model_dump(mode="json"),
        "modules": list(task.model.modules_built),
        "task": name,
        "settings": task.settings.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
    }
    save_weights(folder, task.model.state_dict(), config)
    task.tokenizer.save(folder)


def find_model(path: Path) -> Path:
    """Return the folder of weights that a path means: itself, or its ``checkpoint-best``, or its ``checkpoint-last``.

    Raises:
        ModelError: If there is none.
    """
    path = Path(path).expanduser()
    for folder in (path, path / BEST, path / LAST):
        if (folder / WEIGHTS).is_file():
            return folder
    what = "is not a folder" if not path.is_dir() else f"holds neither {WEIGHTS} nor {BEST} nor {LAST}"
    raise ModelError(f"'{path}' {what}; give a folder that openmplug train wrote")


def load_task(folder: Path, device: torch.device, settings: Mapping[str, Any] | None = None) -> tuple[Task, dict[str, Any]]:
    """Load a trained folder.

    Args:
        folder: Holds weights, ``config.json`` and ``vocab.txt``.
        device: Where to.
        settings: Task settings that replace the folder's.

    Returns:
        The task in eval mode, and the folder's configuration.

    Raises:
        ModelError: If the folder is not complete or its weights do not fit its configuration.
        UsageError: If a setting is unknown.
    """
    config = read_config(folder)
    missing = [key for key in ("task", "model", "settings", "image") if key not in config]
    if missing:
        raise ModelError(f"'{folder / 'config.json'}' has no {', '.join(missing)}; it is not a folder that openmplug train wrote")
    if not (folder / VOCABULARY).is_file():
        raise ModelError(f"'{folder / VOCABULARY}' is missing; the model's words cannot be read without it")
    tokenizer = Tokenizer.from_vocab_file(folder / VOCABULARY)
    task = build_task(config["task"], config["model"], tokenizer, {**config["settings"], **(settings or {})})
    load_weights(folder, task.model)
    return task.to(device).eval(), config
