"""A loss computed before the forward it is needed in: over more samples than one forward can hold (gradient caching).

First pass: features of every part of a large batch without gradients, the loss of all of them, and its gradient with respect to each
feature. Second pass, part by part with gradients: ``replayed`` hands each feature its gradient. The sum over the parts is the gradient
of the large batch, for twice the encoding and the memory of one part.

Source: arXiv:2101.06983 (GradCache).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def replayed(value: Tensor, gradients: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return a loss of this value whose gradient with respect to each tensor is the one given beside it.

    Args:
        value: Scalar.
        gradients: Tensors of the present forward, each with a gradient of its shape.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = replayed(torch.tensor(5.0), [(x, torch.tensor([0.5, -1.0]))])
        >>> loss.backward()
        >>> loss.item(), x.grad.tolist()
        (5.0, [0.5, -1.0])
    """
    carried = torch.stack([(tensor * gradient).sum() for tensor, gradient in gradients]).sum()
    return value.detach() + carried - carried.detach()


def draws(device: torch.device) -> list[Tensor]:
    """Return the state of the generators that a forward on this device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_draws(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def drawn_again(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw in the block what was drawn after ``draws`` was called: the same neurons are dropped in both passes.

    Afterwards the generators go on from where they were before the block.
    """
    now = draws(device)
    _set_draws(states, device)
    try:
        yield
    finally:
        _set_draws(now, device)
