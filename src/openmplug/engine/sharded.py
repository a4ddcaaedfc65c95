"""A run's state as several processes hold it, on disk: ``torch.distributed.checkpoint``, read by any number of processes.

Each process writes its pieces, what all have alike is written once, and a process that reads takes what falls to it. Torch keeps the
index of these files as a pickle; it is read here with the classes of such an index allowed and no others.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_together
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as save_together

from openmplug import distributed
from openmplug.errors import ModelError, write_problem

FOLDER = "state"
_INDEX = ".metadata"


def holds_state(folder: Path) -> bool:
    """Say whether several processes wrote a checkpoint folder."""
    return (folder / FOLDER).is_dir()


def new_group() -> Any:
    """Make a group for saving in the background, whose messages must not meet those of the run; None with one process."""
    return dist.new_group(backend="gloo") if distributed.world_size() > 1 else None


# ---------------------------------------------------------------------------------------------------------------- writing


def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write every process's tensors; all call it with the same folder.

    Raises:
        EnvironmentProblem: If one of them cannot write.
    """
    try:
        save_together(dict(tensors), checkpoint_id=folder / FOLDER)
    except CheckpointException as error:
        raise write_problem(_cause(error), folder) from error


def save_in_background(folder: Path, tensors: Mapping[str, Tensor], group: Any) -> Callable[[], None]:
    """Copy every process's tensors and write them while the run goes on.

    Returns:
        A function that waits until all processes are done, and raises ``EnvironmentProblem`` if one could not write.
    """
    future: Any = async_save(dict(tensors), checkpoint_id=folder / FOLDER, process_group=group)

    def wait() -> None:
        try:
            future.result()
        except CheckpointException as error:
            raise write_problem(_cause(error), folder) from error

    return wait


def _cause(error: Any) -> BaseException:
    """Return what the first process that failed said."""
    causes = [cause[0] if isinstance(cause, tuple) else cause for cause in error.failures.values()]
    return causes[0] if causes else error


# ---------------------------------------------------------------------------------------------------------------- reading


class _IndexUnpickler(pickle.Unpickler):
    """Reads an index of tensors: no class but those it is made of."""

    _MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
    _NAMES = frozenset(
        {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("collections", "OrderedDict"),
            ("pathlib", "PosixPath"),
            ("pathlib", "WindowsPath"),
            ("pathlib._local", "PosixPath"),
            ("pathlib._local", "WindowsPath"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class."""
        known = (module, name) in self._NAMES or (module in self._MODULES and "." not in name)
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.memory_format)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Reader(FileSystemReader):
    """Torch's reader, with the index read as above."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index."""
        with (Path(self.path) / _INDEX).open("rb") as file:
            metadata: Metadata = _IndexUnpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id  # type: ignore[union-attr]
        return metadata


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint folder holds, without their values (on the ``meta`` device).

    Raises:
        ModelError: If the index cannot be read.
    """
    path = folder / FOLDER / _INDEX
    try:
        found = _Reader(folder / FOLDER).read_metadata().state_dict_metadata
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError) as error:
        raise ModelError(f"'{path}' cannot be read ({error}); this folder cannot be resumed from, start anew from its weights") from error
    return {
        key: torch.empty(value.size, dtype=value.properties.dtype, device="meta")
        for key, value in found.items()
        if isinstance(value, TensorStorageMetadata)
    }


def load(folder: Path, places: dict[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Fill tensors in place from what several processes wrote; all processes call it alike.

    Args:
        folder: A checkpoint folder.
        places: Whole, or cut into pieces in whatever way.
        saved: What ``saved_tensors`` returned.

    Raises:
        ModelError: If one is missing, has another shape, or cannot be read; the tensors may be partly filled then.
    """
    missing = sorted(places.keys() - saved.keys())
    unknown = sorted(key for key in saved.keys() - places.keys() if not key.startswith("random/"))
    wrong = sorted(key for key in places.keys() & saved.keys() if places[key].shape != saved[key].shape)
    if missing or unknown or wrong:
        raise ModelError(
            f"'{folder / FOLDER}' does not fit this run: missing {missing[:3]}, unknown {unknown[:3]}, wrong shape {wrong[:3]};"
            " resume with the recipe the run was started with"
        )
    alone = distributed.world_size() == 1
    try:
        with warnings.catch_warnings():
            if alone:
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is what is meant
            load_together(places, storage_reader=_Reader(folder / FOLDER), no_dist=alone)
    except CheckpointException as error:
        reason = " ".join(str(_cause(error)).split())
        raise ModelError(f"'{folder / FOLDER}' cannot be read ({reason}); it is damaged, use another checkpoint") from error
