"""Numbers of the running service, in the text format that Prometheus reads.

Everything is counted in the one thread of the event loop, so nothing is locked.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    r"""A number per combination of labels that only grows.

    Args:
        name: Its name, ending in ``_total``.
        help: What is counted.
        labels: Names of the labels.

    Example:
        >>> requests = Counter("requests_total", "Requests.", ("status",))
        >>> requests.add(1, "200")
        >>> print(*requests.lines(), sep="\n")
        # HELP requests_total Requests.
        # TYPE requests_total counter
        requests_total{status="200"} 1
    """

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help, tuple(labels)
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, amount: float, *labels: str) -> None:
        """Count."""
        self.values[labels] = self.values.get(labels, 0) + amount

    def lines(self) -> Iterator[str]:
        """Write it out."""
        yield from _head(self)
        for labels, value in sorted(self.values.items()):
            yield f"{self.name}{_labels(self.labels, labels)} {_number(value)}"


class Gauge:
    """A number that is read when it is asked for.

    Args:
        name: Its name.
        help: What it is.
        read: Returns it.
    """

    kind = "gauge"

    def __init__(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.name, self.help, self._read = name, help, read

    def lines(self) -> Iterator[str]:
        """Write it out."""
        yield from _head(self)
        yield f"{self.name} {_number(self._read())}"


class Histogram:
    """How many observations were at most so large, per combination of labels.

    Args:
        name: Its name.
        help: What is observed.
        bounds: Upper bounds of the buckets, increasing.
        labels: Names of the labels.
    """

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.bounds, self.labels = name, help, tuple(bounds), tuple(labels)
        self.counts: dict[tuple[str, ...], list[int]] = {}
        self.sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Put one observation into its bucket."""
        counts = self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[labels] = self.sums.get(labels, 0.0) + value

    def lines(self) -> Iterator[str]:
        """Write it out."""
        yield from _head(self)
        for labels, counts in sorted(self.counts.items()):
            for bound, count in zip((*map(_number, self.bounds), "+Inf"), accumulate(counts), strict=True):
                yield f"{self.name}_bucket{_labels((*self.labels, 'le'), (*labels, bound))} {count}"
            yield f"{self.name}_sum{_labels(self.labels, labels)} {_number(self.sums[labels])}"
            yield f"{self.name}_count{_labels(self.labels, labels)} {sum(counts)}"


def _head(metric: Counter | Gauge | Histogram) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    # Values are names of ours, statuses and numbers: nothing of them needs an escape.
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, values, strict=True)) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


class Metrics:
    """All numbers of the service.

    Args:
        gauges: Name, help and reader of what is read when asked for.
    """

    def __init__(self, gauges: Sequence[tuple[str, str, Callable[[], float]]] = ()) -> None:
        self.requests = Counter("openmplug_requests_total", "Answered requests.", ("endpoint", "status"))
        self.request_seconds = Histogram(
            "openmplug_request_seconds", "From a request's headers to the end of its answer.", SECONDS, ("endpoint",)
        )
        self.received = Counter("openmplug_received_bytes_total", "Bytes of bodies.")
        self.batch_size = Histogram("openmplug_batch_size", "Items that went through the model together.", SIZES, ("endpoint",))
        self.batch_seconds = Histogram("openmplug_batch_seconds", "Time of the model per batch.", SECONDS, ("endpoint",))
        self.queue_seconds = Histogram("openmplug_queue_seconds", "From decoded to the batch.", SECONDS, ("endpoint",))
        self.restarts = Counter("openmplug_worker_restarts_total", "Model processes that ended before their time.")
        self._gauges = [Gauge(*gauge) for gauge in gauges]
        self._gauges.append(Gauge("process_resident_memory_bytes", "Memory of the service's own process.", resident_bytes))

    def text(self) -> str:
        """Write everything out."""
        counted = (self.requests, self.request_seconds, self.received, self.batch_size, self.batch_seconds, self.queue_seconds)
        metrics: tuple[Counter | Gauge | Histogram, ...] = (*counted, self.restarts, *self._gauges)
        return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def resident_bytes(pid: int | str = "self") -> float:
    """Return the memory of a process, in bytes; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0.0
