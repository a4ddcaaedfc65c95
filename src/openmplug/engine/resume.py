"""Everything a run needs to go on as if it had never stopped, as tensors and JSON; nothing is pickled.

``training.safetensors``: AdamW's moments, the task's twin and queues, random states. ``training.json``: the position and counters.
What several processes wrote (``engine.sharded``) is read here too, by any number of them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmplug import distributed
from openmplug.checkpoints.store import open_tensors, save_tensors
from openmplug.engine import sharded
from openmplug.engine.lora import restore_weights
from openmplug.engine.parallel import cut_like
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


def branch_random_state(number: int) -> None:
    """Give process ``number`` a random state of its own that follows from the present one; number 0 keeps it.

    Processes that drop the same neurons would learn less from their samples than one process with all of them.
    """
    if number == 0:
        return
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes() + number.to_bytes(8, "little")).digest()
    seed = int.from_bytes(digest[:8], "little")
    torch.manual_seed(seed - 2**63)
    random.seed(seed)
    np.random.seed(seed % 2**32)


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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition("/")
        if name not in places or (value.ndim and value.shape != parameters[places[name]].shape):
            raise ModelError(f"the optimizer's state does not fit the model at '{name}'; resume with the recipe the run was started with")
        state.setdefault(places[name], {})[what] = (cut_like(parameters[places[name]], value) if value.ndim else value).clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# ----------------------------------------------------------------------------------------------------------- whole folder


def training_tensors(task: Task, optimizer: torch.optim.Optimizer, process: int | None = None) -> dict[str, Tensor]:
    """Return every tensor of a run's state besides the weights: moments, twin and queues, random states.

    Args:
        task: Its twin and queues.
        optimizer: Its moments.
        process: Number of this one of several processes, whose random state is its own; None of one alone.
    """
    tensors = {f"optimizer/{key}": value for key, value in optimizer_state(optimizer).items()}
    tensors |= {f"task/{key}": value for key, value in task.training_state().items()}
    prefix = "random" if process is None else f"random/{process}"
    return tensors | {f"{prefix}/{key}": value for key, value in random_state().items()}


def save_training_state(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the state of a run of one process into a checkpoint folder (beside the weights).

    Args:
        folder: One that ``atomic_folder`` gave.
        tensors: What ``training_tensors`` returned.
        state: Position and counters, plain JSON.
    """
    save_tensors(folder / TENSORS, tensors)
    (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_training_state(folder: Path, task: Task, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights, twin, queues, moments and random states from a checkpoint folder, whole or into the pieces of this process.

    A process that the run did not have when it was saved gets a random state of its own.

    Returns:
        The position and counters that were saved.

    Raises:
        ModelError: If something is missing, damaged, or does not fit the model.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read ({error}); this folder cannot be resumed from, start anew from its weights") from error
    if sharded.holds_state(folder):
        moments, states = _load_together(folder, task, optimizer)
    else:
        moments, states = _load_alone(folder, task)
    load_optimizer_state(optimizer, moments)
    own = f"{distributed.rank()}/"
    mine = {key.removeprefix(own): value for key, value in states.items() if key.startswith(own)}
    set_random_state(mine or {key.removeprefix("0/"): value for key, value in states.items() if key.startswith("0/")})
    if not mine:
        branch_random_state(distributed.rank())
    return state


Parts = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Moments, and random states as ``<process>/<generator>``."""


def _load_alone(folder: Path, task: Task) -> Parts:
    """Read what one process wrote."""
    restore_weights(folder, task.model)
    parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "task": {}, "random": {}}
    with open_tensors(folder / TENSORS) as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = file.get_tensor(key)
    there = task.training_state()
    tensors = {name: cut_like(there[name], value) if name in there else value for name, value in parts["task"].items()}
    try:
        task.load_training_state(tensors)
    except ValueError as error:
        raise ModelError(f"'{folder / TENSORS}': {error}; resume with the recipe the run was started with") from error
    return parts["optimizer"], {f"0/{name}": value for name, value in parts["random"].items()}


def _load_together(folder: Path, task: Task, optimizer: torch.optim.Optimizer) -> Parts:
    """Read what several processes wrote: what is there of weights, twin and queues in place, the rest into new tensors."""
    places = {f"model/{name}": value for name, value in task.model.state_dict().items()}
    places |= {f"task/{name}": value for name, value in task.training_state().items()}
    parameters = {
        name: parameter for group in optimizer.param_groups for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    process = distributed.rank()
    saved = sharded.saved_tensors(folder)
    process = process if f"random/{process}/torch" in saved else 0
    for key, empty in saved.items():
        part, _, rest = key.partition("/")
        name = rest.rpartition("/")[0]
        if part == "optimizer":
            parameter = parameters.get(name)
            fits = parameter is not None and empty.shape == parameter.shape and empty.ndim
            like = parameter if parameter is not None and fits else torch.empty(empty.shape, device="cpu")
            places[key] = torch.zeros_like(like, dtype=empty.dtype)
        elif part == "random" and rest.startswith(f"{process}/"):
            places[key] = torch.empty_like(empty, device="cpu")
    sharded.load(folder, places, saved)
    moments = {key.removeprefix("optimizer/"): value for key, value in places.items() if key.startswith("optimizer/")}
    return moments, {key.removeprefix("random/"): value for key, value in places.items() if key.startswith("random/")}
