"""``openmplug models``: sizes and known weights, and checkpoints of every origin to folders and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, DryRun, Json

if TYPE_CHECKING:
    from openmplug.checkpoints.foreign import Foreign, Options

app = typer.Typer(help="List, show, convert and verify models and their weights.", pretty_exceptions_enable=False)

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Checkpoint file, or folder (ours, ModelScope, DeepSpeed, CLIP, BERT).")]
Fields = Annotated[list[str] | None, typer.Argument(metavar="A=B", help="Sizes that no file tells, such as heads=4 connected_layers=[3].")]
TaskName = Annotated[str | None, typer.Option("--task", help="vqa, caption, retrieval or grounding; else what the file tells.")]
ShownTask = Annotated[str | None, typer.Option("--task", help="Show what this task runs: vqa, video-caption, text-classification, ...")]
Size = Annotated[str | None, typer.Option("--size", help="Named size, for files that do not show theirs (BERT): mplug-base, mplug-large.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", min=1, help="Side of the pictures in pixels; the position grid is resized.")]
Configs = Annotated[list[Path] | None, typer.Option("--config", help="Configuration file (config_bert.json, a YAML); may be repeated.")]
AllowMissing = Annotated[
    list[str] | None, typer.Option("--allow-missing", help="Part or pattern of keys that may be missing and stays random; may be repeated.")
]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", help="Pattern of unknown keys to leave out; may be repeated.")]


def _options(
    fields: Sequence[str] | None,
    task: str | None,
    size: str | None,
    image_size: int | None,
    configs: Sequence[Path] | None,
    allow_missing: Sequence[str] | None,
    ignore: Sequence[str] | None,
) -> Options:
    from openmplug.checkpoints.foreign import Options
    from openmplug.config import apply_overrides, did_you_mean
    from openmplug.errors import UsageError
    from openmplug.models.mplug2 import MPLUG2Config

    architecture = apply_overrides({}, fields or [])
    for name in architecture:
        if name not in MPLUG2Config.model_fields:
            raise UsageError(f"unknown size '{name}'{did_you_mean(name, MPLUG2Config.model_fields)}; see: openmplug models show mplug-base")
    return Options(task, size, image_size, architecture, tuple(configs or ()), tuple(allow_missing or ()), tuple(ignore or ()))


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List, show, convert and verify models and their weights."""
    if context.invoked_subcommand is None:
        list_all()


@app.command("list")
def list_all(json_output: Json = False, debug: Debug = False) -> None:
    """List the named sizes and the released weights that are known."""
    from openmplug.checkpoints.report import WEIGHTS, size_rows

    rows = size_rows()
    if json_output:
        screen.document({"sizes": rows, "weights": [dict(zip(("name", "size", "task", "origin"), one, strict=True)) for one in WEIGHTS]})
        return
    columns = ("name", "million", "pixels", "vision", "text", "universal", "fusion", "decoder")
    screen.table(
        "Sizes: million parameters, pixels, layers x width / patch, layers that fuse (connected ones from 0)",
        [{"million": "10^6", "pixels": "px", "universal": "uni"}.get(name, name) for name in columns],
        [["" if row[name] is None else row[name] for name in columns] for row in rows],
        right=("10^6", "px", "text", "uni", "fusion", "decoder"),
    )
    screen.table(
        "Weights",
        ("name", "task", "origin"),
        [(name, task, origin) for name, _, task, origin in WEIGHTS],
    )
    screen.note(
        "small works wherever a model is asked for (--model small). Bring the others yourself: openmplug models convert FILE --output DIR\n"
        "makes a folder of any of them, and openmplug models show DIR describes it."
    )


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="A named size, a folder of ours, any checkpoint, or small: the shipped one.")
    ],
    fields: Fields = None,
    task: ShownTask = None,
    size: Size = None,
    configs: Configs = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model: its parts with parameters and memory, its sizes, where it came from."""
    from openmplug.checkpoints.report import describe_model

    found = describe_model(name, task, _options(fields, task, size, None, configs, ["*"], ["*"]))
    if json_output:
        screen.document(found)
        return
    about = [
        (key, ", ".join(value) if key == "modules" else value)
        for key, value in found.items()
        if key not in ("parts", "model", "notes") and value is not None
    ]
    screen.table(str(name), ("what", "value"), about)
    columns = ("part", "tensors", "parameters", "MB fp32", "MB bf16")
    screen.table(
        "Parts",
        columns,
        [[part[key] for key in ("part", "tensors", "parameters", "mb_fp32", "mb_bf16")] for part in found["parts"]],
        right=columns[1:],
    )
    screen.table("Sizes", ("field", "value"), list(found["model"].items()))
    for note in found["notes"]:
        screen.note(note)


@app.command("convert")
def convert(
    source: Source,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR|FILE", help="Folder to write; from a folder of ours, a .pth file.")
    ],
    fields: Fields = None,
    task: TaskName = None,
    size: Size = None,
    image_size: ImageSize = None,
    vocab: Annotated[Path | None, typer.Option("--vocab", help="vocab.txt, where it does not lie beside the checkpoint.")] = None,
    configs: Configs = None,
    allow_missing: AllowMissing = None,
    ignore: Ignore = None,
    keep: Annotated[
        str, typer.Option("--keep", metavar="all|unused|none", help="Unused keys to keep: all, all but momentum, none.")
    ] = "all",
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Make a folder of any checkpoint, key by key; or write such a folder back as the original's file."""
    from openmplug.checkpoints.convert import convert as run
    from openmplug.checkpoints.folder import KEEP
    from openmplug.errors import UsageError

    if keep not in KEEP:
        raise UsageError(f"unknown --keep '{keep}'; one of {', '.join(KEEP)}")
    options = _options(fields, task, size, image_size, configs, allow_missing, ignore)
    foreign, report = run(source, output, options, vocab, keep, dry_run)
    if foreign is None:
        summary = {"source": str(source), "output": str(output), **report}
        lines = [] if dry_run else [f"{report['keys']:,} keys written to {output}"]
        if report.get("dropped"):
            lines.append(
                f"not written, they were not kept when the folder was made: {len(report['dropped']):,} keys, such as {report['dropped'][0]}"
            )
    else:
        summary, lines = _summary(foreign, source, output, report)
    if json_output:
        screen.document(summary)
        return
    for line in [*lines, *(["dry run: nothing was written"] if dry_run else [])]:
        typer.echo(line)


def _summary(foreign: Foreign, source: Path, output: Path, report: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    summary = {
        "source": str(source),
        "output": str(output),
        "origin": foreign.origin,
        "task": foreign.task,
        "model": foreign.config.model_dump(mode="json"),
        "modules": list(foreign.modules),
        "mapped": {key: names[0] if len(names) == 1 else names for key, names in foreign.mapped.items()},
        "unused": foreign.unused,
        "new": foreign.new,
        "notes": foreign.notes,
        **{key: value for key, value in report.items() if key not in ("mapped", "unused", "new")},
    }
    reasons: dict[str, int] = {}
    for reason in foreign.unused.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    lines = [
        f"{foreign.origin} checkpoint, {foreign.config.name}, task {foreign.task or 'not said'}, parts: {', '.join(foreign.modules)}",
        f"{len(foreign.mapped):,} keys mapped, {len(foreign.unused):,} unused:",
        *(f"  {count:,}: {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])),
        *(
            [f"{len(foreign.new):,} keys are new and random: {', '.join(foreign.new[:4])}{' …' if len(foreign.new) > 4 else ''}"]
            if foreign.new
            else []
        ),
        *(f"note: {note}" for note in foreign.notes),
        *([f"written to {output} (SHA-256 of the weights {report['sha256'][:16]}…)"] if "sha256" in report else []),
    ]
    return summary, lines


@app.command("verify")
def verify(
    path: Source,
    fields: Fields = None,
    against: Annotated[Path | None, typer.Option("--against", help="The file a folder came from: compared bit for bit.")] = None,
    task: TaskName = None,
    size: Size = None,
    configs: Configs = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Check that every key is accounted for, every shape fits and every value is finite."""
    from openmplug.checkpoints.verify import verify as run

    report = run(path, against, _options(fields, task, size, None, configs, None, None))
    if json_output:
        screen.document(report)
        return
    for key, value in report.items():
        typer.echo(f"{key}: {value}")
    typer.echo("all of it is in order")
