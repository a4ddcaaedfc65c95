"""The service under load, on loopback: batches against one at a time, memory, hostile clients, SIGTERM; all in one run.

    python benchmarks/serving.py [--model DIR] [--clients 64] [--seconds 60] [--requests 10000] [--json FILE]

1. Each distinct request is sent alone: the answers that all others must equal.
2. ``--clients`` clients send without pause, in turn to a service with batches and to one with batches of 1 (each ``--rounds`` times a
   share of ``--seconds``): throughput, p50, p99, sizes of batches; every request has its own answer, none is lost, doubled or different.
3. The same load beside clients that hang, send a gigabyte, bombs, headers of ten hours, broken forms, wrong keys.
4. ``--requests`` requests: the memory of the service's processes over them.
5. SIGTERM under load: what was accepted is answered, and the service ends with 0; what got nothing back stands nowhere in its log.

Without --model a model of the size ``mplug-tiny`` with random weights is served; it never stops writing early, so every answer takes the
longest time. The clients share the machine with the service: on few cores that lowers both sides' throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from serving_load import Ask, Outcome, load, single

KEY = "benchmark-key-of-the-service"
QUESTIONS = ("what colour is the cup ?", "what is left of the cup ?", "is the cup red ?", "a picture of what ?")


def make_model(folder: Path) -> Path:
    """Save a model of the tiny size with random weights."""
    import torch

    from openmplug.checkpoints.store import save_weights
    from openmplug.data.tokenizer import Tokenizer
    from openmplug.data.transforms import ImageSettings
    from openmplug.models.families import build_network, named_config

    torch.manual_seed(0)
    words = "what colour is the red cup ? a picture of left".split()
    tokenizer = Tokenizer.from_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *(f"[unused{n}]" for n in range(339, 677))])
    network = build_network(named_config("mplug-tiny", vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # so that pictures and words make a difference
    content = {"architecture": "mplug", "model": network.config.model_dump(mode="json"), "modules": list(network.modules_built)}
    settings = {"task": None, "settings": {}, "image": ImageSettings(size=network.config.image_size).model_dump(mode="json")}
    save_weights(folder, network.state_dict(), {**content, **settings})
    tokenizer.save(folder)
    return folder


def make_pictures(count: int) -> list[bytes]:
    """Make JPEGs of smooth noise, 320 x 240."""
    made, rng = [], np.random.default_rng(0)
    for _ in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        noise.save(file, "JPEG", quality=85)
        made.append(file.getvalue())
    return made


def ask_form(path: str, picture: bytes, **fields: Any) -> Ask:
    """Make a request of a form with a picture."""
    parts = [f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    file = b'--X\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + picture + b"\r\n--X--\r\n"
    return Ask(path, "multipart/form-data; boundary=X", b"".join(parts) + file)


class ServiceProcess:
    """``openmplug serve`` in a process of its own."""

    def __init__(self, model: Path, *options: str) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        command = [sys.executable, "-m", "openmplug", "serve", "--model", str(model), "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        if found is None:
            raise SystemExit(line + self.process.stderr.read())
        self.address = found[1], int(found[2])
        while True:
            with suppress(OSError):
                self.get("/readyz")
                break
            if self.process.poll() is not None:
                raise SystemExit(self.process.stderr.read())
            time.sleep(0.2)

    def get(self, path: str) -> str:
        """Ask for a path."""
        request = urllib.request.Request(f"http://{self.address[0]}:{self.address[1]}{path}", headers={"x-api-key": KEY})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def metric(self, pattern: str) -> float:
        """Add up the values of all metrics whose line begins so."""
        return sum(float(line.rpartition(" ")[2]) for line in self.get("/metrics").splitlines() if re.match(pattern, line))

    def resident_mib(self) -> tuple[float, float]:
        """Return the memory of the HTTP process and of the model processes, in MiB."""
        return self.metric("process_resident_memory_bytes") / 2**20, self.metric("openmplug_workers_resident_bytes") / 2**20

    def log_lines(self) -> list[dict[str, Any]]:
        """Return what the service has logged."""
        self.log.seek(0)
        return [json.loads(line) for line in self.log.read().splitlines()]

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def load_hostile() -> ModuleType:
    """Load what hostile clients send; the tests send the same."""
    place = Path(__file__).resolve().parents[1] / "tests" / "serving" / "hostile.py"
    spec = importlib.util.spec_from_file_location("hostile", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_video() -> bytes:
    """Make a short mp4; empty where PyAV is not installed."""
    try:
        import av
    except ImportError:
        return b""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


async def hostile_clients(address: tuple[str, int], seconds: float) -> dict[str, int]:
    """Do everything a client should not, over and over; returns how often each kind was answered with which status (0: not at all)."""
    hostile = load_hostile()
    video = make_video()
    asks = {
        "bomb": ask_form("/v1/answer", hostile.bomb(), question="what ?"),
        "broken form": Ask("/v1/answer", "multipart/form-data; boundary=X", b"--X\r\nbroken"),
        "wrong base64": Ask("/v1/answer", "application/json", b'{"image": "!!!", "question": "what ?"}'),
    }
    if video:
        form = ask_form("/v1/caption", hostile.longer(video))
        asks["10 hours"] = Ask(form.path, form.content_type, form.body.replace(b'name="image"', b'name="video"'))
    lines = {
        name: ask.sendable("hostile").replace(b"X-Request-ID", f"X-API-Key: {KEY}\r\nX-Request-ID".encode()) for name, ask in asks.items()
    }
    lines["wrong key"] = ask_form("/v1/answer", make_pictures(1)[0], question="what ?").sendable("hostile")
    head = f"POST /v1/answer HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n".encode()
    lines["1 GB declared"] = head + b"Content-Length: 1073741824\r\n\r\n" + b"x" * 1_000_000
    lines["1 GB in chunks"] = head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 40
    lines["hangs in the headers"] = b"POST /v1/answer HTTP/1.1\r\nHost:"
    lines["hangs in the body"] = head + b"Content-Length: 1000\r\n\r\n{"
    lines["hangs"] = b""
    counts: dict[str, int] = {}
    end = time.perf_counter() + seconds

    async def one(name: str, data: bytes) -> None:
        while time.perf_counter() < end:
            status = "0"
            with suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(*address)
                with suppress(OSError):
                    writer.write(data)
                    await asyncio.wait_for(writer.drain(), 5)
                first = await asyncio.wait_for(reader.readline(), 15)
                status = first.split()[1].decode() if first else "0"
                writer.close()
            counts[f"{name} -> {status}"] = counts.get(f"{name} -> {status}", 0) + 1
            await asyncio.sleep(0.05)

    await asyncio.gather(*(one(name, data) for name, data in lines.items()))
    return dict(sorted(counts.items()))


def shown(outcome: Outcome) -> dict[str, Any]:
    """Return what is kept of a load."""
    numbers = {
        "sent": outcome.sent,
        "answered": outcome.ok,
        "per_second": round(outcome.per_second, 2),
        "seconds": round(outcome.duration, 1),
    }
    times = {"p50_ms": round(1000 * outcome.percentile(0.5), 1), "p99_ms": round(1000 * outcome.percentile(0.99), 1)}
    faults = {"unanswered": outcome.unanswered, "wrong": outcome.wrong, "mixed": outcome.mixed, "closed": outcome.closed}
    doubled = len(outcome.answered) - len(set(outcome.answered))
    return {**numbers, **times, **faults, "doubled": doubled, "statuses": dict(sorted(outcome.statuses.items()))}


def with_key(asks: Sequence[Ask]) -> list[Ask]:
    """Let requests carry the key."""
    return [Ask(ask.path, f"{ask.content_type}\r\nX-API-Key: {KEY}", ask.body, ask.expected) for ask in asks]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The service under load.")
    parser.add_argument("--model", type=Path, help="folder of a model that answers questions; default: tiny, random weights")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load for each of the two services")
    parser.add_argument("--rounds", type=int, default=3, help="turns that the two services take")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000, help="of the memory part; 0 leaves it out")
    parser.add_argument("--hostile-seconds", type=float, default=15.0, help="0 leaves it out")
    parser.add_argument("--option", action="append", default=[], help="of both services, such as --option=--threads=2")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    given = parser.parse_args(arguments)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ["OPENMPLUG_API_KEYS"] = KEY
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or make_model(Path(folder))
        numbers = asyncio.run(measure(model, given))
    if given.json is not None:
        given.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    faults = numbers["faults"]
    print(f"faults: {', '.join(faults) or 'none'}")
    return 1 if faults else 0


async def measure(model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Run all parts; ``faults`` of the result names what must not be."""
    pictures = make_pictures(16)
    asks = with_key([ask_form("/v1/answer", picture, question=question) for picture in pictures for question in QUESTIONS])
    # On a slow machine a request one at a time waits for all the others: no time limit is to end it.
    common = ["--header-timeout", "3", "--body-timeout", "5", "--timeout", "600", "--drain", "600", *given.option]
    batched = ServiceProcess(model, "--batch-size", str(given.batch_size), *common)
    alone = ServiceProcess(model, "--batch-size", "1", *common)
    numbers: dict[str, Any] = {"clients": given.clients, "batch_size": given.batch_size, "cores": os.cpu_count()}
    faults: list[str] = []
    try:
        expected = await single(batched.address, asks)
        asks = [Ask(ask.path, ask.content_type, ask.body, answer) for ask, answer in zip(asks, expected, strict=True)]
        print(f"{len(asks)} distinct requests, {len(set(expected))} distinct answers")
        before = {service: service.metric(r'openmplug_requests_total\{endpoint="answer"') for service in (batched, alone)}
        outcomes = {batched: Outcome(), alone: Outcome()}
        for turn in range(given.rounds):
            for service, outcome in outcomes.items():
                outcome.add(await load(service.address, asks, given.clients, given.seconds / given.rounds, f"{turn}-{id(service)}"))
        for name, service in (("batched", batched), ("one at a time", alone)):
            outcome = outcomes[service]
            counted = service.metric(r'openmplug_requests_total\{endpoint="answer"') - before[service]
            mean = service.metric(r"openmplug_batch_size_sum") / service.metric(r"openmplug_batch_size_count")
            numbers[name] = {**shown(outcome), "counted_by_service": counted, "mean_batch": round(mean, 1)}
            print(f"{name}: {json.dumps(numbers[name])}")
            faults += find_faults(name, outcome)
            if counted != outcome.sent:
                faults.append(f"{name}: the service counted {counted:.0f} of {outcome.sent} requests")
        numbers["ratio"] = round(outcomes[batched].per_second / outcomes[alone].per_second, 2)
        print(f"batches of up to {given.batch_size} against one at a time: {numbers['ratio']} times the throughput (goal: 3)")
        alone.stop()
        if given.hostile_seconds:
            seconds = given.hostile_seconds
            outcome, tried = await asyncio.gather(
                load(batched.address, asks, given.clients, seconds, "beside"), hostile_clients(batched.address, seconds)
            )
            numbers["beside_hostile"] = {**shown(outcome), "hostile": tried}
            print(f"beside hostile clients: {json.dumps(numbers['beside_hostile'])}")
            faults += find_faults("beside hostile clients", outcome)
        if given.requests:
            numbers["memory"] = await measure_memory(batched, pictures, given, faults)
        numbers["sigterm"] = await measure_end(batched, asks, given.clients, faults)
    finally:
        for service in (batched, alone):
            if service.process.poll() is None:
                service.stop()
    return {**numbers, "faults": faults}


def find_faults(name: str, outcome: Outcome) -> list[str]:
    """Name what must not be: all answers are 200, each the request's own, each once."""
    found = {key: value for key, value in shown(outcome).items() if key in ("unanswered", "wrong", "mixed", "closed", "doubled") and value}
    others = {status: count for status, count in outcome.statuses.items() if status != 200}
    return [f"{name}: {what}" for what in (found, others) if what]


async def measure_memory(service: ServiceProcess, pictures: Sequence[bytes], given: argparse.Namespace, faults: list[str]) -> Any:
    """Send many quick requests of all kinds and look at the memory after each tenth."""
    kinds = [
        *(ask_form("/v1/answer", picture, question=QUESTIONS[0], num_beams=1, max_length=1, min_length=1) for picture in pictures),
        *(ask_form("/v1/embed", picture) for picture in pictures),
        *(ask_form("/v1/match", picture, text="a red cup") for picture in pictures),
    ]
    rows = []
    for tenth in range(10):
        outcome = await load(service.address, with_key(kinds), given.clients, None, f"memory-{tenth}", given.requests // 10)
        faults += find_faults("memory", outcome)
        rows.append(tuple(round(one, 1) for one in service.resident_mib()))
        print(f"memory after {(tenth + 1) * (given.requests // 10):,} requests: HTTP {rows[-1][0]} MiB, model {rows[-1][1]} MiB")
    growth = [round(rows[-1][place] - rows[1][place], 1) for place in (0, 1)]
    print(f"growth over the last eight tenths: HTTP {growth[0]} MiB, model {growth[1]} MiB")
    if max(growth) > 0.1 * max(rows[1]):
        faults.append(f"memory: grew by {growth} MiB")
    return {"resident_mib": rows, "growth_mib": growth}


async def measure_end(service: ServiceProcess, asks: Sequence[Ask], clients: int, faults: list[str]) -> Any:
    """Send SIGTERM under load and compare what the service says it answered with what arrived."""
    logged = sum(1 for line in service.log_lines() if line["event"] == "request" and line["status"] == 200)
    running = asyncio.ensure_future(load(service.address, asks, clients, 30, "end"))
    await asyncio.sleep(3)
    begun = time.perf_counter()
    service.process.send_signal(signal.SIGTERM)
    outcome = await running
    code = await asyncio.to_thread(service.process.wait, 120)
    seconds = time.perf_counter() - begun
    lines = [line for line in service.log_lines() if line["event"] == "request"]
    answered = sum(line["status"] == 200 for line in lines) - logged
    # A request stands in the log once its headers were read, whatever became of it: what got nothing back must never have come so far.
    begun_and_lost = len({line["id"] for line in lines} & set(outcome.lost))
    by_log = {"answered_by_log": answered, "unanswered_in_log": begun_and_lost}
    result = {**shown(outcome), **by_log, "exit_code": code, "seconds_to_end": round(seconds, 1)}
    print(f"SIGTERM: {json.dumps(result)}")
    if code != 0 or answered != outcome.ok or begun_and_lost or outcome.wrong or outcome.mixed or set(outcome.statuses) - {200, 503}:
        counts = f"{answered} answered by the log, {outcome.ok} arrived, {begun_and_lost} begun and lost"
        faults.append(f"SIGTERM: exit code {code}, {counts}, {dict(outcome.statuses)}")
    return result


if __name__ == "__main__":
    raise SystemExit(main())
