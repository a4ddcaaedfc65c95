"""Fixtures and rules for every test: where reference material lies, one thread, fixed seeds, no GPU tests without a GPU."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def reference_folder(variable: str, name: str) -> Path:
    """Return the folder of reference material that ``variable`` names, else the one beside the repository."""
    return Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / name).resolve()


def existing_or_skip(variable: str, name: str) -> Path:
    """Return the reference folder, or skip the test and say why."""
    folder = reference_folder(variable, name)
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; set {variable} to the folder that holds it")
    return folder


def pytest_configure() -> None:
    """Keep torch to one thread: the models are tiny and several test processes share the cores."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


@pytest.fixture(autouse=True)
def seed() -> Iterator[int]:
    """Seed every source of randomness before each test, so that none depends on the order they run in."""
    value = 0
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    yield value


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """The folder of golden vectors (OPENMPLUG_GOLDEN); skips the test where it is absent."""
    return existing_or_skip("OPENMPLUG_GOLDEN", "golden")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets (OPENMPLUG_DATA); skips the test where it is absent."""
    return existing_or_skip("OPENMPLUG_DATA", "data")
