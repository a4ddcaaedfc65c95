"""The service beside LitServe: the same model, the same requests, in turns; and what each does where it is treated badly.

    pip install --target DIR --no-deps litserve
    PYTHONPATH=DIR python benchmarks/serving_litserve.py [--model DIR] [--clients 64] [--seconds 60] [--json FILE]

1. Throughput, p50 and p99 of ``--clients`` clients that ask questions about pictures; batches of up to ``--batch-size`` in both.
2. Probes: processor time while nobody asks; a body of a gigabyte that is only announced; requests whose clients hang up at once; more
   requests than the queue is to hold (16); SIGTERM under load, and what runs on after it; processes for a second endpoint.

LitServe reads the request in its HTTP process and decodes the picture in the model's; ours decodes beside the model. Both get one model
process of ``--threads`` threads. The clients share the machine with both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from serving_load import Ask, Outcome, load, single

from serving import QUESTIONS, ServiceProcess, ask_form, make_model, make_pictures, shown

QUEUE = 16
GIGABYTE = 2**30


class LitServeProcess:
    """``litserve_service.py`` in a process of its own."""

    def __init__(self, model: Path, port: int, batch_size: int, threads: int, endpoints: Sequence[str] = ("answer",)) -> None:
        script = Path(__file__).with_name("litserve_service.py")
        numbers = [str(port), str(model), str(batch_size), str(threads)]
        command = [sys.executable, str(script), *numbers, *(f"/v1/{endpoint}" for endpoint in endpoints)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.address = "127.0.0.1", port

    async def ready(self, ask: Ask) -> None:
        """Wait until it answers."""
        while True:
            with suppress(OSError, AssertionError, asyncio.IncompleteReadError):
                await single(self.address, [ask])
                return
            if self.process.poll() is not None:
                raise SystemExit("LitServe did not start; is litserve on PYTHONPATH?")
            await asyncio.sleep(0.3)


def below(pid: int) -> list[int]:
    """Return a process and all that it started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()


def running(pids: Sequence[int]) -> list[int]:
    """Return those that still run."""
    found = []
    for pid in pids:
        with suppress(OSError):
            found += [pid] if _stat(pid)[0] != "Z" else []
    return found


def processor_seconds(pids: Sequence[int]) -> float:
    """Return the processor time that processes have used."""
    return sum(sum(map(int, _stat(pid)[11:13])) for pid in running(pids)) / os.sysconf("SC_CLK_TCK")


async def idle(pid: int, seconds: float = 5.0) -> float:
    """Return the share of a core that is used while nobody asks."""
    pids = below(pid)
    before = processor_seconds(pids)
    await asyncio.sleep(seconds)
    return round((processor_seconds(pids) - before) / seconds, 3)


async def announced(address: tuple[str, int]) -> str:
    """Announce a gigabyte, send nothing of it, and say what comes within five seconds."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"POST /v1/answer HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {GIGABYTE}\r\n\r\n".encode())
    try:
        first = await asyncio.wait_for(reader.readline(), 5)
        return first.split()[1].decode() if first else "closed"
    except asyncio.TimeoutError:
        return "nothing: it waits for the body"
    finally:
        writer.close()


async def hang_up(address: tuple[str, int], ask: Ask, count: int = 64) -> None:
    """Send requests and hang up a quarter of a second later, as clients do that lost patience."""
    data = ask.sendable("gone")
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection(*address)
        writer.write(data)
        await writer.drain()
        writers.append(writer)
    await asyncio.sleep(0.25)
    for writer in writers:
        writer.close()


async def end_under_load(process: subprocess.Popen[Any], address: tuple[str, int], asks: Sequence[Ask], clients: int) -> dict[str, Any]:
    """Send SIGTERM under load; ``unanswered`` were sent whole and got nothing."""
    pids = below(process.pid)
    sending = asyncio.ensure_future(load(address, asks, clients, 6, "end"))
    await asyncio.sleep(2)
    process.send_signal(signal.SIGTERM)
    try:
        outcome = await asyncio.wait_for(sending, 60)
    except asyncio.TimeoutError:  # somebody still waits for an answer that never comes
        outcome = None
    with suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, 20)
    await asyncio.sleep(2)
    left = running(pids)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    said = "clients hung for a minute" if outcome is None else {**shown(outcome), "mixed": None}
    return {"exit_code": process.poll(), "processes": len(pids), "left_running": len(left), "clients": said}


def kept(outcome: Outcome) -> dict[str, Any]:
    """Return of a load what both services can be held to; LitServe sends no id back."""
    return {name: value for name, value in shown(outcome).items() if name not in ("mixed", "doubled")}


async def measure(model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Run all parts."""
    pictures = make_pictures(16)
    asks = [ask_form("/v1/answer", picture, question=question) for picture in pictures for question in QUESTIONS]
    options = ["--batch-size", str(given.batch_size), "--threads", str(given.threads), "--timeout", "600", "--drain", "600"]
    ours = ServiceProcess(model, *options)
    theirs = LitServeProcess(model, given.port, given.batch_size, given.threads)
    numbers: dict[str, Any] = {"clients": given.clients, "batch_size": given.batch_size, "cores": os.cpu_count()}
    try:
        await theirs.ready(asks[0])
        expected = await single(ours.address, asks)
        asks = [Ask(ask.path, ask.content_type, ask.body, answer) for ask, answer in zip(asks, expected, strict=True)]
        both = {"openmplug": ours, "litserve": theirs}
        outcomes = {name: Outcome() for name in both}
        for turn in range(given.rounds):
            for name, service in both.items():
                await load(service.address, asks, given.clients, 1.0, f"warm-{turn}")
                outcomes[name].add(await load(service.address, asks, given.clients, given.seconds / given.rounds, f"{turn}"))
        numbers["load"] = {name: kept(outcome) for name, outcome in outcomes.items()}
        numbers["ratio"] = round(outcomes["openmplug"].per_second / outcomes["litserve"].per_second, 2)
        print(json.dumps(numbers, indent=1))
        for name, service in both.items():
            probed: dict[str, Any] = {"idle_share_of_a_core": await idle(service.process.pid)}
            probed["a gigabyte announced"] = await announced(service.address)
            before = await served(service, asks[0])
            await hang_up(service.address, asks[0])
            await asyncio.sleep(given.settle)
            probed["worked on for clients that left, of 64"] = await served(service, asks[0]) - before - 1
            probed["sigterm"] = await end_under_load(service.process, service.address, asks, given.clients)
            numbers.setdefault("probes", {})[name] = probed
            print(json.dumps({name: probed}, indent=1))
        numbers["overload"] = await overload(model, given, asks)
        print(json.dumps(numbers["overload"], indent=1))
    finally:
        for process in (ours.process, theirs.process):
            for pid in running(below(process.pid)) if process.poll() is None else ():
                os.kill(pid, signal.SIGKILL)
    return numbers


async def served(service: ServiceProcess | LitServeProcess, ask: Ask) -> int:
    """Ask once more and return how many the model has worked on, this one included."""
    if isinstance(service, ServiceProcess):
        await single(service.address, [ask])
        return int(service.metric("openmplug_batch_size_sum"))
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(ask.sendable("count").replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n"))
    answer = await reader.read()
    writer.close()
    return int(json.loads(answer.partition(b"\r\n\r\n")[2])["served"])


async def overload(model: Path, given: argparse.Namespace, asks: Sequence[Ask]) -> dict[str, Any]:
    """Send more than a queue of 16 holds; and count the processes that two endpoints take."""
    options = ["--batch-size", "8", "--threads", str(given.threads), "--queue", str(QUEUE), "--timeout", "600"]
    ours = ServiceProcess(model, *options)
    theirs = LitServeProcess(model, given.port + 1, 8, given.threads, ("answer", "caption"))
    found: dict[str, Any] = {}
    try:
        await theirs.ready(asks[0])
        for name, service in (("openmplug, six endpoints", ours), ("litserve, two endpoints", theirs)):
            outcome = await load(service.address, asks, given.clients, 5, "over")
            found[name] = {**kept(outcome), "processes": len(below(service.process.pid))}
    finally:
        for process in (ours.process, theirs.process):
            for pid in running(below(process.pid)):
                os.kill(pid, signal.SIGKILL)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The service beside LitServe.")
    parser.add_argument("--model", type=Path, help="folder of a model that answers questions; default: tiny, random weights")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load for each of the two services")
    parser.add_argument("--rounds", type=int, default=3, help="turns that the two services take")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settle", type=float, default=5.0, help="seconds after clients have left, before it is counted who was served")
    parser.add_argument("--port", type=int, default=8099, help="of LitServe, which takes no free one")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        numbers = asyncio.run(measure(given.model or make_model(Path(folder)), given))
    if given.json is not None:
        given.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
