"""TIFA v1.0: pictures or another judge's answers in, TIFA and accuracy per kind of element out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openmplug.checkpoints.folder import file_hash
from openmplug.data.readers.tifa import ChoiceQuestion, ChosenAnswer, read_choice_questions, read_chosen_answers, read_pictures
from openmplug.errors import UsageError
from openmplug.inference.judge.asking import Question, Subject
from openmplug.inference.judge.embedder import SentenceEmbedder, local_embedder
from openmplug.inference.judge.report import INTERVAL, Report, figure
from openmplug.inference.judge.session import JudgeOptions, PictureReader, ask_all, fingerprint, need_inputs
from openmplug.metrics.judging.tifa import score_captions

EMBED, RANK = "embed", "rank"
CHOOSE = {
    EMBED: "a free answer that is no choice becomes the choice with the nearest sentence embedding",
    RANK: "a free answer that is no choice becomes the choice that the judge itself ranks first",
}


def judge_tifa(
    questions: Path,
    images: Path | None = None,
    answers: Path | None = None,
    options: JudgeOptions | None = None,
    choose: str | None = None,
    embedder: Path | None = None,
    dry_run: bool = False,
) -> tuple[Report, list[dict[str, Any]]]:
    """Score TIFA v1.0, or other questions in its format.

    Args:
        questions: ``tifa_v1.0_question_answers.json``.
        images: JSON file ``{id: file}``, or a folder of pictures with the ids as stems; or
        answers: Result file of TIFA's own scorer.
        options: The judge, for ``images``.
        choose: ``embed`` or ``rank``; None takes ``embed`` where the embedder is at hand, else ``rank``.
        embedder: Folder of the sentence encoder; None looks for all-mpnet-base-v2 in the Hugging Face cache.
        dry_run: Read and check everything, ask nothing.

    Returns:
        The report, and a row per question.

    Raises:
        UsageError: If the inputs are not named as they must be, or ``choose`` is unknown or cannot be had.
        DataError: If a file is not of its format, a caption has no picture, or answers and questions do not belong together.
    """
    need_inputs(images, answers, options)
    asked = read_choice_questions(questions)
    captions = list(dict.fromkeys(each.caption_id for each in asked))
    counts = {"items": len(captions), "questions": len(asked)}
    report: Report = {"benchmark": "tifa", "rule": "mean over captions of the mean over questions", "questions_file": str(questions)}
    log_probs: list[float | None] = [None] * len(asked)
    if answers is not None:
        chosen = read_chosen_answers(answers, asked)
        report["judge"] = {"answers": str(answers), "sha256": file_hash(answers)}
        if dry_run:
            return {**report, "dry_run": True, "counts": counts}, []
    else:
        assert images is not None and options is not None
        paths = read_pictures(images, captions)
        way, encoder = choose_way(choose, embedder)
        report |= {"images": str(images), "choose": way, "choose_rule": CHOOSE[way]}
        if dry_run:
            return {**report, "dry_run": True, "counts": {**counts, "pictures": len(paths)}}, []
        chosen, log_probs, asking = _ask(asked, paths, options, questions, encoder)
        report |= asking
    return _scored(report, asked, chosen, counts, log_probs)


def _ask(
    asked: Sequence[ChoiceQuestion], paths: dict[str, Path], options: JudgeOptions, questions: Path, encoder: Path | None
) -> tuple[list[ChosenAnswer], list[float | None], Report]:
    """Return the answer to each question, its log probability, and what the report says of the asking."""
    embed = SentenceEmbedder(encoder) if encoder is not None else None  # before the hours of asking, if it cannot be read
    subjects, order = _subjects(asked, paths, ranked=embed is None)
    about = {"benchmark": "tifa", "questions": file_hash(questions), "pictures": fingerprint(paths.values()), "ranked": embed is None}
    rows, judge = ask_all(subjects, options, about)
    by_question = dict(zip(order, rows, strict=True))
    chosen = [_choose(by_question[position], each, embed) for position, each in enumerate(asked)]
    no_choice = sum(one.free not in each.choices for one, each in zip(chosen, asked, strict=True))
    log_probs = [by_question[position]["log_prob"] for position in range(len(asked))]
    told = {"judge": judge, "embedder": None if encoder is None else str(encoder), "free_answers_that_were_no_choice": no_choice}
    return chosen, log_probs, told


def _scored(
    report: Report,
    asked: Sequence[ChoiceQuestion],
    chosen: Sequence[ChosenAnswer],
    counts: dict[str, int],
    log_probs: Sequence[float | None],
) -> tuple[Report, list[dict[str, Any]]]:
    right = [float(one.chosen == each.answer) for one, each in zip(chosen, asked, strict=True)]
    scores = score_captions([(each.caption_id, each.element_type, value) for each, value in zip(asked, right, strict=True)])
    whole = figure([[value] for value in scores.captions.values()])
    report |= {
        "tifa_average": scores.mean,
        "tifa_stdev": scores.stdev,
        "tifa_low": whole["low"],
        "tifa_high": whole["high"],
        "accuracy_by_type": scores.accuracy_by_type(),
        "types": {kind: {"questions": sum(map(len, groups)), **figure(groups)} for kind, groups in scores.types.items()},
        "counts": counts,
        "failures": {},  # one would have been an error
        "intervals": INTERVAL + "captions",
        "caption_scores": scores.captions,
    }
    return report, [_row(*each) for each in zip(asked, chosen, right, log_probs, strict=True)]


def choose_way(choose: str | None, embedder: Path | None) -> tuple[str, Path | None]:
    """Decide how a free answer becomes a choice, and with which sentence encoder.

    Raises:
        UsageError: If ``choose`` is unknown, or is ``embed`` and there is no encoder on this machine.
    """
    if choose not in (None, EMBED, RANK):
        raise UsageError(f"unknown --choose '{choose}'; one of {EMBED}, {RANK}")
    if choose == RANK:
        if embedder is not None:
            raise UsageError("--choose rank uses no sentence encoder; leave out --embedder, or say --choose embed")
        return RANK, None
    folder = embedder or local_embedder()
    if folder is not None:
        return EMBED, folder
    if choose == EMBED:
        raise UsageError(
            "--choose embed needs the sentence encoder all-mpnet-base-v2, which is not on this machine (or transformers is not"
            " installed: pip install 'openmplug[judge]'); give its folder with --embedder, or use --choose rank"
        )
    return RANK, None


def _subjects(asked: Sequence[ChoiceQuestion], paths: dict[str, Path], ranked: bool) -> tuple[list[Subject], list[int]]:
    """Put the questions about one picture together; also return the position in ``asked`` of each question, in the order asked."""
    read = PictureReader()
    positions: dict[str, list[int]] = {caption: [] for caption in paths}
    for position, each in enumerate(asked):
        positions[each.caption_id].append(position)
    subjects = []
    for caption, mine in positions.items():
        questions = tuple(
            Question(asked[position].question, {"id": caption, "number": position}, asked[position].choices if ranked else ())
            for position in mine
        )
        subjects.append(Subject(str(paths[caption]), partial(read, paths[caption]), questions))
    return subjects, [position for mine in positions.values() for position in mine]


def _choose(row: dict[str, Any], question: ChoiceQuestion, embed: SentenceEmbedder | None) -> ChosenAnswer:
    free = row["answer"]
    if free in question.choices:
        return ChosenAnswer(free, free)
    return ChosenAnswer(free, row["chosen"] if embed is None else embed.nearest(free, question.choices))


def _row(question: ChoiceQuestion, answer: ChosenAnswer, score: float, log_prob: float | None) -> dict[str, Any]:
    row = {
        "id": question.caption_id,
        "element_type": question.element_type,
        "question": question.question,
        "choices": list(question.choices),
        "right_answer": question.answer,
        "answer": answer.free,
        "chosen": answer.chosen,
        "score": score,
    }
    return row if log_prob is None else {**row, "log_prob": log_prob}
