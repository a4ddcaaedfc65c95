"""Several processes as one: who this one is, what all of them hold together, what they agree on. Harmless with one process.

A run of several processes is started by ``torchrun``, whose environment ``joined`` reads. Tensors on a GPU go by NCCL; what is on the
CPU, and every agreement, goes by gloo, so that no agreement makes a GPU wait.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from openmplug.errors import EnvironmentProblem, OpenmplugError

T = TypeVar("T")

# ------------------------------------------------------------------------------------------------------------- who this is


def active() -> bool:
    """Say whether this process has joined others."""
    return dist.is_available() and dist.is_initialized()


def _from_environment(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise EnvironmentProblem(
            f"the environment variable {name} is '{os.environ[name]}'; expected a number, as torchrun sets it"
        ) from None


def rank() -> int:
    """Return the number of this process among all, from 0; before they have joined, what torchrun says."""
    return dist.get_rank() if active() else _from_environment("RANK", 0)


def world_size() -> int:
    """Return how many processes have joined; 1 where none have."""
    return dist.get_world_size() if active() else 1


def launched() -> int:
    """Return how many processes torchrun has started for this run; 1 without it."""
    return _from_environment("WORLD_SIZE", 1)


def is_main() -> bool:
    """Say whether this is the process that logs and writes."""
    return rank() == 0


def processes_here() -> int:
    """Return how many of the processes are on this machine."""
    return _from_environment("LOCAL_WORLD_SIZE", world_size()) if active() else 1


def local_device(kind: str) -> torch.device:
    """Return the device of this process: of several on one machine each has a GPU of its own.

    Raises:
        EnvironmentProblem: If there are fewer GPUs than processes.
    """
    if kind != "cuda" or launched() == 1:
        return torch.device(kind)
    index, count = _from_environment("LOCAL_RANK", 0), torch.cuda.device_count()
    if index >= count:
        raise EnvironmentProblem(
            f"process {index} of this machine has no GPU: {count} are here; start torchrun with --nproc-per-node {max(count, 1)}"
        )
    return torch.device("cuda", index)


@contextmanager
def joined(device: torch.device, timeout_minutes: float = 30.0) -> Iterator[None]:
    """Join the processes that torchrun started while the block runs; nothing happens where it started one or none.

    Args:
        device: Where this process computes; see ``local_device``.
        timeout_minutes: How long to wait for the others before one of them is taken for dead.

    Raises:
        EnvironmentProblem: If the others do not come, or one of them ends while it is waited for.
    """
    if launched() == 1:
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    with _answering():
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    try:
        with _answering():
            yield
            barrier()  # without it a process that leaves early can abort the ones that still talk to it
    except BaseException as error:
        # Who lost another process has nobody left to take leave of, and NCCL would wait for it; the end of the process is enough.
        if device.type == "cpu" and not isinstance(error, LostProcess):
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------------- losing a process


class LostProcess(EnvironmentProblem):
    """Another process of the run ended or does not answer."""


_SIGNS = ("Connection closed", "Connection reset", "Connection refused", "Broken pipe", "Timed out", "timeout", "gloo", "NCCL")


def _lost(error: BaseException) -> bool:
    if isinstance(error, OpenmplugError | torch.OutOfMemoryError):
        return False
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what torch says about a process that is gone into one line, which one of those left tells."""
    try:
        yield
    except RuntimeError as error:
        if not _lost(error):
            raise
        reason = " ".join(str(error).split())
        problem = LostProcess(
            f"another process of this run ended or does not answer (seen by process {rank()}: {reason[:160]}); what it said itself is"
            " above; the last checkpoint is kept, the same command with --resume goes on from there"
        )
        problem.told = not _first_to_tell()
        raise problem from error


def _first_to_tell() -> bool:
    try:
        store: Any = dist.distributed_c10d._get_default_store()
        return int(store.add("openmplug/lost", 1)) == 1
    except (RuntimeError, ValueError):  # the store is gone too, or was never there
        return True


# ---------------------------------------------------------------------------------------------------------------- agreeing


def barrier() -> None:
    """Wait until every process is here."""
    if active():
        dist.all_reduce(torch.zeros(1))  # on the CPU: by gloo, which waits for no GPU


def share(value: T) -> T:
    """Return the main process's value, any object that can be pickled, on all of them."""
    if not active():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather_objects(value: T) -> list[T]:
    """Return every process's value, in their order, on all of them."""
    if not active():
        return [value]
    # Through a CPU tensor by hand: all_gather_object would take the GPU where there is NCCL.
    data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    return [pickle.loads(part.numpy().tobytes()) for part in _gather_parts(data, row_counts(len(data)))]


def everyone(numbers: Sequence[float]) -> list[list[float]]:
    """Return every process's numbers, in the order of the processes, on all of them; a handful of bytes."""
    if not active():
        return [list(numbers)]
    mine = torch.tensor(numbers, dtype=torch.float64)
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    return [part.tolist() for part in parts]


@contextmanager
def alike() -> Iterator[None]:
    """Run a block in which every process raises the same error or none; the main one tells it."""
    try:
        yield
    except OpenmplugError as error:
        error.told = error.told or not is_main()
        raise


@contextmanager
def agreed() -> Iterator[None]:
    """Run a block on every process so that all end it alike: what one of them raises, all raise.

    The first process with an error raises its own; the others raise its words, marked as told already. Nothing else may be sent inside
    of the block: a process that failed would not take part.
    """
    problem: OpenmplugError | None = None
    try:
        yield
    except OpenmplugError as error:
        if not active():
            raise
        problem = error
    if not active():
        return
    failed = [index for index, (flag,) in enumerate(everyone([problem is not None])) if flag]
    if not failed:
        return
    told = gather_objects(None if problem is None else (type(problem), str(problem)))[failed[0]]
    if problem is None or failed[0] != rank():
        assert told is not None
        kind, message = told
        again: OpenmplugError = kind(message)
        again.told = True
        raise again
    raise problem


# --------------------------------------------------------------------------------------------------------------- gathering


def row_counts(count: int) -> list[int]:
    """Return how many rows each process has, this one having ``count``."""
    return [int(size) for (size,) in everyone([count])]


def _gather_parts(tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Return every process's tensor (count, ...)."""
    longest = max(counts)
    if len(tensor) < longest:
        tensor = torch.cat([tensor, tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in counts]
    dist.all_gather(parts, tensor.contiguous())
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


@torch.no_grad()
def gather(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Join the tensors (B, ...) of all processes along the first axis, in the order of the processes; without gradient.

    Args:
        tensor: Of this process; B may differ from process to process.
        counts: What ``row_counts`` returned for it; None asks.
    """
    if world_size() == 1:
        return tensor.detach()
    return torch.cat(_gather_parts(tensor.detach(), row_counts(len(tensor)) if counts is None else counts))


class _Gather(torch.autograd.Function):
    """All tensors joined forward; backward each process gets the sum of what all of them have to say about its own."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.rows = own_rows(counts)
        return torch.cat(_gather_parts(tensor, counts))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[ctx.rows], None


def gather_with_gradient(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Join the tensors (B, ...) of all processes along the first axis; gradients go back to the process each row came from.

    What arrives there is the sum over the processes. With the usual mean of the parameters' gradients over the processes this is the
    gradient of the mean of their losses: each process averages over its own rows, against the rows of all.

    Args:
        tensor: Of this process; B may differ from process to process.
        counts: What ``row_counts`` returned for it; None asks.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor, row_counts(len(tensor)) if counts is None else counts)
    return gathered


def own_rows(counts: Sequence[int]) -> slice:
    """Return where this process's rows are in what ``gather`` joins."""
    before = sum(counts[: rank()])
    return slice(before, before + counts[rank()])


def fair_count(count: Tensor) -> Tensor:
    """Return the mean over the processes of a count (scalar), for a loss that is a sum over so many tokens divided by their number.

    Divided by it, the mean of the processes' losses is the mean over all of their tokens, whoever has more of them.
    """
    if world_size() == 1:
        return count
    mean = count.detach().clone().to(torch.float32)
    dist.all_reduce(mean)
    return mean / world_size()


def mean(tensor: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor, without gradient."""
    if world_size() == 1:
        return tensor
    result = tensor.detach().clone()
    dist.all_reduce(result)
    return result / world_size()
