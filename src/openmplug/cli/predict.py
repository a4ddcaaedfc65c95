"""``openmplug predict``: pictures, videos and texts in, a table of answers, captions, classes, boxes or matches out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, DryRun, Dtype, Json, Model, Seed

if TYPE_CHECKING:
    from openmplug.inference.bulk.job import Job
    from openmplug.inference.bulk.run import Tally

app = typer.Typer(help="Answer questions, write captions, name classes, find phrases, match pictures.", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Answer questions, write captions, name classes, find phrases, match pictures."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _option(name: str, help: str, **more: Any) -> Any:
    return typer.Option(name, help=help, **more)


@dataclass(kw_only=True)
class Flags:
    """The flags of every verb, each said once; ``verb`` makes parameters of them."""

    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Pictures, videos, folders, JSONL or CSV tables with a column 'image' or 'video', tars."),
    ]
    model: Model
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Table to write: .jsonl, .csv or .parquet.")]
    on_error: Annotated[str, _option("--on-error", "What to do with a picture that cannot be read.", metavar="error|skip")] = "error"
    max_failures: Annotated[
        str | None,
        _option("--max-failures", "With skip: stop when more could not be read; 10, 0.01 or 1%.", metavar="N", show_default="any"),
    ] = None
    workers: Annotated[
        int | None, _option("--workers", "Processes that decode ahead of the model; 0 = none.", min=0, show_default="by cores")
    ] = None
    num_shards: Annotated[int, _option("--num-shards", "Machines that share the work, each with its own --output.", min=1)] = 1
    shard: Annotated[int, _option("--shard", "Which of them this is, from 0.", min=0)] = 0
    restart: Annotated[bool, _option("--restart", "Begin anew where a stopped run would be gone on with.")] = False
    engine: Annotated[str, _option("--engine", "What runs the model.", metavar="local|ray")] = "local"
    ray_workers: Annotated[int, _option("--ray-workers", "Models that Ray loads.", min=1)] = 1
    frames: Annotated[int | None, _option("--frames", "Frames to look at of a video.", min=1, show_default="as in training")] = None
    device: Device = None
    dtype: Dtype = None
    quantize: Annotated[str | None, _option("--quantize", "Store the weights in few bits.", metavar="int8|int4")] = None
    batch_size: BatchSize = None
    seed: Seed = None
    json_output: Json = False
    dry_run: DryRun = False
    debug: Debug = False


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb of ``openmplug predict``; see ``with_flags``."""
    app.command(function.__name__)(with_flags(function))
    return function


def with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose parameter ``flags`` became the parameters that ``Flags`` declares.

    Args:
        function: Takes ``flags`` and the words that are its own.
    """
    hints = get_type_hints(Flags, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = []
    for field in fields(Flags):
        default = inspect.Parameter.empty if field.name in ("inputs", "model", "output") else field.default
        shared.append(inspect.Parameter(field.name, keyword, default=default, annotation=hints[field.name]))
    own_hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(kind=keyword, annotation=own_hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "flags"
    ]

    def command(**values: Any) -> None:
        flags = Flags(**{field.name: values.pop(field.name) for field in fields(Flags)})
        function(flags=flags, **values)

    parameters = [*shared[:3], *own, *shared[3:]]
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@verb
def vqa(
    flags: Flags,
    question: Annotated[str | None, typer.Option("--question", "-q", help="Asked of every picture that comes without one.")] = None,
) -> None:
    """Answer a question about each picture."""
    _run("vqa", flags, question)


@verb
def caption(flags: Flags) -> None:
    """Write a caption for each picture."""
    _run("caption", flags)


@verb
def classify(flags: Flags) -> None:
    """Name the class of each picture."""
    _run("classify", flags)


@verb
def ground(
    flags: Flags,
    phrase: Annotated[str | None, typer.Option("--phrase", "-p", help="Found in every picture that comes without one.")] = None,
) -> None:
    """Find what a phrase names in each picture: the box's corners in its pixels."""
    _run("ground", flags, phrase)


@verb
def match(
    flags: Flags,
    text: Annotated[str | None, typer.Option("--text", "-t", help="Matched with every picture that comes without one.")] = None,
) -> None:
    """Say how well a text fits each picture."""
    _run("match", flags, text)


@with_flags
def embed(flags: Flags) -> None:
    """Write the vector of each picture and video, projected and of length 1."""
    _run("embed", flags)


def _run(name: str, flags: Flags, text: str | None = None) -> None:
    from openmplug.inference.bulk import job as jobs
    from openmplug.inference.bulk import run
    from openmplug.inference.bulk.inputs import open_inputs
    from openmplug.inference.bulk.verbs import VERBS

    # Everything that can be wrong with the command is found before the model is loaded.
    limit = None if flags.max_failures is None else jobs.parse_limit(flags.max_failures)
    jobs.check_options(flags.output, flags.on_error, limit, flags.engine)
    inputs = open_inputs(flags.inputs, VERBS[name].words, text, flags.shard, flags.num_shards)
    job = jobs.Job(
        verb=name,
        inputs=inputs,
        model=flags.model,
        output=flags.output,
        device=flags.device,
        dtype=flags.dtype,
        quantize=flags.quantize,
        batch_size=flags.batch_size or 16,
        workers=flags.workers,
        on_error=flags.on_error,
        max_failures=limit,
        restart=flags.restart,
        engine=flags.engine,
        ray_workers=flags.ray_workers,
        frames=flags.frames,
    )
    if flags.dry_run:
        _dry_run(job, flags.json_output)
        return
    if flags.seed is not None:
        import torch

        torch.manual_seed(flags.seed)
    try:
        with screen.Meter("predicting", inputs.total) as meter:

            def report(tally: Tally) -> None:
                if tally.resumed and tally.rows == tally.resumed:
                    meter.say(f"going on after the {tally.resumed:,} rows that an earlier run finished ({job.journal})")
                meter.show(tally.rows, tally.items_per_second, f"{tally.failed:,} unreadable" if tally.failed else "")

            tally = run.predict(job, report)
    except KeyboardInterrupt:
        if job.journal.exists():
            screen.note(f"finished rows are kept in {job.journal}; the same command goes on with them")
        raise
    _finish(job, tally, flags.json_output)


def _dry_run(job: Job, json_output: bool) -> None:
    from openmplug.inference.bulk.job import check_model

    check_model(job)
    total = job.inputs.total
    summary = {"verb": job.verb, "model": str(job.model), "output": str(job.output), "inputs": total, "dry_run": True}
    count = "tar shards" if total is None else f"{total:,} inputs"
    _print(summary, json_output, f"would read {count} and write {job.output}")


def _finish(job: Job, tally: Tally, json_output: bool) -> None:
    summary = {"verb": job.verb, "model": str(job.model), "output": str(job.output), "inputs": tally.rows}
    summary |= {"done": tally.done, "failed": tally.failed, "resumed": tally.resumed}
    summary |= {"seconds": round(tally.seconds, 2), "items_per_second": round(tally.items_per_second, 2)}
    for reason in tally.failures:
        screen.note(f"could not be read: {reason}")
    if tally.failed > len(tally.failures):
        screen.note(f"and {tally.failed - len(tally.failures):,} more (column error)")
    failed = f", {tally.failed:,} could not be read (see column error)" if tally.failed else ""
    speed = f" in {tally.seconds:.1f} s ({screen.rate(tally.items_per_second)})" if tally.seconds else ""
    earlier = f" ({tally.resumed:,} by an earlier run)" if tally.resumed else ""
    _print(summary, json_output, f"{tally.done:,} of {tally.rows:,} inputs done{earlier}{failed}{speed}; results in {job.output}")


def _print(summary: dict[str, Any], json_output: bool, line: str) -> None:
    if json_output:
        screen.document(summary)
    else:
        typer.echo(line)
