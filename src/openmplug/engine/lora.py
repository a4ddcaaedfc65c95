"""Adapters in a run (LoRA): which layers get one, what learns, and what a checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from openmplug.checkpoints.adapters import ADAPTERS, AdapterRecord, BaseWeights, holds_adapters
from openmplug.checkpoints.store import WEIGHTS, check_keys, open_tensors, read_shapes
from openmplug.config import Settings, did_you_mean
from openmplug.engine.parallel import cut_like
from openmplug.errors import EnvironmentProblem, UsageError
from openmplug.models.adapted import ADAPTER, adapt

if TYPE_CHECKING:
    from openmplug.tasks.base import Task


class LoraSettings(Settings):
    """Low-rank adapters: the base stays as it is, small matrices beside its linear layers learn.

    Args:
        rank: Of the adapters; 0 trains the whole model.
        alpha: Scale of the adapters, divided by the rank; None takes twice the rank, so that another rank needs no other rate.
        dropout: On what the adapters read.
        targets: Parts of the model, or patterns of names (``decoder.*.query``), whose linear layers get an adapter.
        train_also: Parts that learn whole beside the adapters. Parts that ``init_from`` has no weights for always do.
    """

    rank: int = Field(0, ge=0)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("vision", "temporal", "text", "universal", "fusion", "decoder")
    train_also: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """``alpha``, its default filled in."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


def add_adapters(task: Task, settings: LoraSettings, base: Collection[BaseWeights], new: Collection[str]) -> AdapterRecord:
    """Put adapters into a task's model, and into its twin, and freeze what does not learn.

    Args:
        task: Its weights are loaded.
        settings: With a rank of at least 1.
        base: Where the weights came from.
        new: Parts that have the seed's values.

    Returns:
        What the checkpoints will say about the adapters.

    Raises:
        UsageError: If a target or a part is unknown, or no layer is left to adapt.
        EnvironmentProblem: If ``peft`` is not installed.
    """
    model = task.model
    parts = [name for name, _ in model.named_children()]
    for part in settings.train_also:
        if part not in parts:
            raise UsageError(f"lora.train_also: this model has no part '{part}'{did_you_mean(part, parts)} (it has {', '.join(parts)})")
    whole = [part for part in parts if part in settings.train_also or part in new]
    names = _targets(model, settings.targets, parts, whole)
    twin = getattr(task, "twin", None)
    _adapt(model, names, settings)
    for part in whole:
        getattr(model, part).requires_grad_(True)
    if twin is not None:
        # The twin averages adapters as it averages weights; its other weights are the frozen ones and stay equal to them.
        _adapt(twin.model, [name for name in names if hasattr(twin.model, name.split(".")[0])], settings)
        twin.requires_grad_(False)
        twin.copy_from(model)
    return AdapterRecord(rank=settings.rank, scaling=settings.scale / settings.rank, whole=tuple(whole), base=tuple(base))


def _adapt(model: nn.Module, names: Collection[str], settings: LoraSettings) -> None:
    try:
        adapt(model, names, settings.rank, settings.scale, settings.dropout)
    except ImportError as error:
        raise EnvironmentProblem(f"lora.rank needs peft ({error}); install it: pip install 'openmplug[lora]'") from error


def _targets(model: nn.Module, targets: Collection[str], parts: Collection[str], whole: Collection[str]) -> list[str]:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen: set[str] = set()
    for target in targets:
        hits = [name for name in linear if name == target or name.startswith(f"{target}.") or fnmatchcase(name, target)]
        # A default part that this task's model does without is no mistake.
        if not hits and target not in LoraSettings.model_fields["targets"].default:
            raise UsageError(f"lora.targets: no linear layer is called '{target}'{did_you_mean(target, [*parts, *linear])}")
        chosen.update(hits)
    left = [name for name in linear if name in chosen and name.split(".")[0] not in whole]
    if not left:
        learned = f"; {', '.join(whole)} learn whole" if whole else ""
        raise UsageError(f"lora.targets leaves no layer to adapt{learned}; name parts that init_from has weights for, or set lora.rank=0")
    return left


# ----------------------------------------------------------------------------------------------------------- checkpoints


def learned_state(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return what a folder of adapters holds: the parameters that learn, the adapters' without peft's name for the adapter.

    Args:
        model: With adapters.
        weights: Where the values are; None takes the model's own.
    """
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return {name.replace(f".{ADAPTER}.", "."): value if weights is None else weights[name] for name, value in learned.items()}


def restore_weights(folder: Path, model: nn.Module) -> None:
    """Load a checkpoint into a model that is being trained: all of its weights, or the adapters of one that has some.

    Raises:
        ModelError: If the file is damaged or does not fit; the model is unchanged then.
    """
    adapted = holds_adapters(folder)
    path, state = (folder / ADAPTERS, learned_state(model)) if adapted else (folder / WEIGHTS, model.state_dict())
    check_keys(read_shapes(path), _shapes(state), str(path))
    with open_tensors(path) as file, torch.no_grad():
        for name, value in state.items():
            value.copy_(cut_like(value, file.get_tensor(name)))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
