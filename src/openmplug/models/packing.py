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
    """A copy of a weight (O, I) in oneDNN's own order, and what tells whether it still is one."""

    packed: Tensor
    source: int
    version: int

    @staticmethod
    def of(weight: Tensor) -> PackedWeight | None:
        """Pack a weight, or return None where it does not pay: small, not fp32, not on a CPU that oneDNN serves."""
        if not _AVAILABLE or weight.numel() < MIN_WEIGHTS or weight.dtype is not torch.float32 or weight.device.type != "cpu":
            return None
        if weight.is_inference():  # such tensors do not count their changes
            return None
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        return PackedWeight(packed, weight.data_ptr(), weight._version)

    def current(self, weight: Tensor) -> bool:
        """Say whether the weight is still what was packed, as far as its address and version can tell."""
        return weight.data_ptr() == self.source and weight._version == self.version

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Compute ``x @ weight.T + bias`` of x (..., I) to (..., O)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, "none", [], "")


class PackedLinear:
    """Computes ``F.linear(x, weight, bias)`` through a packed copy of the weight, made when ``pack`` is called.

    The copy is used without gradients and for fp32 only. It is dropped at the first call with gradients: an optimizer step may
    follow, and fused optimizers do not count their changes of a weight.
    """

    def __init__(self) -> None:
        self._copy: PackedWeight | None = None

    def pack(self, weight: Tensor) -> None:
        """Make the copy, unless there is a current one."""
        if self._copy is None or not self._copy.current(weight):
            self._copy = PackedWeight.of(weight)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply x (..., I)."""
        copy = self._copy
        if copy is None:
            return F.linear(x, weight, bias)
        if torch.is_grad_enabled() or not copy.current(weight):
            self._copy = None
        elif x.dtype is torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            return copy.linear(x, bias)
        return F.linear(x, weight, bias)

    def __getstate__(self) -> dict[str, None]:
        """Leave the copy behind when a model is copied or pickled."""
        return {"_copy": None}


class Linear(nn.Linear):
    """``nn.Linear`` whose weight can be packed for decoding; same parameters, same names."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.packed = PackedLinear()

    def pack(self) -> None:
        """Pack the weight for few-row products on a CPU, where that pays."""
        self.packed.pack(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (..., in) to (..., out)."""
        return self.packed(x, self.weight, self.bias)
