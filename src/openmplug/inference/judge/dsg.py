"""DSG-1k: pictures or a judge's answers in, scores per category out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openmplug.checkpoints.folder import file_hash
from openmplug.config import did_you_mean
from openmplug.data.readers.judging import GivenAnswer, Proposition, Questions, check_answers, read_answers, read_questions
from openmplug.errors import DataError
from openmplug.inference.judge.asking import Question, Subject
from openmplug.inference.judge.report import INTERVAL, Report, figure
from openmplug.inference.judge.session import JudgeOptions, PictureReader, ask_all, fingerprint, need_inputs, pictures_in
from openmplug.metrics.judging.dependencies import yes_scores
from openmplug.metrics.judging.dsg import benchmark_items, by_category, item_score, question_scores

RULE = "public: yes = 1, a dependent of a question that was not answered with yes = 0; mean over items of the mean over questions"


def judge_dsg(
    questions: Path, images: Path | None = None, answers: Path | None = None, options: JudgeOptions | None = None, dry_run: bool = False
) -> tuple[Report, list[dict[str, Any]]]:
    """Score DSG-1k, or other questions in its format.

    Args:
        questions: ``dsg-1k-anns.csv``.
        images: Folder of generated pictures, ``item_id`` = stem; or
        answers: Answers that a judge gave earlier, of one or several text-to-image models.
        options: The judge, for ``images``.
        dry_run: Read and check everything, ask nothing.

    Returns:
        The report, and a row per question.

    Raises:
        UsageError: If neither or both of images and answers are given.
        DataError: If a file is not of its format, answers and questions do not belong together, or no picture belongs to an item.
    """
    need_inputs(images, answers, options)
    asked = read_questions(questions)
    notes = _notes(asked)
    report: Report = {"benchmark": "dsg", "rule": RULE, "questions_file": str(questions)}
    failures: dict[str, str] = {}
    if answers is not None:
        given = read_answers(answers)
        check_answers(given, asked)
        report |= {"judge": {"answers": str(answers), "sha256": file_hash(answers)}}
        name = answers.stem
    else:
        assert images is not None and options is not None
        subjects, paths, failures = _subjects(asked, images)
        notes += [f"picture '{path}': {reason}; left out" for path, reason in failures.items()]
        name = images.resolve().name
        report |= {"images": str(images), "counts": {"items": len(asked.items), "pictures": len(paths), "questions": len(asked)}}
        if dry_run:
            return {**report, "dry_run": True, "notes": notes}, []
        about = {"benchmark": "dsg", "questions": file_hash(questions), "pictures": fingerprint(paths)}
        rows, report["judge"] = ask_all(subjects, options, about)
        given = [GivenAnswer("", "", row["item_id"], 1, row["proposition_id"], row["answer"]) for row in rows]
    if dry_run:
        return {**report, "dry_run": True, "counts": {"questions": len(given)}, "notes": notes}, []
    models, rows = _score(asked, given, name, whole=images is not None, notes=notes)
    unusable = _unusable(asked)
    counts = {"items": len(asked.items), "questions": len(asked), "answers": len(given)}
    return {
        **report,
        "counts": {**counts, **report.get("counts", {})},
        "failures": failures,
        "items_without_dependencies": unusable,
        "notes": notes,
        "models": models,
        "intervals": INTERVAL + "items",
    }, rows


def document(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures alone: ``{model: {category: {items, score}}}``, percent to one decimal as the public scorer prints them."""
    return {
        model: {category: {"items": each["items"], "score": round(each["score"], 1)} for category, each in categories.items()}
        for model, categories in report["models"].items()
    }


def _unusable(asked: Questions) -> dict[str, str]:
    return {**asked.unusable, **asked.absent}


def _notes(asked: Questions) -> list[str]:
    return [f"item '{item}' is scored without dependencies: {reason}" for item, reason in _unusable(asked).items()]


def _subjects(asked: Questions, images: Path) -> tuple[list[Subject], list[Path], dict[str, str]]:
    pictures, read = pictures_in(images), PictureReader()
    failures = {
        str(path): f"no item '{stem}' in the questions{did_you_mean(stem, asked.items)}"
        for stem, path in pictures.items()
        if stem not in asked.items
    }
    known = [(item, pictures[item]) for item in asked.items if item in pictures]
    if not known:
        raise DataError(f"none of the {len(pictures):,} pictures in '{images}' belongs to an item; {next(iter(failures.values()))}")
    subjects = [Subject(str(path), partial(read, path), _questions(item, asked.items[item])) for item, path in known]
    return subjects, [path for _, path in known], failures


def _questions(item_id: str, item: Mapping[int, Proposition]) -> tuple[Question, ...]:
    return tuple(Question(each.question, {"item_id": item_id, "proposition_id": each.number}) for each in item.values())


def _score(
    asked: Questions, given: Sequence[GivenAnswer], name: str, whole: bool, notes: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answers: dict[str, dict[str, dict[int, str]]] = {}
    for each in given:
        answers.setdefault(each.model, {}).setdefault(each.item_id, {})[each.number] = each.answer
    models: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for model, items in answers.items():
        label = f"{name}/{model}" if model else name
        measured = list(asked.items) if whole else benchmark_items(list(items), list(asked.items))
        silent = [item for item in measured if item not in items]
        if silent:
            notes.append(f"{label}: {len(silent):,} items have no answer and score 0: {_some(silent)}")
        partly = [item for item in measured if item in items and len(items[item]) < len(asked.items[item])]
        if partly:
            notes.append(f"{label}: {len(partly):,} items have questions without an answer, which score 0: {_some(partly)}")
        scores: dict[str, float] = {}
        for item in measured:
            scores[item], item_rows = _score_item(asked, item, items.get(item, {}))
            rows += [{**({"t2i_model": model} if model else {}), **row} for row in item_rows]
        groups = by_category(scores)
        models[label] = {
            category: {"items": len(values), **figure([[value] for value in values], 100)} for category, values in groups.items()
        }
    return models, rows


def _score_item(asked: Questions, item_id: str, answers: Mapping[int, str]) -> tuple[float, list[dict[str, Any]]]:
    propositions = asked.items[item_id]
    parents = {} if item_id in asked.absent else {number: each.parents for number, each in propositions.items()}
    complete = {number: answers.get(number, "") for number in propositions}
    own, zeroed = yes_scores(complete), question_scores(complete, parents)
    rows = [
        {
            "item_id": item_id,
            "proposition_id": number,
            "question": each.question,
            "answer": complete[number],
            "score": own[number],
            "score_with_dependencies": zeroed[number],
        }
        for number, each in propositions.items()
        if number in answers
    ]
    return item_score(zeroed), rows


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
