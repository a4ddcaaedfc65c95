"""A service of the smallest model that does everything, on a port of its own, with its model in a thread in the place of a process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import openmplug
from openmplug.checkpoints.store import save_weights
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.inference.model import Model
from openmplug.serving import worker
from openmplug.serving.keys import Keys
from openmplug.serving.limits import Limits
from openmplug.serving.server import open_socket, serve
from openmplug.serving.service import Service
from tiny_models import tiny_model

WORDS = "what colour is the small red circle ? how many green squares are there in this picture a an left of above".split()


class ThreadProcess:
    """Runs the model process's code in a thread: the same messages through the same pipe, without the seconds a process takes to start."""

    pid = None

    def __init__(self, pipe: Connection, options: Mapping[str, Any]) -> None:
        self._pipe = pipe
        self._thread = threading.Thread(target=self._run, args=(dict(options),), daemon=True)
        self._thread.start()

    def _run(self, options: dict[str, Any]) -> None:
        with self._pipe, suppress(SystemExit):
            worker.run(self._pipe, options)

    @property
    def exitcode(self) -> int | None:
        return None if self.is_alive() else 0

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout or 5)

    def kill(self) -> None:
        """A thread cannot be ended; it ends with its pipe."""


@dataclass
class Running:
    """A service that runs, and a client of it."""

    url: str
    service: Service
    client: httpx.Client
    loop: asyncio.AbstractEventLoop
    result: list[Any]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def post(self, endpoint: str, **more: Any) -> httpx.Response:
        return self.client.post(f"/v1/{endpoint}", **more)

    def stop(self) -> None:
        """What SIGTERM does."""
        self.loop.call_soon_threadsafe(self.service.stopping.set)


@contextmanager
def running(
    folder: Path | str,
    *,
    keys: tuple[str, ...] = (),
    max_batch: int = 32,
    wait: float = 0.005,
    urls: bool = False,
    wait_ready: bool = True,
    index: Path | None = None,
    **limits: Any,
) -> Iterator[Running]:
    """Run a service in a thread while the block runs."""
    door = open_socket("127.0.0.1", 0)
    options = {"model": str(folder), "device": "cpu", "threads": None, "batch_size": max_batch, "index": index}
    started: list[Running] = []
    opened, result = threading.Event(), []

    async def main() -> None:
        service = Service([options], Limits(**limits), Keys(keys), max_batch, wait, 2, urls, ThreadProcess)

        def listening(url: str) -> None:
            client = httpx.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {keys[0]}"} if keys else {})
            started.append(Running(url, service, client, asyncio.get_running_loop(), result))
            opened.set()

        try:
            result.append(await serve(service, door, listening))
        except Exception as error:
            result.append(error)
        finally:
            opened.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert opened.wait(60) and started, result
    one = started[0]
    try:
        while wait_ready and one.client.get("/readyz").status_code != 200:
            assert thread.is_alive(), result
        yield one
    finally:
        if thread.is_alive():
            one.stop()
        thread.join(30)
        one.client.close()
        door.close()
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and every part, trained for nothing in particular."""
    boxes = [f"[unused{number}]" for number in range(339, 677)]
    tokenizer = Tokenizer.from_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS), *boxes])
    network = tiny_model(vocab_size=tokenizer.vocab_size, max_positions=64)
    made = tmp_path_factory.mktemp("served")
    content = {"architecture": "mplug", "model": network.config.model_dump(mode="json"), "modules": list(network.modules_built)}
    settings = {"task": None, "settings": {}, "image": ImageSettings(size=16).model_dump(mode="json")}
    save_weights(made, network.state_dict(), {**content, **settings})
    tokenizer.save(made)
    return made


@pytest.fixture(scope="session")
def model(folder: Path) -> Model:
    """The same model, asked directly."""
    torch.set_num_threads(1)
    return openmplug.load(folder, device="cpu")


@pytest.fixture(scope="session")
def served(folder: Path) -> Iterator[Running]:
    """A service with its defaults, that every test may use and none may change."""
    with running(folder) as one:
        yield one


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Running]]:
    """Run services with other limits, until the test ends."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(folder, **options))


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Eight different pictures, PNG."""
    made = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        made.append(file.getvalue())
    return made


@pytest.fixture(scope="session")
def picture(pictures: list[bytes]) -> bytes:
    return pictures[0]
