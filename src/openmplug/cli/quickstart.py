"""``openmplug quickstart``: from nothing to a page of answers, on a CPU, in a few minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Device, Json, Overrides, Seed

# task -> (recipe, metric, how it is shown)
PARTS = {
    "vqa": ("vqa/shapes_mplug_tiny", "exact_match", "questions answered rightly, %"),
    "caption": ("caption/shapes_mplug_tiny", "cider", "caption quality, CIDEr"),
    "retrieval": ("retrieval/shapes_mplug_tiny", "img_r10", "right picture in the first 10 of 500, %"),
}


def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for data, weights and the page.")] = Path(
        "quickstart"
    ),
    overrides: Overrides = None,
    train_images: Annotated[int, typer.Option("--train-images", min=64, help="Pictures to train on.")] = 3000,
    dev_images: Annotated[int, typer.Option("--dev-images", min=8, help="Pictures of unseen compositions to evaluate on.")] = 500,
    device: Device = None,
    seed: Seed = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Train three small models in minutes and see what they say.

    Draws coloured shapes, trains on them, measures on compositions that training never showed, and writes a page of examples.
    """
    from openmplug.cli.page import write_page
    from openmplug.data.shapes import write_shapes
    from openmplug.engine.recipe import load_recipe
    from openmplug.engine.run import evaluate, train

    began = time.monotonic()
    data = output / "data"
    screen.note(f"1/3  drawing {train_images:,} pictures to train on and {dev_images:,} of unseen compositions")
    write_shapes(data, train_images, dev_images)
    results: dict[str, dict[str, Any]] = {}
    flags = ([f"run.device={device}"] if device else []) + ([f"seed={seed}"] if seed is not None else [])
    for number, (task, (recipe, metric, _)) in enumerate(PARTS.items(), start=1):
        screen.note(f"2/3  training model {number} of {len(PARTS)}: {task}")
        given = [*(overrides or []), *flags, f"data.root={data / task}"]
        config = load_recipe(recipe, given)
        # An interrupted quickstart goes on where it stopped; a finished one is only measured again.
        train(config, output / task, resume=(output / task / "recipe.yaml").is_file())
        best = output / task / "checkpoint-best"
        seeing = evaluate(config, best, output / task / "evaluation")
        blind = evaluate(load_recipe(recipe, [*given, "data.shuffle_images=true"]), best, output / task / "blind")
        results[task] = {"metric": metric, "value": seeing["metrics"][metric], "blind": blind["metrics"][metric]}
    page = write_page(output / "index.html", output, PARTS, results, dev_images)
    seconds = round(time.monotonic() - began)
    if json_output:
        screen.document({"seconds": seconds, "page": str(page), "results": results})
        return
    rows = [(PARTS[task][2].replace("500", str(dev_images)), found["value"], found["blind"]) for task, found in results.items()]
    title = f"Unseen compositions, after {seconds // 60} min {seconds % 60:02d} s"
    columns = ("measured", "with the picture", "blind")
    screen.table(title, columns, rows, right=columns[1:])
    screen.note("blind: the same model shown a wrong picture; what it still gets right, the words alone gave away")
    typer.echo(f"3/3  open this page in a browser: {page}")
