"""``openmplug export``: a model's parts as files that run without openmplug."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Json, Output


def export(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Folder of a trained or converted model, a released checkpoint, or small: the shipped one."),
    ],
    output: Output,
    form: Annotated[Literal["onnx", "torch"], typer.Option("--format", help="onnx, or torch for torch.export programs (.pt2).")] = "onnx",
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--part", metavar="NAME", help="Only this part, once for each: vision, clip, text, fusion, memory, decoder.", show_default=False
        ),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Use the model for this task, whatever it was trained for.")] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model's encoders and its decoder step as ONNX, with words and settings beside them.

    Batch and lengths stay open. Each file is run on random inputs and held against the model; what differs is not written.
    """
    from openmplug.inference.export.front import export as write
    from openmplug.inference.loading import load

    report = write(load(model, device="cpu", dtype="fp32", task=task), output, form, parts)
    if json_output:
        screen.document({"output": str(output), "format": form, "parts": report})
        return
    rows = [(row["part"], row["file"], f"{row['bytes'] / 1e6:,.1f}", f"{row['difference']:.1g}") for row in report]
    screen.table(f"Written to {output}", ("part", "file", "MB", "differs by"), rows, right=("MB", "differs by"))
    screen.note(
        "Words, sizes and settings are beside them: vocab.txt, export.json. Largest difference: of random inputs, from PyTorch's result."
    )
