"""What a folder of weights holds: tensors and their configuration, written in one format and read strictly.

A file that is damaged, of another format or of another model is refused in one line, before any value is loaded. ``atomic_folder``
gives the folder to write into.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openmplug.errors import ModelError
from openmplug.models.vision import resize_positions

FORMAT = 1
"""Version of the folder format; a folder with another one is refused."""

_UMASK = os.umask(0)
os.umask(_UMASK)

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_POSITIONS = "vision.positions"
_OF_WORDS = ("embeddings.words.weight", "decoder.head.bias", "language.bias")

# ---------------------------------------------------------------------------------------------------------------- writing


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, under their names, on whatever device they are.

    Tensors that share memory are written once each, so that every name can be read alone.
    """
    seen: set[int] = set()
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        storage = value.untyped_storage().data_ptr()
        # Views of one storage (tied weights) are refused by the format: the later ones are copied.
        ready[name] = value.clone() if storage in seen or value.untyped_storage().nbytes() != value.nbytes else value
        seen.add(storage)
    save_file(ready, path, metadata={"format": "pt"})
    # The library writes files that only their owner can read; a model is as readable as any other file.
    path.chmod(0o666 & ~_UMASK)


def save_weights(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` into a folder (one that ``atomic_folder`` gave).

    Args:
        folder: Where to.
        tensors: The model's ``state_dict()``.
        config: What ``config.json`` holds; ``format`` is put first by this function.
    """
    save_tensors(folder / WEIGHTS, tensors)
    (folder / CONFIG).write_text(json.dumps({"format": FORMAT, **config}, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------- reading


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's ``config.json``.

    Raises:
        ModelError: If the folder or the file is not there, is not JSON, or has a format this version does not read.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        what = "there is no such folder" if not Path(folder).is_dir() else f"it holds no {CONFIG}"
        raise ModelError(
            f"'{folder}' is not a folder of weights: {what}; give a folder written by openmplug train, such as DIR/checkpoint-best"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"'{path}' cannot be read as JSON ({error}); the folder is damaged, use another checkpoint") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ModelError(
            f"'{path}' has format {found!r}, this version reads {FORMAT}; it was written by another version of openmplug: use that one"
        )
    return config


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file memory-mapped.

    Raises:
        ModelError: If it is not there, or is not a whole safetensors file.
    """
    if not path.is_file():
        raise ModelError(f"'{path}' does not exist; give a folder written by openmplug train, such as DIR/checkpoint-best")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"'{path}' is not a whole safetensors file ({reason}); it is cut off or damaged, use another checkpoint"
        ) from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a safetensors file without its values."""
    with open_tensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _likely_cause(missing: Sequence[str], unexpected: Sequence[str], wrong: Sequence[str]) -> str:
    """Guess why a file does not fit, from which kinds of keys differ."""
    if not missing and not unexpected:
        if all("position" in name for name in wrong):
            return "the weights are of another image size or text length"
        if all(any(word in name for word in ("word", "vocab", "decoder.bias", "head", "predictions")) for name in wrong):
            return "the weights were trained with another vocabulary"
        return "the weights are of another model size, or were edited" if len(wrong) > 1 else "the file was edited"
    if missing and not unexpected and not wrong and len(missing) <= 2:
        return "keys were removed from the file"
    tops = {name.split(".")[0] for name in missing} - {name.split(".")[0] for name in unexpected}
    if missing and not wrong and tops:
        return f"the weights are of another task, without {', '.join(sorted(tops))}"
    return "the weights are of another model size or another task"


def check_keys(found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], where: str) -> None:
    """Compare names and shapes of a file with those of a model.

    Args:
        found: Shape by name in the file.
        expected: Shape by name in the model.
        where: The file, for the message.

    Raises:
        ModelError: One line with the missing, unexpected and wrong-shape keys, grouped, and the likely cause.
    """
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & found.keys() if tuple(expected[name]) != tuple(found[name]))
    if not (missing or unexpected or wrong):
        return
    shapes = [f"{name} {tuple(found[name])} instead of {tuple(expected[name])}" for name in wrong]
    groups = [
        f"{len(missing)} missing ({_some(missing)})" if missing else "",
        f"{len(unexpected)} unexpected ({_some(unexpected)})" if unexpected else "",
        f"{len(wrong)} of another shape ({_some(shapes)})" if wrong else "",
    ]
    text = "; ".join(group for group in groups if group)
    cause = _likely_cause(missing, unexpected, wrong)
    raise ModelError(f"checkpoint '{where}' does not fit the model, nothing was loaded: keys {text}; likely cause: {cause}")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a folder's tensors, memory-mapped.

    Raises:
        ModelError: If the file is not there or damaged.
    """
    with open_tensors(Path(folder) / WEIGHTS) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load a folder's weights into a model; every key must be there, none may be left over, every shape must fit.

    Args:
        folder: Holds ``model.safetensors``.
        model: Takes the values in place, in its own dtype and on its own device.

    Raises:
        ModelError: If the file is damaged or does not fit; the model is unchanged then.
    """
    path = Path(folder) / WEIGHTS
    state = model.state_dict()
    check_keys(read_shapes(path), {name: tuple(value.shape) for name, value in state.items()}, str(path))
    with open_tensors(path) as file, torch.no_grad():
        for name, value in state.items():
            value.copy_(file.get_tensor(name))


def load_shared(
    folder: Path, model: nn.Module, wanted_parts: Collection[str] | None = None, may_differ: Collection[str] = (), words: int = 0
) -> list[str]:
    """Load the weights that a folder and a model share; used to start one task from another's weights.

    A part of the model (first name of the key) is loaded whole or not at all. A position grid of another picture size is resized. Of a
    vocabulary that is the beginning of the model's, its words are loaded, and the others are left as they are.

    Args:
        folder: Where the weights are.
        model: What they are written into.
        wanted_parts: Parts that may be loaded; None = all.
        may_differ: Parts that are left out where they do not fit, such as a head for other classes; "*" = all.
        words: Of the folder's vocabulary.

    Returns:
        The wanted parts that the folder does not have, or has otherwise and may, sorted; they are left as they are.

    Raises:
        ModelError: If the file is damaged, shares nothing wanted with the model, or has a shared part that does not fit.
    """
    path = Path(folder) / WEIGHTS
    found, state = read_shapes(path), model.state_dict()
    needed = {name.split(".")[0] for name in state}
    if wanted_parts is not None:
        needed &= set(wanted_parts)
    parts = {name.split(".")[0] for name in found} & needed
    if not parts:
        raise ModelError(f"checkpoint '{path}' has none of {', '.join(sorted(needed))}; give weights of the same architecture")
    shapes = _fitting(found, state, words)
    parts -= {part for part in parts if part in may_differ or "*" in may_differ if not _fits(part, shapes, state)}
    if not parts:
        raise ModelError(f"checkpoint '{path}' has none of {', '.join(sorted(needed))} in the model's sizes; give weights of a nearer one")
    wanted = {name: value for name, value in state.items() if name.split(".")[0] in parts}
    shapes = {name: shape for name, shape in shapes.items() if name.split(".")[0] in parts}
    check_keys(shapes, {name: tuple(value.shape) for name, value in wanted.items()}, str(path))
    with open_tensors(path) as file, torch.no_grad():
        for name, value in wanted.items():
            stored = file.get_tensor(name)
            if stored.shape == value.shape:
                value.copy_(stored)
            elif name == _POSITIONS:
                value.copy_(resize_positions(stored, len(value)))
            else:
                value[: len(stored)] = stored
    return sorted(needed - parts)


def _fitting(found: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], words: int) -> dict[str, tuple[int, ...]]:
    """Take for the model's own what is fitted when it is loaded: positions of another picture size, tables and biases of fewer words."""
    shapes = dict(found)
    for name, shape in found.items():
        mine = tuple(state[name].shape) if name in state else ()
        worded = name.endswith(_OF_WORDS) and len(shape) > 0 and shape[0] == words
        if mine and mine[1:] == tuple(shape[1:]) and (name == _POSITIONS or (worded and words <= mine[0])):
            shapes[name] = mine
    return shapes


def _fits(part: str, found: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> bool:
    mine = {name: tuple(value.shape) for name, value in state.items() if name.split(".")[0] == part}
    return mine == {name: tuple(shape) for name, shape in found.items() if name.split(".")[0] == part}


def model_hash(folder: Path) -> str:
    """Return the SHA-256 of a folder's ``model.safetensors``, in hexadecimal."""
    digest = hashlib.sha256()
    with (Path(folder) / WEIGHTS).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
