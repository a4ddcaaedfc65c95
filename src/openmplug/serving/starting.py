"""From what a person asked for to a service that runs: everything is checked before anything heavy is loaded."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmplug.config import validate
from openmplug.errors import EnvironmentProblem, UsageError
from openmplug.serving.keys import VARIABLE, read_keys
from openmplug.serving.limits import Limits

_LEVELS = ("info", "warning", "error")
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Serving:
    """How to serve.

    Args:
        loading: Options of ``openmplug.load``, and ``index``: the folder of a search index, or None.
        limits: Of ``Limits``, those that differ from its defaults.
        host: Address to listen on.
        port: 0 takes a free one.
        devices: ``auto``, or names separated by commas.
        workers: Model processes on each device.
        threads: Of each model process on a CPU; None divides the cores, less one for everything else.
        batch_size: Pictures that go through the model together.
        batch_wait_ms: How long a first picture waits for others.
        decoders: Threads that decode; None takes one a core.
        api_keys: File of keys.
        allow_urls: Whether files may be given by their address.
        log_level: ``info``, ``warning`` or ``error``.
    """

    loading: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    devices: str = "auto"
    workers: int = 1
    threads: int | None = None
    batch_size: int = 32
    batch_wait_ms: float = 5.0
    decoders: int | None = None
    api_keys: Path | None = None
    allow_urls: bool = False
    log_level: str = "info"


def start(serving: Serving, environment: Mapping[str, str], listening: Callable[[str], None]) -> int:
    """Serve until a signal comes.

    Args:
        serving: How.
        environment: Variables of the process, for API keys.
        listening: Called with the address once it is open.

    Returns:
        The exit code: 0 if every accepted request was answered.

    Raises:
        UsageError: If a setting is wrong.
        EnvironmentProblem: If a part is not installed, the port is taken or a device is missing.
        ModelError: If the model cannot be loaded.
    """
    for module in ("fastapi", "uvicorn", "httptools", "python_multipart"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EnvironmentProblem(f"serving over HTTP needs {module} ({error}); install it: pip install 'openmplug[serve]'") from None
    if serving.log_level not in _LEVELS:
        raise UsageError(f"log level '{serving.log_level}' is unknown; choose from {', '.join(_LEVELS)}")
    limits = validate(Limits, serving.limits, where="limits")
    keys = read_keys(serving.api_keys, environment)
    from openmplug.serving.server import open_socket, serve

    door = open_socket(serving.host, serving.port)
    try:
        options = _options(serving)
        from openmplug.serving.logs import log, start_logging
        from openmplug.serving.service import Service

        start_logging(serving.log_level)
        if serving.host not in _LOCAL and not len(keys):
            log("open_to_everybody", 30, host=serving.host, hint=f"anybody who reaches this address may ask; --api-keys or {VARIABLE}")

        async def run() -> int:
            wait = serving.batch_wait_ms / 1000
            service = Service(options, limits, keys, serving.batch_size, wait, serving.decoders, serving.allow_urls)
            return await serve(service, door, listening)

        return asyncio.run(run())
    finally:
        door.close()


def _options(serving: Serving) -> list[dict[str, Any]]:
    """Return what each model process is started with."""
    from openmplug.device import choose_device, usable_cores

    names = [name.strip() for name in serving.devices.split(",")]
    if not all(names):
        raise UsageError(f"devices '{serving.devices}' has an empty entry; write it as cuda:0,cuda:1")
    places = [str(choose_device(name)) for name in names for _ in range(serving.workers)]
    threads = serving.threads or max(1, (usable_cores() - 1) // len(places))
    return [{**serving.loading, "device": place, "threads": threads, "batch_size": serving.batch_size} for place in places]
