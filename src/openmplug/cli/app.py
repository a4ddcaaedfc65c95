"""The ``openmplug`` command: its verbs, and what happens when one of them fails.

Nothing at the top of any module in this folder imports torch: ``openmplug --help`` answers in well under half a second.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from openmplug import __version__
from openmplug.cli import (
    bench,
    data,
    demo,
    evaluate,
    explain,
    export,
    index,
    info,
    judge,
    merge,
    models,
    predict,
    quickstart,
    recipes,
    results,
    screen,
    serve,
    train,
)
from openmplug.errors import OpenmplugError

# typer brings its own copy of click since 0.26 and used the installed one before; this is the right class in both.
_ClickException: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def error_line(error: BaseException) -> tuple[str, int]:
    """Return the one line a user sees for an error, and the exit code of its kind."""
    if isinstance(error, OpenmplugError):
        return str(error), error.exit_code
    if isinstance(error, _ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "openmplug"
        message = str(error.format_message())  # type: ignore[attr-defined]
        return f"{message if message.endswith(('.', '?')) else message + '.'} See: {command} --help", 2
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return f"out of memory ({error}); a smaller --batch-size or --dtype bf16 helps", 5
    if isinstance(error, OSError) and error.strerror:
        name = f" '{error.filename}'" if error.filename else ""
        return f"cannot use{name}: {error.strerror}", 5
    return f"{type(error).__name__}: {error}; this is a bug; --debug shows the trace", 1


class Commands(TyperGroup):
    """The group of all verbs: every error ends here, as one line on stderr and the exit code of its kind."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> NoReturn:
        """Run the command line and exit."""
        given = list(sys.argv[1:] if args is None else args)
        more["standalone_mode"] = False
        try:
            code = super().main(given, *rest, **more)
        except KeyboardInterrupt:
            screen.error("interrupted")
            sys.exit(130)
        except Exception as error:
            if "--debug" in given:
                traceback.print_exc()
            message, code = error_line(error)
            if not getattr(error, "told", False):
                screen.error(message)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen verb; an interruption is reported here, before typer makes an error of its own of it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            screen.error("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="openmplug",
    cls=Commands,
    help="Train, evaluate and use mPLUG: questions answered, captions written, pictures and texts matched.",
    epilog="Start here: openmplug quickstart --output DIR",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # plain help: importing rich for it would double the time of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openmplug {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Train, evaluate and use mPLUG: questions answered, captions written, pictures and texts matched."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("info")(info.show)
app.add_typer(models.app, name="models")
app.add_typer(recipes.app, name="recipes")
app.add_typer(results.app, name="results")
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("merge")(merge.merge)
app.command("export")(export.export)
app.add_typer(predict.app, name="predict")
app.command("explain")(explain.explain)
app.add_typer(judge.app, name="judge")
app.command("demo")(demo.demo)
app.command("embed")(predict.embed)
app.add_typer(index.app, name="index")
app.command("quickstart")(quickstart.quickstart)
app.command("bench")(bench.bench)
app.command("serve")(serve.serve)


def main() -> None:
    """Run the command line; the console script's entry point."""
    # Read once, when torch starts its threads: waiting threads sleep instead of spinning. On a machine that does anything else a
    # training step is then several times faster (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
