"""``openmplug predict``: pictures in, a table of answers, captions or matches out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, DryRun, Dtype, Json, Model, Seed

app = typer.Typer(help="Answer questions, write captions, match pictures.", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Answer questions, write captions, match pictures."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders of pictures, JSONL or CSV tables with a column 'image'.")
]
File = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Table to write: .jsonl or .csv.")]
OnError = Annotated[str, typer.Option("--on-error", metavar="error|skip", help="What to do with a picture that cannot be read.")]


def _run(
    verb: str,
    inputs: list[str],
    model: Path,
    output: Path,
    text: str | None,
    on_error: str,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    seed: int | None,
    json_output: bool,
    dry_run: bool,
) -> None:
    from openmplug.errors import UsageError
    from openmplug.inference import bulk
    from openmplug.inference.loading import load

    # Everything that can be wrong with the command is found before the model is loaded.
    bulk.check_output(output)
    if on_error not in ("error", "skip"):
        raise UsageError(f"unknown on-error policy '{on_error}'; one of error, skip")
    rows = bulk.collect(inputs, verb, text)
    summary: dict[str, Any] = {"verb": verb, "model": str(model), "output": str(output), "inputs": len(rows)}
    if dry_run:
        summary["dry_run"] = True
        _finish(summary, json_output, f"would read {len(rows):,} inputs and write {output}")
        return
    if seed is not None:
        import torch

        torch.manual_seed(seed)
    pipeline = load(model, device, dtype, batch_size or 16)
    count = bulk.Count()
    records = bulk.predict(pipeline, verb, rows, on_error, count)
    bulk.write_results(output, screen.progress(records, len(rows), "predicting"), bulk.columns(verb, rows))
    summary |= {"done": count.done, "failed": count.failed}
    failed = f", {count.failed:,} could not be read (see column error)" if count.failed else ""
    _finish(summary, json_output, f"{count.done:,} of {len(rows):,} inputs done{failed}; results in {output}")


def _finish(summary: dict[str, Any], json_output: bool, line: str) -> None:
    if json_output:
        screen.document(summary)
    else:
        typer.echo(line)


@app.command("vqa")
def vqa(
    inputs: Inputs,
    model: Model,
    output: File,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Asked of every picture whose table row has no question.")
    ] = None,
    on_error: OnError = "error",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Answer a question about each picture."""
    _run("vqa", inputs, model, output, question, on_error, device, dtype, batch_size, seed, json_output, dry_run)


@app.command("caption")
def caption(
    inputs: Inputs,
    model: Model,
    output: File,
    on_error: OnError = "error",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Write a caption for each picture."""
    _run("caption", inputs, model, output, None, on_error, device, dtype, batch_size, seed, json_output, dry_run)


@app.command("match")
def match(
    inputs: Inputs,
    model: Model,
    output: File,
    text: Annotated[str | None, typer.Option("--text", "-t", help="Matched with every picture whose table row has no text.")] = None,
    on_error: OnError = "error",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Say how well a text fits each picture."""
    _run("match", inputs, model, output, text, on_error, device, dtype, batch_size, seed, json_output, dry_run)
