"""AdamW with two learning rates, and schedules as pure functions of the position.

A schedule holds no state: the learning rate of a step follows from where the step is, so a resumed run needs nothing but its position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import nn

from openmplug.config import Settings


class OptimSettings(Settings):
    """What is optimized how.

    Args:
        lr: Peak learning rate of everything but the vision tower.
        vision_lr: Peak learning rate of the vision tower; None takes ``lr``.
        weight_decay: Of the parameters that decay (see ``decays``).
        betas: AdamW's.
        eps: AdamW's.
        epochs: Passes over the training examples; the schedule spans them.
        batch_size_per_device: Examples per micro-batch.
        accumulation: Micro-batches per optimizer step.
        clip_norm: Largest gradient norm; None does not clip (as the originals, but for VQA under DeepSpeed: 1.0).
        schedule: ``cosine_per_step`` is ours; ``mplug``, ``mplug2`` and ``mplug2_caption`` are the originals'.
        warmup_steps: Linear warm-up in optimizer steps (``cosine_per_step``) or in iterations (``mplug2*``).
        warmup_epochs: Linear warm-up in units of 100 iterations (``mplug``).
        warmup_lr: Learning rate of every group at the start of the warm-up.
        min_lr: Learning rate of every group at the end.
    """

    lr: float = Field(1e-4, gt=0)
    vision_lr: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    epochs: int = Field(10, ge=1)
    batch_size_per_device: int = Field(32, ge=1)
    accumulation: int = Field(1, ge=1)
    clip_norm: float | None = Field(1.0, gt=0)
    schedule: Literal["cosine_per_step", "mplug", "mplug2", "mplug2_caption"] = "cosine_per_step"
    warmup_steps: int = Field(0, ge=0)
    warmup_epochs: int = Field(0, ge=0)
    warmup_lr: float = Field(0.0, ge=0)
    min_lr: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _agree(self) -> OptimSettings:
        lowest = min(self.lr, self.vision_lr or self.lr)
        if self.min_lr > lowest:
            raise ValueError(f"min_lr={self.min_lr:g} is above the peak learning rate {lowest:g}; lower min_lr")
        return self


# ------------------------------------------------------------------------------------------------------------ parameters


def in_vision(name: str) -> bool:
    """Say whether a parameter of the model belongs to the vision tower (which has its own learning rate).

    The temporal modules of mPLUG-2 do: in the original they are inside ``visual_encoder``.

    Args:
        name: As in ``model.named_parameters()``.
    """
    return name.startswith(("vision.", "temporal."))


def decays(name: str) -> bool:
    """Say whether weight decay applies to a parameter of the model.

    The originals exempt names with "bias" or "LayerNorm.weight". That spares biases and BERT's LayerNorms only: CLIP's ``ln_*``
    weights, the norms of the projected vision tokens and of what the universal layers made of them, class and position embeddings and
    the temperature do decay. Our BERT-style LayerNorms are the other modules called ``norm`` or ``*_norm`` outside the vision tower.

    Args:
        name: As in ``model.named_parameters()``.

    Source: ``create_two_optimizer`` of the released code; the published fine-tuning runs used it, so it is kept as it is.
    """
    if "bias" in name:
        return False
    if in_vision(name) or name.startswith(("vision_projection.", "universal.norm.")):
        return True
    parts = name.split(".")
    owner = parts[-2] if len(parts) > 1 else ""
    return not (parts[-1] == "weight" and (owner == "norm" or owner.endswith("_norm")))


def named_trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """List the parameters that learn, in the model's order; tied ones once."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict[str, Any]]:
    """Sort the parameters into the original's four groups: rest and vision, each with and without decay.

    Returns:
        Groups for ``torch.optim.AdamW``; empty ones are left out. ``base_lr`` is the group's peak learning rate, ``names`` lists
        its parameters.
    """
    vision_lr = settings.lr if settings.vision_lr is None else settings.vision_lr
    groups: list[dict[str, Any]] = []
    for vision, lr in ((False, settings.lr), (True, vision_lr)):
        for decay in (True, False):
            chosen = [(name, p) for name, p in named_trainable(model) if in_vision(name) == vision and decays(name) == decay]
            if chosen:
                groups.append(
                    {
                        "params": [p for _, p in chosen],
                        "names": [name for name, _ in chosen],
                        "lr": lr,
                        "base_lr": lr,
                        "weight_decay": settings.weight_decay if decay else 0.0,
                    }
                )
    return groups


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """Build AdamW over the four groups; fused where the device has a fused kernel."""
    groups = parameter_groups(model, settings)
    kinds = {p.device.type for group in groups for p in group["params"]}
    fused = kinds <= {"cuda"} or kinds <= {"cpu"}
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused)


# ------------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True)
class Position:
    """Where an optimizer step is taken.

    Args:
        step: Optimizer steps finished before it.
        epoch: From 0.
        iteration: Micro-batch of the epoch at whose end it is taken, from 0.
    """

    step: int
    epoch: int
    iteration: int


class Schedule(Protocol):
    """The learning rate of a step as a function of its position and of the group's peak learning rate."""

    def __call__(self, position: Position, base_lr: float) -> float:
        """Return the learning rate of the optimizer step taken at ``position``."""
        ...


@dataclass(frozen=True, slots=True)
class CosinePerStep:
    """Linear warm-up over the first steps, then a cosine that reaches ``min_lr`` after the last step of the run.

    Args:
        total_steps: Optimizer steps of the whole run.
        warmup_steps: Steps of warm-up; the step after them has the peak learning rate.
        warmup_lr: Learning rate before the first step.
        min_lr: Learning rate after the last step.
    """

    total_steps: int
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0

    def __call__(self, position: Position, base_lr: float) -> float:
        """Return the learning rate of a step."""
        if position.step < self.warmup_steps:
            return self.warmup_lr + (position.step + 1) / (self.warmup_steps + 1) * (base_lr - self.warmup_lr)
        part = (position.step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.min_lr + (base_lr - self.min_lr) / 2 * (1 + math.cos(math.pi * min(1.0, part)))


@dataclass(frozen=True, slots=True)
class OriginalCosine:
    """The originals' curve over a time ``t`` whose unit the training scripts choose.

    Every group starts from the one ``warmup_lr``, so a group whose peak is lower *descends* during the warm-up.

    Args:
        duration: Length of the cosine in units of ``t``, warm-up not included.
        warmup: Length of the warm-up in units of ``t``.
        warmup_lr: Learning rate of every group at ``t`` = 0.
        min_lr: Learning rate at the end.

    Source: the released ``scheduler/cosine_lr.py`` (timm's) with ``t_mul`` 1 and one cycle.
    """

    duration: int
    warmup: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0

    def lr(self, t: int, base_lr: float) -> float:
        """Return the learning rate at time ``t``; -1 is the time before the first call."""
        if t < 0:
            return self.warmup_lr if self.warmup else base_lr
        if t < self.warmup:
            return self.warmup_lr + t * (base_lr - self.warmup_lr) / self.warmup
        since = t - self.warmup
        if since >= self.duration:
            return self.min_lr
        return self.min_lr + 0.5 * (base_lr - self.min_lr) * (1 + math.cos(math.pi * since / self.duration))


@dataclass(frozen=True, slots=True)
class MPLUGSchedule:
    """When the mPLUG scripts move their curve: in units of 100 iterations during the first epoch, then once per epoch.

    The scripts differ in when they call the scheduler between epochs (VQA and captioning before an epoch with
    ``epoch + warmup``, retrieval after it with ``epoch + warmup + 1``, grounding both), which comes to the same time
    for every optimizer step, so one class serves them all. A first epoch that is shorter than the warm-up skips the rest of it.

    Args:
        curve: ``duration`` in epochs, ``warmup`` in units of 100 iterations.
        iterations_per_unit: 100.
    """

    curve: OriginalCosine
    iterations_per_unit: int = 100

    def time_after(self, epoch: int, iteration: int) -> int:
        """Return the time the curve stands at once iteration ``iteration`` of ``epoch`` is over."""
        if epoch > 0:
            return epoch + self.curve.warmup
        return min(iteration // self.iterations_per_unit, self.curve.warmup)

    def __call__(self, position: Position, base_lr: float) -> float:
        """Return the learning rate of a step: the scripts move the curve after the step, so the iteration before it counts."""
        before = -1 if position.epoch == 0 and position.iteration == 0 else self.time_after(position.epoch, position.iteration - 1)
        return self.curve.lr(before, base_lr)


@dataclass(frozen=True, slots=True)
class MPLUG2Schedule:
    """When the mPLUG-2 scripts move their curve (``cosine_step``): every iteration.

    Args:
        curve: ``duration`` and ``warmup`` in iterations; ``duration`` is epochs x iterations per epoch - warm-up.
        iterations_per_epoch: Length of the loader.
        sawtooth: The captioning script counts the warm-up in units of 100 iterations and everything else in iterations, so that in
            its first epoch each iteration divisible by 100 falls back to the curve at a hundredth of the time. Kept for runs that
            must repeat the original; the step after next is on the curve again.
    """

    curve: OriginalCosine
    iterations_per_epoch: int
    sawtooth: bool = False

    def time_after(self, epoch: int, iteration: int) -> int:
        """Return the time the curve stands at once iteration ``iteration`` of ``epoch`` is over."""
        if self.sawtooth and epoch == 0 and iteration % 100 == 0 and iteration <= 100 * self.curve.warmup:
            return iteration // 100
        return epoch * self.iterations_per_epoch + iteration

    def __call__(self, position: Position, base_lr: float) -> float:
        """Return the learning rate of a step: the scripts move the curve after the step, so the iteration before it counts."""
        epoch, iteration = position.epoch, position.iteration - 1
        if iteration < 0:
            epoch, iteration = epoch - 1, self.iterations_per_epoch - 1
        return self.curve.lr(-1 if epoch < 0 else self.time_after(epoch, iteration), base_lr)


def build_schedule(settings: OptimSettings, iterations_per_epoch: int) -> Schedule:
    """Build the schedule a recipe names.

    Args:
        settings: The ``optim`` section.
        iterations_per_epoch: Micro-batches per epoch.
    """
    iterations = settings.epochs * iterations_per_epoch
    lrs = {"warmup_lr": settings.warmup_lr, "min_lr": settings.min_lr}
    if settings.schedule == "cosine_per_step":
        steps = settings.epochs * math.ceil(iterations_per_epoch / settings.accumulation)
        return CosinePerStep(total_steps=steps, warmup_steps=settings.warmup_steps, **lrs)
    if settings.schedule == "mplug":
        return MPLUGSchedule(OriginalCosine(duration=settings.epochs, warmup=settings.warmup_epochs, **lrs))
    curve = OriginalCosine(duration=max(1, iterations - settings.warmup_steps), warmup=settings.warmup_steps, **lrs)
    return MPLUG2Schedule(curve, iterations_per_epoch, sawtooth=settings.schedule == "mplug2_caption")


def set_learning_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, position: Position) -> None:
    """Give every group the learning rate of the step about to be taken."""
    for group in optimizer.param_groups:
        group["lr"] = schedule(position, group["base_lr"])
