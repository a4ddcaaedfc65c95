"""A small generated data set, and models trained on it for two steps, once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.command import TINY, run
from openmplug.data.shapes import write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes data, 12 pictures to train on and 6 to evaluate on."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train_images=12, dev_images=6)
    return root


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the run's folder of a task, trained on first use."""
    folders: dict[str, Path] = {}

    def get(task: str) -> Path:
        if task not in folders:
            folder = tmp_path_factory.mktemp("runs") / task
            outcome = run("train", f"{task}/shapes_mplug_tiny", f"data.root={shapes / task}", *TINY, "--output", folder)
            assert outcome.code == 0, outcome.err
            folders[task] = folder
        return folders[task]

    return get
