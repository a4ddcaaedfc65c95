"""Back to the original code: a folder written as the file its scripts read, bit for bit where it came from one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.checkpoints.atomic import write_problem
from openmplug.checkpoints.folder import ORIGIN, UNUSED
from openmplug.checkpoints.keymap import KeyMap
from openmplug.checkpoints.originals import TEMPERATURE, mplug_keymap
from openmplug.checkpoints.store import open_tensors, read_config, read_weights
from openmplug.errors import ModelError
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
        state, dropped = _restored(folder, ours, origin)
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


def _restored(folder: Path, ours: Mapping[str, Tensor], origin: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    unused: dict[str, Tensor] = {}
    if (folder / UNUSED).is_file():
        with open_tensors(folder / UNUSED) as file:
            unused = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    state: dict[str, Tensor] = {}
    dropped: list[str] = []
    for raw, entry in origin["keys"].items():
        if "model" in entry:
            tensor = ours[entry["model"]]
            state[raw] = tensor.reshape(entry["shape"]) if "shape" in entry and tensor.numel() == 1 else tensor
        elif raw in unused:
            state[raw] = unused[raw]
        elif "tied" not in entry:
            dropped.append(raw)
    for raw, entry in origin["keys"].items():
        if "tied" in entry and entry["tied"] in state:
            state[raw] = state[entry["tied"]]
    # In the file's own order.
    return {raw: state[raw] for raw in origin["keys"] if raw in state}, dropped


def keymap_of(config: MPLUGConfig, modules: Collection[str]) -> KeyMap:
    """Make the rename rules for a model of ours: the original's fusion layers are the last of a stack as deep as the decoder's."""
    start = max(config.decoder_layers, config.fusion_layers) - config.fusion_layers
    return mplug_keymap(config.text_layers, start, config.connected_layers, tuple(modules))


def _canonical(ours: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    sizes = saved_config(config)
    keymap = keymap_of(sizes, config.get("modules", ()))
    state: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        theirs = keymap.to_theirs(name)
        if theirs is None:
            raise ModelError(f"{name} has no name in the original code; only mPLUG's own parts can be written back")
        state[theirs] = tensor.reshape(()) if name == TEMPERATURE else tensor
    for stack in ("text_encoder", "text_decoder.bert"):
        if f"{stack}.embeddings.position_embeddings.weight" in state:
            state[f"{stack}.embeddings.position_ids"] = torch.arange(sizes.max_positions)[None]
    words, bias = "text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions.bias"
    if words in state:
        state["text_decoder.cls.predictions.decoder.weight"] = state[words]
        state["text_decoder.cls.predictions.decoder.bias"] = state[bias]
    return state
