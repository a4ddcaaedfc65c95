"""How the processes of a run share a task: each has it whole (DDP), or each has a piece of every layer (FSDP2).

The model is written for one process and knows nothing of this. It declares its layers (``Network.LAYERS``); the wrappers see one
``forward``, that of ``TrainingStep``, so that their hooks always fire. ``MomentumTwin`` has the layers of its student and is cut as
they are: it is moved piece by piece, without a word between the processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from openmplug import distributed
from openmplug.batch import Batch, Losses
from openmplug.device import DTYPES
from openmplug.errors import UsageError
from openmplug.tasks.base import Task

Kind = Literal["none", "ddp", "fsdp", "hybrid"]


def choose_parallel(name: str) -> Kind:
    """Return how the processes of this run share the task; one process alone has it whole, whatever the name.

    Raises:
        UsageError: If several processes are to share nothing.
    """
    processes = distributed.world_size()
    if processes == 1:
        return "none"
    if name == "none":
        raise UsageError(f"run.parallel=none with {processes} processes: each would train a model of its own; set ddp, fsdp or auto")
    return "ddp" if name == "auto" else name  # type: ignore[return-value]


class TrainingStep(nn.Module):
    """A task as the wrappers see it: one ``forward``, tensors out."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss and its parts."""
        losses = self.task(batch)
        return losses.total, dict(losses.parts)

    def look_ahead(self, batches: Iterable[Batch]) -> None:
        """Let the task see all micro-batches of a step."""
        self.task.look_ahead(batches)

    def prepare(self) -> None:
        """Do nothing: sharding registers this as an entry, and what is prepared at the first entry is prepared then."""


class ParallelTask:
    """A task that the processes of a run train together.

    Args:
        task: On ``device``, the same on every process.
        kind: What ``choose_parallel`` returned.
        device: Where this process computes.
        precision: Of the layers' arithmetic.
        shard_size: Processes that share one copy in ``hybrid``, a divisor of their number; None takes those of one machine.
        compiled: Let ``torch.compile`` make every layer's kernels.

    Raises:
        UsageError: If the model declares no layers, the task cannot be sharded, or ``shard_size`` does not divide the number of processes.
    """

    def __init__(
        self, task: Task, kind: Kind, device: torch.device, precision: str = "fp32", shard_size: int | None = None, compiled: bool = False
    ) -> None:
        self.task = task
        self.kind = kind
        declared: Mapping[type[nn.Module], tuple[str, ...]] = getattr(task.model, "LAYERS", {})
        layers = [(layer, declared[type(layer)]) for layer in _outermost(task, tuple(declared))]
        if not layers and (compiled or self.sharded):
            raise UsageError(
                f"{type(task.model).__name__} declares no layers to shard or compile; set run.parallel=ddp and run.compile=false"
            )
        if self.sharded and not task.shardable:
            raise UsageError(f"task {type(task).__name__} writes texts while it learns, which needs whole weights; set run.parallel=ddp")
        if compiled:
            for layer, _ in layers:
                layer.compile()
        self.step = TrainingStep(task)
        self._copies: DistributedDataParallel | None = None
        if kind == "ddp":
            # Batches of different kinds use different parts of a model. Buffers are queues, written alike by all.
            accepted = signature(DistributedDataParallel).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers"
            settings: dict[str, Any] = {"find_unused_parameters": True, "gradient_as_bucket_view": True, buffers: False}
            self._copies = DistributedDataParallel(self.step, **settings)
        elif self.sharded:
            self._shard(layers, _mesh(kind, device, shard_size), precision)

    @property
    def sharded(self) -> bool:
        """Whether each process holds but a piece of the weights."""
        return self.kind in ("fsdp", "hybrid")

    def _shard(self, layers: list[tuple[nn.Module, tuple[str, ...]]], mesh: DeviceMesh, precision: str) -> None:
        # Nothing here writes into what a layer returned, which is what torch warns of.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        # The layers' weights travel in the type they are multiplied in; what is outside of them (tables, heads, temperature) stays fp32.
        # Inputs are left to autocast, which keeps the sums between layers in fp32 as it does without sharding.
        # Norms take weights of another type than their input's on a GPU only; on a CPU everything travels in fp32.
        kind = DTYPES.get(precision) if mesh.device_type == "cuda" else None
        policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=False)
        rest = MixedPrecisionPolicy(cast_forward_inputs=False)
        for layer, methods in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
            for method in methods:
                register_fsdp_forward_method(layer, method)
        fully_shard(self.step, mesh=mesh, mp_policy=rest)
        for entry in ("prepare", "look_ahead"):
            register_fsdp_forward_method(self.step, entry)

    def losses(self, batch: Batch) -> Losses:
        """Compute the training losses of this process's part of a micro-batch."""
        if self.kind == "none":
            losses: Losses = self.task(batch)
            return losses
        total, parts = (self.step if self._copies is None else self._copies)(batch)
        return Losses(total, parts)

    def gathering(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of a forward and its backward; copies exchange their gradients at the ``last`` of a step alone."""
        return nullcontext() if last or self._copies is None else self._copies.no_sync()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let the task be used outside of training while the block runs, by each process for itself: all weights are there.

        Every process must enter.
        """
        if not self.sharded:
            yield
            return
        root: nn.Module = self.step
        self.step.prepare()
        pieces = [module for module in self.step.modules() if isinstance(module, FSDPModule)]
        for piece in pieces:
            piece.set_reshard_after_forward(False, recurse=False)
            piece.unshard()
        try:
            yield
        finally:
            for piece in pieces:
                piece.reshard()
                piece.set_reshard_after_forward(piece is not root, recurse=False)


def _outermost(root: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """List the modules of some classes that are in no other one of them."""
    found: list[nn.Module] = []
    for child in root.children():
        found += [child] if type(child) in kinds else _outermost(child, kinds)
    return found


def _mesh(kind: Kind, device: torch.device, shard_size: int | None) -> DeviceMesh:
    processes = distributed.world_size()
    if kind == "fsdp":
        return init_device_mesh(device.type, (processes,), mesh_dim_names=("pieces",))
    pieces = shard_size or distributed.processes_here()
    if processes % pieces:
        raise UsageError(f"run.shard_size={pieces} does not divide {processes} processes; choose a divisor")
    return init_device_mesh(device.type, (processes // pieces, pieces), mesh_dim_names=("copies", "pieces"))


# -------------------------------------------------------------------------------------------------------- whole and in pieces


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's ``state_dict()`` with every tensor whole; where it is in pieces, on the main process's CPU, elsewhere empty.

    Every process must ask.
    """
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, DTensor):
            state[name] = value
            continue
        whole = value.full_tensor()
        if distributed.is_main():
            state[name] = whole.cpu()
    return state


def cut_like(target: Tensor, whole: Tensor) -> Tensor:
    """Return a whole tensor, which every process has, as ``target`` is: this process's piece of it, or as it is."""
    if not isinstance(target, DTensor) or isinstance(whole, DTensor):
        return whole
    return distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def as_plain(value: Tensor) -> Tensor:
    """Return a number that the processes may hold parts of (a norm over pieces) as a plain scalar."""
    return value.full_tensor() if isinstance(value, DTensor) else value
