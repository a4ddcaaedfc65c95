"""DSG-1k from pictures or answers to scores; the released answers of mPLUG-large give the published figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.judging import photo, script, write_questions
from openmplug.errors import DataError
from openmplug.inference.judge import asking
from openmplug.inference.judge.dsg import document, judge_dsg
from openmplug.inference.judge.session import JudgeOptions

Folders = Callable[..., Path]

QUESTIONS = [
    ("vrd_1", 1, "0", "entity - whole (cat)"),
    ("vrd_1", 2, "1", "attribute - color (cat, red)"),
    ("vrd_1", 3, "2", "attribute - size (cat, small)"),
    ("whoops_1", 1, "0", "entity - whole (table)"),
    ("whoops_1", 2, "1, blue", "attribute - color (table, blue)"),  # shifted columns: no dependencies for the whole item
    ("whoops_1", 3, "1", "entity - part (table, leg)"),
    ("whoops_2", 1, "0", "entity - whole (tree)"),
]


def test_the_released_answers_give_the_published_figures(data_root: Path) -> None:
    folder = data_root / "judge"
    report, rows = judge_dsg(folder / "dsg-1k-anns.csv", answers=folder / "mplug_dsg.csv")
    expected = json.loads((folder / "expected_dsg.json").read_text())
    assert document(report) == {
        model: {category: {"items": items, "score": score} for category, (items, score) in categories.items()}
        for model, categories in expected.items()
    }
    assert len(rows) == 11858
    numbers = [reason for reason in report["items_without_dependencies"].values() if "is not a list of numbers" in reason]
    assert len(numbers) == 8
    # One more item lacks the proposition that all its questions depend on; nobody answered it.
    assert "depends on 1, which the item does not have" in report["items_without_dependencies"]["tifa160_134"]


@pytest.fixture
def bench(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, JudgeOptions]:
    images = tmp_path / "painter"
    images.mkdir()
    answers = {"vrd_1": ["no", "yes", "yes"], "whoops_1": ["no", "yes", "Yes"]}
    said = {}
    for seed, (item, words) in enumerate(answers.items()):
        photo(seed).save(images / f"{item}.png")
        said[photo(seed).tobytes()] = {f"{item} {number} ?": word for number, word in enumerate(words, start=1)}
    monkeypatch.setattr(asking, "answer_about", script(said))
    return write_questions(tmp_path / "questions.csv", QUESTIONS), images, JudgeOptions(folders("vqa"), tmp_path / "out", device="cpu")


def test_pictures_by_hand(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    photo(5).save(images / "vrd_7.png")
    report, rows = judge_dsg(questions, images, options=options)
    # vrd_1: 2 falls with 1, 3 stays (its parent's own answer was yes). whoops_1: nothing falls, "Yes" is not "yes". whoops_2: no picture.
    assert document(report) == {
        "painter": {
            "relation": {"items": 1, "score": 33.3},
            "defying": {"items": 2, "score": 16.7},
            "all": {"items": 3, "score": 22.2},
        }
    }
    assert [(row["item_id"], row["answer"], row["score"], row["score_with_dependencies"]) for row in rows] == [
        ("vrd_1", "no", 0, 0),
        ("vrd_1", "yes", 1, 0),
        ("vrd_1", "yes", 1, 1),
        ("whoops_1", "no", 0, 0),
        ("whoops_1", "yes", 1, 1),
        ("whoops_1", "Yes", 0, 0),
    ]
    assert list(report["items_without_dependencies"]) == ["whoops_1"]
    assert report["failures"] == {str(images / "vrd_7.png"): "no item 'vrd_7' in the questions; did you mean 'vrd_1'?"}
    assert "painter: 1 items have no answer and score 0: whoops_2" in report["notes"]
    assert report["counts"] == {"items": 3, "pictures": 2, "questions": 7, "answers": 6}
    relation = report["models"]["painter"]["relation"]
    assert (relation["low"], relation["high"]) == (None, None)  # one item tells nothing about the spread


def test_answers_of_several_models(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "questions.csv", QUESTIONS)
    given = tmp_path / "judge.csv"
    given.write_text(
        "t2i_model,item_id,question_id,answer\n"
        "a,vrd_1,1,yes\na,vrd_1,2,yes\na,vrd_1,3,yes\na,whoops_1,1,yes\na,whoops_1,2,yes\n"  # its third question: no answer
        "b,vrd_1,1,yes\nb,vrd_1,2,\nb,vrd_1,3,yes\n"
    )
    report, _ = judge_dsg(questions, answers=given)
    assert document(report) == {
        "judge/a": {
            "relation": {"items": 1, "score": 100.0},
            "defying": {"items": 2, "score": 33.3},
            "all": {"items": 3, "score": 55.6},
        },
        # Run on one category only, so whoops is not counted; 3 falls with the empty answer to 2.
        "judge/b": {"relation": {"items": 1, "score": 33.3}, "all": {"items": 1, "score": 33.3}},
    }
    assert "judge/a: 1 items have questions without an answer, which score 0: whoops_1" in report["notes"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("vrd_9,1,yes", "line 2: answer to unknown item 'vrd_9'; did you mean 'vrd_1'"),
        ("vrd_1,4,yes", "line 2: answer to unknown proposition 4 of item 'vrd_1', which has 1, 2, 3"),
        ("vrd_1,1,yes\nvrd_1,1,no", "line 3: proposition 1 of item 'vrd_1' is answered twice, first at .* line 2"),
        ("vrd_1,one,yes", "line 2: 'question_id' is 'one'; expected a whole number"),
    ],
)
def test_answers_that_do_not_belong_to_the_questions(tmp_path: Path, row: str, message: str) -> None:
    questions = write_questions(tmp_path / "questions.csv", QUESTIONS)
    given = tmp_path / "judge.csv"
    given.write_text(f"item_id,question_id,answer\n{row}\n")
    with pytest.raises(DataError, match=message):
        judge_dsg(questions, answers=given)


def test_wrong_columns(tmp_path: Path) -> None:
    given = tmp_path / "judge.csv"
    given.write_text("item_id,question_id,anwser\nvrd_1,1,yes\n")
    questions = write_questions(tmp_path / "questions.csv", QUESTIONS)
    with pytest.raises(DataError, match=r"no 'answer'; found columns item_id, question_id, anwser, expected .*; did you mean 'anwser'"):
        judge_dsg(questions, answers=given)
    questions.write_text("item_id,proposition,dependency,tuple,question_natural_language\nvrd_1,1,0,a,b\n")
    with pytest.raises(DataError, match=r"line 2: no 'proposition_id'; found columns .* did you mean 'proposition'"):
        judge_dsg(questions, answers=given)
    questions.write_text("item_id,proposition_id,dependency,tuple,question_natural_language\nvrd_1,1,0,a,b\nvrd_1,1,0,a,b\n")
    with pytest.raises(DataError, match="line 3: proposition 1 of item 'vrd_1' stands there twice"):
        judge_dsg(questions, answers=given)


def test_pictures_of_something_else(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    for path in images.iterdir():
        path.rename(path.with_name(f"my_{path.name}"))
    with pytest.raises(DataError, match=r"none of the 2 pictures in .* belongs to an item; no item 'my_vrd_1' .* did you mean 'vrd_1'"):
        judge_dsg(questions, images, options=options)


def test_a_picture_that_cannot_be_read_is_an_error(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    (images / "vrd_1.png").write_text("no picture")
    with pytest.raises(DataError, match=r"vrd_1\.png' is not a picture"):
        judge_dsg(questions, images, options=options)
