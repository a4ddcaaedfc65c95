"""How many cores there are for us; devices and precisions are tried where they are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmplug.device import usable_cores


def groups(folder: Path, **quotas: str) -> tuple[Path, Path]:
    """Make the files of a system whose process is in the group ``outer/inner``."""
    (folder / "groups" / "outer" / "inner").mkdir(parents=True)
    for place, quota in quotas.items():
        (folder / "groups" / {"root": "", "outer": "outer", "inner": "outer/inner"}[place] / "cpu.max").write_text(f"{quota}\n")
    (folder / "listing").write_text("0::/outer/inner\n")
    return folder / "listing", folder / "groups"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 8),
        ({"inner": "max 100000"}, 8),
        ({"inner": "200000 100000"}, 2),
        ({"inner": "150000 100000"}, 2),
        ({"inner": "20000 100000"}, 1),
        ({"inner": "max 100000", "outer": "300000 100000"}, 3),
        ({"inner": "400000 100000", "outer": "300000 100000"}, 3),
        ({"root": "500000 100000"}, 5),  # what a container sees of its own group
        ({"inner": "3200000 100000"}, 8),
        ({"inner": "nonsense"}, 8),
        ({"inner": "1 0"}, 8),
    ],
)
def test_cores_that_a_quota_leaves(tmp_path: Path, quotas: dict[str, str], expected: int) -> None:
    assert usable_cores(*groups(tmp_path, **quotas)) == expected


def test_cores_of_a_system_without_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == 8
    (tmp_path / "old").write_text("4:cpu,cpuacct:/user.slice\n")
    assert usable_cores(tmp_path / "old", tmp_path) == 8
