"""The journal of a run: what a kill leaves behind, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmplug.errors import EnvironmentProblem, UsageError
from openmplug.inference.journal import Journal

ROWS = [{"image": "a.jpg", "caption": "a cat – and a dog"}, {"image": "b.jpg", "caption": "two\nlines"}, {"image": "c.jpg", "score": -0.5}]


def test_goes_on_after_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with Journal(path, {"model": "m"}) as journal:
        assert journal.done == 0
        journal.append(ROWS[:2])
    with Journal(path, {"model": "m"}) as journal:
        assert journal.done == 2
        journal.append(ROWS[2:])
        assert journal.done == 3
        assert list(journal.rows()) == ROWS


@pytest.mark.parametrize("lost", range(1, 30))
def test_a_torn_last_line_is_cut_off(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "rows"
    with Journal(path, {}) as journal:
        journal.append(ROWS)
    path.write_bytes(path.read_bytes()[:-lost])
    with Journal(path, {}) as journal:
        assert journal.done == 2
        journal.append(ROWS[2:])
        assert list(journal.rows()) == ROWS


def test_a_torn_header_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"journal": "openm')
    with Journal(path, {}) as journal:
        journal.append(ROWS)
        assert list(journal.rows()) == ROWS


def test_rows_of_another_run_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with Journal(path, {"model": "m"}) as journal:
        journal.append(ROWS)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--restart"):
        Journal(path, {"model": "other"})
    assert path.read_bytes() == before
    with Journal(path, {"model": "other"}, restart=True) as journal:
        assert journal.done == 0


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        Journal(tmp_path / "file" / "rows", {})


def test_remove(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows", {})
    journal.remove()
    assert not list(tmp_path.iterdir())
