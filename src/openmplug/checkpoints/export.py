"""Back to the original code: a folder written as the file its scripts read, bit for bit where it came from one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.checkpoints.architecture import stack_depth
from openmplug.checkpoints.folder import ORIGIN, UNUSED
from openmplug.checkpoints.keymap import KeyMap
from openmplug.checkpoints.originals import original_keymap
from openmplug.checkpoints.store import open_tensors, read_config, read_weights
from openmplug.errors import ModelError, write_problem
from openmplug.models.families import saved_config
from openmplug.models.mplug import MPLUGConfig


def export_original(folder: Path, target: Path) -> dict[str, Any]:
    """Write a folder as a file of the original code: its key names, its wrapper, its values bit for bit.

    A folder that was converted gets back the very keys of its file. One that was trained here gets the final names of the original's
    fine-tuned checkpoints, with the tied output layer and the position ids that its loaders list.

    Args:
        folder: Holds ``model.safetensors`` and ``config.json``.
        target: The ``.pth``, ``.pt`` or ``.bin`` file.

    Returns:
        Counts of what was written, and what could not be.

    Raises:
        ModelError: If the folder is damaged.
        EnvironmentProblem: If the file cannot be written.
    """
    config = read_config(folder)
    origin: dict[str, Any] | None = None
    if (folder / ORIGIN).is_file():
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        if origin["origin"] in ("clip", "bert"):
            raise ModelError(
                f"'{folder}' came from {origin['origin'].upper()} and is a part of a model; there is no original file to write back"
            )
    ours = read_weights(folder)
    dropped: list[str] = []
    if origin is None:
        state, wrapper, extras = _canonical(ours, config), ["model"], {}
    else:
        state, dropped = _restored(folder, ours, origin, keymap_of(saved_config(config), config["modules"]))
        wrapper, extras = origin["wrapper"], origin["extras"]
    content: dict[str, Any] = state
    for name in reversed(wrapper):
        content = {name: content}
    content = {**content, **extras} if wrapper else content
    temporary = target.with_name(f".{target.name}.writing")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        temporary.replace(target)
    except (OSError, RuntimeError) as error:
        raise write_problem(error, target) from error
    finally:
        temporary.unlink(missing_ok=True)
    return {"keys": len(state), "dropped": dropped}


def _restored(folder: Path, ours: Mapping[str, Tensor], origin: Mapping[str, Any], keymap: KeyMap) -> tuple[dict[str, Tensor], list[str]]:
    unused: dict[str, Tensor] = {}
    if (folder / UNUSED).is_file():
        with open_tensors(folder / UNUSED) as file:
            unused = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    state: dict[str, Tensor] = {}
    dropped: list[str] = []
    for raw, entry in origin["keys"].items():
        if "model" in entry:
            state[raw] = original_tensor(entry, ours, keymap)
        elif raw in unused:
            state[raw] = unused[raw]
        elif "tied" not in entry:
            dropped.append(raw)
    for raw, entry in origin["keys"].items():
        if "tied" in entry and entry["tied"] in state:
            state[raw] = state[entry["tied"]]
    # In the file's own order.
    return {raw: state[raw] for raw in origin["keys"] if raw in state}, dropped


def original_tensor(entry: Mapping[str, Any], ours: Mapping[str, Tensor], keymap: KeyMap) -> Tensor:
    """Make the tensor of a converted file again that an entry of ``origin.json`` describes."""
    names = [entry["model"]] if isinstance(entry["model"], str) else entry["model"]
    tensor = keymap.give(names, ours)
    return tensor.reshape(entry["shape"]) if "shape" in entry else tensor


def keymap_of(config: MPLUGConfig, modules: Collection[str]) -> KeyMap:
    """Make the rename rules for a model of ours."""
    return original_keymap(config, stack_depth(config) - config.fusion_layers, modules)


def _canonical(ours: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    sizes = saved_config(config)
    state = keymap_of(sizes, config.get("modules", ())).restore(ours)
    for stack in ("text_encoder", "text_decoder.bert"):
        if f"{stack}.embeddings.position_embeddings.weight" in state:
            state[f"{stack}.embeddings.position_ids"] = torch.arange(sizes.max_positions)[None]
    words, bias = "text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions.bias"
    if words in state:
        state["text_decoder.cls.predictions.decoder.weight"] = state[words]
        state["text_decoder.cls.predictions.decoder.bias"] = state[bias]
    return state
