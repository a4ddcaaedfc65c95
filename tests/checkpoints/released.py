"""Files with every key and shape of the released sizes, made from the published key lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(os.environ.get("OPENMPLUG_STATE_KEYS") or Path(__file__).parents[2] / ".." / "shared" / "state_dict_keys")
LISTS = sorted(ROOT.glob("mplug*.json")) if ROOT.is_dir() else []


def keys(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every key of a list with its shape, layer patterns spelled out; the lists name the momentum copies too."""
    content: dict[str, Any] = json.loads(path.read_text())
    for pattern in content["patterns"]:
        for number in [None] if pattern["i"] is None else pattern["i"]:
            yield pattern["key"].replace("{i}", str(number)), tuple(pattern["shape"])


def hollow_state(path: Path) -> dict[str, Tensor]:
    """Return tensors of the right shapes that take no memory: one number each, seen everywhere."""
    integers = ("position_ids", "queue_ptr", "idx_queue", "prefix_ids", "target_ids")
    return {key: torch.zeros((), dtype=torch.int64 if key.endswith(integers) else torch.float32).expand(shape) for key, shape in keys(path)}
