"""Predictions in the form that a benchmark's server or official scorer takes: one function per form, and a line for each reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from openmplug.batch import Prediction

Form = Callable[[Sequence[Prediction], str], tuple[str, str]]
"""``form(predictions, split)``: the file's name and its content."""

_GLUE_FILES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "qnli": "QNLI", "rte": "RTE"}
_MNLI_FILES = {"matched": "MNLI-m", "mismatched": "MNLI-mm"}


def submission(reader: str, split: str, predictions: Sequence[Prediction]) -> tuple[str, str] | None:
    """Return the name and content of the file to hand in, or None where the reader's benchmark has no such form.

    Args:
        reader: A key of ``READERS``.
        split: The split's name, as the reader takes it.
        predictions: Of the whole split, in order.

    Source: the submission pages of VQA v2, TextVQA, GQA, VizWiz, COCO captions, NoCaps, VATEX, GLUE and NLVR.
    """
    form = FORMS.get(reader)
    written = [one for one in predictions if one.text]
    return form(written, split) if form is not None and written else None


def _records(*fields: tuple[str, str]) -> Form:
    """Make a JSON list of objects; ``fields`` are pairs of the server's name and ours (``text``, or a field of ``extra``)."""

    def form(predictions: Sequence[Prediction], split: str) -> tuple[str, str]:
        rows = [{theirs: one.text if ours == "text" else one.extra.get(ours, one.id) for theirs, ours in fields} for one in predictions]
        return "submission.json", _json(rows)

    return form


def _by_video(predictions: Sequence[Prediction], split: str) -> tuple[str, str]:
    return "submission.json", _json({one.id: one.text for one in predictions})


def _glue(predictions: Sequence[Prediction], split: str) -> tuple[str, str]:
    task, _, part = split.partition("/")
    name = _MNLI_FILES.get(part.rpartition("_")[2], "MNLI-m") if task == "mnli" else _GLUE_FILES.get(task, task)
    rows = "".join(f"{one.id}\t{one.text}\n" for one in predictions)
    return f"{name}.tsv", f"index\tprediction\n{rows}"


def _true_or_false(predictions: Sequence[Prediction], split: str) -> tuple[str, str]:
    """Write NLVR2's lines "identifier,label"; NLVR's scorer of pictures names them by their files, one line for each."""
    keys = [one.extra["image"].rpartition("/")[2] if "permutation" in one.extra else one.extra["identifier"] for one in predictions]
    return "submission.csv", "".join(f"{key},{one.text}\n" for key, one in zip(keys, predictions, strict=True))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


_answers = _records(("question_id", "question_id"), ("answer", "text"))
_captions = _records(("image_id", "image_id"), ("caption", "text"))
FORMS: dict[str, Form] = {
    "vqa_v2": _answers,
    "okvqa": _answers,
    "textvqa": _answers,
    "mplug_vqa": _answers,
    "gqa": _records(("questionId", "question_id"), ("prediction", "text")),
    "vizwiz": _records(("image", "image"), ("answer", "text")),
    "coco_captions": _captions,
    "karpathy": _captions,
    "nocaps": _captions,
    "vatex": _by_video,
    "glue": _glue,
    "nlvr2": _true_or_false,
    "nlvr1": _true_or_false,
}
