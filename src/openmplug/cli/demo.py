"""``openmplug demo``: models in a browser, for people who write no Python."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from openmplug.cli import screen
from openmplug.cli.options import BatchSize, Debug, Device, Dtype


def demo(
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", metavar="DIR", help="A model; give it again for more, and to compare.", show_default="the small one"),
    ] = None,
    index: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="An index to search (openmplug index build).")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets other devices in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port.", show_default="first free from 7860 on")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    debug: Debug = False,
) -> None:
    """Open a page in the browser: ask, caption, find, match, search, compare."""
    from openmplug.serving.page.running import page_open, require_gradio

    require_gradio()
    from openmplug.serving.page.shelf import fill

    screen.note("Loading the models.")
    shelf = fill(model or [], device, dtype, batch_size)
    archive = None
    if index is not None:
        from openmplug.serving.page.archive import open_index

        archive = open_index(index, shelf, device, dtype)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with page_open(shelf, archive, host, port) as address:
        typer.echo(f"Open in a browser: {address}")
        screen.note("Ctrl-C closes the page.")
        if open_browser:
            typer.launch(address)
        over.wait()
    screen.note("The page is closed; what was uploaded is deleted.")
