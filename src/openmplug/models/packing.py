"""Weights packed once for decoding on a CPU.

A decoding step multiplies a few rows (beams) with every weight of the decoder, so its time is the time to read them. The BLAS
behind ``F.linear`` copies a matrix into its own order at every call as soon as there is more than one row; with 5 rows that copy
halves the speed. oneDNN can keep the copy. Arithmetic stays fp32; results differ from ``F.linear`` by rounding only.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_WEIGHTS = 2**19  # below about 700 x 700 the call's overhead eats the gain
_ROWS = 20  # a typical number of rows; any other number gives the same result
_AVAILABLE = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A copy of weights (O, I), one below the other, in oneDNN's own order, and what tells whether it still is one."""

    packed: Tensor
    bias: Tensor
    origin: tuple[tuple[int, int], ...]

    @staticmethod
    def of(*parts: tuple[Tensor, Tensor]) -> PackedWeight | None:
        """Pack the weights and biases of layers that share their input, or return None where it does not pay or is not possible."""
        first = parts[0][0]
        if not _AVAILABLE or first.numel() < MIN_WEIGHTS or first.dtype is not torch.float32 or first.device.type != "cpu":
            return None
        if first.is_inference():  # such tensors do not count their changes
            return None
        weight, bias = (torch.cat([x.detach() for x in side]) if len(parts) > 1 else side[0].detach() for side in zip(*parts, strict=True))
        return PackedWeight(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS), bias, _origin(parts))

    def current(self, *parts: tuple[Tensor, Tensor]) -> bool:
        """Say whether the parameters are still what was packed, as far as their addresses and versions can tell."""
        return self.origin == _origin(parts)

    def linear(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Compute ``x @ weight.T + bias`` of x (..., I) to (..., O), and its exact (erf) GELU where asked for."""
        if gelu:
            return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, self.bias, "gelu", [], "none")
        return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, self.bias, "none", [], "")


def _origin(parts: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[int, int], ...]:
    return tuple((x.data_ptr(), x._version) for part in parts for x in part)


def plain(*layers: nn.Module) -> bool:
    """Say whether these are linear layers and no more: one that is adapted (LoRA) or quantised may only be called, never read."""
    return all(isinstance(layer, nn.Linear) for layer in layers)


class PackedLinear:
    """Holds the packed copy of a linear layer, or of several that share their input, and says when it may be used.

    That is without gradients and for fp32 only. The copy is dropped at the first use with gradients: an optimizer step may follow,
    and fused optimizers do not count their changes of a weight.
    """

    def __init__(self) -> None:
        self._copy: PackedWeight | None = None

    def pack(self, *parts: tuple[Tensor, Tensor]) -> None:
        """Make the copy of these weights (O, I) and biases (O,), unless there is a current one."""
        if self._copy is None or not self._copy.current(*parts):
            self._copy = PackedWeight.of(*parts)

    def usable(self, x: Tensor, *parts: tuple[Tensor, Tensor]) -> PackedWeight | None:
        """Return the copy if it may be multiplied with x, else None; the layer's current parameters tell whether it is stale."""
        copy = self._copy
        if copy is None:
            return None
        if torch.is_grad_enabled() or not copy.current(*parts):
            self._copy = None
            return None
        return copy if x.dtype is torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") else None

    def __getstate__(self) -> dict[str, None]:
        """Leave the copy behind when a model is copied or pickled."""
        return {"_copy": None}


class Linear(nn.Linear):
    """``nn.Linear`` with a bias whose weight can be packed for decoding; same parameters, same names."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.packed = PackedLinear()

    def pack(self) -> None:
        """Pack the weight for few-row products on a CPU, where that pays."""
        self.packed.pack((self.weight, self.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., in) to (..., out)."""
        packed = self.packed.usable(x, (self.weight, self.bias))
        return F.linear(x, self.weight, self.bias) if packed is None else packed.linear(x)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute ``gelu(self(x))`` with the exact (erf) GELU, in one kernel where the weight is packed."""
        packed = self.packed.usable(x, (self.weight, self.bias))
        return F.gelu(F.linear(x, self.weight, self.bias)) if packed is None else packed.linear(x, gelu=True)
