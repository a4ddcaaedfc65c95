"""A model in, a folder of files out that runs without this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from openmplug.checkpoints.atomic import atomic_folder
from openmplug.config import did_you_mean
from openmplug.data.tokenizer import CLS, PAD, SEP, TIDIED_UP
from openmplug.errors import UsageError
from openmplug.inference.export.files import OPSET, SUFFIX, Format, check, require, write
from openmplug.inference.export.parts import Part, parts_of
from openmplug.inference.model import Model
from openmplug.tasks.captioning import CaptioningTask
from openmplug.tasks.decoding import ask_about

DESCRIPTION = "export.json"


def export(model: Model, output: Path | str, form: Format = "onnx", parts: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Write a model's parts, its words and what else is needed to use them, and hold each file against the model.

    Args:
        model: In fp32, on the CPU: ``load(..., device="cpu", dtype="fp32")``.
        output: Folder to write; must not be there yet.
        form: ``onnx``, or ``torch`` for ``torch.export`` programs (``.pt2``).
        parts: Names of the parts to write; None writes all that the model has.

    Returns:
        Of each part: ``part``, ``file``, ``bytes``, ``difference`` (see ``files.check``), ``inputs`` and ``outputs``.

    Raises:
        UsageError: If the folder is there, a part is unknown, or the model is not in fp32 on the CPU.
        ModelError: If a part cannot be taken or its file differs from the model; the folder is not made.
        EnvironmentProblem: If packages are missing, or the folder cannot be written.
    """
    output = Path(output).expanduser()
    if form not in SUFFIX:
        raise UsageError(f"unknown format '{form}'; expected {' or '.join(SUFFIX)}")
    if output.exists():
        raise UsageError(f"--output '{output}' is there already; give a folder that is not")
    types = {parameter.dtype for parameter in model.network.parameters()}
    if types != {torch.float32} or model.device.type != "cpu":
        raise UsageError("only models in fp32 on the CPU are exported; load it with device='cpu', dtype='fp32' and without quantize")
    require(form)
    wanted = chosen_parts(model, parts)
    report = []
    with atomic_folder(output) as folder:
        for part in wanted:
            path = folder / f"{part.name}{SUFFIX[form]}"
            write(part, path, form)
            size = sum(file.stat().st_size for file in folder.glob(f"{path.name}*"))
            report.append(
                {
                    "part": part.name,
                    "file": path.name,
                    "bytes": size,
                    "difference": check(part, path, form),
                    "inputs": {name: list(shape) for name, shape in part.inputs.items()},
                    "outputs": list(part.outputs),
                }
            )
        model.tokenizer.save(folder)
        (folder / DESCRIPTION).write_text(json.dumps(description(model, form, report), indent=2) + "\n", encoding="utf-8")
    return report


def chosen_parts(model: Model, names: Sequence[str] | None) -> list[Part]:
    """Return the parts of these names, in the model's order.

    Raises:
        UsageError: If the model has none of that name.
    """
    frames = model.video.frames if "temporal" in model.network.modules_built or "video" in model.config else None
    every = {part.name: part for part in parts_of(model.network, frames)}
    if unknown := [name for name in names or () if name not in every]:
        hint = did_you_mean(unknown[0], list(every))
        raise UsageError(f"this model has no part '{unknown[0]}'{hint or ';'} it has {', '.join(every)}")
    return [part for name, part in every.items() if names is None or name in names]


def description(model: Model, form: Format, report: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what ``export.json`` holds: all that the files alone do not tell.

    ``image``: the picture is resized to a square of ``size`` (bicubic, as Pillow does), divided by 255, then ``(value - mean) / std`` per
    channel. ``caption``: the ids that are fused with the picture before the decoder attends to both (none: it attends to the picture's
    states alone), those that it is given to go on from, and ``behind``, the words that the caption begins after.
    ``tokens.tidied``: what is put in place of what in the text, in this order.
    """
    words = model.tokenizer
    told: dict[str, Any] = {
        "format": 1,
        "kind": form,
        **({"opset": OPSET} if form == "onnx" else {}),
        "architecture": model.config["architecture"],
        "image": {"size": model.image.size, "resize": "bicubic", "mean": list(model.image.mean), "std": list(model.image.std)},
        "tokens": {
            "vocabulary": "vocab.txt",
            "start": words.vocab.index(CLS),
            "end": words.vocab.index(SEP),
            "pad": words.vocab.index(PAD),
            "tidied": [*TIDIED_UP, *((token, "") for token in (SEP, CLS, PAD))],
        },
        "max_positions": model.network.config.max_positions,
        "cache": [model.network.config.decoder_layers, 2, "rows", model.network.config.heads, "past", _head_width(model)],
        "parts": {row["part"]: {key: row[key] for key in ("file", "inputs", "outputs")} for row in report},
    }
    if "decoder" in model.network.modules_built and model.name in (None, "caption"):
        task = model.task_for("caption")
        assert isinstance(task, CaptioningTask)
        settings = task.settings
        asked = words([ask_about(settings.instruction, clips=False)], max_length=told["max_positions"]).ids[0].tolist()
        told["caption"] = {
            "instruction_ids": asked if settings.instruction else [],
            "given_ids": task.given_ids or [told["tokens"]["start"]],
            "min_length": settings.min_length,
            "max_length": settings.max_length,
            "num_beams": settings.num_beams,
            "behind": settings.prompt if settings.generate_from != "prompt" else "",
        }
    return told


def _head_width(model: Model) -> int:
    return int(model.network.config.width // model.network.config.heads)
