"""The service without HTTP: takes a checked request, decodes, queues, waits, and gives back plain values."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from openmplug.device import usable_cores
from openmplug.errors import DataError, OpenmplugError, UsageError
from openmplug.serving.batching import Batcher, Job, QueueFull
from openmplug.serving.bodies import Held, Uploads
from openmplug.serving.decoding import decode_visual
from openmplug.serving.fetching import Fetcher
from openmplug.serving.keys import Keys
from openmplug.serving.limits import Limits
from openmplug.serving.logs import log
from openmplug.serving.metrics import Metrics, resident_bytes
from openmplug.serving.pool import END_SECONDS, Launch, ModelProcess, launch_process
from openmplug.serving.questions import Question
from openmplug.serving.refusals import Refusal, internal, of_error, worker_lost
from openmplug.serving.work import About, Piece, Visual, Work
from openmplug.serving.worker import Failed

T = TypeVar("T")

_FETCHERS = 8
_STUCK = 4  # a batch that takes so many times the time of a request ends its process
_STOP_SECONDS = 10.0  # for the batch that a process works on when the service ends

LONGEST_STOP_SECONDS = _STOP_SECONDS + END_SECONDS
"""The longest that ``Service.stop`` takes."""


class Service:
    """One model behind one queue, for every endpoint.

    Everything runs in the event loop, but ``on_...``, which the threads of the processes call.

    Args:
        options: For each model process what ``worker.run`` takes; as many processes are started.
        limits: What requests may ask for.
        keys: Who may ask.
        max_batch: Pictures that go through the model together.
        max_wait_seconds: How long a first picture waits for others.
        decoders: Threads that decode pictures; videos have half as many of their own, so that no picture waits behind one.
        allow_urls: Whether files may be given by their address.
        launch: Starts a model process.

    Attributes:
        about: The model, once a process has loaded it.
        draining: No new request is accepted.
        stopping: Set when the service shall end.
        in_progress: Requests between their headers and the end of their answers.
        failure: Why no process can work, where the first attempt failed.
        connections: How many are open; whoever holds them says how to count.
    """

    def __init__(
        self,
        options: Sequence[Mapping[str, Any]],
        limits: Limits,
        keys: Keys,
        max_batch: int = 32,
        max_wait_seconds: float = 0.005,
        decoders: int | None = None,
        allow_urls: bool = False,
        launch: Launch = launch_process,
    ) -> None:
        self.limits = limits
        self.keys = keys
        self.about: About | None = None
        self.draining = False
        self.in_progress = 0
        self.failure: OpenmplugError | None = None
        self.connections: Callable[[], int] = lambda: 0
        self.uploads = Uploads(limits.upload_bytes)
        self.batcher = Batcher(limits.queue, max_batch, max_wait_seconds)
        stuck = max(60.0, _STUCK * limits.request_seconds)
        self.processes = [ModelProcess(number, each, self.batcher, self, stuck, launch) for number, each in enumerate(options)]
        self.stopping = asyncio.Event()
        self._ready: set[int] = set()
        self._ended = asyncio.Event()
        self._fetcher = Fetcher(limits.body_bytes, limits.request_seconds) if allow_urls else None
        threads = decoders or usable_cores()
        self._decoding = ThreadPoolExecutor(threads, "decode")
        self._filming = ThreadPoolExecutor(max(1, threads // 2), "film")
        self._fetching = ThreadPoolExecutor(_FETCHERS, "fetch")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.metrics = Metrics(
            (
                ("openmplug_queue_depth", "Pictures that wait for the model, a video counting as its frames.", lambda: self.batcher.depth),
                ("openmplug_requests_in_progress", "Requests being served.", lambda: self.in_progress),
                ("openmplug_connections", "Open connections.", lambda: self.connections()),
                ("openmplug_upload_bytes", "Bytes of bodies held in memory.", lambda: self.uploads.held),
                ("openmplug_workers_ready", "Model processes that can work.", lambda: self.workers),
                ("openmplug_workers_resident_bytes", "Memory of the model processes.", self._worker_bytes),
            )
        )

    # --------------------------------------------------------------------------------------------------------------- life

    @property
    def workers(self) -> int:
        """How many model processes can work."""
        return sum(1 for number in self._ready if self.processes[number].alive)

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return bool(self.workers) and not self.draining

    def start(self) -> None:
        """Start the model processes; they load in the background."""
        self._loop = asyncio.get_running_loop()
        for process in self.processes:
            process.start()

    async def failed(self) -> None:
        """Wait until it is clear that no process can load the model; ``failure`` says why."""
        await self._ended.wait()

    async def stop(self, at_once: bool = False) -> None:
        """End the model processes and the threads; who still waits for an answer gets none.

        Args:
            at_once: Let no process finish the batch it works on.
        """
        for job in self.batcher.abandon():
            _reply(job, Failed("lost", "the service ends"))
        self.batcher.close()
        await asyncio.gather(*(asyncio.to_thread(process.stop, 0.0 if at_once else _STOP_SECONDS) for process in self.processes))
        for pool in (self._decoding, self._filming, self._fetching):
            pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------------ requests

    def check(self, endpoint: str) -> About:
        """Refuse a request before any of its body is read, where that is certain already.

        Raises:
            Refusal: 503 if no model is loaded, 404 if it cannot do what the endpoint needs, 429 if the queue is full.
        """
        if self.about is None or not self.workers:
            raise Refusal(503, "not_ready", "the model is being loaded; try again in a moment", retry_after=2)
        if endpoint in self.about.refused:
            raise Refusal(404, "not_served", self.about.refused[endpoint])
        if self.batcher.depth >= self.limits.queue:
            raise self._full(QueueFull(self.batcher.depth, self.batcher.retry_after()))
        return self.about

    async def answer(self, question: Question, held: Held, gone: Awaitable[Any], noted: dict[str, Any]) -> list[Any]:
        """Answer a question.

        Args:
            question: What is asked.
            held: The room its body takes; given back once it is decoded.
            gone: Ends when the client hangs up; what it raises is raised.
            noted: Gets what the log shall tell of the request.

        Returns:
            What the model says to each text, as plain values.

        Raises:
            Refusal: If it cannot be answered.
        """
        work, watch = asyncio.ensure_future(self._answer(question, held, noted)), asyncio.ensure_future(gone)
        try:
            await asyncio.wait((work, watch), timeout=self.limits.request_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if watch.done():
                watch.result()
            message = f"no answer within {self.limits.request_seconds:g} seconds; the service is busy, try again later"
            raise Refusal(504, "timeout", message, retry_after=self.batcher.retry_after())
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _answer(self, question: Question, held: Held, noted: dict[str, Any]) -> list[Any]:
        about = self.check(question.endpoint)
        weight = about.frames if question.field == "video" else 1
        reserved = weight * len(question.texts)
        try:
            self.batcher.reserve(reserved)
        except QueueFull as full:
            raise self._full(full) from None
        jobs: list[Job] = []
        try:
            try:
                visual = None if question.field is None else await self._decode(question, about)
                held.release()
                work = Work(question.endpoint, question.settings, question.field == "video")
                for text in question.texts:
                    jobs.append(Job(work, Piece(visual, text), weight, asyncio.get_running_loop().create_future()))
                    self.batcher.submit(jobs[-1])
                    reserved -= weight
            finally:
                self.batcher.release(reserved)
            results = [await job.reply for job in jobs]
        finally:
            for job in jobs:
                self.batcher.withdraw(job)
        noted.update(batch=max(job.batch_size for job in jobs))
        for result in results:
            if isinstance(result, Failed):
                raise _refusal(result)
        return results

    async def in_background(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in one of the threads that decode pictures."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function, *arguments)

    async def _decode(self, question: Question, about: About) -> Visual:
        field, source = question.field, question.take()
        assert field is not None
        if isinstance(source, str):
            if self._fetcher is None:
                raise Refusal(403, "urls_not_allowed", f"this service takes no addresses; send the file itself as '{field}'")
            source = await asyncio.get_running_loop().run_in_executor(self._fetching, self._fetcher.fetch, source)
        boxes = question.endpoint == "ground"
        pool = self._filming if field == "video" else self._decoding
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, decode_visual, field, source, about, self.limits, boxes)
        except (DataError, UsageError) as error:
            raise of_error(error) from None

    def _full(self, full: QueueFull) -> Refusal:
        message = f"{full.waiting} pictures wait already, of {self.limits.queue}; try again in {full.retry_after} s"
        return Refusal(429, "queue_full", message, retry_after=full.retry_after)

    # ------------------------------------------------------------------------------------------- what the processes say

    def on_ready(self, number: int, about: About) -> None:
        """A process has loaded its model."""
        self._soon(self._note_ready, number, about)

    def on_answered(self, jobs: Sequence[Job], results: Sequence[Any], seconds: float) -> None:
        """A batch is done."""
        self._soon(self._deliver, jobs, results, seconds, time.monotonic())

    def on_lost(self, number: int, jobs: Sequence[Job], reason: str) -> None:
        """A process ended before its time."""
        self._soon(self._note_lost, number, jobs, reason)

    def on_unfit(self, number: int, error: OpenmplugError) -> None:
        """A process could not load the model."""
        self._soon(self._note_unfit, number, error)

    def _soon(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who waited
            self._loop.call_soon_threadsafe(function, *arguments)

    def _note_ready(self, number: int, about: About) -> None:
        self.about = about
        self._ready.add(number)
        log("worker_ready", worker=number, device=about.device, precision=about.precision)

    def _deliver(self, jobs: Sequence[Job], results: Sequence[Any], seconds: float, now: float) -> None:
        endpoint = jobs[0].key.endpoint  # type: ignore[attr-defined]
        self.metrics.batch_size.observe(len(jobs), endpoint)
        self.metrics.batch_seconds.observe(seconds, endpoint)
        for job, result in zip(jobs, results, strict=True):
            self.metrics.queue_seconds.observe(max(0.0, now - seconds - job.arrived), endpoint)
            _reply(job, result)

    def _note_lost(self, number: int, jobs: Sequence[Job], reason: str) -> None:
        self._ready.discard(number)
        self.metrics.restarts.add(1)
        log("worker_lost", logging.ERROR, worker=number, reason=reason, requests=len(jobs))
        for job in jobs:
            _reply(job, Failed("lost", reason))

    def _note_unfit(self, number: int, error: OpenmplugError) -> None:
        log("worker_unfit", logging.ERROR, worker=number, error=type(error).__name__, reason=str(error))
        if self.about is None:
            self.failure = error
            self._ended.set()

    def _worker_bytes(self) -> float:
        return sum(resident_bytes(process.pid) for process in self.processes if process.pid is not None)


def _reply(job: Job, result: Any) -> None:
    if not job.reply.done():  # who asked may have given up
        job.reply.set_result(result)


def _refusal(failed: Failed) -> Refusal:
    if failed.kind == "usage":
        return of_error(UsageError(failed.message))
    if failed.kind == "data":
        return of_error(DataError(failed.message))
    if failed.kind == "memory":
        return Refusal(
            503, "out_of_memory", "the model ran out of memory on this request; the service may need a smaller --batch-size", retry_after=5
        )
    if failed.kind == "lost":
        return worker_lost()
    log("work_failed", logging.ERROR, error=failed.message, trace=list(failed.trace))
    return internal()
