"""The flags that several verbs share, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe (openmplug recipes) or path of a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="A.B=C", help="Settings put over the recipe, such as data.root=DIR optim.lr=2e-5.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to; it is made where it is missing.")]
Model = Annotated[
    Path,
    typer.Option(
        "--model", "-m", metavar="DIR", help="Folder of a trained or converted model, a released checkpoint, or small: the shipped one."
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.", show_default="auto")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, fp32, bf16 or fp16.", show_default="auto")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Items worked on at once.", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and everything else on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")]


def as_overrides(
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    batch_setting: str = "optim.batch_size_per_device",
) -> list[str]:
    """Return the flags that were given as recipe settings, so that a recipe has one way in."""
    settings = {"run.device": device, "run.precision": dtype, "seed": seed, batch_setting: batch_size}
    return [f"{name}={value}" for name, value in settings.items() if value is not None]
