"""Inference in bf16 with bf16 weights, and whether that pays on this machine.

Autocast keeps the weights in fp32 and casts them again at every call; writing a text reads every weight of the decoder once a token, so
on a CPU the weights themselves have to be small. What needs more digits stays in fp32: the sums and norms of embeddings, the
statistics of every norm, softmax, probabilities, the scores of a beam's best words, features and matching logits.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.heads import ClassificationHead, ContrastiveHead, MatchingHead
from openmplug.models.network import Network
from openmplug.models.packing import PackedWeight, bf16_on_cpu
from openmplug.models.text import TextEmbeddings

_STEP_ROWS, _ENCODING_ROWS = 5, 197  # a step of five beams, the tokens of a picture
_REPEATS = 5
_LEAST_GAIN = 1.2  # less is not worth other rounding


def cast_for_inference(model: Network, dtype: torch.dtype = torch.bfloat16) -> Network:
    """Make a model's weights bf16 (or fp32 again) in place and pack them for inference; it is not meant to be trained afterwards.

    Run it without autocast. Norms, the position and type tables and the heads of retrieval and classification stay fp32 (on a GPU, whose
    norm kernels take one type only, the norms are cast too). Packed copies take the memory that the smaller weights save on a CPU.

    Args:
        model: In eval mode.
        dtype: ``torch.float32`` packs only.

    Returns:
        The same model.
    """
    kept = {id(parameter) for module in model.modules() for parameter in _fp32_parameters(module)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in kept else dtype)
        pack_for_inference(model)
    return model


def _fp32_parameters(module: nn.Module) -> list[Tensor]:
    if isinstance(module, ContrastiveHead | MatchingHead | ClassificationHead):
        return list(module.parameters())
    if isinstance(module, TextEmbeddings):
        return [module.positions.weight, module.types.weight, *module.norm.parameters()]
    if isinstance(module, nn.LayerNorm) and all(parameter.device.type == "cpu" for parameter in module.parameters()):
        return list(module.parameters())
    return []


def pack_for_inference(model: Network) -> None:
    """Pack the weights that are multiplied with a few rows (decoder), and in bf16 all others too; a no-op elsewhere than on a CPU.

    With many rows the fp32 product is as fast from the weights as they are, so the encoders are not copied.
    """
    for name in model.modules_built:
        module = getattr(model, name)
        if name == "decoder":
            module.pack()
        elif name in ("vision", "temporal", "text", "universal", "fusion"):
            module.pack(copy=_weight_dtype(module) is torch.bfloat16)


def _weight_dtype(module: nn.Module) -> torch.dtype | None:
    return next((child.weight.dtype for child in module.modules() if isinstance(child, nn.Linear)), None)


@dataclass(frozen=True, slots=True)
class LinearSeconds:
    """Seconds of one linear layer in fp32 and bf16, for the few rows of a decoding step and the many of a picture."""

    step_fp32: float
    step_bf16: float
    encoding_fp32: float
    encoding_bf16: float


def bf16_pays(seconds: LinearSeconds | None) -> bool:
    """Decide from measured seconds (None = the CPU has no bf16 kernels): clearly faster in one, and not slower in the other.

    Example:
        >>> bf16_pays(LinearSeconds(2e-4, 1e-4, 5e-3, 1e-3)), bf16_pays(LinearSeconds(2e-4, 1e-4, 5e-3, 9e-3)), bf16_pays(None)
        (True, False, False)
    """
    if seconds is None:
        return False
    gains = (seconds.step_fp32 / seconds.step_bf16, seconds.encoding_fp32 / seconds.encoding_bf16)
    return max(gains) >= _LEAST_GAIN and min(gains) >= 1


@functools.cache
def measure_linear(width: int = 768) -> LinearSeconds | None:
    """Time one layer from ``width`` to four times as many in both types on this CPU, in less than a third of a second, once a process.

    Returns:
        The fastest of several runs, or None where bf16 has no kernels.
    """
    if not bf16_on_cpu():
        return None
    generator = torch.Generator().manual_seed(0)
    seconds = {}
    with torch.no_grad():
        weight, bias = torch.randn(4 * width, width, generator=generator), torch.zeros(4 * width)
        for rows in (_STEP_ROWS, _ENCODING_ROWS):
            x = torch.randn(rows, width, generator=generator)
            for dtype in (torch.float32, torch.bfloat16):
                seconds[rows, dtype] = _fastest(_layer(x.to(dtype), weight.to(dtype), bias.to(dtype)))
    step, encoding = ((seconds[rows, torch.float32], seconds[rows, torch.bfloat16]) for rows in (_STEP_ROWS, _ENCODING_ROWS))
    return LinearSeconds(*step, *encoding)


def _layer(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    packed = PackedWeight.of((weight, bias))
    return (lambda: F.linear(x, weight, bias)) if packed is None else (lambda: packed.linear(x))


def _fastest(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first warms up and is never the fastest
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def choose_inference_dtype(device: torch.device, width: int = 768) -> torch.dtype:
    """Return the faster of bf16 and fp32 for a model of some width: asked of a GPU, measured on a CPU, fp32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cpu" and bf16_pays(measure_linear(width)) else torch.float32
