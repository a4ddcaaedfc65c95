"""``openmplug results``: keep what was measured, and make the page of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, DryRun, Json

app = typer.Typer(help="Keep measured results and make a page of them.", pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder of the kept results.")]
KEPT = Path("docs/results")


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Keep measured results and make a page of them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("add")
def add(
    evaluation: Annotated[Path, typer.Argument(metavar="DIR", help="What openmplug evaluate wrote, such as runs/easy_vqa/dev.")],
    folder: Folder = KEPT,
    control: Annotated[
        list[str] | None, typer.Option("--control", metavar="NAME=DIR", help="An evaluation that should score lower; may be repeated.")
    ] = None,
    retrained: Annotated[
        list[str] | None,
        typer.Option("--retrained", metavar="NAME=DIR", help="A control that is a model of its own, trained with less in sight."),
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe, where the evaluation does not name it.")] = None,
    section: Annotated[str | None, typer.Option("--section", help="Of the page; an earlier result of the recipe has one already.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Which score; by default the one the recipe names.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Of training; by default the run's log says.")] = None,
    json_output: Json = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Keep an evaluation as one small file; an earlier result of its recipe is replaced."""
    from openmplug.engine.adding import measure, parse_controls
    from openmplug.engine.results import write_measured

    others = parse_controls(retrained or [])
    path, result = measure(evaluation, folder, parse_controls(control or []), recipe, section, metric, minutes, others)
    if not dry_run:
        write_measured(path, result)
    if json_output:
        screen.document({"file": str(path), "dry_run": dry_run, **result.model_dump(mode="json")})
        return
    controls = "".join(f", {one.name} {one.value:.4g}" for one in result.controls)
    screen.note(f"{'would keep' if dry_run else 'kept'} {result.recipe}: {result.metric} {result.value:.4g}{controls} in {path}")
    screen.note(f"now make the page: openmplug results page {folder} --output {folder}.md")


@app.command("page")
def page(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results (JSON) and sections (Markdown).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The Markdown page.")],
    index: Annotated[
        Path | None, typer.Option("--index", metavar="FILE", help="Write the newest result of each recipe there too, as JSON.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a file is not what would be written.")] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make the page of results."""
    from openmplug.checkpoints.atomic import write_atomic
    from openmplug.engine.results import read_results, summary_text
    from openmplug.engine.results_page import render
    from openmplug.errors import DataError

    texts = {output: render(folder)}
    measured = read_results(folder)[0]
    if index is not None:
        texts[index] = summary_text(list(measured.values()))
    if check:
        old = [str(path) for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
        if old:
            raise DataError(f"{', '.join(old)} differs from what {folder} says; the same command without --check writes it")
    else:
        for path, text in texts.items():
            write_atomic(path, text)
    if json_output:
        screen.document({"results": len(measured), "files": [str(path) for path in texts], "check": check})
        return
    screen.note(f"{len(measured)} results: {', '.join(map(str, texts))} {'agree' if check else 'written'}")
