"""Every golden folder found is run; a family nobody knows, or a tensor nobody compares, is a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.extras import run_extras
from parity.families import FAMILIES
from parity.golden import Case, Ledger

ROOT = Path(os.environ.get("OPENMPLUG_GOLDEN") or Path(__file__).parents[2] / ".." / "shared" / "golden")
FOLDERS = sorted(path for path in ROOT.iterdir() if path.is_dir()) if ROOT.is_dir() else []


@pytest.mark.skipif(bool(FOLDERS), reason="golden vectors are there")
def test_golden_vectors_are_absent() -> None:
    """Say it aloud where nothing was compared."""
    pytest.skip(f"no golden vectors in {ROOT}; set OPENMPLUG_GOLDEN to the folder that holds them")


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_case(folder: Path, record_property: Callable[[str, object], None]) -> None:
    """Run one case and fail on any difference beyond its own tolerances."""
    torch.manual_seed(0)
    if not (folder / "config.json").is_file():
        ledger = run_extras(folder)
    else:
        case = Case(folder)
        assert case.family in FAMILIES, f"unknown family {case.family!r}; write a comparison for it in tests/parity/families.py"
        ledger = case.ledger
        FAMILIES[case.family](case)
    _report(folder.name, ledger, record_property)


def _report(name: str, ledger: Ledger, record_property: Callable[[str, object], None]) -> None:
    record_property("parity", (name, ledger.compared, ledger.worst, ledger.worst_name))
    assert ledger.compared > 0, "nothing was compared"
    ledger.close()
