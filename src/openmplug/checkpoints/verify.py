"""Is a checkpoint whole, and is it what it says? Every key, shape and value is looked at; nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.checkpoints.adapters import folder_hash, holds_adapters, load_folder
from openmplug.checkpoints.export import keymap_of, original_tensor
from openmplug.checkpoints.folder import ORIGIN, UNUSED, find_folder, is_ours
from openmplug.checkpoints.foreign import Options, open_foreign
from openmplug.checkpoints.keymap import KeyMap
from openmplug.checkpoints.store import WEIGHTS, check_keys, model_hash, open_tensors, read_config, read_shapes, read_weights
from openmplug.checkpoints.torch_files import read_torch_file
from openmplug.errors import ModelError
from openmplug.models.families import build_network, saved_config


def verify(path: Path, against: Path | None = None, options: Options | None = None) -> dict[str, Any]:
    """Check a folder of ours or any other checkpoint.

    Every key is accounted for, every shape fits and every value is finite; a converted folder's weights still have the hash that was
    noted when it was written.

    Args:
        path: What to check.
        against: The original file of a converted folder: every tensor is compared with it, bit for bit.
        options: What the user says about a foreign checkpoint.

    Returns:
        Counts of what was checked.

    Raises:
        ModelError: With what is wrong.
    """
    folder = find_folder(path)
    if not is_ours(folder):
        if against is not None:
            raise ModelError(f"'{path}' is not a converted folder; --against compares one with the file it came from")
        foreign = open_foreign(path, options)
        _finite(foreign.tensors, str(foreign.source))
        return {"origin": foreign.origin, "mapped": len(foreign.mapped), "unused": len(foreign.unused), "new": foreign.new}
    config = read_config(folder)
    if holds_adapters(folder):
        model = build_network(saved_config(config), config["modules"])
        load_folder(folder, model)
        _finite(model.state_dict(), str(folder))
        return {"origin": "adapters, merged into their base", "tensors": len(model.state_dict()), "sha256": folder_hash(folder)}
    with torch.device("meta"):
        expected = build_network(saved_config(config), config["modules"]).state_dict()
    check_keys(read_shapes(folder / WEIGHTS), {name: tuple(value.shape) for name, value in expected.items()}, str(folder / WEIGHTS))
    tensors = read_weights(folder)
    _finite(tensors, str(folder / WEIGHTS))
    report: dict[str, Any] = {"tensors": len(tensors), "sha256": model_hash(folder)}
    if (folder / ORIGIN).is_file():
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        if origin["weights_sha256"] != report["sha256"]:
            raise ModelError(
                f"'{folder / WEIGHTS}' is not the file that was converted (its SHA-256 differs from {ORIGIN}'s); convert again"
            )
        report |= {"origin": origin["origin"], "source": origin["source"], "source_sha256": origin["source_sha256"]}
        if against is not None:
            keymap = keymap_of(saved_config(config), config["modules"])
            report["equal"] = _compare(folder, tensors, origin, against, keymap)
    elif against is not None:
        raise ModelError(f"'{folder}' has no {ORIGIN}: it was trained here and came from no file")
    return report


def _finite(tensors: Mapping[str, Tensor], where: str) -> None:
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ModelError(f"'{where}': {broken[0]}{more} holds infinities or NaN; the weights are broken, use another checkpoint")


def _compare(folder: Path, ours: Mapping[str, Tensor], origin: Mapping[str, Any], against: Path, keymap: KeyMap) -> int:
    """Compare every tensor with its file's, and return how many there are."""
    theirs = read_torch_file(against).tensors
    unused: dict[str, Tensor] = {}
    if (folder / UNUSED).is_file():
        with open_tensors(folder / UNUSED) as file:
            unused = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    equal = 0
    for raw, entry in origin["keys"].items():
        if entry.get("dropped") or "tied" in entry:
            continue
        mine = original_tensor(entry, ours, keymap) if "model" in entry else unused[raw]
        its = theirs.get(raw)
        if its is None or its.dtype != mine.dtype or not torch.equal(mine, its):
            raise ModelError(f"'{against}': {raw} differs from what '{folder}' holds; it is another file than the one that was converted")
        equal += 1
    return equal
