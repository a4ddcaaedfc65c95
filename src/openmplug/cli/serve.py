"""``openmplug serve``: the model behind HTTP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Dtype, Model


def _option(name: str, help: str, **more: Any) -> Any:
    return typer.Option(name, help=help, **more)


def serve(
    model: Model,
    host: Annotated[str, _option("--host", "Address to listen on; 0.0.0.0 = all of this machine.")] = "127.0.0.1",
    port: Annotated[int, _option("--port", "0 takes a free one.", min=0, max=65535)] = 8000,
    index: Annotated[Path | None, _option("--index", "Search index of this model, for /v1/search.", metavar="DIR")] = None,
    task: Annotated[str | None, _option("--task", "Use the model for this, whatever it was trained for.", metavar="NAME")] = None,
    devices: Annotated[str, _option("--devices", "auto, cpu, cuda:0, or several: cuda:0,cuda:1.", metavar="LIST")] = "auto",
    workers: Annotated[int, _option("--workers", "Model processes on each device.", min=1)] = 1,
    threads: Annotated[
        int | None, _option("--threads", "CPU threads of a model process.", min=1, show_default="cores but one, shared")
    ] = None,
    dtype: Dtype = None,
    quantize: Annotated[str | None, _option("--quantize", "Store the weights in few bits.", metavar="int8|int4")] = None,
    frames: Annotated[int | None, _option("--frames", "Frames to look at of a video.", min=1, show_default="as in training")] = None,
    batch_size: Annotated[int, _option("--batch-size", "Pictures that go through the model together.", min=1)] = 32,
    batch_wait: Annotated[float, _option("--batch-wait", "Milliseconds a first picture waits for others.", min=0)] = 5.0,
    decoders: Annotated[
        int | None,
        _option("--decoders", "Threads that decode pictures; half as many more decode videos.", min=1, show_default="one a core"),
    ] = None,
    api_keys: Annotated[Path | None, _option("--api-keys", "File with one key a line; or set OPENMPLUG_API_KEYS.", metavar="FILE")] = None,
    allow_urls: Annotated[bool, _option("--allow-urls", "Take files by their address, from the public internet only.")] = False,
    max_body: Annotated[float, _option("--max-body", "MiB of one request.", min=0.001)] = 32,
    max_uploads: Annotated[float, _option("--max-uploads", "MiB of all requests being received.", min=0.001)] = 256,
    max_pixels: Annotated[int, _option("--max-pixels", "Width x height of a picture or frame.", min=1)] = 50_000_000,
    max_seconds: Annotated[float, _option("--max-seconds", "Longest video.", min=0.001)] = 600,
    max_frames: Annotated[int, _option("--max-frames", "Most frames of a video.", min=1)] = 36_000,
    max_text: Annotated[int, _option("--max-text", "Characters of a text.", min=1)] = 4_000,
    max_texts: Annotated[int, _option("--max-texts", "Texts of a request.", min=1)] = 64,
    max_tokens: Annotated[int, _option("--max-tokens", "Largest max_length of a request.", min=1)] = 64,
    max_beams: Annotated[int, _option("--max-beams", "Largest num_beams of a request.", min=1)] = 10,
    queue: Annotated[int, _option("--queue", "Pictures that may wait; beyond it, 429.", min=1)] = 256,
    timeout: Annotated[float, _option("--timeout", "Seconds to an answer; beyond it, 504.", min=0.001)] = 30,
    header_timeout: Annotated[float, _option("--header-timeout", "Seconds for a request's headers.", min=0.001)] = 10,
    body_timeout: Annotated[float, _option("--body-timeout", "Seconds for a request's body.", min=0.001)] = 60,
    max_connections: Annotated[int, _option("--max-connections", "Open at once.", min=1)] = 1_000,
    drain: Annotated[float, _option("--drain", "Seconds for accepted requests after SIGTERM.", min=0.001)] = 60,
    log_level: Annotated[str, _option("--log-level", "Of the JSON lines on stdout.", metavar="info|warning|error")] = "info",
    debug: Debug = False,
) -> None:
    """Answer over HTTP: requests of many clients in one batch, limits, keys, metrics. The page of all paths: /docs."""
    from openmplug.serving.starting import Serving, start

    limits = {
        "body_bytes": int(max_body * 2**20),
        "upload_bytes": int(max_uploads * 2**20),
        "pixels": max_pixels,
        "video_seconds": max_seconds,
        "video_frames": max_frames,
        "text_characters": max_text,
        "texts": max_texts,
        "new_tokens": max_tokens,
        "beams": max_beams,
        "queue": queue,
        "request_seconds": timeout,
        "header_seconds": header_timeout,
        "body_seconds": body_timeout,
        "silence_seconds": min(header_timeout, body_timeout),
        "connections": max_connections,
        "drain_seconds": drain,
    }
    loading = {"model": str(model), "task": task, "dtype": dtype, "quantize": quantize, "frames": frames}
    serving = Serving(
        loading={**loading, "index": None if index is None else str(index)},
        limits=limits,
        host=host,
        port=port,
        devices=devices,
        workers=workers,
        threads=threads,
        batch_size=batch_size,
        batch_wait_ms=batch_wait,
        decoders=decoders,
        api_keys=api_keys,
        allow_urls=allow_urls,
        log_level=log_level,
    )
    code = start(serving, os.environ, lambda url: screen.note(f"listening on {url}; /docs shows every path, Ctrl-C ends it"))
    if code:
        # Somebody was given up. A thread may still decode for them, and Python would wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
