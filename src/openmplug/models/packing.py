"""Weights packed once for decoding on a CPU.

A decoding step multiplies a few rows (beams) with every weight of the decoder, so its time is the time to read them. The BLAS
behind ``F.linear`` copies a matrix into its own order at every call as soon as there is more than one row; with 5 rows that copy
halves the speed. oneDNN can keep the copy. Arithmetic stays in the type of the weights; results differ from ``F.linear`` by rounding
only. With many rows fp32 gains fused activations, and bf16 all it has.

Where the BLAS is MKL and the CPU is not Intel's, its fp32 kernels leave half of AVX-512 unused: oneDNN is a third faster there, with few
rows and many, from the weights as they are. Layers are then "packed" without a copy, which costs no memory.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


@functools.cache
def onednn_is_faster() -> bool:
    """Say whether oneDNN multiplies fp32 matrices faster than MKL on this CPU: one with AVX-512 that is not Intel's."""
    return _AVAILABLE and torch.backends.mkl.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability() and not _intel()


def _intel() -> bool:
    try:
        told = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        told = platform.processor()
    return "GenuineIntel" in told


def _packable(weight: Tensor) -> bool:
    if not _AVAILABLE or weight.numel() < MIN_WEIGHTS or weight.device.type != "cpu":
        return False
    return weight.dtype is torch.float32 or (weight.dtype is torch.bfloat16 and bf16_on_cpu())


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A copy of weights (O, I), one below the other, in oneDNN's own order, and what tells whether it still is one; or no copy."""

    packed: Tensor
    bias: Tensor
    dtype: torch.dtype
    origin: tuple[tuple[int, int], ...]
    copied: bool = True

    @staticmethod
    def of(*parts: tuple[Tensor, Tensor], bias_scale: float = 1.0, copy: bool = True) -> PackedWeight | None:
        """Pack the weights and biases of layers that share their input, or return None where it does not pay or is not possible.

        Args:
            parts: Weight (O, I) and bias (O,) of each layer.
            bias_scale: The copy's bias is this many times the layer's.
            copy: Or else use the weight of a single layer as it is, where oneDNN is the faster one even so.
        """
        first = parts[0][0]
        if not _packable(first) or first.is_inference():  # inference tensors do not count their changes
            return None
        if not copy:
            if len(parts) > 1 or first.dtype is not torch.float32 or not first.is_contiguous() or not onednn_is_faster():
                return None
            return PackedWeight(first.detach(), parts[0][1].detach() * bias_scale, first.dtype, _origin(parts), copied=False)
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

    def pack(self, *parts: tuple[Tensor, Tensor], bias_scale: float = 1.0, copy: bool = True) -> None:
        """Make the copy of these weights (O, I) and biases (O,), unless there is a current one; or use them as they are."""
        if self._copy is None or not self._copy.current(*parts) or copy > self._copy.copied:
            self._copy = PackedWeight.of(*parts, bias_scale=bias_scale, copy=copy)

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

    def pack(self, copy: bool = True) -> None:
        """Pack the weight for products on a CPU, where that pays; see ``PackedWeight.of``."""
        self.packed.pack((self.weight, self.bias), copy=copy)

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
