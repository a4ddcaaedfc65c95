"""``openmplug predict``: what it prints and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cli.command import run
from openmplug.cli import screen
from openmplug.inference.bulk.inputs import Inputs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.effect_noise((40, 30), 20 + 40 * number).convert("RGB").save(folder / f"{number}.jpg")
    return folder


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_summary(photos: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    (photos / "2.jpg").write_text("bad")
    arguments = ("predict", "vqa", photos, "--question", "what?", "--model", trained("vqa"), "--output", tmp_path / "a.csv")
    outcome = run(*arguments, "--on-error", "skip", "--workers", "0")
    assert outcome.code == 0
    assert outcome.out.startswith("3 of 4 inputs done, 1 could not be read (see column error) in ")
    assert outcome.out.endswith(f"items/s); results in {tmp_path / 'a.csv'}\n")
    assert "could not be read: image '" in outcome.err
    summary = json.loads(run(*arguments, "--on-error", "skip", "--json").out)
    assert summary["items_per_second"] > 0
    assert summary["seconds"] >= 0
    del summary["items_per_second"], summary["seconds"]
    expected = {"verb": "vqa", "model": str(trained("vqa")), "output": str(tmp_path / "a.csv"), "inputs": 4}
    assert summary == {**expected, "done": 3, "failed": 1, "resumed": 0}


def test_a_dry_run_checks_everything_and_writes_nothing(photos: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ["predict", "match", photos, "--text", "a cat", "--output", tmp_path / "a.csv", "--dry-run", "--model"]
    outcome = run(*arguments, trained("retrieval"))
    assert outcome.out == f"would read 4 inputs and write {tmp_path / 'a.csv'}\n"
    assert json.loads(run(*arguments, trained("retrieval"), "--json").out)["inputs"] == 4
    assert "cannot match pictures and texts" in run(*arguments, trained("vqa")).error(2)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--on-error", "ignore"], "unknown on-error policy 'ignore'; one of error, skip"),
        (["--max-failures", "3"], "give both"),
        (["--on-error", "skip", "--max-failures", "x"], "--max-failures is 'x'; expected a number of rows"),
        (["--num-shards", "2", "--shard", "2"], "--shard is 2 of --num-shards 2; expected a shard from 0 to 1"),
        (["--num-shards", "0"], "Invalid value for '--num-shards'"),
        (["--engine", "spark"], "unknown engine 'spark'; one of local, ray"),
        (["--workers", "-1"], "Invalid value for '--workers'"),
    ],
)
def test_a_wrong_command_is_refused_before_the_model_is_looked_at(more: list[str], message: str, photos: Path, tmp_path: Path) -> None:
    assert message in run("predict", "caption", photos, "--model", "none", "--output", tmp_path / "a.jsonl", *more).error(2)


@pytest.mark.parametrize(
    ("package", "more", "message"),
    [
        ("pyarrow", ["a.parquet"], "pip install 'openmplug[parquet]'"),
        ("ray", ["a.csv", "--engine", "ray"], "pip install 'openmplug[scale]'"),
    ],
)
def test_a_missing_package_is_said_before_the_model_is_looked_at(
    package: str, more: list[str], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, f"{package}.parquet", f"{package}.data"):
        monkeypatch.setitem(sys.modules, name, None)
    assert message in run("predict", "caption", photos, "--model", "none", "--output", *more).error(5)


def test_an_interruption_says_that_rows_are_kept(photos: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("predict", "caption", photos, "--model", trained("caption"), "--output", tmp_path / "a.jsonl")
    arguments = (*arguments, "--batch-size", "1", "--workers", "0")
    with pytest.MonkeyPatch.context() as patch:
        rows = Inputs.rows

        def interrupted(self: Inputs, start: int = 0) -> object:
            for number, key in enumerate(rows(self, start)):
                if number == 2:
                    raise KeyboardInterrupt
                yield key

        patch.setattr(Inputs, "rows", interrupted)
        outcome = run(*arguments)
    assert outcome.code == 130
    assert f"finished rows are kept in {tmp_path / '.a.jsonl.journal'}; the same command goes on with them" in outcome.err
    outcome = run(*arguments)
    assert "going on after the 2 rows that an earlier run finished" in outcome.err
    assert outcome.code == 0
    assert len(read_lines(tmp_path / "a.jsonl")) == 4


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 31.0, 31.0, 40.0, 62.0, 62.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    with screen.Meter("predicting", 5_000) as meter:
        for done in (10, 2_000, 3_000, 4_000):
            meter.show(done, 64.5, "2 unreadable" if done > 3_000 else "")
    assert capsys.readouterr().err.splitlines() == [
        "predicting 2,000/5,000, 64.5 items/s",
        "predicting 4,000/5,000, 64.5 items/s, 2 unreadable",
    ]
