"""Tables of results: three formats, whole or not at all."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.bulk.making import read_lines
from openmplug.errors import EnvironmentProblem, UsageError
from openmplug.inference.bulk.outputs import check_output, write_table

RECORDS: list[dict[str, Any]] = [
    {"image": "a.png", "caption": "a, b", "score": -1.5, "id": 7, "tags": ["x", "y"]},
    {"image": "b.png", "error": "gone", "id": 2.5, "good": True},
    {"image": "c.png", "caption": 'say "é"\n', "score": None, "id": None, "mixed": 1},
    {"image": "d.png", "caption": "", "score": -2.0, "mixed": "one", "large": 2**70},
]
COLUMNS = ["image", "caption", "score", "error"]


def records() -> Iterator[dict[str, Any]]:
    return iter(json.loads(json.dumps(RECORDS)))


def test_jsonl(tmp_path: Path) -> None:
    write_table(tmp_path / "new" / "a.jsonl", records, COLUMNS)
    assert read_lines(tmp_path / "new" / "a.jsonl") == RECORDS
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_csv(tmp_path: Path) -> None:
    write_table(tmp_path / "a.CSV", records, COLUMNS)
    with (tmp_path / "a.CSV").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "id", "tags", "good", "mixed", "large"]
    assert [row["caption"] for row in rows] == ["a, b", "", 'say "é"\n', ""]
    assert json.loads(rows[0]["tags"]) == ["x", "y"]
    assert [row["error"] for row in rows] == ["", "gone", "", ""]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("openmplug.inference.bulk.outputs._ROW_GROUP", 3)
    write_table(tmp_path / "a.parquet", records, COLUMNS)
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert file.metadata.num_row_groups == 2
    kinds = {field.name: str(field.type) for field in file.schema_arrow}
    assert kinds == {
        **{"image": "string", "caption": "string", "score": "double", "error": "string", "id": "double"},
        **{"tags": "string", "good": "bool", "mixed": "string", "large": "string"},
    }
    rows = file.read().to_pylist()
    assert [row["score"] for row in rows] == [-1.5, None, None, -2.0]
    assert [row["id"] for row in rows] == [7.0, 2.5, None, None]
    assert [row["mixed"] for row in rows] == [None, None, "1", '"one"']
    assert json.loads(rows[0]["tags"]) == ["x", "y"]


def test_the_ending_names_the_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write results to '.*a.xlsx': the name must end in .jsonl, .csv or .parquet"):
        write_table(tmp_path / "a.xlsx", records, COLUMNS)


def test_parquet_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EnvironmentProblem, match=r"parquet files needs pyarrow.*pip install 'openmplug\[parquet\]'; or name a .jsonl"):
        check_output(Path("a.parquet"))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_write_that_fails_leaves_what_was_there(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_text("before")

    def broken() -> Iterator[dict[str, Any]]:
        yield RECORDS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentProblem, match="disk full while writing"):
        write_table(path, broken, COLUMNS)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
