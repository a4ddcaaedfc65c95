"""From options to a running service, and to its end: sockets, signals, draining."""

from __future__ import annotations

import asyncio
import socket
import time
import warnings
from collections.abc import Callable
from types import FrameType

import uvicorn
from PIL import Image

from openmplug.errors import EnvironmentProblem, UsageError
from openmplug.serving.app import build_app
from openmplug.serving.logs import log
from openmplug.serving.protocol import protocol_options
from openmplug.serving.service import Service

_BACKLOG = 1024
_FAREWELL_SECONDS = 0.5
"""How long newcomers are told that the service ends before its door is shut: they get an answer, not a reset."""


def open_socket(host: str, port: int) -> socket.socket:
    """Open the door, before anything heavy is loaded; who comes now waits.

    Args:
        host: Name or number.
        port: 0 takes any that is free.

    Raises:
        UsageError: If the host is no address of this machine.
        EnvironmentProblem: If the port is taken or may not be used.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise UsageError(f"host '{host}' is not known; expected an address of this machine, such as 127.0.0.1 or 0.0.0.0") from None
    door = socket.socket(family, kind, protocol)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind(place)
    except OSError as error:
        door.close()
        raise EnvironmentProblem(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port") from None
    door.listen(_BACKLOG)
    door.setblocking(False)
    return door


class Server(uvicorn.Server):
    """The HTTP server: a first signal drains, a second one ends at once."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], object]) -> None:
        super().__init__(config)
        self._drain = drain
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. uvicorn's own would raise it again at the end, and the exit code would be the signal's."""
        self._signals += 1
        if self._signals == 1:
            self._drain()
        else:
            self.should_exit = self.force_exit = True


async def serve(service: Service, door: socket.socket, listening: Callable[[str], None]) -> int:
    """Serve until a signal comes.

    Args:
        service: What is served; started and stopped here.
        door: From ``open_socket``.
        listening: Called with the address.

    Returns:
        0 if every accepted request was answered, 1 if some were given up: after ``drain_seconds``, or at a second signal.

    Raises:
        OpenmplugError: If the model cannot be loaded.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # beyond the limit it is an error, below it nothing
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(build_app(service), **protocol_options(service.limits))
    server = Server(config, lambda: loop.call_soon_threadsafe(service.stopping.set))
    service.connections = lambda: len(server.server_state.connections)
    service.start()
    serving = asyncio.ensure_future(server.serve([door]))
    failing, stopping = asyncio.ensure_future(service.failed()), asyncio.ensure_future(service.stopping.wait())
    unanswered = 0
    try:
        host, port = door.getsockname()[:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await asyncio.wait((serving, failing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            unanswered = await _drain(service, server)
        server.should_exit = True
        await serving
    finally:
        for task in (failing, stopping, serving):
            task.cancel()
        await asyncio.gather(failing, stopping, serving, return_exceptions=True)
        await service.stop(at_once=server.force_exit)
    if service.failure is not None:
        raise service.failure
    log("stopped", unanswered=unanswered)
    return 1 if unanswered else 0


async def _drain(service: Service, server: Server) -> int:
    """Accept nothing new and wait for what was accepted, or for a second signal; returns how many requests are given up."""
    service.draining = True
    log("draining", requests=service.in_progress)
    begun = time.monotonic()
    end = begun + service.limits.drain_seconds
    while not server.force_exit and time.monotonic() < end and (service.in_progress or time.monotonic() - begun < _FAREWELL_SECONDS):
        await asyncio.sleep(0.02)
    return service.in_progress
