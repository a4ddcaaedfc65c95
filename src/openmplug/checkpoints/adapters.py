"""Folders of adapters (LoRA): the low-rank differences to a base model, and where that base is.

``adapter.safetensors`` stands in the place of ``model.safetensors``. Reading needs no ``peft``: a weight and its adapter become one
matrix, ``W + scaling * B A``, and the model is an ordinary one from then on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from openmplug.checkpoints.store import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    check_keys,
    load_shared,
    load_weights,
    model_hash,
    open_tensors,
    read_config,
    read_shapes,
    save_tensors,
)
from openmplug.config import Settings, validate
from openmplug.errors import ModelError, UsageError

ADAPTERS = "adapter.safetensors"
SECTION = "adapters"
"""Where ``config.json`` says what the adapters are."""

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class BaseWeights(Settings):
    """A folder of weights that adapters were learned on.

    Args:
        folder: Its place at the time.
        sha256: Of its ``model.safetensors``.
        parts: Which parts of the model come from it.
    """

    folder: Path
    sha256: str
    parts: tuple[str, ...]


class AdapterRecord(Settings):
    """What ``config.json`` says about adapters.

    Args:
        rank: Of every adapter.
        scaling: What ``B A`` is multiplied with.
        whole: Parts that were trained whole; all of their weights are in the folder.
        base: Where the other weights are, in the order they are looked for.
    """

    rank: int = Field(ge=1)
    scaling: float
    whole: tuple[str, ...] = ()
    base: tuple[BaseWeights, ...] = ()


def save_adapters(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], record: AdapterRecord) -> None:
    """Write ``adapter.safetensors`` and ``config.json`` into a folder (one that ``atomic_folder`` gave).

    Args:
        folder: Where to.
        tensors: ``<layer>.lora_A.weight`` (rank, in) and ``<layer>.lora_B.weight`` (out, rank), and the weights of whole parts.
        config: What ``config.json`` of the merged model would hold.
        record: What it says about the adapters besides.
    """
    save_tensors(folder / ADAPTERS, tensors)
    tree = {"format": FORMAT, **config, SECTION: record.model_dump(mode="json")}
    (folder / CONFIG).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def holds_adapters(folder: Path) -> bool:
    """Say whether a folder holds adapters in the place of weights."""
    return (Path(folder) / ADAPTERS).is_file()


def read_record(folder: Path) -> AdapterRecord:
    """Read what a folder says about its adapters.

    Raises:
        ModelError: If it says nothing, or what it says cannot be used.
    """
    try:
        return validate(AdapterRecord, read_config(folder).get(SECTION) or {}, where=SECTION)
    except UsageError as error:
        raise ModelError(f"'{folder}' holds adapters whose description is damaged: {error}; use another checkpoint") from error


def folder_hash(folder: Path) -> str:
    """Return the SHA-256 that identifies a folder's weights; of adapters, that of their file and of their base's."""
    if not holds_adapters(folder):
        return model_hash(folder)
    digest = hashlib.sha256((Path(folder) / ADAPTERS).read_bytes())
    for base in read_record(folder).base:
        digest.update(base.sha256.encode())
    return digest.hexdigest()


def load_folder(folder: Path, model: nn.Module, base: Sequence[Path] = ()) -> None:
    """Load the weights of any trained folder into a model; adapters are merged into their base's.

    Args:
        folder: Holds ``model.safetensors`` or ``adapter.safetensors``.
        model: An ordinary model; takes the values in place.
        base: Where the base of adapters is now, in the recorded order; empty takes the recorded places.

    Raises:
        ModelError: If a file is damaged or does not fit, or the base is not there or not the one the adapters were learned on.
    """
    if not holds_adapters(folder):
        load_weights(folder, model)
        return
    record = read_record(folder)
    if base and len(base) != len(record.base):
        places = ", ".join(str(item.folder) for item in record.base)
        raise ModelError(
            f"'{folder}' was learned on {len(record.base)} folders of weights ({places}), {len(base)} were given; give as many"
        )
    state = model.state_dict()
    left = {name.split(".")[0] for name in state} - set(record.whole)
    for item, place in zip(record.base, base or [item.folder for item in record.base], strict=True):
        check_base(folder, item, Path(place))
        load_shared(Path(place), model, item.parts)
        left -= set(item.parts)
    if left:
        raise ModelError(f"neither '{folder}' nor its base has {', '.join(sorted(left))}; the folder is damaged, use another checkpoint")
    _merge(Path(folder) / ADAPTERS, state, record)


def check_base(folder: Path, base: BaseWeights, place: Path) -> None:
    """Check that the base of a folder's adapters is there and is still what it was.

    Raises:
        ModelError: If not.
    """
    if not (place / WEIGHTS).is_file():
        raise ModelError(
            f"the adapters in '{folder}' were learned on '{place}', which is not there; put it back, or name its new place:"
            f" openmplug merge {folder} --base DIR --output OUT"
        )
    if model_hash(place) != base.sha256:
        raise ModelError(f"the adapters in '{folder}' were learned on other weights than '{place}' has now; give the base of that time")


def _merge(path: Path, state: Mapping[str, Tensor], record: AdapterRecord) -> None:
    found = read_shapes(path)
    adapted = sorted(name.removesuffix(DOWN) for name in found if name.endswith(DOWN))
    expected: dict[str, Sequence[int]] = {name: tuple(value.shape) for name, value in state.items() if name.split(".")[0] in record.whole}
    for layer in adapted:
        weight = state.get(f"{layer}.weight")
        if weight is not None and weight.ndim == 2:
            expected |= {layer + DOWN: (record.rank, weight.shape[1]), layer + UP: (weight.shape[0], record.rank)}
    check_keys(found, expected, str(path))
    with open_tensors(path) as file, torch.no_grad():
        for name in expected:
            if not name.endswith((DOWN, UP)):
                state[name].copy_(file.get_tensor(name))
        for layer in adapted:
            weight = state[f"{layer}.weight"]
            down, up = (file.get_tensor(layer + side).to(weight.device) for side in (DOWN, UP))
            weight += (up @ down * record.scaling).to(weight.dtype)
