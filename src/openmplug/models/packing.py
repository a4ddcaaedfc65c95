"""Weights packed once for decoding on a CPU.

A decoding step multiplies a few rows (beams) with every weight of the decoder, so its time is the time to read them. The BLAS
behind ``F.linear`` copies a matrix into its own order at every call as soon as there is more than one row; with 5 rows that copy
halves the speed. oneDNN can keep the copy. Arithmetic stays in the type of the weights; results differ from ``F.linear`` by rounding
only. With many rows fp32 gains nothing but fused activations; bf16 gains there too.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LINEAR, _LINEAR_AND = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._linear_pointwise.binary
MIN_WEIGHTS = 2**19  # below about 700 x 700 the call's overhead eats the gain
_ROWS = 20  # a typical number of rows; any other number gives the same result
_AVAILABLE = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()


def bf16_on_cpu() -> bool:
    """Say whether this CPU multiplies bf16 matrices in hardware (AMX, avx512_bf16) or at least with kernels made for it (avx512)."""
    return _AVAILABLE and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packable(weight: Tensor) -> bool:
    if not _AVAILABLE or weight.numel() < MIN_WEIGHTS or weight.device.type != "cpu":
        return False
    return weight.dtype is torch.float32 or (weight.dtype is torch.bfloat16 and bf16_on_cpu())


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A copy of weights (O, I), one below the other, in oneDNN's own order, and what tells whether it still is one."""

    packed: Tensor
    bias: Tensor
    dtype: torch.dtype
    origin: tuple[tuple[int, int], ...]

    @staticmethod
    def of(*parts: tuple[Tensor, Tensor], bias_scale: float = 1.0) -> PackedWeight | None:
        """Pack the weights and biases of layers that share their input, or return None where it does not pay or is not possible.

        Args:
            parts: Weight (O, I) and bias (O,) of each layer.
            bias_scale: The copy's bias is this many times the layer's.
        """
        first = parts[0][0]
        if not _packable(first) or first.is_inference():  # inference tensors do not count their changes
            return None
        weight, bias = (torch.cat([x.detach() for x in side]) if len(parts) > 1 else side[0].detach() for side in zip(*parts, strict=True))
        bias = (bias * bias_scale).to(weight.dtype)
        return PackedWeight(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS), bias, weight.dtype, _origin(parts))

    def current(self, *parts: tuple[Tensor, Tensor]) -> bool:
        """Say whether the parameters are still what was packed, as far as their addresses and versions can tell."""
        return self.origin == _origin(parts)

    def linear(self, x: Tensor) -> Tensor:
        """Compute ``x @ weight.T + bias`` of x (..., I) to (..., O)."""
        return _LINEAR(x, self.packed, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the exact (erf) GELU of ``linear(x)``."""
        return _LINEAR(x, self.packed, self.bias, "gelu", [], "none")

    def silu(self, x: Tensor) -> Tensor:
        """Compute ``y * sigmoid(y)`` of ``y = linear(x)``."""
        return _LINEAR(x, self.packed, self.bias, "swish", [], "")

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Compute ``linear(x) + other``."""
        return _LINEAR_AND(x, other, self.packed, self.bias, "add")


def _origin(parts: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[int, int], ...]:
    return tuple((x.data_ptr(), x._version) for part in parts for x in part)


def plain(*layers: nn.Module) -> bool:
    """Say whether these are linear layers and no more: one that is adapted (LoRA) or quantised may only be called, never read."""
    return all(isinstance(layer, nn.Linear) for layer in layers)


class PackedLinear:
    """Holds the packed copy of a linear layer, or of several that share their input, and says when it may be used.

    That is without gradients, outside autocast and for inputs of the weights' own type. The copy is dropped at the first use with
    gradients: an optimizer step may follow, and fused optimizers do not count their changes of a weight.
    """

    def __init__(self) -> None:
        self._copy: PackedWeight | None = None

    def pack(self, *parts: tuple[Tensor, Tensor], bias_scale: float = 1.0) -> None:
        """Make the copy of these weights (O, I) and biases (O,), unless there is a current one."""
        if self._copy is None or not self._copy.current(*parts):
            self._copy = PackedWeight.of(*parts, bias_scale=bias_scale)

    def usable(self, x: Tensor, *parts: tuple[Tensor, Tensor]) -> PackedWeight | None:
        """Return the copy if it may be multiplied with x, else None; the layer's current parameters tell whether it is stale."""
        copy = self._copy
        if copy is None:
            return None
        if torch.is_grad_enabled() or not copy.current(*parts):
            self._copy = None
            return None
        return copy if x.dtype is copy.dtype and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") else None

    def __getstate__(self) -> dict[str, None]:
        """Leave the copy behind when a model is copied or pickled."""
        return {"_copy": None}

    @staticmethod
    @contextmanager
    def kept(model: nn.Module) -> Iterator[None]:
        """Keep all copies of a model through a block that needs gradients of activations and changes no weight."""
        held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, PackedLinear)]
        copies = [each._copy for each in held]
        try:
            yield
        finally:
            for each, copy in zip(held, copies, strict=True):
                each._copy = copy


class Linear(nn.Linear):
    """``nn.Linear`` with a bias whose weight can be packed for decoding; same parameters, same names."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.packed = PackedLinear()

    def pack(self) -> None:
        """Pack the weight for few-row products on a CPU, where that pays."""
        self.packed.pack((self.weight, self.bias))

    def usable(self, x: Tensor) -> PackedWeight | None:
        """Return the packed weight if it may be multiplied with x."""
        return self.packed.usable(x, (self.weight, self.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., in) to (..., out)."""
        packed = self.usable(x)
        return F.linear(x, self.weight, self.bias) if packed is None else packed.linear(x)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute ``gelu(self(x))`` with the exact (erf) GELU, in one kernel where the weight is packed."""
        packed = self.usable(x)
        return F.gelu(F.linear(x, self.weight, self.bias)) if packed is None else packed.gelu(x)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Compute ``self(x) + other``, in one kernel where the weight is packed."""
        packed = self.usable(x)
        return F.linear(x, self.weight, self.bias) + other if packed is None else packed.add(x, other)


def add_linear(layer: nn.Module, x: Tensor, other: Tensor) -> Tensor:
    """Compute ``layer(x) + other``, in one kernel where the layer is packed."""
    if isinstance(layer, Linear):
        return layer.add(x, other)
    out: Tensor = layer(x)
    return out + other
