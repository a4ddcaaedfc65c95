"""A model's folder, whole: weights, configuration, vocabulary, and, for converted ones, where each key came from.

``model.safetensors`` holds what the model runs, under our names and in the file's own types. ``unused.safetensors`` holds the rest under
the file's names and ``origin.json`` says which is which, so that the original file can be written back bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.checkpoints.atomic import atomic_folder
from openmplug.checkpoints.foreign import Foreign
from openmplug.checkpoints.shipped import named
from openmplug.checkpoints.store import CONFIG, WEIGHTS, model_hash, read_config, save_tensors, save_weights
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageSettings
from openmplug.errors import ModelError
from openmplug.models.families import architecture_of, build_network

VOCABULARY = "vocab.txt"
UNUSED = "unused.safetensors"
ORIGIN = "origin.json"
CARD = "README.md"
KEEP = ("all", "unused", "none")
"""What of a file's unused keys stays beside the model: all of them, all but momentum copies and queues, or none."""


# ------------------------------------------------------------------------------------------------------------------ writing


def foreign_config(foreign: Foreign) -> dict[str, Any]:
    """Make the ``config.json`` of a converted model."""
    image: dict[str, Any] = {"size": foreign.config.image_size}
    if foreign.task == "grounding":
        # The released evaluation normalises by ImageNet's statistics although training used CLIP's.
        image |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {
        "architecture": architecture_of(foreign.config),
        "model": foreign.config.model_dump(mode="json"),
        "modules": list(foreign.modules),
        "task": foreign.task,
        "settings": foreign.settings,
        "image": ImageSettings(**image).model_dump(mode="json"),
    }


def write_foreign(foreign: Foreign, target: Path, tokenizer: Tokenizer | None, keep: str = "all", seed: int = 0) -> dict[str, Any]:
    """Write a foreign checkpoint as a folder of ours; whole or not at all.

    Args:
        foreign: From ``open_foreign``.
        target: The folder.
        tokenizer: Its words; None only where the model has none (CLIP).
        keep: One of ``KEEP``.
        seed: Of the weights that ``foreign.new`` names.

    Returns:
        What was written: hashes and counts.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    kept = _kept(foreign, keep)
    report: dict[str, Any] = {}
    with atomic_folder(target) as folder:
        tensors = {**foreign.tensors, **drawn_weights(foreign, seed)}
        order = [name for name in _names(foreign) if name in tensors]
        save_weights(folder, {name: tensors[name] for name in order}, foreign_config(foreign))
        if kept:
            save_tensors(folder / UNUSED, {raw: foreign.file.tensors[raw] for raw in kept})
        if tokenizer is not None:
            tokenizer.save(folder)
        report = {
            "sha256": model_hash(folder),
            "source": foreign.source.name,
            "source_sha256": file_hash(foreign.source),
            "mapped": len(foreign.mapped),
            "unused": len(foreign.unused),
            "kept": len(kept),
            "new": list(foreign.new),
        }
        (folder / ORIGIN).write_text(json.dumps(_origin(foreign, kept, report), indent=1, default=str) + "\n", encoding="utf-8")
        (folder / CARD).write_text(_card(foreign, report), encoding="utf-8")
    return report


def _names(foreign: Foreign) -> list[str]:
    with torch.device("meta"):
        return list(build_network(foreign.config, foreign.modules).state_dict())


def drawn_weights(foreign: Foreign, seed: int = 0) -> dict[str, Tensor]:
    """Draw the weights that the file lacks, from the seed."""
    if not foreign.new:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_network(foreign.config, foreign.modules).state_dict()
    return {name: state[name].clone() for name in foreign.new}


def _kept(foreign: Foreign, keep: str) -> list[str]:
    training = ("a momentum copy", "a feature queue of training")
    wanted = {
        "all": list(foreign.unused),
        "unused": [raw for raw, reason in foreign.unused.items() if reason not in training],
        "none": [],
    }[keep]
    return [raw for raw in wanted if raw not in foreign.tied and raw in foreign.file.tensors]


def _origin(foreign: Foreign, kept: Collection[str], report: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, dict[str, Any]] = {}
    for raw, tensor in foreign.file.tensors.items():
        if raw in foreign.mapped:
            names = foreign.mapped[raw]
            keys[raw] = {"model": names[0] if len(names) == 1 else list(names)}
            if tuple(tensor.shape) != tuple(foreign.tensors[names[0]].shape):
                keys[raw]["shape"] = list(tensor.shape)
        elif raw in foreign.unused:
            keys[raw] = {"unused": foreign.unused[raw]}
            if raw in foreign.tied:
                keys[raw]["tied"] = foreign.tied[raw]
            elif raw not in kept:
                keys[raw]["dropped"] = True
    plain = {name: value for name, value in foreign.file.extras.items() if name in ("epoch", "config", "global_steps")}
    return {
        "origin": foreign.origin,
        "source": report["source"],
        "source_sha256": report["source_sha256"],
        "weights_sha256": report["sha256"],
        "wrapper": list(foreign.file.wrapper),
        "extras": plain,
        "notes": foreign.notes,
        "new": foreign.new,
        "keys": keys,
    }


def file_hash(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _card(foreign: Foreign, report: Mapping[str, Any]) -> str:
    config, count = foreign.config, sum(tensor.numel() for tensor in foreign.tensors.values())
    purpose = foreign.task or "whatever its parts allow"
    lines = [
        "---",
        "library_name: openmplug",
        "tags: [mplug, vision-language]",
        "---",
        f"# {config.name}, converted from {report['source']}",
        "",
        f"- task: {purpose}; modules: {', '.join(foreign.modules)}; {count:,} parameters",
        f"- pictures: {config.image_size} x {config.image_size} pixels, patches of {config.patch_size}",
        f"- origin: {foreign.origin} file `{report['source']}`, SHA-256 `{report['source_sha256']}`",
        f"- `{WEIGHTS}`: SHA-256 `{report['sha256']}`",
        f"- keys: {report['mapped']} mapped, {report['unused']} unused ({report['kept']} of them kept in `{UNUSED}`)",
        *(f"- {note}" for note in foreign.notes),
        *([f"- NOT from the file, random: {', '.join(foreign.new[:8])}{' …' if len(foreign.new) > 8 else ''}"] if foreign.new else []),
        "",
        "The licence and the conditions of use are those of the original file.",
        "",
        "```python",
        "import openmplug as om",
        "model = om.load('this folder')",
        "```",
    ]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------------ reading


def is_ours(path: Path) -> bool:
    """Say whether a path is a model's folder of this format."""
    path = path / CONFIG
    return path.is_file() and '"architecture"' in path.read_text(encoding="utf-8", errors="replace")[:2000]


def find_folder(path: Path) -> Path:
    """Return the model's folder that a path means: itself, or its ``checkpoint-best``, or its ``checkpoint-last``; else the path.

    ``small`` means the weights that come with the package.
    """
    path = named(Path(path).expanduser())
    if not (path / CONFIG).exists():
        for name in ("checkpoint-best", "checkpoint-last"):
            if (path / name / CONFIG).is_file():
                return path / name
    return path


def read_folder(folder: Path) -> tuple[dict[str, Any], Tokenizer]:
    """Read the configuration and the words of a model's folder.

    Raises:
        ModelError: If one of them is missing or damaged.
    """
    config = read_config(folder)
    missing = [key for key in ("task", "model", "settings", "image") if key not in config]
    if missing:
        raise ModelError(f"'{folder / 'config.json'}' has no {', '.join(missing)}; it is not a folder that openmplug train wrote")
    if not (folder / VOCABULARY).is_file():
        raise ModelError(f"'{folder / VOCABULARY}' is missing; the model's words cannot be read without it")
    return config, Tokenizer.from_vocab_file(folder / VOCABULARY)
