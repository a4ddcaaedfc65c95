"""``openmplug evaluate``: a trained folder and a split in, predictions and metrics out."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, DryRun, Dtype, Json, Model, Output, Overrides, Recipe, Seed, as_overrides


def evaluate(
    recipe: Recipe,
    model: Model,
    output: Output,
    overrides: Overrides = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    report: Annotated[bool, typer.Option(help="Write report.html too: scores, hits and misses with their pictures.")] = True,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Measure a model on a split of a data set.

    The split is data.evaluate=SPLIT. In DIR appear predictions.jsonl, metrics.json and report.html, a page to look at.
    """
    from openmplug.engine.recipe import load_recipe

    flags = as_overrides(device, dtype, seed, batch_size, batch_setting="run.evaluate_batch_size")
    config = load_recipe(recipe, [*(overrides or []), *flags])
    if dry_run:
        plan = {"dry_run": True, "model": str(model), "output": str(output), "recipe": config.model_dump(mode="json")}
        if json_output:
            screen.document(plan)
        else:
            screen.note(f"would evaluate {model} on split '{config.data.evaluate}' of {config.data.root} and write to {output}")
        return
    from openmplug.engine.run import evaluate as run

    given = [*(overrides or []), *flags]
    command = shlex.join(["openmplug", "evaluate", recipe, "--model", str(model), *given, "--output", str(output)])
    metrics = run(config, model, output, report=report, origin={"recipe": recipe, "overrides": given, "command": command})
    if json_output:
        screen.document(metrics)
        return
    scores = metrics.get("metrics", metrics)
    screen.table(f"Split '{config.data.evaluate}'", ("metric", "value"), list(scores.items()), right=("value",))
    screen.note(f"predictions and metrics are in {output}")
    if report:
        screen.note(f"to look at: {output / 'report.html'}")
