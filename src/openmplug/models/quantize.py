"""Linear layers in 8 or 4 bits for inference, through ``torchao``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.errors import EnvironmentProblem, UsageError

Bits = Literal["int8", "int4"]

INT4_GROUP = 32
"""Weights that share a scale and an offset in 4 bits; the smallest the kernel has, for the smallest error."""


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is stored in few bits; stands in the place of an ``nn.Linear`` and can only be called.

    Args:
        linear: The layer, its weight quantised already.
        dtype: Type in which the kernel takes its input; None takes it as it comes.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.linear = linear
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., in) to (..., out) in the type of x; where x needs a gradient, it has that of the weight that is stored."""
        return _Passed.apply(x, self) if torch.is_grad_enabled() and x.requires_grad else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """Compute (..., in) to (..., out) by the kernel, which knows no gradients."""
        return self.linear(x) if self.dtype is None else self.linear(x.to(self.dtype)).to(x.dtype)

    def weight(self, like: Tensor) -> Tensor:
        """Return what the kernel multiplies with, (in, out), in the type and on the device of ``like``."""
        # Asked of the kernel itself: not every layout can be unpacked.
        units = torch.eye(self.linear.in_features, dtype=like.dtype, device=like.device)
        return self.product(units) if self.linear.bias is None else self.product(units) - self.linear.bias.to(like.dtype)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute ``gelu(self(x))`` with the exact (erf) GELU."""
        return F.gelu(self(x))

    def pack(self, copy: bool = True) -> None:
        """Do nothing: a quantised weight has the layout its kernel reads."""


class _Passed(torch.autograd.Function):
    """A quantised product forward; back, the product with its weight: rounding has no gradient, and is passed over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight(gradient).T, None


def quantize(model: nn.Module, bits: str) -> None:
    """Store the weights of a model's linear layers in 8 or 4 bits, in place; for inference only.

    ``int8`` has one scale per output and, on a CPU, rounds each token's input to 8 bits too, so that the product is one of integers;
    elsewhere the input stays as it is. ``int4`` has a scale and an offset for every 32 weights and computes in bf16, on a CPU only.
    Word tables, norms, patch embedding and the small heads of retrieval and classification stay as they are.

    Args:
        model: An ordinary model, on the device it is to run on.
        bits: ``int8`` or ``int4``.

    Raises:
        UsageError: If the kind is unknown or this device has no kernel for it.
        EnvironmentProblem: If ``torchao`` is not installed.
    """
    if bits not in get_args(Bits):
        raise UsageError(f"unknown quantisation '{bits}'; one of {', '.join(get_args(Bits))}")
    device = next(model.parameters()).device
    if bits == "int4" and device.type != "cpu":
        raise UsageError(f"int4 runs on a CPU only, the model is on {device.type}; take int8")
    apply = _recipe(bits, device.type)
    for parent, name, layer in list(_layers(model)):
        if bits == "int4" and layer.in_features % INT4_GROUP:
            continue
        dtype = torch.bfloat16 if bits == "int4" else None
        weights = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        weights.weight, weights.bias = layer.weight, layer.bias
        setattr(parent, name, QuantizedLinear(apply(weights.to(dtype) if dtype else weights).eval(), dtype))
    model.requires_grad_(False)


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Find the linear layers of attention, feed-forward and language head, with their owners."""
    for path, module in model.named_modules():
        if path.split(".")[0] in ("contrastive", "matching", "classification"):
            continue
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                yield module, name, child


def _recipe(bits: str, device: str) -> Callable[[nn.Linear], nn.Linear]:
    try:
        with _quiet():
            from torchao import quantization
    except ImportError as error:
        raise EnvironmentProblem(f"quantisation needs torchao ({error}); install it: pip install 'openmplug[export]'") from error
    config: Any
    if bits == "int4":
        try:
            # The one kernel for CPUs; its place in torchao is not settled yet.
            from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig as Int4
        except ImportError as error:
            raise EnvironmentProblem(
                f"int4 needs torchao 0.18 ({error}); install it: pip install 'torchao==0.18.0', or take int8"
            ) from error
        config = Int4(group_size=INT4_GROUP, set_inductor_config=False)
    elif device == "cpu":
        config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    else:
        config = quantization.Int8WeightOnlyConfig(set_inductor_config=False)

    def apply(layer: nn.Linear) -> nn.Linear:
        quantization.quantize_(layer, config)
        return layer

    return apply


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torchao's import from warning about kernels for GPUs that this machine has not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
