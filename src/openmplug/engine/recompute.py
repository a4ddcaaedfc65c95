"""Gradient checkpointing: layers that keep their input alone and compute the rest again in the backward pass.

It is put around layers from outside, so that the model knows nothing of it: same names, same numbers (dropout draws the same twice),
same gradients; only memory and time differ.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from openmplug.models.layers import KeyValueCache

STACKS = ("vision", "text", "universal", "fusion", "decoder")
"""The parts of a model that are stacks of layers."""


def recompute_layers(model: nn.Module, parts: Collection[str] | bool) -> None:
    """Let every layer of some parts of a model be computed again instead of kept, in training.

    Args:
        model: Its parts have ``layers``; parts that it does not have are passed over.
        parts: Any of ``STACKS``; True means all of them, False none.
    """
    for part in STACKS if parts is True else (parts or ()):
        stack = getattr(model, part, None)
        for layer in () if stack is None else stack.layers:
            layer.forward = partial(_forward, layer)


def _forward(layer: nn.Module, *inputs: Any) -> Any:
    # With a cache a second pass would append the tokens twice.
    if not (layer.training and torch.is_grad_enabled()) or any(isinstance(value, KeyValueCache) for value in inputs):
        return type(layer).forward(layer, *inputs)
    return checkpoint(partial(type(layer).forward, layer), *inputs, use_reentrant=False)
