"""``openmplug index``: pictures and videos into an index on disk, and searches of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, Dtype, Json

if TYPE_CHECKING:
    from openmplug.inference.search.building import BuildTally
    from openmplug.inference.search.results import Hit

app = typer.Typer(help="Find pictures and moments of videos by words or by a picture.", pretty_exceptions_enable=False)

_Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index's folder.")]
_Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Pictures, videos, folders of them, JSONL or CSV tables with a column 'image' or 'video', tars."
    ),
]
_TheModel = Annotated[
    Path | None, typer.Option("--model", "-m", metavar="DIR", help="The model that made the index.", show_default="where it was then")
]
_OnError = Annotated[str, typer.Option("--on-error", metavar="error|skip", help="What to do with a file that cannot be read.")]
_Limit = Annotated[
    str, typer.Option("--max-failures", metavar="N", help="With skip: stop when more cannot be read; 10, or 1% of at least 100 files.")
]
_Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode ahead of the model; 0 = none.", show_default="by cores")
]
_Where = Annotated[str | None, typer.Option("--where", "-w", metavar="SQL", help='Only rows that fit, such as "year > 2019".')]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Find pictures and moments of videos by words or by a picture."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def build(
    index: _Folder,
    inputs: _Inputs,
    model: Annotated[Path, typer.Option("--model", "-m", metavar="DIR", help="A model that was trained to match pictures and texts.")],
    segment_seconds: Annotated[
        float | None, typer.Option("--segment-seconds", help="Cut videos into moments of so many seconds.", show_default="5")
    ] = None,
    captions: Annotated[
        bool | None, typer.Option("--captions", help="Let the model write a caption for what comes without one.", show_default=False)
    ] = None,
    on_error: _OnError = "skip",
    max_failures: _Limit = "1%",
    workers: _Workers = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make an index; the same command goes on with one that was stopped."""
    from openmplug.inference.search.index import Index

    limit = _limit(on_error, max_failures)
    options = {"device": device, "dtype": dtype, **({} if batch_size is None else {"batch_size": batch_size})}
    with screen.Meter("indexing", None) as meter:
        made, tally = Index.build(
            index,
            inputs,
            model,
            segment_seconds=segment_seconds,
            captions=captions,
            on_error=on_error,
            max_failures=limit,
            workers=workers,
            report=lambda tally: _show(meter, tally),
            **options,
        )
    _finish(made, tally, json_output)


@app.command()
def add(
    index: _Folder,
    inputs: _Inputs,
    model: _TheModel = None,
    on_error: _OnError = "skip",
    max_failures: _Limit = "1%",
    workers: _Workers = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Add what is new and replace what has changed."""
    limit = _limit(on_error, max_failures)
    opened = _open(index, model, device, dtype, batch_size)
    with screen.Meter("indexing", None) as meter:
        tally = opened.add(inputs, on_error=on_error, max_failures=limit, workers=workers, report=lambda tally: _show(meter, tally))
    _finish(opened, tally, json_output)


@app.command()
def delete(
    index: _Folder,
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", help="Files, or folders with all below them.")] = None,
    where: _Where = None,
    missing: Annotated[bool, typer.Option("--missing", help="Files that are no longer where they were.")] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Take files out of an index; the files themselves stay."""
    from openmplug.inference.search.index import Index

    opened = Index.open_without_model(index)
    count = opened.delete(paths or [], where, missing)
    summary = {"index": str(index), "deleted": count, "rows": len(opened)}
    _print(summary, json_output, f"{_rows(count)} taken out of {index}, which holds {len(opened):,} now")


@app.command()
def search(
    index: _Folder,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What to look for.")] = None,
    image: Annotated[str | None, typer.Option("--image", "-i", metavar="FILE", help="Find what is like this picture or video.")] = None,
    count: Annotated[int, typer.Option("-k", "--count", min=1, help="How many to find.")] = 10,
    where: _Where = None,
    rerank: Annotated[
        int, typer.Option("--rerank", metavar="K", min=0, help="Let the matching head order the K nearest; their files are read again.")
    ] = 0,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the thumbnails.")] = None,
    model: _TheModel = None,
    device: Device = None,
    dtype: Dtype = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Find pictures and moments by words, or by a picture."""
    from openmplug.errors import UsageError

    if (text is None) == (image is None):
        raise UsageError("give either words to look for, or --image FILE")
    opened = _open(index, model, device, dtype, None)
    hits = opened.search(text if text is not None else Path(str(image)), count, where, rerank)
    for hit in hits:
        if hit.problem is not None:
            screen.note(f"not ranked again: {hit.problem}")
    if html is not None:
        from openmplug.cli.index_page import write_page

        write_page(html, text or f"like {image}", where, hits)
        screen.note(f"page with thumbnails: {html}")
    if json_output:
        screen.document({"query": text, "image": image, "where": where, "rerank": rerank, "hits": [hit.to_dict() for hit in hits]})
    elif hits:
        _table(hits)
    else:
        typer.echo("nothing found" + (f" where {where}" if where else ": the index is empty"))


@app.command()
def info(index: _Folder, json_output: Json = False, debug: Debug = False) -> None:
    """Say what an index holds and which model made it."""
    from dataclasses import asdict

    from openmplug.inference.search.index import Index

    found = Index.open_without_model(index).info()
    if json_output:
        screen.document(asdict(found))
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in found.columns.items())
    kind = f"{found.vector_index}, {found.unindexed:,} rows not in it yet" if found.vector_index else "none: every row is compared"
    rows = [
        ("files", f"{found.files:,}"),
        ("pictures", f"{found.pictures:,}"),
        ("moments of videos", f"{found.moments:,}, of {found.segment_seconds:g} s"),
        ("captions", f"{found.captions:,}"),
        ("columns to filter by", columns or "none but the index's own"),
        ("root", found.root),
        ("model", f"{found.model}, weights {found.model_hash[:12]}"),
        ("vectors", f"of {found.vector_size}"),
        ("vector index", kind),
        ("on disk", f"{found.size_bytes / 1e6:,.1f} MB" if found.size_bytes >= 1e6 else f"{found.size_bytes / 1e3:,.0f} kB"),
    ]
    screen.table(str(index), ["what", "value"], rows)


def _open(index: Path, model: Path | None, device: str | None, dtype: str | None, batch_size: int | None) -> Any:
    from openmplug.inference.search.index import Index

    return Index.open(index, model, device=device, dtype=dtype, **({} if batch_size is None else {"batch_size": batch_size}))


def _limit(on_error: str, max_failures: str) -> int | float | None:
    from openmplug.errors import UsageError
    from openmplug.inference.bulk.job import parse_limit

    if on_error not in ("error", "skip"):
        raise UsageError(f"unknown on-error policy '{on_error}'; one of error, skip")
    return parse_limit(max_failures) if on_error == "skip" else None


def _show(meter: screen.Meter, tally: BuildTally) -> None:
    remarks = [f"of {tally.total:,}"] if tally.total is not None else []
    remarks += [f"{tally.resumed:,} there before"] * bool(tally.resumed) + [f"{tally.failed:,} unreadable"] * bool(tally.failed)
    meter.show(tally.rows, tally.items_per_second, ", ".join(remarks))


def _finish(index: Any, tally: BuildTally, json_output: bool) -> None:
    for reason in tally.failures:
        screen.note(f"could not be read: {reason}")
    if tally.failed > len(tally.failures):
        screen.note(f"and {tally.failed - len(tally.failures):,} more")
    for name, count in tally.misfits.items():
        kind = index.info().columns[name]
        screen.note(f"column {name}: {count:,} values are no {kind} and were left empty")
    summary = {"index": str(index.path), "added": tally.added, "replaced": tally.replaced, "unchanged": tally.resumed}
    summary |= {"failed": tally.failed, "repeated": tally.repeated, "rows_added": tally.rows_added, "rows": len(index)}
    summary |= {"seconds": round(tally.seconds, 2), "files_per_second": round(tally.items_per_second, 2)}
    parts = [f"{tally.added:,} files added"]
    parts += [f"{tally.replaced:,} of them changed"] * bool(tally.replaced)
    parts += [f"{tally.resumed:,} were there"] * bool(tally.resumed)
    parts += [f"{tally.repeated:,} named twice"] * bool(tally.repeated)
    parts += [f"{tally.failed:,} could not be read"] * bool(tally.failed)
    _print(summary, json_output, f"{', '.join(parts)}; {index.path} holds {_rows(len(index))}")


def _rows(count: int) -> str:
    return f"{count:,} picture or moment" if count == 1 else f"{count:,} pictures and moments"


def _table(hits: list[Hit]) -> None:
    rows = [(number, f"{hit.score:.3f}", hit.name, when(hit)) for number, hit in enumerate(hits, 1)]
    screen.table("", ["#", "score", "path", "time"], rows, right=["#", "score"])


def when(hit: Hit) -> str:
    """Return a moment's times as a person reads them: ``1:05-1:10``; nothing of a picture."""
    if hit.start_seconds is None or hit.end_seconds is None:
        return ""
    return f"{_clock(hit.start_seconds)}-{_clock(hit.end_seconds)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    whole = f"{rest:04.1f}".removesuffix(".0") if rest % 1 else f"{int(rest):02d}"
    return f"{hours}:{minutes:02d}:{whole}" if hours else f"{minutes}:{whole}"


def _print(summary: dict[str, Any], json_output: bool, line: str) -> None:
    if json_output:
        screen.document(summary)
    else:
        typer.echo(line)
