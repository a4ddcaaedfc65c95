"""Questions put to the model: each picture encoded once, batches that change nothing, runs that go on after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inference.judging import photo
from openmplug.errors import DataError, ModelError, UsageError
from openmplug.inference.journal import Journal
from openmplug.inference.judge.asking import Question, Subject, answer_about, ask, batches
from openmplug.inference.judge.session import JudgeOptions, PictureReader, ask_all, fingerprint, pictures_in, weights_hash
from openmplug.inference.loading import load
from openmplug.inference.model import Model

Folders = Callable[..., Path]
TEXTS = ["what is the small red circle ?", "how many ?", "left of green squares ?", "there in this picture ?", "an ?"]


@pytest.fixture(scope="module")
def judge(folders: Folders) -> Model:
    return load(folders("vqa"), device="cpu", batch_size=4)


def questions(*counts: int) -> list[tuple[Question, ...]]:
    return [
        tuple(Question(TEXTS[number], {"picture": picture, "number": number}) for number in range(n)) for picture, n in enumerate(counts)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_answers_are_those_of_one_question_at_a_time(judge: Model, batch_size: int) -> None:
    images, asked = [photo(seed) for seed in range(3)], questions(2, 5, 1)
    replies = answer_about(judge, images, asked, batch_size)
    assert [len(each) for each in replies] == [2, 5, 1]
    for image, mine, said in zip(images, asked, replies, strict=True):
        alone = judge.answer(image, [question.text for question in mine])
        assert [reply.text for reply in said] == [answer.text for answer in alone]
        assert [reply.score for reply in said] == pytest.approx([answer.score for answer in alone], abs=1e-5)
    # The pictures and the words matter to this judge.
    assert len({reply.score for each in replies for reply in each}) == 8


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_each_picture_is_encoded_once(judge: Model, batch_size: int) -> None:
    pictures, words = [], []
    hooks = [
        judge.task.model.vision.register_forward_hook(lambda module, given, result: pictures.append(len(given[0]))),
        judge.task.model.fusion.register_forward_hook(lambda module, given, result: words.append(len(given[1]))),
    ]
    answer_about(judge, [photo(seed) for seed in range(3)], questions(2, 5, 1), batch_size)
    for hook in hooks:
        hook.remove()
    assert sum(pictures) == 3
    # And no more than batch_size questions at once.
    assert sum(words) == 8
    assert max(words) <= batch_size


@pytest.mark.parametrize(
    ("counts", "size", "expected"), [([], 3, []), ([1, 1, 1], 3, [(0, 3)]), ([3, 1], 3, [(0, 1), (1, 2)]), ([7], 3, [(0, 1)])]
)
def test_batches(counts: list[int], size: int, expected: list[tuple[int, int]]) -> None:
    assert list(batches(counts, size)) == expected


def test_choices_are_ranked_where_the_answer_is_none_of_them(judge: Model) -> None:
    image = photo(1)
    (free,) = answer_about(judge, [image], [[Question(TEXTS[0])]])[0]
    mine, other, known = answer_about(
        judge,
        [image],
        [
            [
                Question(TEXTS[0], choices=("green", "circle")),
                Question(TEXTS[1], choices=("a", "of", "an")),
                Question(TEXTS[0], choices=("red", free.text)),
            ]
        ],
    )[0]
    assert (mine.text, known.text, known.chosen) == (free.text, free.text, free.text)
    assert mine.chosen in ("green", "circle")
    assert other.chosen in ("a", "of", "an")
    # The ranking is that of the task itself.
    settings = judge.task.settings
    judge.task.settings = settings.model_copy(update={"inference": "rank", "answers": ("green", "circle")})
    ranked = judge.answer(image, TEXTS[0]).text
    judge.task.settings = settings
    assert mine.chosen == ranked


def test_a_captioner_is_no_judge(folders: Folders) -> None:
    with pytest.raises(UsageError, match="cannot answer questions"):
        answer_about(load(folders("caption"), device="cpu"), [photo(1)], [[Question("what ?")]])


def test_pictures_and_lists_of_questions_belong_together(judge: Model) -> None:
    with pytest.raises(UsageError, match="2 images and 1 lists of questions"):
        answer_about(judge, [photo(1), photo(2)], questions(1))


# ---------------------------------------------------------------------------------------------------------------- runs


def subjects(folder: Path) -> list[Subject]:
    """Six pictures with one to four questions each, 15 in all."""
    read = PictureReader()
    paths = []
    for number in range(6):
        paths.append(folder / f"{number}.png")
        if not paths[-1].exists():
            photo(number).save(paths[-1])
    return [Subject(str(path), partial(read, path), asked) for path, asked in zip(paths, questions(1, 4, 2, 4, 3, 1), strict=True)]


def rows_of(judge: Model, folder: Path, journal: Path, batch_size: int = 4) -> list[dict[str, Any]]:
    with Journal(journal, {"run": 1}) as rows:
        assert sum(ask(judge, subjects(folder), rows, batch_size, skip_unreadable=False)) == 15
        return list(rows.rows())


def test_a_stopped_run_goes_on_with_the_same_rows(judge: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(judge, tmp_path, tmp_path / "whole")
    assert [(row["picture"], row["number"]) for row in whole] == [
        (p, n) for p, count in enumerate((1, 4, 2, 4, 3, 1)) for n in range(count)
    ]
    for stop in range(1, 5):
        path = tmp_path / f"stopped{stop}"
        with Journal(path, {"run": 1}) as journal:
            running = ask(judge, subjects(tmp_path), journal, 4, skip_unreadable=False)
            for _ in range(stop):
                next(running)
            assert 0 < journal.done < 15
        asked = []
        hook = judge.task.model.vision.register_forward_hook(lambda module, given, result, asked=asked: asked.append(len(given[0])))
        with Journal(path, {"run": 1}) as journal:
            kept = journal.done
            counts = list(ask(judge, subjects(tmp_path), journal, 4, skip_unreadable=False))
            assert (counts[0], sum(counts), list(journal.rows())) == (kept, 15, whole)
            assert list(ask(judge, subjects(tmp_path), journal, 4, skip_unreadable=False)) == [15]
        hook.remove()
        assert sum(asked) < 6  # what was done is not done again


@pytest.mark.parametrize("lines", range(1, 15))
def test_a_batch_that_was_half_written_is_completed(judge: Model, tmp_path: Path, lines: int) -> None:
    whole = rows_of(judge, tmp_path, tmp_path / "whole")
    kept = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn").write_bytes(b"".join(kept[: lines + 1]) + kept[lines + 1][:9])
    assert rows_of(judge, tmp_path, tmp_path / "torn") == whole


def test_kill_9_loses_and_doubles_nothing(folders: Folders, judge: Model, tmp_path: Path) -> None:
    whole = rows_of(judge, tmp_path, tmp_path / "whole")
    killed = tmp_path / "killed"
    code = f"""
        import os, signal, sys
        from pathlib import Path
        import torch
        from inference.test_judge_asking import subjects
        from openmplug.inference.journal import Journal
        from openmplug.inference.judge.asking import ask
        from openmplug.inference.loading import load
        torch.set_num_threads(1)
        journal = Journal(Path({str(killed)!r}), {{"run": 1}})
        running = ask(load({str(folders("vqa"))!r}, device="cpu"), subjects(Path({str(tmp_path)!r})), journal, 4, skip_unreadable=False)
        next(running), next(running)
        journal._file.write(b'{{"picture": 3, "num')  # in the middle of a row
        journal._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    tests = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(tests), str(tests.parent / 'src')]!r}\n{textwrap.dedent(code)}"]
    )
    assert result.returncode == -signal.SIGKILL
    assert killed.read_bytes().endswith(b'"num')
    assert rows_of(judge, tmp_path, killed) == whole


def test_an_unreadable_picture_stops_the_run_or_is_written_down(judge: Model, tmp_path: Path) -> None:
    given = subjects(tmp_path)
    (tmp_path / "3.png").write_text("no picture")
    with Journal(tmp_path / "strict", {}) as journal, pytest.raises(DataError, match=r"3\.png' is not a picture"):
        list(ask(judge, given, journal, 4, skip_unreadable=False))
    with Journal(tmp_path / "lenient", {}) as journal:
        list(ask(judge, given, journal, 4, skip_unreadable=True))
        rows = list(journal.rows())
    assert [row["picture"] for row in rows if "error" in row] == [3] * 4
    assert all("answer" in row for row in rows if row["picture"] != 3)


def test_rows_of_another_model_or_of_other_pictures_are_not_mixed(folders: Folders, tmp_path: Path) -> None:
    given, output = subjects(tmp_path), tmp_path / "out"
    options = JudgeOptions(folders("vqa"), output, device="cpu", batch_size=4)
    rows, judge = ask_all(given, options, {"benchmark": "x"})
    assert judge["weights_sha256"] == weights_hash(folders("vqa"))
    assert (judge["num_beams"], judge["precision"], judge["image_size"]) == (2, "fp32", 32)
    # Another batch size is the same run: nothing is asked again.
    again, _ = ask_all(given, JudgeOptions(folders("vqa"), output, device="cpu", batch_size=3), {"benchmark": "x"})
    assert again == rows
    for other in ({"benchmark": "y"}, {"benchmark": "x", "pictures": "other"}):
        with pytest.raises(UsageError, match="--restart"):
            ask_all(given, options, other)
    with pytest.raises(UsageError, match="--restart"):
        ask_all(given, JudgeOptions(folders("vqa", num_beams=1), output, device="cpu"), {"benchmark": "x"})
    restarted, _ = ask_all(given, JudgeOptions(folders("vqa"), output, device="cpu", restart=True), {"benchmark": "y"})
    assert [row["answer"] for row in restarted] == [row["answer"] for row in rows]


def test_the_hash_is_that_of_the_weights_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder of weights that is known"):
        weights_hash(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"abc")
    # The SHA-256 of "abc", from FIPS 180-4.
    assert weights_hash(tmp_path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_hash(tmp_path / "pytorch_model.bin") == weights_hash(tmp_path)
    best = tmp_path / "run" / "checkpoint-best"
    best.mkdir(parents=True)
    (best / "config.json").write_text("{}")
    (best / "model.safetensors").write_bytes(b"abc")
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path)


def test_pictures_by_stem(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        pictures_in(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="holds no pictures"):
        pictures_in(tmp_path)
    photo(1).save(tmp_path / "a.b.png")
    (tmp_path / "deep").mkdir()
    photo(1).save(tmp_path / "deep" / "c.png")
    assert pictures_in(tmp_path) == {"a": tmp_path / "a.b.png"}
    before = fingerprint(pictures_in(tmp_path).values())
    photo(2).resize((8, 8)).save(tmp_path / "a.b.png")
    assert fingerprint(pictures_in(tmp_path).values()) != before
    photo(1).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"two pictures for item 'a', a\.b\.png and a\.jpg"):
        pictures_in(tmp_path)
