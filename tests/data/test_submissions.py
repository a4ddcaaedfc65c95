"""Predictions in each benchmark's own form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openmplug.batch import Prediction
from openmplug.data.readers.submissions import submission
from openmplug.engine.evaluator import Evaluation, write_evaluation


def predictions(**extra: object) -> list[Prediction]:
    return [Prediction("5", "a café", 0.5, (), extra), Prediction("6", "no", 0.1, (), extra)]


@pytest.mark.parametrize(
    ("reader", "extra", "expected"),
    [
        ("vqa_v2", {"question_id": 131}, {"question_id": 131, "answer": "a café"}),
        ("textvqa", {"question_id": 7}, {"question_id": 7, "answer": "a café"}),
        ("mplug_vqa", {}, {"question_id": "5", "answer": "a café"}),  # lists without ids are numbered
        ("gqa", {"question_id": "201"}, {"questionId": "201", "prediction": "a café"}),
        ("vizwiz", {"image": "V_1.jpg"}, {"image": "V_1.jpg", "answer": "a café"}),
        ("karpathy", {"image_id": 42}, {"image_id": 42, "caption": "a café"}),
    ],
)
def test_lists_of_objects(reader: str, extra: dict[str, object], expected: dict[str, object]) -> None:
    handed_in = submission(reader, "test", predictions(**extra))
    assert handed_in is not None
    name, content = handed_in
    assert name == "submission.json" and "café" in content
    rows = json.loads(content)
    assert rows[0] == expected and len(rows) == 2


def test_vatex_is_one_object() -> None:
    handed_in = submission("vatex", "test", predictions())
    assert handed_in is not None and json.loads(handed_in[1]) == {"5": "a café", "6": "no"}


@pytest.mark.parametrize(
    ("split", "name"),
    [("cola/test", "CoLA"), ("stsb/test", "STS-B"), ("mnli/test_matched", "MNLI-m"), ("mnli/test_mismatched", "MNLI-mm")],
)
def test_glue_s_tables(split: str, name: str) -> None:
    assert submission("glue", split, predictions()) == (f"{name}.tsv", "index\tprediction\n5\ta café\n6\tno\n")


def test_nlvr_s_lines() -> None:
    pairs = [Prediction(f"dev-850-{n}-0", text, 0.9, (), {"identifier": f"dev-850-{n}-0"}) for n, text in enumerate(("True", "False"))]
    assert submission("nlvr2", "dev", pairs) == ("submission.csv", "dev-850-0-0,True\ndev-850-1-0,False\n")
    drawing = Prediction("dev/10-0-3", "true", 0.9, (), {"identifier": "10-0", "permutation": 3, "image": "dev/dev-10-0-3.png"})
    assert submission("nlvr1", "valid", [drawing]) == ("submission.csv", "dev-10-0-3.png,true\n")


def test_what_has_no_form_has_no_file(tmp_path: Path) -> None:
    assert submission("jsonl", "dev", predictions()) is None
    assert submission("karpathy", "test", [Prediction("1", "", 0.2)]) is None  # ranks, not words
    found = Evaluation({"accuracy": 1.0}, predictions())
    assert "submission" not in write_evaluation(tmp_path / "a", found, {})
    result = write_evaluation(tmp_path / "b", found, {}, ("submission.json", "[]\n"))
    assert result["submission"] == "submission.json" and (tmp_path / "b" / "submission.json").read_text() == "[]\n"
    assert json.loads((tmp_path / "b" / "metrics.json").read_text()) == result
