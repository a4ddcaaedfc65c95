"""``openmplug index`` and ``openmplug embed`` as they are typed: what is printed, what is written, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.command import run
from openmplug.cli.index import when
from openmplug.inference.search.results import Hit

pytest.importorskip("lancedb")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for name, colour in (("red", "red"), ("blue", "blue"), ("<b>odd</b> & name", "green")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{name.replace('/', '_')}.png")
    (folder / "bad.jpg").write_bytes(b"nothing")
    return folder


def test_build_search_add_delete_info(archive: Path, example_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    index = tmp_path / "index"
    built = run("index", "build", index, archive, "--model", example_folder, "--workers", 0, "--device", "cpu")
    assert (built.code, built.out) == (0, f"3 files added, 1 could not be read; {index} holds 3 pictures and moments\n")
    assert "could not be read: image" in built.err and "bad.jpg" in built.err
    page = tmp_path / "page.html"
    found = run("index", "search", index, "a red cup", "-k", 2, "--rerank", 3, "--html", page)
    assert found.code == 0
    assert max(map(len, found.out.splitlines())) <= 80
    assert found.out.split()[:4] == ["#", "score", "path", "time"]
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert "<b>odd" not in text
    document = run("index", "search", index, "--image", archive / "blue.png", "-k", 1, "--where", "path <> 'red.png'", "--json")
    (hit,) = json.loads(document.out)["hits"]
    assert (hit["name"], hit["path"], hit["similarity"]) == ("blue.png", str(archive / "blue.png"), pytest.approx(1, abs=1e-5))
    again = run("index", "add", index, archive, "--json", "--workers", 0)
    counts = json.loads(again.out)
    assert (counts["added"], counts["unchanged"], counts["failed"], counts["rows"]) == (0, 3, 1, 3)
    gone = run("index", "delete", index, archive / "red.png")
    assert gone.out == f"1 picture or moment taken out of {index}, which holds 2 now\n"
    info = run("index", "info", index)
    assert info.code == 0 and "none: every row is compared" in info.out
    assert json.loads(run("index", "info", index, "--json").out)["files"] == 2


def test_errors_are_one_line_with_the_code_of_their_kind(archive: Path, example_folder: Path, tmp_path: Path) -> None:
    cases: list[tuple[int, str, list[object]]] = [
        (2, "give either words to look for, or --image FILE", ["search", tmp_path]),
        (3, "holds no index", ["search", tmp_path, "a cup"]),
        (3, "holds no index", ["info", archive]),
        (3, "does not exist", ["build", tmp_path / "i", archive / "list.csv", "-m", example_folder]),
        (4, "does not exist", ["build", tmp_path / "i", archive, "-m", tmp_path / "none"]),
        (2, "unknown on-error policy 'stop'", ["build", tmp_path / "i", archive, "-m", example_folder, "--on-error", "stop"]),
    ]
    for code, message, arguments in cases:
        found = run("index", *arguments)
        assert (found.code, found.err.count("\n")) == (code, 1), found.err
        assert message in found.err
    assert not (tmp_path / "i").exists()


def test_times_as_people_read_them() -> None:
    assert when(Hit("a", "a", 1.0, 1.0)) == ""
    assert when(Hit("a", "a", 1.0, 1.0, 65.0, 70.25)) == "1:05-1:10.2"
    assert when(Hit("a", "a", 1.0, 1.0, 3600.0, 3725.0)) == "1:00:00-1:02:05"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_embed_writes_vectors(ending: str, archive: Path, example_folder: Path, tmp_path: Path) -> None:
    import openmplug

    output = tmp_path / f"vectors.{ending}"
    assert run("embed", archive / "red.png", archive / "blue.png", "-m", example_folder, "-o", output, "--workers", 0).code == 0
    if ending == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(output)
        assert str(table.schema.field("vector").type) == "list<element: float>"
        rows = table.to_pylist()
    expected = openmplug.load(example_folder, device="cpu").embed_images([archive / "red.png", archive / "blue.png"])
    assert [Path(row["image"]).name for row in rows] == ["red.png", "blue.png"]
    for row, vector in zip(rows, expected, strict=True):
        assert row["vector"] == pytest.approx(vector.tolist(), abs=1e-5)
