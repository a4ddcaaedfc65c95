"""A process that holds one copy of the model and works on batches that come through a pipe.

The pipe carries one message per batch and, after it, the raw pixels of each picture: nothing is pickled that is large. When the other
end closes, however that came about, the process ends: none is left behind.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from openmplug.errors import DataError, OpenmplugError, UsageError
from openmplug.serving.work import About, Piece, Served, Visual, Work, describe, do_work


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no result: ``usage`` and ``data`` are the client's doing, ``memory`` and ``internal`` are not.

    ``trace`` says where in the code, without any of the words that were worked on.
    """

    kind: str
    message: str
    trace: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfit:
    """The model could not be loaded: the class of the error and its line."""

    kind: str
    message: str


def send_batch(pipe: Connection, work: Work, pieces: Sequence[Piece]) -> None:
    """Send a batch; a picture that several pieces are about is sent once."""
    visuals: dict[int, Visual] = {}
    for piece in pieces:
        if piece.visual is not None:
            visuals.setdefault(id(piece.visual), piece.visual)
    places = {identity: place for place, identity in enumerate(visuals)}
    listed = [(None if piece.visual is None else places[id(piece.visual)], piece.text) for piece in pieces]
    pipe.send((work, listed, [(visual.pixels.shape, visual.placement) for visual in visuals.values()]))
    for visual in visuals.values():
        pipe.send_bytes(np.ascontiguousarray(visual.pixels).data.cast("B"))


def receive_batch(pipe: Connection) -> tuple[Work, list[Piece]] | None:
    """Receive what ``send_batch`` sent; None means the end."""
    message = pipe.recv()
    if message is None:
        return None
    work, listed, shapes = message
    visuals = []
    for shape, placement in shapes:
        pixels = np.empty(shape, np.float32)
        pipe.recv_bytes_into(pixels.data.cast("B"))
        visuals.append(Visual(pixels, placement))
    return work, [Piece(None if place is None else visuals[place], text) for place, text in listed]


def attempt(served: Served, work: Work, pieces: Sequence[Piece]) -> list[Any]:
    """Work on a batch; where it fails, on each piece alone, so that one cannot spoil the others' answers.

    Returns:
        A result or ``Failed`` per piece.
    """
    try:
        return do_work(served, work, pieces)
    except Exception as error:
        failed = _failed(error)
    if len(pieces) == 1:
        return [failed]
    return [attempt(served, work, [piece])[0] for piece in pieces]


def _failed(error: Exception) -> Failed:
    if isinstance(error, UsageError):
        return Failed("usage", str(error))
    if isinstance(error, DataError):
        return Failed("data", str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Failed("memory", "out of memory")
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    where = tuple(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)
    return Failed("internal", type(error).__name__, where)


def run(pipe: Connection, options: Mapping[str, Any]) -> None:
    """Load the model, say ``About`` or ``Unfit``, and work until the end; what the process runs.

    Args:
        pipe: To the service.
        options: Of ``openmplug.load``, and ``threads`` of a CPU.
    """
    # A signal to the whole group is the service's business: it lets us finish and closes the pipe.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    try:
        about, served = _load(dict(options))
    except OpenmplugError as error:
        pipe.send(Unfit(type(error).__name__, str(error)))
        return
    except Exception as error:
        pipe.send(Unfit("ModelError", f"the model could not be loaded: {type(error).__name__}: {' '.join(str(error).split())}"))
        return
    try:
        pipe.send(about)
        while (received := receive_batch(pipe)) is not None:
            begun = time.perf_counter()
            results = attempt(served, *received)
            pipe.send((results, time.perf_counter() - begun))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the service is gone


def _load(options: dict[str, Any]) -> tuple[About, Served]:
    import torch

    from openmplug.inference.loading import load

    threads, folder = options.pop("threads"), options.pop("index", None)
    if threads is not None:
        torch.set_num_threads(threads)
    model, index = load(**options), None
    if folder is not None:
        from openmplug.inference.search.index import Index

        index = Index.open(folder, model)
    served = Served(model, index)
    about = describe(served)
    _warm(served, about)
    return about, served


def _warm(served: Served, about: About) -> None:
    """Work once on a blank picture: what a device prepares at first use is not at the expense of the first request."""
    endpoint = next((one for one in ("caption", "answer", "match", "ground") if one not in about.refused), None)
    if endpoint is None:
        return
    from PIL import Image

    picture = Image.new("RGB", (32, 32))
    pixels, placement = about.boxes.place(picture) if endpoint == "ground" and about.boxes is not None else (about.visuals(picture), None)
    do_work(served, Work(endpoint), [Piece(Visual(pixels.numpy(), placement), "a")])
