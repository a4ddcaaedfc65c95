"""One part to one file, as ONNX or as a ``torch.export`` program, and a file against the model it was made of."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from openmplug.errors import EnvironmentProblem, ModelError
from openmplug.inference.export.parts import Part

Format = Literal["onnx", "torch"]
SUFFIX: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 18
"""Of the ONNX files: the first whose normalisation and reduction operators are what torch writes without rewriting them."""

LARGEST = 1_800_000_000
"""Bytes of weights beyond which they go into a file of their own: one ONNX file holds 2 GiB at most."""

TOLERANCE = 1e-3
"""Largest difference from PyTorch that a file may have, against numbers of size 1 and above in proportion to them."""

# Sizes that a part is taken at, and that it is then checked at: others, so that a size that was fixed by mistake is seen.
_TAKEN = {"batch": 2, "rows": 2, "tokens": 5, "patches": 7, "seen": 9, "new": 3, "past": 4}
_CHECKED = (
    {"batch": 3, "rows": 3, "tokens": 7, "patches": 11, "seen": 13, "new": 1, "past": 2},
    {"batch": 1, "rows": 1, "tokens": 4, "patches": 6, "seen": 5, "new": 2, "past": 0},
)


def require(form: Format) -> None:
    """Look for what a format needs.

    Raises:
        EnvironmentProblem: If it is not installed.
    """
    needed = ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ()
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise EnvironmentProblem(f"ONNX files need {', '.join(missing)}; install: pip install 'openmplug[export]', or take --format torch")


def fitted(part: Part, sizes: dict[str, int]) -> dict[str, int]:
    """Return sizes that a part allows: none above its largest, and never more tokens than there are places."""
    found = {name: min(sizes[name], part.most.get(name, sizes[name])) for name in part.sizes}
    if {"new", "past"} <= found.keys():
        found["past"] = min(found["past"], part.most["new"] - found["new"])
    return found


def take(part: Part) -> ExportedProgram:
    """Trace a part with ``torch.export``, its sizes left open.

    Raises:
        ModelError: If torch cannot.
    """
    least = {"past": 0}
    open_sizes = {name: Dim(name, min=least.get(name, 1), max=part.most.get(name, 1 << 20)) for name in part.sizes}
    shapes = tuple({place: open_sizes[size] for place, size in enumerate(shape) if isinstance(size, str)} for shape in part.inputs.values())
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(part.module, part.draw(fitted(part, _TAKEN)), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch raises many kinds, and none tells which part it was
            raise ModelError(f"torch.export cannot take the part '{part.name}': {str(error).strip().splitlines()[0]}") from error


def write(part: Part, path: Path, form: Format) -> None:
    """Write a part to a file; large weights of an ONNX file go into ``{path}.data``."""
    program = take(part)
    if form == "torch":
        torch.export.save(program, path)
        return
    size = sum(parameter.numel() * parameter.element_size() for parameter in part.module.parameters())
    with quiet(), torch.no_grad():
        torch.onnx.export(
            program,
            (),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            external_data=size > LARGEST,
            verbose=False,
        )


def check(part: Part, path: Path, form: Format) -> float:
    """Run a file on random inputs of sizes it was not taken at, and return its largest difference from PyTorch.

    Returns:
        Largest ``|file - model| / max(1, |model|)`` over all outputs.

    Raises:
        ModelError: If it does not run, or differs by more than ``TOLERANCE``.
    """
    worst = 0.0
    run = _onnx(path) if form == "onnx" else _torch(path)
    for sizes in _CHECKED:
        inputs = part.draw(fitted(part, sizes))
        with torch.no_grad():
            wanted = part.module(*inputs)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        try:
            found = run(dict(zip(part.inputs, inputs, strict=True)))
        except Exception as error:  # the runtimes' own errors, of many kinds
            raise ModelError(f"'{path.name}' does not run at sizes {sizes}: {str(error).strip().splitlines()[0]}") from error
        for one, other in zip(found, wanted, strict=True):
            if one.shape != other.shape:
                raise ModelError(f"'{path.name}' gives {tuple(one.shape)} where the model gives {tuple(other.shape)}")
            if other.numel():
                difference = ((one.double() - other.double()).abs() / other.double().abs().clamp(min=1)).max()
                worst = max(worst, float(difference.nan_to_num(nan=float("inf"))))
    if worst > TOLERANCE:
        raise ModelError(f"'{path.name}' differs from the model by {worst:.2g}, more than {TOLERANCE:g}; nothing was kept")
    return worst


def _onnx(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return [torch.from_numpy(value) for value in found]

    return run


def _torch(path: Path) -> Any:
    module = torch.export.load(path).module()

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            found = module(*inputs.values())
        return list(found) if isinstance(found, tuple) else [found]

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' notes about their own insides from the screen."""
    import logging

    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)
