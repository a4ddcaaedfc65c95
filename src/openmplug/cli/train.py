"""``openmplug train``: a recipe in, a folder of weights and records out."""

from __future__ import annotations

from typing import Annotated

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, DryRun, Dtype, Json, Output, Overrides, Recipe, Seed, as_overrides


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

    In DIR appear recipe.yaml, metrics.jsonl, checkpoint-last/, checkpoint-best/ and curves.png.
    """
    import sys

    from openmplug.config import dump_yaml
    from openmplug.engine.recipe import load_recipe

    config = load_recipe(recipe, [*(overrides or []), *as_overrides(device, dtype, seed, batch_size)])
    if dry_run:
        tree = config.model_dump(mode="json")
        if json_output:
            screen.document({"dry_run": True, "output": str(output), "recipe": tree})
        else:
            sys.stdout.write(f"# would train this and write to {output}\n{dump_yaml(tree)}")
        return
    from openmplug.engine.run import train as run

    result = run(config, output, resume=resume)
    if json_output:
        screen.document(result)
    else:
        typer.echo(f"trained; the best weights are in {output / 'checkpoint-best'}")
