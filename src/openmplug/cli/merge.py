"""``openmplug merge``: adapters and their base in, an ordinary model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Json, Output


def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run that was trained with lora.rank, or one of its checkpoints.")],
    output: Output,
    base: Annotated[
        list[Path] | None,
        typer.Option(
            "--base", metavar="DIR", help="Where the weights it started from are now; once for each, in order.", show_default=False
        ),
    ] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Merge adapters into the weights they were learned on.

    DIR is a model like any other then: it needs neither the base nor peft, and answers as the run does.
    """
    from openmplug.engine.merging import merge as run_merge

    result = run_merge(run, output, base or ())
    if json_output:
        screen.document(result)
    else:
        typer.echo(f"merged {result['adapters']} into an ordinary model of {result['parameters']:,} parameters: {output}")
