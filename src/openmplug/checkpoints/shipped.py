"""The small weights that come with the package: the one place that knows where they lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from openmplug.checkpoints.store import CONFIG

SMALL = "small"
"""What the weights that come with the package are called wherever a model's folder is asked for."""

PLACE = ("weights", SMALL)


def shipped_model() -> Path | None:
    """Return the folder of the weights that come with the package; None where this installation has none."""
    folder = Path(str(files("openmplug").joinpath(*PLACE)))
    return folder if (folder / CONFIG).is_file() else None


def named(path: Path) -> Path:
    """Return what a model's name means: for ``small`` that of the shipped weights, unless there is such a path; else the path."""
    return shipped_model() or path if str(path) == SMALL and not path.exists() else path
