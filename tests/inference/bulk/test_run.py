"""Whole jobs: the same results as one by one, journals, failures."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.bulk.making import read_lines, shard, table
from openmplug.errors import DataError, ModelError, UsageError
from openmplug.inference.bulk import run
from openmplug.inference.bulk.inputs import open_inputs
from openmplug.inference.bulk.job import Job, check_options, parse_limit
from openmplug.inference.bulk.run import Tally, predict
from openmplug.inference.bulk.verbs import VERBS
from openmplug.inference.loading import load

Folders = Callable[..., Path]
NAMES = ["a.png", "b.png", "deep/c.png"] * 7
TEXTS = [f"what is {'the small ' * (number % 4)}circle ?" for number in range(21)]


FORK = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="a second run is a fork of this process")


def job(verb: str, model: Path, output: Path, *inputs: Path, text: str | None = None, **more: Any) -> Job:
    opened = open_inputs([str(name) for name in inputs], VERBS[verb].words, text)
    return Job(verb, opened, model, output, device="cpu", **{"batch_size": 2, "workers": 0, **more})


def stop_after(rows: int) -> Callable[[Tally], None]:
    def report(tally: Tally) -> None:
        if tally.rows >= rows:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize(("verb", "task"), [("vqa", "vqa"), ("caption", "caption"), ("match", "retrieval")])
@pytest.mark.parametrize("workers", [0, 1])
def test_results_are_those_of_one_by_one(verb: str, task: str, workers: int, folders: Folders, place: Path, tmp_path: Path) -> None:
    words = VERBS[verb].words or "note"
    rows = [{"image": name, words: text, "score": 3} for name, text in zip(NAMES, TEXTS, strict=True)]
    output = tmp_path / "out.jsonl"
    tally = predict(job(verb, folders(task), output, table(place / "list.jsonl", *rows), workers=workers))
    assert (tally.done, tally.failed, tally.resumed) == (21, 0, 0)
    assert tally.items_per_second > 0
    records = read_lines(output)
    pipeline = load(folders(task), device="cpu", batch_size=1)
    for record, name, text in zip(records, NAMES, TEXTS, strict=True):
        assert (record["image"], record[words]) == (name, text)
        if verb == "match":
            match = pipeline.match(place / name, text)
            assert record["probability"] == pytest.approx(match.probability, abs=1e-5)
            assert record["similarity"] == pytest.approx(match.similarity, abs=1e-5)
            assert record["score"] == 3
        else:
            single = pipeline.caption(place / name) if verb == "caption" else pipeline.answer(place / name, text)
            assert (record["caption" if verb == "caption" else "answer"], record["given_score"]) == (single.text, 3)
            assert record["score"] == pytest.approx(single.score, abs=1e-4)
    assert len({json.dumps(list(record.values())[1:4]) for record in records}) > 3


def test_shards_give_what_the_folder_gives(folders: Folders, place: Path, tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.rglob("*.png"))})
    for name, given in (("folder", place), ("shard", tmp_path / "s.tar")):
        predict(job("caption", folders("caption"), tmp_path / f"{name}.jsonl", given))
    one, other = read_lines(tmp_path / "folder.jsonl"), read_lines(tmp_path / "shard.jsonl")
    assert [Path(record.pop("image")).name for record in one] == [Path(record.pop("image")).name for record in other]
    assert [record["caption"] for record in one] == [record["caption"] for record in other]


def test_without_a_matching_head_there_is_a_similarity_only(folders: Folders, place: Path, tmp_path: Path) -> None:
    predict(job("match", folders("retrieval", matching_weight=0, k_test=0), tmp_path / "a.jsonl", place / "a.png", text="a circle"))
    (record,) = read_lines(tmp_path / "a.jsonl")
    assert list(record) == ["image", "text", "probability", "similarity"]
    assert record["probability"] is None
    assert -1.001 <= record["similarity"] <= 1.001


@pytest.fixture
def long(folders: Folders, place: Path, tmp_path: Path) -> Job:
    given = table(place / "list.jsonl", *[{"image": name, "n": n} for n, name in enumerate(NAMES)])
    return job("caption", folders("caption"), tmp_path / "out.jsonl", given)


def test_a_stopped_run_goes_on(long: Job, tmp_path: Path) -> None:
    whole = replace(long, output=tmp_path / "whole.jsonl")
    predict(whole)
    for rows in (5, 14):
        with pytest.raises(KeyboardInterrupt):
            predict(long, stop_after(rows))
        assert not long.output.exists()
        assert len(read_lines(long.journal)) == rows + rows % 2 + 1  # whole batches of two, and the header
    seen: list[int] = []
    # What changes no result may change on the way.
    tally = predict(replace(long, batch_size=4, workers=1, on_error="skip"), lambda tally: seen.append(tally.rows))
    assert seen == [14, 18, 21]
    assert (tally.done, tally.resumed) == (21, 14)
    assert [record["n"] for record in read_lines(long.output)] == list(range(21))
    assert [record["caption"] for record in read_lines(long.output)] == [record["caption"] for record in read_lines(whole.output)]
    assert not long.journal.exists()


@FORK
def test_two_kills_lose_no_row_and_double_none(long: Job, place: Path, tmp_path: Path) -> None:
    """``kill -9``, which no process can catch, at two points; a worker decodes meanwhile."""
    rows = 120
    given = table(place / "long.jsonl", *[{"image": NAMES[n % 3], "n": n} for n in range(rows)])
    killed = replace(long, inputs=open_inputs([str(given)], None), batch_size=1, workers=1)
    whole = replace(killed, output=tmp_path / "whole.jsonl", workers=0)
    predict(whole)

    def done() -> int:
        return killed.journal.read_bytes().count(b"\n") - 1 if killed.journal.exists() else 0

    points = []
    for wanted in (10, 60):
        process = multiprocessing.get_context("fork").Process(target=predict, args=(killed,))
        process.start()
        until = time.monotonic() + 60
        while done() < wanted:
            assert process.is_alive()
            assert time.monotonic() < until
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not killed.output.exists()
        points.append(done())
    assert 10 <= points[0] < 60 <= points[1] < rows
    tally = predict(killed)
    assert (tally.resumed, tally.rows) == (points[1], rows)
    assert not killed.journal.exists()
    assert [record["n"] for record in read_lines(killed.output)] == list(range(rows))
    assert killed.output.read_bytes() == whole.output.read_bytes()


def test_a_run_that_was_stopped_before_its_table_was_written(long: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict(long)
    monkeypatch.setattr(run, "load", None)  # nothing is left to be predicted
    assert predict(long).resumed == 21
    assert len(read_lines(long.output)) == 21


def test_the_journal_of_another_run_is_refused(long: Job, folders: Folders, place: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(long, stop_after(4))
    inputs = open_inputs([str(place)], None)
    others = [
        replace(long, inputs=inputs),
        replace(long, inputs=open_inputs([str(place / "list.jsonl")], None, shard=0, num_shards=2)),
        replace(long, model=folders("caption", min_length=3)),
        replace(long, dtype="bf16"),
    ]
    for other in others:
        with pytest.raises(UsageError, match="holds the rows of an unfinished run with other inputs, model or settings"):
            predict(other)
    assert predict(replace(long, inputs=inputs, restart=True)).rows == 3
    assert predict(replace(long, restart=True)).resumed == 0


@FORK
def test_two_runs_at_once_are_refused(long: Job) -> None:
    def second() -> None:
        with pytest.raises(UsageError, match=r"another process is at work on this output and holds '.*\.out\.jsonl\.lock'; wait for it"):
            predict(long)
        os._exit(42)

    def start(tally: Tally) -> None:
        if tally.rows == 4:
            process = multiprocessing.get_context("fork").Process(target=second)
            process.start()
            process.join()
            assert process.exitcode == 42

    assert predict(long, start).done == 21
    assert not list(long.output.parent.glob(".out*"))


def test_shards_together_are_the_whole(long: Job, place: Path, tmp_path: Path) -> None:
    predict(long)
    parts = []
    for part in range(3):
        inputs = open_inputs([str(place / "list.jsonl")], None, shard=part, num_shards=3)
        output = tmp_path / f"part-{part}.jsonl"
        assert predict(replace(long, inputs=inputs, output=output)).rows == 7
        parts += read_lines(output)
    assert sorted(record["n"] for record in parts) == list(range(21))
    assert {record["n"]: record["caption"] for record in parts} == {r["n"]: r["caption"] for r in read_lines(long.output)}


def test_a_shard_without_rows_is_an_empty_table(folders: Folders, place: Path, tmp_path: Path) -> None:
    inputs = open_inputs([str(place)], None, shard=4, num_shards=5)
    assert predict(Job("caption", inputs, folders("caption"), tmp_path / "a.csv")).rows == 0
    assert (tmp_path / "a.csv").read_text().strip() == "image,caption,score,error"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.csv"]


def test_an_unreadable_picture_stops_or_is_a_row(folders: Folders, place: Path, tmp_path: Path) -> None:
    (place / "bad.png").write_text("bad")
    stopped = job("caption", folders("caption"), tmp_path / "out.jsonl", place, batch_size=8)
    message = r"bad.png' is not a picture.*\(to go on without it: --on-error skip; the 2 rows before it are kept for the next run\)"
    with pytest.raises(DataError, match=message):
        predict(stopped)
    assert not stopped.output.exists()
    tally = predict(replace(stopped, on_error="skip"))
    assert (tally.done, tally.failed, tally.resumed) == (3, 1, 2)
    assert "bad.png' is not a picture" in tally.failures[0]
    records = read_lines(stopped.output)
    assert ["error" in record for record in records] == [False, False, True, False]
    assert "caption" not in records[2]


def test_a_failure_in_the_first_row_leaves_nothing(folders: Folders, place: Path, tmp_path: Path) -> None:
    (place / "0.png").write_text("bad")
    with pytest.raises(DataError, match=r"\(to go on without it: --on-error skip\)$"):
        predict(job("caption", folders("caption"), tmp_path / "out.jsonl", place))
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_nothing_readable_at_all(folders: Folders, place: Path, tmp_path: Path) -> None:
    (place / "bad.png").write_text("bad")
    unreadable = job("caption", folders("caption"), tmp_path / "a.jsonl", place / "bad.png", place / "none.png", on_error="skip")
    with pytest.raises(DataError, match=r"none of the 2 pictures could be read; the first: image '.*bad.png' is not a picture"):
        predict(unreadable)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


@pytest.mark.parametrize(("limit", "stops"), [(1, True), (2, False), (0.5, True), (0.7, False)])
def test_too_many_failures(limit: int | float, stops: bool, folders: Folders, place: Path, tmp_path: Path) -> None:
    names = [place / "a.png", *(place / f"none-{number}.png" for number in range(2))]
    limited = job("caption", folders("caption"), tmp_path / "a.jsonl", *names, on_error="skip", max_failures=limit)
    if not stops:
        assert predict(limited).failed == 2
        return
    with pytest.raises(DataError, match=r"2 of 3 pictures could not be read, more than --max-failures; the first: image '.*none-0"):
        predict(limited)
    assert not limited.output.exists()
    assert predict(replace(limited, max_failures=2)).resumed == 3


def test_what_max_failures_can_be() -> None:
    assert [parse_limit(text) for text in ("0", "12", "0.01", "1%", "2.5%")] == [0, 12, 0.01, 0.01, 0.025]
    for text in ("-1", "1.5", "100%", "many", "", "nan"):
        with pytest.raises(UsageError, match=f"--max-failures is '{text}'; expected a number of rows, or a part"):
            parse_limit(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a.xlsx", "error", None, "local"), "the name must end in .jsonl, .csv or .parquet"),
        (("a.csv", "ignore", None, "local"), "unknown on-error policy 'ignore'; one of error, skip"),
        (("a.csv", "error", 3, "local"), "--max-failures limits the failures that --on-error skip lets pass; give both"),
        (("a.csv", "error", None, "spark"), "unknown engine 'spark'; one of local, ray"),
    ],
)
def test_options_that_make_no_sense(options: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(Path(options[0]), *options[1:])


def test_a_model_of_another_task_is_refused_before_it_is_loaded(
    folders: Folders, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load", None)
    with pytest.raises(UsageError, match="trained for task 'vqa' and cannot write captions; that needs one trained for 'caption'"):
        predict(job("caption", folders("vqa"), tmp_path / "a.jsonl", place))
    with pytest.raises(ModelError, match="does not exist"):
        predict(job("caption", tmp_path / "none", tmp_path / "a.jsonl", place))
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
