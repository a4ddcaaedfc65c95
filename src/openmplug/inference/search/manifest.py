"""The few facts about a whole index: ``index.json`` in its folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from openmplug.checkpoints.atomic import write_atomic
from openmplug.errors import DataError, ModelError
from openmplug.inference.loading import weights_hash
from openmplug.inference.model import Model

FILE = "index.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was decided when an index was made.

    Args:
        model: Where the model was.
        model_hash: SHA-256 of its weights.
        vector_size: Length of its vectors.
        segment_seconds: Length of the moments that videos are cut into.
        captions: The model writes a caption for what has none.
        root: The folder that paths are relative to.
        root_from_index: The same from the index's folder, for when both have moved.
    """

    model: str
    model_hash: str
    vector_size: int
    segment_seconds: float
    captions: bool
    root: str
    root_from_index: str

    def write(self, folder: Path) -> None:
        """Write it; whole or not at all.

        Raises:
            EnvironmentProblem: If it cannot be written.
        """
        write_atomic(folder / FILE, json.dumps({"openmplug index": _FORMAT, **asdict(self)}, indent=1) + "\n")

    def check_model(self, model: Model, folder: Path) -> None:
        """Refuse a model whose vectors mean nothing here.

        Raises:
            ModelError: If its weights are not those the index was made with.
        """
        found = model_hash(model)
        if found != self.model_hash:
            raise ModelError(
                f"index '{folder}' was made by the model '{self.model}' (weights {self.model_hash[:12]}), and this is"
                f" '{model.source or 'a model without a file'}' (weights {found[:12]}); their vectors cannot be compared:"
                " use the first one, or build a new index with the second"
            )


def is_index(folder: Path) -> bool:
    """Say whether a folder holds an index."""
    return (folder / FILE).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read an index's facts.

    Raises:
        DataError: If the folder holds no index, or another format's.
    """
    if not is_index(folder):
        what = "holds no index" if folder.is_dir() else "does not exist"
        raise DataError(f"'{folder}' {what} (no {FILE}); make one with: openmplug index build {folder} PICTURES --model DIR")
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content.pop("openmplug index") != _FORMAT:
            raise DataError(f"'{folder / FILE}' is of another version of openmplug; build the index again")
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{folder / FILE}' is damaged ({type(error).__name__}: {error}); build the index again") from None


def model_hash(model: Model) -> str:
    """Return the SHA-256 of a model's weights, read once.

    Raises:
        ModelError: If it was not loaded from files.
    """
    if model.source is None:
        raise ModelError("this model was put together in memory; an index needs one that openmplug.load read, so that it can be told again")
    state = _state(model.source)
    if (known := _HASHES.get(state)) is None:
        known = _HASHES[state] = weights_hash(model.source)
    return known


_HASHES: dict[tuple[str, int, int], str] = {}


def _state(path: Path) -> tuple[str, int, int]:
    found = os.stat(path)
    return str(path.absolute()), found.st_mtime_ns, found.st_size
