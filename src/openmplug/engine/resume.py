"""Everything a run needs to go on as if it had never stopped, as tensors and JSON; nothing is pickled.

``training.safetensors``: AdamW's moments, the task's twin and queues, random states. ``training.json``: the position and counters.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmplug.checkpoints.store import open_tensors, save_tensors
from openmplug.engine.lora import restore_weights
from openmplug.errors import ModelError
from openmplug.tasks.base import Task

TENSORS = "training.safetensors"
STATE = "training.json"

# ----------------------------------------------------------------------------------------------------------- random state


def random_state() -> dict[str, Tensor]:
    """Return the state of every global random generator: torch's on the CPU and on each GPU, Python's, numpy's."""
    version, words, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), place, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state |= {f"cuda.{index}": torch.cuda.get_rng_state(index) for index in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put ``random_state()`` back. States of devices that this machine lacks are passed over."""
    torch.set_rng_state(state["torch"].clone())
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, place, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, state["numpy_gauss"].item()))
    for name, value in state.items():
        kind, _, index = name.partition(".")
        if kind == "cuda" and torch.cuda.is_available() and int(index) < torch.cuda.device_count():
            torch.cuda.set_rng_state(value.clone(), int(index))
        elif kind == "mps" and torch.backends.mps.is_available():
            torch.mps.set_rng_state(value.clone())


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the random generators as they were, whatever the block draws.

    A loader draws a seed when it starts and a validation may draw anything; neither may change what training draws next, or a
    resumed run, which starts its loader in the middle of an epoch, would differ from an unbroken one.
    """
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


# -------------------------------------------------------------------------------------------------------------- optimizer


def _names(optimizer: torch.optim.Optimizer) -> list[str]:
    return [name for group in optimizer.param_groups for name in group["names"]]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments and step counts of every parameter that has some, as ``<parameter>/<what>``."""
    names = _names(optimizer)
    state = optimizer.state_dict()["state"]
    return {f"{names[index]}/{what}": torch.as_tensor(value) for index, values in state.items() for what, value in values.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put ``optimizer_state()`` back.

    Raises:
        ModelError: If a parameter is unknown or has another shape.
    """
    places = {name: index for index, name in enumerate(_names(optimizer))}
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition("/")
        if name not in places or (value.ndim and value.shape != shapes[places[name]]):
            raise ModelError(f"the optimizer's state does not fit the model at '{name}'; resume with the recipe the run was started with")
        state.setdefault(places[name], {})[what] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# ----------------------------------------------------------------------------------------------------------- whole folder


def save_training_state(folder: Path, task: Task, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Write a run's state into a checkpoint folder (beside the weights).

    Args:
        folder: One that ``atomic_folder`` gave.
        task: Its twin and queues are written.
        optimizer: Its moments are written.
        state: Position and counters, plain JSON.
    """
    tensors = {f"optimizer/{key}": value for key, value in optimizer_state(optimizer).items()}
    tensors |= {f"task/{key}": value for key, value in task.training_state().items()}
    tensors |= {f"random/{key}": value for key, value in random_state().items()}
    save_tensors(folder / TENSORS, tensors)
    (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_training_state(folder: Path, task: Task, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights, twin, queues, moments and random states from a checkpoint folder.

    Returns:
        The position and counters that ``save_training_state`` was given.

    Raises:
        ModelError: If something is missing, damaged, or does not fit the model.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read ({error}); this folder cannot be resumed from, start anew from its weights") from error
    restore_weights(folder, task.model)
    parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "task": {}, "random": {}}
    with open_tensors(folder / TENSORS) as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = file.get_tensor(key)
    try:
        task.load_training_state(parts["task"])
    except ValueError as error:
        raise ModelError(f"'{folder / TENSORS}': {error}; resume with the recipe the run was started with") from error
    load_optimizer_state(optimizer, parts["optimizer"])
    set_random_state(parts["random"])
    return state
