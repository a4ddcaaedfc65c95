"""Busy, failing and ending services: what waits, what is told, what comes out whole."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from openmplug.errors import ModelError
from openmplug.inference.model import Model
from openmplug.serving import server, service, worker
from openmplug.serving.work import Piece, Work
from serving.conftest import Running, running, until
from serving.hostile import talk


class Held:
    """The model, which can be told to wait."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.batches = 0

    def attempt(self, model: Model, work: Work, pieces: Sequence[Piece]) -> list[Any]:
        self.batches += 1
        assert self.free.wait(60)
        return real_attempt(model, work, pieces)


real_attempt = worker.attempt
server_class = server.Server


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held()
    monkeypatch.setattr(worker, "attempt", made.attempt)
    yield made
    made.free.set()


def test_a_full_queue_answers_429_and_loses_nothing(run: Callable[..., Running], held: Held, model: Model, pictures: list[bytes]) -> None:
    one = run(queue=2, max_batch=1)
    held.free.clear()
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(one.post, "caption", files={"image": pictures[0]})
        until(lambda: held.batches == 1)
        waiting = []
        for number in (1, 2):
            waiting.append(threads.submit(one.post, "caption", files={"image": pictures[number]}))
            until(lambda number=number: one.service.batcher.depth == number)
        refused = one.post("caption", files={"image": pictures[3]})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert one.client.get("/healthz").status_code == 200
        held.free.set()
        texts = [future.result().json()["text"] for future in (first, *waiting)]
    assert texts == [model.caption(picture).text for picture in pictures[:3]]
    assert one.service.batcher.depth == 0


def test_no_answer_in_time(run: Callable[..., Running], held: Held, model: Model, picture: bytes) -> None:
    one = run(request_seconds=0.3, max_batch=1)
    held.free.clear()
    answers = [one.post("caption", files={"image": picture}) for _ in range(2)]
    for late in answers:
        assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout")
        assert "no answer within 0.3 seconds" in late.json()["error"]["message"]
    assert one.service.batcher.depth == 0, "who gave up waits no more"
    held.free.set()
    until(lambda: bool(one.service.metrics.batch_size.sums))
    assert held.batches == 1, "the second was never worked on"
    until(lambda: one.post("caption", files={"image": picture}).status_code == 200)


def test_a_client_that_hangs_up_frees_its_place(run: Callable[..., Running], held: Held, picture: bytes) -> None:
    one = run(max_batch=1)
    held.free.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(one.post, "caption", files={"image": picture})
        until(lambda: held.batches == 1)
        body = json.dumps({"text": ["a"]}).encode()
        request = b"POST /v1/embed HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        with socket.create_connection(one.address) as gone:
            gone.sendall(request)
            until(lambda: one.service.batcher.depth == 1)
        until(lambda: one.service.batcher.depth == 0)
        held.free.set()
        assert first.result().status_code == 200
    until(lambda: ("embed", "499") in one.service.metrics.requests.values)
    assert held.batches == 1


def test_one_bad_piece_spoils_no_other(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, model: Model, picture: bytes) -> None:
    real = worker.do_work
    sizes = []

    def do_work(model: Model, work: Work, pieces: Sequence[Piece]) -> list[Any]:
        sizes.append(len(pieces))
        if any(piece.text == "how" for piece in pieces):
            raise RuntimeError("the text was: how")
        if any(piece.text == "many" for piece in pieces):
            raise MemoryError("how many")
        return real(model, work, pieces)

    monkeypatch.setattr(worker, "do_work", do_work)
    one = run(wait=0.3)
    texts = ["what", "how", "left", "many"]
    with ThreadPoolExecutor(4) as threads:
        ask = lambda text: one.post("answer", files={"image": picture}, data={"question": text})  # noqa: E731
        what, how, left, many = threads.map(ask, texts)
    assert what.json()["text"] == model.answer(picture, "what").text
    assert left.json()["text"] == model.answer(picture, "left").text
    assert (how.status_code, how.json()["error"]["type"]) == (500, "internal")
    assert "how" not in how.text
    assert (many.status_code, many.json()["error"]["type"]) == (503, "out_of_memory")
    assert max(sizes) > 1


def test_logs_say_what_happened_and_nothing_of_what_was_sent(
    run: Callable[..., Running], caplog: pytest.LogCaptureFixture, picture: bytes
) -> None:
    caplog.set_level(logging.INFO, logger="openmplug.serving")
    one = run()
    one.post("answer", files={"image": ("secret-name.png", picture)}, data={"question": "secret words"}, headers={"x-request-id": "id-7"})
    one.client.get("/secret/path?secret=query", headers={"authorization": "Bearer secret-key"})
    one.post("caption", json={"secret_field": "secret value"})
    until(lambda: sum(record.getMessage() == "request" for record in caplog.records) == 3)  # an answer is out before its line
    lines = [(record.getMessage(), getattr(record, "fields", {})) for record in caplog.records if record.name == "openmplug.serving"]
    assert "secret" not in json.dumps(lines)
    asked = [fields for event, fields in lines if event == "request"]
    assert [(one["endpoint"], one["status"]) for one in asked] == [("answer", 200), ("other", 404), ("caption", 422)]
    assert asked[0]["id"] == "id-7"
    assert asked[0]["batch"] == 1
    assert asked[0]["bytes"] > len(picture)
    assert asked[0]["ms"] > 0


def test_a_process_that_ends_is_started_again(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, picture: bytes) -> None:
    monkeypatch.setattr("openmplug.serving.pool._FIRST_PAUSE_SECONDS", 0.05)
    fatal = threading.Event()

    def attempt(model: Model, work: Work, pieces: Sequence[Piece]) -> list[Any]:
        if fatal.is_set():
            raise SystemExit  # what ends a process in the middle of a batch
        return real_attempt(model, work, pieces)

    monkeypatch.setattr(worker, "attempt", attempt)
    one = run()
    fatal.set()
    lost = one.post("caption", files={"image": picture})
    assert (lost.status_code, lost.json()["error"]["type"], lost.headers["retry-after"]) == (503, "worker_lost", "5")
    fatal.clear()
    until(lambda: one.client.get("/readyz").status_code == 200)
    assert one.post("caption", files={"image": picture}).status_code == 200
    assert one.service.metrics.restarts.values[()] == 1


def test_while_the_model_loads(folder: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    may, real = threading.Event(), worker._load

    def load(options: dict[str, Any]) -> Any:
        assert may.wait(30)
        return real(options)

    monkeypatch.setattr(worker, "_load", load)
    with running(folder, wait_ready=False) as one:
        assert one.client.get("/healthz").status_code == 200
        loading = one.client.get("/readyz")
        assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
        refused = one.post("caption", files={"image": picture})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_ready")
        may.set()
        until(lambda: one.client.get("/readyz").status_code == 200)


def test_a_model_that_cannot_be_loaded_ends_the_service(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    with running(tmp_path / "broken", wait_ready=False) as one:
        until(lambda: bool(one.result))
    assert isinstance(one.result[0], ModelError)
    assert "\n" not in str(one.result[0])


# ------------------------------------------------------------------------------------------------------------------- the end


def test_accepted_requests_are_answered_before_the_end(folder: Path, held: Held, model: Model, pictures: list[bytes]) -> None:
    with running(folder, max_batch=2) as one, ThreadPoolExecutor(6) as threads:
        open_before = socket.create_connection(one.address)
        held.free.clear()
        accepted = [threads.submit(one.post, "caption", files={"image": picture}) for picture in pictures[:5]]
        until(lambda: one.service.in_progress == 5)
        one.stop()
        until(lambda: one.service.draining)
        open_before.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        assert b"503" in open_before.recv(5000)
        assert b'"draining"' in talk(one.address, b"GET /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        time.sleep(0.7)
        assert not one.result, "it waits for what it accepted"
        held.free.set()
        assert [future.result().json()["text"] for future in accepted] == [model.caption(picture).text for picture in pictures[:5]]
        until(lambda: bool(one.result))
        open_before.close()
    assert one.result == [0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(one.address)


def test_a_picture_does_not_wait_behind_videos(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, picture: bytes) -> None:
    free, real = threading.Event(), service.decode_visual

    def decode(field: str, *more: Any) -> Any:
        assert field == "image" or free.wait(30)
        return real(field, *more)

    monkeypatch.setattr(service, "decode_visual", decode)
    one = run()
    with ThreadPoolExecutor(8) as threads:
        films = [threads.submit(one.post, "caption", files={"video": picture}) for _ in range(8)]
        until(lambda: one.service.in_progress == 8)
        assert one.post("caption", files={"image": picture}).status_code == 200
        free.set()
        assert {film.result().status_code for film in films} == {422}


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(folder: Path, tmp_path: Path, picture: bytes) -> None:
    """The whole command in processes of its own, with a request that would keep it for a minute; most of the time is their start."""
    command = [sys.executable, "-m", "openmplug", "serve", "--model", str(folder), "--port", "0", "--batch-wait", "60000", "--drain", "60"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split()[2].rstrip(";")
        with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(1) as threads:
            until(lambda: client.get("/readyz").status_code == 200, 120)
            threads.submit(client.post, "/v1/caption", files={"image": picture})
            until(lambda: "openmplug_queue_depth 1" in httpx.get(f"{url}/metrics").text)
            process.send_signal(signal.SIGTERM)
            until(lambda: '"draining"' in (tmp_path / "log").read_text())
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 1
            assert time.monotonic() - begun < 20
        assert '"unanswered": 1' in (tmp_path / "log").read_text()
    finally:
        process.kill()


def test_force_ends_the_wait(folder: Path, held: Held, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second signal does, without a process: nothing more is waited for, and the result says so."""
    made: list[server.Server] = []
    monkeypatch.setattr(server, "Server", lambda *more: made.append(server_class(*more)) or made[0])
    with running(folder, drain_seconds=60) as one, ThreadPoolExecutor(1) as threads:
        held.free.clear()
        threads.submit(one.post, "caption", files={"image": picture})
        until(lambda: held.batches == 1)
        one.stop()
        until(lambda: one.service.draining)
        time.sleep(0.7)
        assert not one.result, "it waits for what it accepted"
        made[0]._signals = 1
        made[0].handle_exit(signal.SIGTERM, None)
        until(lambda: not made[0].servers or not made[0].servers[0].is_serving())
        time.sleep(0.3)  # the wait looks every 20 ms
        held.free.set()
        until(lambda: bool(one.result))
    assert one.result == [1]


def test_the_end_does_not_wait_for_ever(folder: Path, held: Held, picture: bytes) -> None:
    with running(folder, drain_seconds=0.3) as one, ThreadPoolExecutor(1) as threads:
        held.free.clear()
        threads.submit(one.post, "caption", files={"image": picture})
        until(lambda: held.batches == 1)
        one.stop()
        time.sleep(1.0)
        held.free.set()
        until(lambda: bool(one.result))
    assert one.result == [1]
