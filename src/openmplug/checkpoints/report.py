"""What ``openmplug models`` says about sizes, folders and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openmplug.checkpoints.adapters import folder_hash
from openmplug.checkpoints.folder import ORIGIN, find_folder, is_ours
from openmplug.checkpoints.foreign import Options, open_foreign
from openmplug.checkpoints.shipped import SMALL, named
from openmplug.checkpoints.store import read_config
from openmplug.config import did_you_mean
from openmplug.errors import ModelError, UsageError
from openmplug.models.families import SIZES, build_network, named_config, saved_config
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.mplug2 import MPLUG2Config
from openmplug.models.selections import SELECTIONS, selected_modules

RELEASED = (
    ("mplug.en.base.pth", "mplug-base", "pre-training", "AliceMind"),
    ("mplug.en.large.pth", "mplug-large", "pre-training", "AliceMind"),
    ("mplug.en.large.v2.pth", "mplug-large", "pre-training, continued", "AliceMind"),
    ("damo/mplug_visual-question-answering_coco_large_en", "mplug-large", "vqa", "ModelScope"),
    ("damo/mplug_image-captioning_coco_base_en", "mplug-base", "caption", "ModelScope"),
    ("damo/mplug_image-captioning_coco_large_en", "mplug-large", "caption", "ModelScope"),
    ("damo/mplug_image-text-retrieval_flickr30k_large_en", "mplug-large", "retrieval", "ModelScope"),
    ("damo/mplug_backbone_base_en", "mplug-base", "pre-training", "ModelScope"),
)
"""Name, size, task and origin of weights that others published."""

WEIGHTS = ((SMALL, "mplug2-tiny", "pre-training", "openmplug"), *RELEASED)
"""The same of all that are known, with those that come along."""


def _parts(config: MPLUGConfig, modules: tuple[str, ...] | None) -> list[dict[str, Any]]:
    with torch.device("meta"):
        state = build_network(config, modules).state_dict()
    parts: dict[str, list[int]] = {}
    for name, tensor in state.items():
        parts.setdefault(name.split(".")[0], []).append(tensor.numel())
    rows = [(part, len(counts), sum(counts)) for part, counts in parts.items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    return [
        {"part": part, "tensors": tensors, "parameters": f"{count:,}", "mb_fp32": round(count * 4e-6, 1), "mb_bf16": round(count * 2e-6, 1)}
        for part, tensors, count in rows
    ]


def list_models() -> list[str]:
    """Return the named sizes.

    Example:
        >>> list_models()[:3]
        ['mplug-tiny', 'mplug-small', 'mplug-base']
    """
    return list(SIZES)


def size_rows() -> list[dict[str, Any]]:
    """Return one row for each named size."""
    rows = []
    for name in SIZES:
        config = named_config(name)
        with torch.device("meta"):
            count = sum(tensor.numel() for tensor in build_network(config).state_dict().values())
        rows.append(
            {
                "name": name,
                "million": round(count / 1e6, 1),
                "pixels": config.image_size,
                "vision": f"{config.vision_layers}x{config.vision_width}/{config.patch_size}",
                "text": f"{config.text_layers}x{config.width}",
                "universal": config.universal_layers if isinstance(config, MPLUG2Config) else None,
                "fusion": f"{config.fusion_layers} {list(config.connected_layers)}",
                "decoder": config.decoder_layers,
            }
        )
    return rows


def _describe_size(name: str, task: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    config = named_config(name, **fields)
    modules: tuple[str, ...] | None = None
    notes: list[str] = []
    if task is not None:
        modules = selected_modules(config, task)
        if "classification" in modules and not config.classes:
            config = config.model_copy(update={"classes": 2})
            notes = [f"the head is counted with 2 classes; for another number: openmplug models show {name} --task {task} classes=N"]
    return {
        "kind": "size",
        "task": task,
        "modules": list(modules) if modules else None,
        "model": config.model_dump(mode="json"),
        "parts": _parts(config, modules),
        "notes": notes,
    }


def describe_model(name: str, task: str | None = None, options: Options | None = None) -> dict[str, Any]:
    """Describe a named size, a folder of ours or a foreign checkpoint.

    Args:
        name: Which.
        task: Of a named size: show only the parts that this task runs.
        options: What the user says about a foreign checkpoint.

    Raises:
        UsageError: If it is neither a size nor a path, or the task is unknown.
        ModelError: If the path is no checkpoint.
    """
    if task is not None and task not in SELECTIONS:
        raise UsageError(f"unknown task '{task}'{did_you_mean(task, SELECTIONS)} (one of {', '.join(SELECTIONS)})")
    if name in SIZES:
        return _describe_size(name, task, dict(options.architecture) if options else {})
    path = named(Path(name).expanduser())
    if not path.exists():
        raise UsageError(f"'{name}' is neither a path nor a size{did_you_mean(name, SIZES)} (sizes: {', '.join(SIZES)})")
    folder = find_folder(path)
    if is_ours(folder):
        content = read_config(folder)
        config, modules = saved_config(content), tuple(content["modules"])
        origin = "converted, see origin.json" if (folder / ORIGIN).is_file() else "trained by openmplug"
        return {
            "kind": "folder",
            "task": content["task"],
            "origin": origin,
            "sha256": folder_hash(folder),
            "model": content["model"],
            "parts": _parts(config, modules),
            "notes": [],
        }
    try:
        foreign = open_foreign(path, options)
    except ModelError as error:
        raise ModelError(f"{error} (models show reads checkpoints of mPLUG, CLIP and BERT)") from error
    return {
        "kind": f"{foreign.origin} checkpoint",
        "task": foreign.task,
        "mapped": len(foreign.mapped),
        "unused": len(foreign.unused),
        "missing": len(foreign.new),
        "model": foreign.config.model_dump(mode="json"),
        "parts": _parts(foreign.config, foreign.modules),
        "notes": foreign.notes,
    }
