"""Tensors out of foreign files, memory-mapped and without running what is inside them.

``torch.load`` reads with ``weights_only=True``. A TorchScript archive (CLIP as OpenAI released it) is a pickle of module objects beside
its code; it is read by an unpickler that knows tensors and plain attributes and refuses everything else, so its code is never looked at.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openmplug.errors import ModelError

WRAPPERS = ("model", "module", "state_dict")
"""Keys under which training scripts store a state dict; the originals try the first, then the second."""


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a file holds.

    Args:
        tensors: The state dict, memory-mapped where the format allows.
        wrapper: The keys it was stored under, outermost first; empty for a bare state dict.
        extras: Everything else beside it that is not a tensor: ``config``, ``epoch``, ``optimizer``.
    """

    tensors: dict[str, Tensor]
    wrapper: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


def read_torch_file(path: Path) -> TorchFile:
    """Read a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file, or a TorchScript archive.

    Raises:
        ModelError: If the file is not there, is cut off, is of no known format, or would have to run code to be read.
    """
    if not path.is_file():
        raise ModelError(f"'{path}' does not exist; give a checkpoint file or a folder that holds one")
    if path.suffix == ".safetensors":
        return TorchFile(_read_safetensors(path))
    if _is_script(path):
        return TorchFile(_read_script(path))
    return _unwrap(_load(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{path}' is not a whole safetensors file ({_one_line(error)}); it is cut off or damaged") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _harmless() -> list[Any]:
    """Plain containers of values that old training scripts stored beside their weights."""
    core = getattr(np, "_core", None) or np.core  # renamed in numpy 2; files name the old one
    scalar = core.multiarray.scalar
    types = {type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")}
    return [argparse.Namespace, (scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *types]


def _load(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)
    if not mapped and path.open("rb").read(2) == b"PK":
        raise ModelError(f"'{path}' is cut off: it begins as a torch file and has no end; download or copy it again")
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        text = _one_line(error)
        if "nsupported" in text or "GLOBAL" in text:
            what = text.split("GLOBAL ", 1)[-1].split(" ", 1)[0] if "GLOBAL " in text else "an object"
            raise ModelError(
                f"'{path}' would have to run code to be read ({what}), so it was not; ask for a file that holds tensors only,"
                " or save its state dict again where you trust it"
            ) from error
        raise ModelError(f"'{path}' is not a torch checkpoint ({text[:100]}); it is damaged or of another kind") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, struct.error) as error:
        raise ModelError(f"'{path}' cannot be read as a torch checkpoint ({_one_line(error)[:120]}); it is cut off or damaged") from error


def _unwrap(content: Any, path: Path) -> TorchFile:
    wrapper: list[str] = []
    extras: dict[str, Any] = {}
    while isinstance(content, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        extras |= {str(key): value for key, value in content.items() if key != inner and not isinstance(value, Tensor)}
        wrapper.append(inner)
        content = content[inner]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"'{path}' holds no state dict; expected tensors by name, at the top or under {', '.join(WRAPPERS)}")
    # Anything else among the weights (a version number, say) belongs to no parameter.
    extras |= {str(key): value for key, value in content.items() if not isinstance(value, Tensor)}
    return TorchFile({str(key): value for key, value in content.items() if isinstance(value, Tensor)}, tuple(wrapper), extras)


# ------------------------------------------------------------------------------------------------------------- TorchScript


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Module:
    """A scripted module: its attributes and nothing of its code."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _rebuild_tensor(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    # The storage is a slice of the mapped file; `as_strided` counts from the beginning of the file.
    return storage.as_strided(shape, stride, storage.storage_offset() + offset)


def _same(value: Any, *rest: Any) -> Any:
    return value


class _ScriptUnpickler(pickle.Unpickler):
    """Reads the ``data.pkl`` of a TorchScript archive; refuses every global but tensors, containers and module attributes."""

    def __init__(self, file: BinaryIO, storages: Mapping[str, Tensor], path: Path) -> None:
        super().__init__(file)
        self._storages, self._path = storages, path

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch.jit._pickle":  # typed lists: build_intlist and its like
            return _same
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "device"):
            return str
        raise ModelError(f"'{self._path}' would have to run code to be read ({module}.{name}), so it was not; give its state dict instead")

    def persistent_load(self, identity: Any) -> Tensor:
        _, dtype, key, _, count = identity
        # `view` and not a copy: the bytes stay in the mapped file until they are used.
        return self._storages[key][: count * dtype.itemsize].view(dtype)


def _read_script(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = listed.removesuffix("data.pkl")
            storages = _records(archive, path, f"{root}data/")
            with archive.open(listed) as file:
                module = _ScriptUnpickler(file, storages, path).load()  # type: ignore[arg-type]
    except ModelError:  # a ValueError too
        raise
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"'{path}' is not a whole TorchScript archive ({_one_line(error)[:120]}); it is cut off or damaged") from error
    return dict(_named_tensors(module))


def _records(archive: zipfile.ZipFile, path: Path, prefix: str) -> dict[str, Tensor]:
    """Map the stored (never compressed) records of an archive as bytes."""
    size = path.stat().st_size
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    records = {}
    with path.open("rb") as file:
        for entry in archive.infolist():
            if not entry.filename.startswith(prefix):
                continue
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ModelError(f"'{path}' holds compressed tensors; torch writes them uncompressed, the file was packed again")
            file.seek(entry.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            start = entry.header_offset + 30 + name_length + extra_length
            records[entry.filename.removeprefix(prefix)] = whole[start : start + entry.file_size]
    return records


def _named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, _Module):
        for name, child in value.state.items():
            yield from _named_tensors(child, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, Tensor):
        yield prefix, value
