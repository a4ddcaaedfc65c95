"""``openmplug judge``: pictures of a text-to-image model, or a judge's answers about them, in; the benchmark's scores out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, DryRun, Dtype, Json

if TYPE_CHECKING:
    from openmplug.inference.judge.session import JudgeOptions

app = typer.Typer(help="Score text-to-image benchmarks with a question-answering model.", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Score text-to-image benchmarks with a question-answering model."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


Questions = Annotated[Path, typer.Option("--questions", "-q", metavar="FILE", help="The benchmark's questions, as its authors give them.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of generated pictures, the item's id as name.")]
PictureList = Annotated[
    Path | None, typer.Option("--images", metavar="FILE|DIR", help="JSON {id: file}, or a folder of pictures with the ids as names.")
]
Answers = Annotated[Path | None, typer.Option("--answers", metavar="FILE", help="Score these answers instead of asking a model.")]
Judge = Annotated[Path | None, typer.Option("--model", "-m", metavar="DIR", help="Folder of a trained question-answering model.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for report.json and answers.jsonl; a stopped run goes on.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away what a stopped run has left in --output.")]


@app.command("dsg")
def dsg(
    questions: Questions,
    images: Images = None,
    answers: Answers = None,
    model: Judge = None,
    output: Output = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    restart: Restart = False,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Score DSG-1k: yes-or-no questions that depend on each other, 8 categories."""
    from openmplug.inference.judge.dsg import document, judge_dsg

    report, rows = judge_dsg(questions, images, answers, _options(images, model, output, device, dtype, batch_size, restart), dry_run)
    if _told(report, rows, output, json_output):
        return
    if json_output:
        screen.document(document(report))
        return
    for name, categories in report["models"].items():
        lines = [(category, each["items"], *_interval(each, 1)) for category, each in categories.items()]
        screen.table(f"DSG-1k, {name}", ("category", "items", "score", "95 %"), lines, right=("items", "score"))


@app.command("dpg")
def dpg(
    questions: Questions,
    images: Images = None,
    answers: Answers = None,
    model: Judge = None,
    output: Output = None,
    resolution: Annotated[int | None, typer.Option("--resolution", min=1, help="Side of a tile in pixels.", show_default=False)] = None,
    pic_num: Annotated[int, typer.Option("--pic-num", metavar="1|4", help="Tiles in each picture file.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Ask every row, stop at failures, count every tile in the categories.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    restart: Restart = False,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Score DPG-Bench: dense prompts, one picture or a grid of four for each."""
    from openmplug.inference.judge.dpg import judge_dpg

    options = _options(images, model, output, device, dtype, batch_size, restart)
    report, rows = judge_dpg(questions, images, answers, options, resolution, pic_num, strict, dry_run)
    if _told(report, rows, output, json_output):
        return
    if json_output:
        screen.document(report)
        return
    figures = {rule: report[rule] for rule in report["rules"] if "score" in report[rule]}
    lines = [(rule, each["pictures"], *_interval(each, 2)) for rule, each in figures.items()]
    screen.table("DPG-Bench", ("rule", "pictures", "score", "95 %"), lines, right=("pictures", "score"))
    chosen = figures[report["rule"]]
    lines = [
        (category, each["questions"], *_interval(each, 2)) for level in ("level1", "level2") for category, each in chosen[level].items()
    ]
    screen.table(f"By category, {report['rule']} rule", ("category", "questions", "score", "95 %"), lines, right=("questions", "score"))


@app.command("tifa")
def tifa(
    questions: Questions,
    images: PictureList = None,
    answers: Answers = None,
    model: Judge = None,
    output: Output = None,
    choose: Annotated[
        str | None, typer.Option("--choose", metavar="embed|rank", help="How a free answer becomes a choice; embed where it can be had.")
    ] = None,
    embedder: Annotated[
        Path | None, typer.Option("--embedder", metavar="DIR", help="Folder of the sentence encoder all-mpnet-base-v2.", show_default=False)
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    restart: Restart = False,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Score TIFA v1.0: multiple-choice questions about each caption."""
    from openmplug.inference.judge.tifa import judge_tifa

    options = _options(images, model, output, device, dtype, batch_size, restart)
    report, rows = judge_tifa(questions, images, answers, options, choose, embedder, dry_run)
    if _told(report, rows, output, json_output):
        return
    if json_output:
        screen.document(report)
        return
    spread = "" if report["tifa_stdev"] is None else f", standard deviation {report['tifa_stdev']:.4f}"
    way = f"; choices by {report['choose']}" if "choose" in report else ""
    typer.echo(f"TIFA {report['tifa_average']:.4f}{spread}, {report['counts']['items']:,} captions{way}")
    lines = [(kind, each["questions"], *_interval(each, 4)) for kind, each in report["types"].items()]
    screen.table("Accuracy by element type", ("element type", "questions", "accuracy", "95 %"), lines, right=("questions", "accuracy"))


def _options(
    images: Path | None,
    model: Path | None,
    output: Path | None,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    restart: bool,
) -> JudgeOptions | None:
    from openmplug.inference.judge.session import BATCH_SIZE, JudgeOptions

    if images is None or model is None or output is None:
        return None
    return JudgeOptions(model, output, device, dtype, batch_size or BATCH_SIZE, restart, _progress)


def _progress(counts: Iterable[int], total: int) -> Iterator[int]:
    """Pass the sizes of batches on and show how many questions have been asked."""
    with screen.Meter("asking", total) as meter:
        done = first = 0
        began = 0.0
        for count in counts:
            done += count
            if not first:  # what was asked before this run, or a batch with the model's first steps, says nothing about the speed
                first, began = done, time.monotonic()
            meter.show(done, (done - first) / max(time.monotonic() - began, 1e-9))
            yield count


def _told(report: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], output: Path | None, json_output: bool) -> bool:
    """Say what came up; write the report, if it has a place. Return whether that was all, for a dry run."""
    from openmplug.inference.judge.report import write_report

    for note in report.get("notes", ()):
        screen.note(note)
    if report.get("dry_run"):
        if json_output:
            screen.document(report)
        else:
            counts = ", ".join(f"{count:,} {what}" for what, count in report["counts"].items())
            typer.echo(f"would judge {report['benchmark']}: {counts}")
        return True
    if output is not None:
        write_report(output, report, rows)
        screen.note(f"report and answers are in {output}")
    return False


def _interval(figure: Mapping[str, Any], places: int) -> tuple[str, str]:
    interval = "-" if figure["low"] is None else f"{figure['low']:.{places}f} to {figure['high']:.{places}f}"
    return f"{figure['score']:.{places}f}", interval
