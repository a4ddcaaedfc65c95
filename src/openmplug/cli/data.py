"""``openmplug data``: look a data set over, pack it into shards, or make the small one that is built in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, DryRun, Json, Output, Overrides, Recipe

if TYPE_CHECKING:
    from openmplug.data.checking import FileReport, SplitReport
    from openmplug.data.shard_checking import ShardReport

app = typer.Typer(help="Check a data set, pack it into shards, or make the built-in one.", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Check a data set, pack it into shards, or make the built-in one."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("check")
def check(
    recipe: Recipe,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all", help="Open every picture and video, not only the first 64 of each split.")] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Say of each file of a recipe's data set whether it is found, missing or wrong, with counts against the official ones.

    Rows, file references, pictures and videos are looked at too.
    """
    from dataclasses import replace

    from openmplug.data.checking import FileReport, SplitReport, check_files, check_split
    from openmplug.data.official import find_benchmark
    from openmplug.data.shard_checking import check_shards
    from openmplug.data.shard_places import find_shards
    from openmplug.data.splits import parts_of, read_split
    from openmplug.engine.recipe import load_recipe
    from openmplug.errors import DataError
    from openmplug.tasks import find_task

    config = load_recipe(recipe, overrides or [])
    settings, learns_targets = config.data, find_task(config.task).learns_targets
    root = settings.root.expanduser() if settings.root is not None else None
    if (root is not None and not root.is_dir()) or (root is None and not settings.sources):
        read_split(settings, settings.evaluate)  # says what is wrong with data.root
    benchmark = find_benchmark(settings.reader, str((config.paper or {}).get("benchmark", "")))
    reports: list[SplitReport] = []
    files: list[FileReport] = []
    shards: dict[str, list[ShardReport]] = {}
    found: SplitReport | DataError
    for name, own, part in parts_of(settings):
        official = benchmark if own is settings else find_benchmark(own.reader, "")
        try:
            if own.reader == "shards":
                read = find_shards(own.root, [part])
                found, shards[name] = check_shards(name, read, own.columns, every, own.limit)
            else:
                split = replace(read_split(own, part), name=name)
                found = check_split(split, None if every else 64, learns_targets=learns_targets)
        except DataError as error:
            found = error
        reports += [found] if isinstance(found, SplitReport) else []
        place = (own.root or Path()).expanduser()
        files += check_files(place, part, official, found, whole=own.limit is None)
    problems = [f"split '{file.split}': {file.reason or f'{file.name} is missing'}" for file in files if file.state != "found"]
    problems += [f"split '{report.name}': {problem}" for report in reports for problem in report.problems() if report.kind not in problem]
    source = benchmark.source if benchmark is not None else None
    if json_output:
        splits = [_as_dict(report, shards.get(report.name)) for report in reports]
        rows = [{field: getattr(file, field) for field in FileReport.__dataclass_fields__} for file in files]
        screen.document({"ok": not problems, "problems": problems, "official": source, "files": rows, "splits": splits})
    else:
        _show(files, reports, str(settings.root or "the sources"), source)
        _show_shards(shards)
    if problems:
        raise DataError("; ".join(problems))
    if not json_output:
        screen.note("no problem found")


def _show(files: Sequence[FileReport], reports: Sequence[SplitReport], root: str, source: str | None) -> None:
    """Print what was found, file by file and split by split."""

    def number(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    rows = [(file.name, file.split, file.state, number(file.count), " or ".join(map(number, file.official)) or "-") for file in files]
    screen.table(f"Files in {root}", ("file", "split", "state", "count", "official"), rows, right=("count", "official"))
    if reports:
        columns = ("split", "records", reports[0].kind, "missing", "opened", "unreadable", "unused")
        counts = [
            (report.name, report.records, report.pictures, len(report.missing), report.opened, len(report.unreadable), report.unused)
            for report in reports
        ]
        screen.table("Splits that can be read", columns, counts, right=columns[1:])
    for report in reports:
        kind = "video" if report.first.clip else "image"
        words = f", text {report.first.text!r}" if report.first.text else ""
        screen.note(f"first record of '{report.name}': {kind} {report.first.image!r}{words}, targets {list(report.first.targets)[:3]!r}")
    if source is not None:
        screen.note(f"official numbers: {source}")


def _show_shards(shards: Mapping[str, Sequence[ShardReport]], most: int = 12) -> None:
    """Print what was found in the shards that have something wrong, the worst first."""
    bad = [(name, one) for name, several in shards.items() for one in several if one.bad]
    bad.sort(key=lambda each: -each[1].bad)
    rows = [
        (
            f"{name}: {one.name.rpartition('/')[2]}",
            f"{one.looked_at:,} of {one.records:,}",
            one.bad,
            ", ".join(f"{count:,} {fault}" for fault, count in one.faults.most_common()),
        )
        for name, one in bad[:most]
    ]
    if rows:
        screen.table("Shards with bad samples", ("shard", "looked at", "bad", "what"), rows, right=("looked at", "bad"))
    if len(bad) > most:
        screen.note(f"{len(bad) - most:,} more shards have some; --json lists all")


def _as_dict(report: SplitReport, shards: Sequence[ShardReport] | None = None) -> dict[str, Any]:
    of_shards = [
        {"shard": one.name, "records": one.records, "looked_at": one.looked_at, "opened": one.opened, "bad": dict(one.faults)}
        for one in shards or ()
    ]
    return {
        **({"shards": of_shards} if shards is not None else {}),
        "name": report.name,
        "records": report.records,
        "pictures": report.pictures,
        "images": report.where,
        "missing": report.missing,
        "opened": report.opened,
        "unreadable": [{"image": failure.name, "reason": failure.reason} for failure in report.unreadable],
        "unused": report.unused,
        "records_without_target": report.silent,
    }


@app.command("shard")
def shard(
    reader: Annotated[
        str, typer.Option("--reader", help="Format of the data set: jsonl (JSONL or CSV), folder_captions, coco_captions, sbu, ...")
    ],
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="Folder of the data set.")],
    output: Output,
    split: Annotated[str, typer.Option("--split", help="Which part of it.")] = "train",
    per_shard: Annotated[int, typer.Option("--samples-per-shard", min=1, help="Records for each shard.")] = 10_000,
    resize: Annotated[
        int | None, typer.Option("--resize", min=16, help="Shorter side of larger pictures, px.", show_default="keep the bytes")
    ] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=95, help="Of the JPEG that a resized picture becomes.")] = 95,
    column: Annotated[list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="A column of another name (jsonl).")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that read and verify; 0 = none.", show_default="by cores")
    ] = None,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Pack captions of pictures or videos, or texts, into tar shards; run again after a stop, it goes on.

    Shards have WebDataset's form, in img2dataset's layout. Records that cannot be read are left out, reported and counted.
    """
    import time

    from openmplug.data.packing import CHUNK
    from openmplug.data.sharding import ShardSettings, write_shards
    from openmplug.data.splits import DataSettings, read_split
    from openmplug.data.workers import choose_workers
    from openmplug.errors import UsageError

    if wrong := [each for each in column or [] if "=" not in each]:
        raise UsageError(f"--column {wrong[0]}: expected ROLE=NAME, such as caption=text")
    columns = {role: name or None for role, _, name in (each.partition("=") for each in column or [])}
    found = read_split(DataSettings(reader=reader, root=root, columns=columns), split)
    count = len(found.samples)
    shards = -(-count // per_shard)
    if dry_run:
        if json_output:
            screen.document({"dry_run": True, "output": str(output), "records": count, "shards": shards})
        else:
            typer.echo(f"would pack {count:,} records of {found.images.description} into {shards:,} shards in {output}")
        return
    began = time.monotonic()
    with screen.Meter("shard", count) as meter:

        def advance(done: int, left_out: int) -> None:
            meter.show(done, done / max(time.monotonic() - began, 1e-9), f"{left_out:,} left out" if left_out else "")

        processes = choose_workers(count, CHUNK) if workers is None else workers
        made = write_shards(found, output, ShardSettings(per_shard, resize, quality), f"{reader} {split}", advance, processes)
    if json_output:
        left_out = [{"id": failure.id, "image": failure.name, "reason": failure.reason} for failure in made.left_out]
        facts = {"shards": made.shards, "kept": made.kept, "samples": made.samples, "bytes": made.size, "left_out": left_out}
        screen.document({"output": str(output), **facts})
        return
    kept = f", {made.kept:,} of them from before" if made.kept else ""
    typer.echo(f"{made.samples:,} samples in {made.shards:,} shards, {made.size / 1e6:,.1f} MB{kept}: {output}")
    for failure in made.left_out[:3]:
        screen.note(f"left out '{failure.id}': {failure.reason}")
    if made.left_out:
        screen.note(f"{len(made.left_out):,} of {count:,} records left out; all are listed in {output}/*.left_out.jsonl")
    source = f"{{web: {{reader: shards, root: {output}, train: [.]}}}}"
    screen.note(f"to train on them: openmplug train RECIPE 'data.sources={source}'")


make = typer.Typer(help="Make a built-in data set.", pretty_exceptions_enable=False)
app.add_typer(make, name="make")


@make.callback(invoke_without_command=True)
def made(context: typer.Context) -> None:
    """Make a built-in data set."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@make.command("shapes")
def shapes(
    output: Output,
    train_images: Annotated[int, typer.Option("--train-images", min=1, help="Pictures to train on.")] = 3000,
    dev_images: Annotated[int, typer.Option("--dev-images", min=1, help="Pictures of unseen compositions to evaluate on.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds make equal data.")] = 0,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw coloured shapes, with questions, captions, boxes and statements about them; one folder per task."""
    if dry_run:
        _plan(output, {"train_images": train_images, "dev_images": dev_images, "seed": seed}, json_output)
        return
    from openmplug.data.shapes import write_shapes

    counts = write_shapes(output, train_images, dev_images, seed)
    _report(output, "Shapes", counts, seed, f"vqa/shapes_mplug_tiny data.root={output / 'vqa'} --output runs/shapes", json_output)


@make.command("moving")
def moving(
    output: Output,
    train_clips: Annotated[int, typer.Option("--train-clips", min=1, help="Clips to train on.")] = 6000,
    dev_clips: Annotated[int, typer.Option("--dev-clips", min=1, help="Clips of unseen compositions to evaluate on.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds make equal data.")] = 0,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw short clips of moving shapes, with questions and captions about them; one folder per task."""
    if dry_run:
        _plan(output, {"train_clips": train_clips, "dev_clips": dev_clips, "seed": seed}, json_output)
        return
    from openmplug.data.moving import write_moving

    counts = write_moving(output, train_clips, dev_clips, seed)
    run = f"caption/moving_mplug2_tiny data.root={output / 'caption'} tokenizer.vocab={output / 'vocab.txt'} --output runs/moving"
    _report(output, "Moving shapes", counts, seed, run, json_output)


@make.command("nlvr1")
def nlvr1(
    output: Output,
    train_scenes: Annotated[int, typer.Option("--train-scenes", min=1, help="Scenes to train on, six drawings each.")] = 4000,
    dev_scenes: Annotated[int, typer.Option("--dev-scenes", min=1, help="Other scenes to evaluate on.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds make equal data.")] = 0,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw scenes in NLVR's format, two by two nearly the same, with statements that are true of one and false of the other."""
    if dry_run:
        _plan(output, {"train_scenes": train_scenes, "dev_scenes": dev_scenes, "seed": seed}, json_output)
        return
    from openmplug.data.nlvr1_drawn import write_nlvr1

    counts = write_nlvr1(output, train_scenes, dev_scenes, seed)
    _report(
        output,
        "Drawings like NLVR's",
        counts,
        seed,
        f"classification/nlvr1_things_mplug_tiny data.root={output} --output runs/nlvr1_things",
        json_output,
    )


def _plan(output: Path, settings: dict[str, int], json_output: bool) -> None:
    """Say what would be made; the first two settings are numbers of things to draw."""
    if json_output:
        screen.document({"dry_run": True, "output": str(output), **settings})
        return
    (train, number), (_, dev) = list(settings.items())[:2]
    what = train.removeprefix("train_").replace("images", "pictures")
    typer.echo(f"would draw {number:,} + {dev:,} {what} into {output}")


def _report(output: Path, what: str, counts: dict[str, int], seed: int, run: str, json_output: bool) -> None:
    """Say what was made, and a run that learns from it."""
    if json_output:
        screen.document({"output": str(output), "seed": seed, "records": counts})
        return
    screen.table(f"{what} in {output}", ("task/split", "records"), list(counts.items()), right=("records",))
    screen.note(f"to train on it: openmplug train {run}")
