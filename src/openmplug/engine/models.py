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
from torch import Tensor

from openmplug.checkpoints.adapters import AdapterRecord, BaseWeights, holds_adapters, load_folder, save_adapters
from openmplug.checkpoints.folder import VOCABULARY, find_folder, read_folder
from openmplug.checkpoints.store import WEIGHTS, load_shared, model_hash, read_config, save_weights
from openmplug.data.clips import VideoSettings
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.engine.checkpointing import BEST, LAST
from openmplug.engine.lora import add_adapters, learned_state
from openmplug.engine.recipe import RunConfig
from openmplug.engine.tracking import Display
from openmplug.errors import ModelError
from openmplug.models.families import architecture_of, saved_config
from openmplug.tasks import PRETRAINING, build_task
from openmplug.tasks.base import Task


def new_task(config: RunConfig, tokenizer: Tokenizer, display: Display, clips: bool = False) -> tuple[Task, AdapterRecord | None]:
    """Build the task from the seed, and from the weights of ``init_from`` where it has them.

    Args:
        config: The recipe.
        tokenizer: Its words.
        display: Where to say what came from where.
        clips: The records are about videos.

    Returns:
        The task, and what its checkpoints say about its adapters where it has some (``lora.rank``).
    """
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    task = build_task(config.task, config.model, tokenizer, config.settings, training=True, clips=clips)
    base, missing = _load_parts(task, config.init_from, tokenizer, display)
    if config.start == "mimetic":
        task.model.start_mimetic(missing)
    if config.init_from and missing:
        display.say(f"{', '.join(missing)}: new, no weights were given")
    twin = getattr(task, "twin", None)
    if twin is not None:
        twin.copy_from(task.model)
    if not config.lora.rank:
        return task, None
    hashed = [BaseWeights(folder=folder.resolve(), sha256=model_hash(folder), parts=tuple(parts)) for folder, parts in base.items()]
    return task, add_adapters(task, config.lora, hashed, missing)


def _load_parts(task: Task, folders: Sequence[Path], tokenizer: Tokenizer, display: Display) -> tuple[dict[Path, list[str]], list[str]]:
    """Load each part of the model from the first folder that has it.

    Returns:
        The parts that came from each folder, and the parts that none has.

    Raises:
        ModelError: If a folder holds adapters, its vocabulary is another one and not the beginning of the run's, or a part does not fit.
    """
    loaded: dict[Path, list[str]] = {}
    missing = sorted({name.split(".")[0] for name in task.model.state_dict()})
    for folder in map(find_model, folders):
        if holds_adapters(folder):
            raise ModelError(
                f"'{folder}' holds adapters, not weights to start from; merge them first: openmplug merge {folder} --output DIR"
            )
        content = read_config(folder)
        modules = set(content.get("modules", ()))
        # An image tower alone (CLIP) has no words.
        worded = modules != {"vision"}
        words = Tokenizer.from_vocab_file(folder / VOCABULARY).vocab if worded else tokenizer.vocab
        if words != tokenizer.vocab[: len(words)]:
            raise ModelError(
                f"the vocabulary of '{folder}' is not the run's; start from weights of one vocabulary, or leave out tokenizer.vocab"
            )
        # Another family's parts serve where they are of the same sizes; a head for other classes never does.
        other = content.get("architecture", "mplug") != architecture_of(task.model.config)
        before, missing = missing, load_shared(folder, task.model, missing, ("*",) if other else ("classification",), len(words))
        loaded[folder] = [part for part in before if part not in missing]
        more = len(tokenizer.vocab) - len(words)
        display.say(f"{', '.join(loaded[folder])}: from '{folder}'" + (f", and {more:,} new words" if more else ""))
        if differing := [part for part in missing if part in modules]:
            display.say(f"{', '.join(differing)} of '{folder}': of another size, left out")
        if not missing:
            break
    return loaded, missing


def write_model(
    folder: Path,
    task: Task,
    name: str,
    image: ImageSettings,
    adapters: AdapterRecord | None = None,
    video: VideoSettings | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write what a trained folder holds: weights, or adapters and where their base is; configuration; vocabulary.

    ``weights`` are the model's, whole, where it has but pieces of them itself.
    """
    weights = task.model.state_dict() if weights is None else weights
    config = {
        "architecture": architecture_of(task.model.config),
        "model": task.model.config.model_dump(mode="json"),
        "modules": list(task.model.modules_built),
        "task": name,
        "settings": task.settings.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        **({} if video is None else {"video": video.model_dump(mode="json")}),
    }
    if adapters is None:
        save_weights(folder, weights, config)
    else:
        save_adapters(folder, learned_state(task.model, weights), config, adapters)
    task.tokenizer.save(folder)


def find_model(path: Path) -> Path:
    """Return the folder of weights that a path means: itself, or its ``checkpoint-best``, or its ``checkpoint-last``.

    Raises:
        ModelError: If there is none.
    """
    folder = find_folder(path)
    if (folder / WEIGHTS).is_file() or holds_adapters(folder):
        return folder
    path = Path(path).expanduser()
    if path.is_file():
        raise ModelError(f"'{path}' is a file; make a folder of it first: openmplug models convert {path} --output DIR")
    what = "is not a folder" if not path.is_dir() else f"holds neither {WEIGHTS} nor {BEST} nor {LAST}"
    raise ModelError(f"'{path}' {what}; give a folder that openmplug train or openmplug models convert wrote")


def load_task(
    folder: Path, device: torch.device, settings: Mapping[str, Any] | None = None, base: Sequence[Path] = (), wanted: str | None = None
) -> tuple[Task, dict[str, Any]]:
    """Load a trained folder; adapters are merged into the weights they were learned on.

    Args:
        folder: Holds weights or adapters, ``config.json`` and ``vocab.txt``.
        device: Where to.
        settings: Task settings that replace the folder's.
        base: Where the base of adapters is now; empty takes the place it had.
        wanted: What a model that was only pre-trained is to do, without having been trained for it (zero-shot); of another one it
            changes nothing.

    Returns:
        The task in eval mode, and the folder's configuration.

    Raises:
        ModelError: If the folder is not complete, its weights do not fit its configuration, or lack a part of the wanted task.
        UsageError: If a setting is unknown.
    """
    config, tokenizer = read_folder(folder)
    if config["task"] == PRETRAINING and wanted not in (None, PRETRAINING):
        return _zero_shot(folder, device, {**config, "task": wanted, "settings": dict(settings or {})}, tokenizer)
    if config["task"] is None:
        raise ModelError(f"'{folder}' was trained for no task in particular; convert it with --task, or start from it with init_from")
    task = build_task(
        config["task"],
        saved_config(config),
        tokenizer,
        {**config["settings"], **(settings or {})},
        clips="temporal" in config["modules"],
    )
    load_folder(folder, task.model, base)
    return task.to(device).eval(), config


def _zero_shot(folder: Path, device: torch.device, config: dict[str, Any], tokenizer: Tokenizer) -> tuple[Task, dict[str, Any]]:
    """Make a task of the parts of a pre-trained model; frames of a clip are pictures to one that has seen pictures only."""
    clips = "temporal" in config["modules"]
    task = build_task(config["task"], saved_config(config), tokenizer, config["settings"], clips=clips)
    if lacking := load_shared(folder, task.model):
        raise ModelError(
            f"the pre-trained model in '{folder}' has no {', '.join(lacking)}, which task '{config['task']}' needs; fine-tune it"
        )
    return task.to(device).eval(), config
