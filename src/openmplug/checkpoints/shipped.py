"""The small weights that come with the package: the one place that knows where they lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from openmplug.checkpoints.store import CONFIG

PLACE = ("weights", "small")


def shipped_model() -> Path | None:
    """Return the folder of the weights that come with the package; None where this installation has none."""
    folder = Path(str(files("openmplug").joinpath(*PLACE)))
    return folder if (folder / CONFIG).is_file() else None
