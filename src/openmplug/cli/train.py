"""``openmplug train``: a recipe in, a folder of weights and records out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, DryRun, Dtype, Json, Output, Overrides, Recipe, Seed, as_overrides

INTERRUPTIONS = {"SIGINT received": 130, "SIGTERM received": 143}
"""Why a run was stopped from outside -> the exit code a shell expects of that."""


def speaks() -> bool:
    """Say whether this process is the one that prints, of those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def exit_if_interrupted(result: Mapping[str, Any], go_on: str = "the same command with --resume") -> None:
    """End the command with the signal's exit code if a signal stopped the run; it was saved first."""
    code = INTERRUPTIONS.get(str(result["stopped"]))
    if code is not None:
        if not speaks():
            raise typer.Exit(code)
        screen.error(f"interrupted at step {result['step']:,}; everything is saved, {go_on} goes on from there")
        raise typer.Exit(code)


def train(
    recipe: Recipe,
    output: Output,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in DIR stopped.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m openmplug train RECIPE --output DIR

    In DIR appear recipe.yaml, metrics.jsonl, checkpoint-last/, checkpoint-best/ and curves.png.
    """
    import sys

    from openmplug.config import dump_yaml
    from openmplug.engine.recipe import load_recipe
    from openmplug.errors import OpenmplugError

    try:
        config = load_recipe(recipe, [*(overrides or []), *as_overrides(device, dtype, seed, batch_size)])
    except OpenmplugError as error:
        error.told = not speaks()
        raise
    if dry_run:
        if not speaks():
            return
        tree = config.model_dump(mode="json")
        if json_output:
            screen.document({"dry_run": True, "output": str(output), "recipe": tree})
        else:
            sys.stdout.write(f"# would train this and write to {output}\n{dump_yaml(tree)}")
        return
    from openmplug.engine.run import train as run

    result = run(config, output, resume=resume)
    if json_output and speaks():
        screen.document(result)
    exit_if_interrupted(result)
    if not json_output and speaks():
        stopped = f" ({result['stopped']})" if result["stopped"] else ""
        best = f", best {result['metric']} {screen.number(result['best'])}" if result["best"] is not None else ""
        what = f"adapters are in {output}; openmplug merge {output} --output DIR" if config.lora.rank else f"weights are in {output}"
        typer.echo(f"trained to step {result['step']:,}{stopped}{best}; {what}")
