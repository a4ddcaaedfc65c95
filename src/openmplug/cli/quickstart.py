"""``openmplug quickstart``: a page of answers on a CPU, at once by the small model that comes with the package, or trained from nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Device, Json, Overrides, Seed
from openmplug.cli.train import exit_if_interrupted
from openmplug.errors import EnvironmentProblem, UsageError

# Task -> (what it learns, its metric, how that is shown). Each starts from the weights of those before it, as mPLUG's fine-tuning
# starts from pre-training: captions teach the tower and the decoder, matching teaches the text encoder and the fusion.
PARTS = {
    "caption": ("to describe pictures", "cider", "captions against right ones, CIDEr"),
    "retrieval": ("to find pictures by text", "img_r10", "right picture among the first 10 of {dev_images}"),
    "vqa": ("to answer questions", "exact_match", "questions answered rightly"),
}
FEWEST = 8  # pictures to train on, where nothing is trained


def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for data, weights, page.")] = Path("quickstart"),
    overrides: Overrides = None,
    training: Annotated[
        bool, typer.Option("--train", help="Train three models first, minutes, instead of taking the shipped one.")
    ] = False,
    train_images: Annotated[int, typer.Option("--train-images", min=8, help="Pictures to train on.")] = 2200,
    dev_images: Annotated[int, typer.Option("--dev-images", min=4, help="Pictures of unseen compositions to evaluate on.")] = 200,
    device: Device = None,
    seed: Seed = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """See in a minute what a small model says; train three in a few.

    Draws coloured shapes and lets the small model that comes with the package describe them, find them and answer questions about
    them, or, with --train, trains a model for each on the spot. Measures on compositions that training never showed, and writes a page
    of examples. Stopped, it goes on where it was when called again.
    """
    from openmplug.cli.page import shown, write_page
    from openmplug.data.shapes import write_shapes
    from openmplug.engine.recipe import load_recipe
    from openmplug.engine.run import evaluate, train

    began = time.monotonic()
    shipped = None if training else _shipped()
    data, drawn = output / "data", train_images if training else FEWEST
    _same_data(output, {"train_images": train_images if training else 0, "dev_images": dev_images})
    to_train_on = f"{drawn:,} pictures to train on and " if training else ""
    screen.note(f"Drawing {to_train_on}{dev_images:,} pictures of compositions that training never shows.")
    write_shapes(data, drawn, dev_images)
    common = [*(overrides or []), *([f"run.device={device}"] if device else []), *([f"seed={seed}"] if seed is not None else [])]
    # One vocabulary for all, so that weights can be handed on.
    common += [f"tokenizer.vocab={_write_vocabulary(data)}"] if training else []
    results: dict[str, dict[str, Any]] = {}
    for number, (task, (purpose, metric, _)) in enumerate(PARTS.items(), start=1):
        recipe, given = f"{task}/shapes_mplug_tiny", [*common, f"data.root={data / task}"]
        if shipped is None:
            earlier = [str(output / other) for other in list(PARTS)[: number - 1]]
            given = [*([f"init_from={json.dumps(earlier[::-1])}"] if earlier else []), *given]
            screen.note(f"Model {number} of {len(PARTS)} learns {purpose}.")
            result = train(load_recipe(recipe, given), output / task, resume=(output / task / "recipe.yaml").is_file())
            exit_if_interrupted(result, go_on="the same command")
        else:
            screen.note(f"The small model is asked {purpose}, once with the right picture and once with a wrong one.")
            given += _asked_as_learned(shipped, task)
        model = shipped or output / task
        seeing = evaluate(load_recipe(recipe, given), model, output / task / "evaluation")
        blind = evaluate(load_recipe(recipe, [*given, "data.shuffle_images=true"]), model, output / task / "blind")
        results[task] = {"metric": metric, "value": seeing["metrics"][metric], "blind": blind["metrics"][metric]}
    labels = {task: label.format(dev_images=dev_images) for task, (_, _, label) in PARTS.items()}
    page = write_page(output / "index.html", output, labels, results, dev_images, trained_here=training)
    seconds = round(time.monotonic() - began)
    if json_output:
        screen.document({"seconds": seconds, "page": str(page), "results": results})
        return
    columns = ("measured on unseen compositions", "with the picture", "blind")
    rows = [(labels[task], *(shown(found["metric"], found[side]) for side in ("value", "blind"))) for task, found in results.items()]
    screen.table(f"Done in {seconds // 60} min {seconds % 60:02d} s", columns, rows, right=columns[1:])
    screen.note("Blind is the same model shown a wrong picture: what it still gets right, the words alone gave away.")
    typer.echo(f"Open in a browser: {page}")


def _shipped() -> Path:
    """Return the folder of the small model that comes with the package.

    Raises:
        EnvironmentProblem: If this installation has none.
    """
    from openmplug.checkpoints.shipped import shipped_model

    if (folder := shipped_model()) is None:
        raise EnvironmentProblem("the small weights are missing from this installation; install openmplug again, or add --train")
    return folder


def _asked_as_learned(folder: Path, task: str) -> list[str]:
    """Return the settings that a model's folder gives its calls, for an evaluation."""
    from openmplug.checkpoints.store import read_config
    from openmplug.inference.abilities import call_defaults

    return [f"settings.{name}={json.dumps(value)}" for name, value in call_defaults(read_config(folder)).get(task, {}).items()]


def _same_data(output: Path, options: dict[str, int]) -> None:
    """Refuse to go on in a folder whose models were trained on other data.

    Raises:
        UsageError: If the folder's quickstart had other options.
    """
    from openmplug.checkpoints.atomic import write_atomic

    record = output / "quickstart.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != options:
        raise UsageError(f"'{output}' holds a quickstart of another kind or size; give another --output")
    write_atomic(record, json.dumps(options) + "\n")


def _write_vocabulary(data: Path) -> Path:
    """Build one vocabulary from the training texts of all tasks and write it beside the data."""
    from openmplug.data.readers import READERS
    from openmplug.data.tokenizer import Tokenizer, build_vocabulary

    def texts() -> Iterable[str]:
        for task in PARTS:
            for sample in READERS["jsonl"](data / task, "train", {}).samples:
                yield from ([sample.text] if sample.text else [])
                yield from sample.targets

    return Tokenizer.from_vocab(build_vocabulary(texts(), min_count=1)).save(data)
