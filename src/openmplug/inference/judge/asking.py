"""Many questions about many pictures: each picture is encoded once, and the questions go through the model in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openmplug.batch import Item, Sample
from openmplug.data.text import target_text
from openmplug.errors import DataError, UsageError
from openmplug.inference.journal import Journal
from openmplug.inference.model import Model
from openmplug.models.decoder import DecoderMemory
from openmplug.models.ranking import rank_answers
from openmplug.tasks.decoding import generate
from openmplug.tasks.vqa import VQATask


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture.

    Args:
        text: As it is asked.
        row: What names it in the rows of the run.
        choices: Rank these if the free answer is none of them; empty = the free answer stands.
    """

    text: str
    row: dict[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A picture, or a tile of one, and what is asked about it.

    Args:
        name: The picture, for messages.
        open: Reads it; raises ``DataError``.
        questions: At least one.
    """

    name: str
    open: Callable[[], Image.Image]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's free answer, its length-normalised log probability (<= 0), and the choice it was taken for, where there were any."""

    text: str
    score: float
    chosen: str | None = None


def judge_task(model: Model) -> VQATask:
    """Return the task of answering questions around a model.

    Raises:
        UsageError: If the model was trained for another task, or lacks a part.
    """
    task = model.task_for("vqa")
    assert isinstance(task, VQATask)
    return task


def answer_about(
    model: Model, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]], batch_size: int | None = None
) -> list[list[Reply]]:
    """Answer several questions about each picture, with the beam search of the model's own settings.

    Each picture is encoded once. As many whole pictures go together as have ``batch_size`` questions between them; a picture with more
    is taken alone, its questions in several rounds. Nothing of a picture is kept after its batch.

    Args:
        model: A loaded model that answers questions.
        images: RGB pictures.
        questions: For each picture, at least one question.
        batch_size: Questions worked on at once; the model's where None.

    Returns:
        For each picture, a reply to each of its questions, in order.

    Raises:
        UsageError: If the model does not answer questions, or the numbers of pictures and lists of questions differ.
    """
    judge_task(model)
    if len(images) != len(questions):
        raise UsageError(f"{len(images)} images and {len(questions)} lists of questions; give one list for each image")
    replies: list[list[Reply]] = []
    for first, last in batches([len(asked) for asked in questions], batch_size or model.batch_size):
        replies += _answer_batch(model, images[first:last], questions[first:last], batch_size or model.batch_size)
    return replies


def batches(counts: Sequence[int], batch_size: int) -> Iterator[tuple[int, int]]:
    """Group consecutive pictures whose numbers of questions add up to at most ``batch_size``; a picture with more stands alone.

    Example:
        >>> list(batches([5, 4, 9, 30, 2], 10))
        [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    first = total = 0
    for position, count in enumerate(counts):
        if position > first and total + count > batch_size:
            yield first, position
            first, total = position, 0
        total += count
    if counts:
        yield first, len(counts)


def _answer_batch(
    model: Model, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]], batch_size: int
) -> list[list[Reply]]:
    task = judge_task(model)
    items = []
    for image, asked in zip(images, questions, strict=True):
        parts = tuple(Sample(str(position), text=question.text) for position, question in enumerate(asked))
        items.append(Item(Sample("", parts=parts), model.transform(image)))
    batch = task.collator(training=False)(items).to(model.device)
    assert batch.images is not None and batch.text is not None
    flat = [question for asked in questions for question in asked]
    owner = torch.tensor([index for index, asked in enumerate(questions) for _ in asked], device=model.device)
    replies: list[Reply] = []
    with model.computing():
        vision = task.model.encode_images(batch.images)
        for start in range(0, len(flat), batch_size):
            rows = slice(start, start + batch_size)
            memory = _memory(task, vision[owner[rows]], batch.text.ids[rows], batch.text.mask[rows])
            replies += _reply(task, memory, flat[rows])
    remaining = iter(replies)
    return [[next(remaining) for _ in asked] for asked in questions]


def _memory(task: VQATask, vision: Tensor, ids: Tensor, mask: Tensor) -> DecoderMemory:
    """Fuse questions (N, T) with their pictures' tokens (N, V, D); the second half of ``MPLUG.answer_memory``."""
    return task.model.decoder_memory(task.model.fuse(vision, task.model.encode_text(ids, mask), mask), mask)


def _reply(task: VQATask, memory: DecoderMemory, questions: Sequence[Question]) -> list[Reply]:
    settings = task.settings
    written = generate(
        task.model.decoder,
        memory,
        task.tokenizer,
        num_beams=settings.num_beams,
        min_length=settings.min_length,
        max_length=settings.max_length,
    )
    replies = [
        Reply(text, best.score, text if text in question.choices else None)
        for (text, best), question in zip(written, questions, strict=True)
    ]
    undecided: dict[tuple[str, ...], list[int]] = {}
    for position, question in enumerate(questions):
        if question.choices and replies[position].chosen is None:
            undecided.setdefault(question.choices, []).append(position)
    for choices, positions in undecided.items():
        index = torch.tensor(positions, device=memory.layers[0].keys.device)
        tokens = task.tokenizer([target_text(choice) for choice in choices]).to(index.device)
        best = rank_answers(task.model.decoder, memory.rows(index), tokens.ids, tokens.mask, k=len(choices)).indices[:, 0].tolist()
        for position, choice in zip(positions, best, strict=True):
            replies[position] = Reply(replies[position].text, replies[position].score, choices[choice])
    return replies


def ask(model: Model, subjects: Sequence[Subject], journal: Journal, batch_size: int, skip_unreadable: bool) -> Iterator[int]:
    """Ask every question of every subject and write a row for each into the journal; go on after the rows that are there.

    Batches are the same wherever a run was stopped, so a resumed run writes the rows that an unbroken one would.

    Args:
        model: The judge.
        subjects: The same, in the same order, as those the journal was begun with.
        journal: Gets per question its ``row``, ``question``, ``answer`` and ``log_prob`` (and ``chosen`` where there were choices); or
            ``error`` instead of an answer.
        batch_size: Questions worked on at once.
        skip_unreadable: Write ``error`` for the questions of a picture that cannot be read, instead of raising.

    Yields:
        How many questions were asked earlier, if any, and then how many each batch has.

    Raises:
        DataError: If a picture cannot be read and ``skip_unreadable`` is False.
    """
    position = earlier = 0
    for first, last in batches([len(subject.questions) for subject in subjects], batch_size):
        group = subjects[first:last]
        count = sum(len(subject.questions) for subject in group)
        position += count
        if position <= journal.done:
            earlier += count
            continue
        if earlier:
            yield earlier
            earlier = 0
        rows = _rows(model, group, batch_size, skip_unreadable)
        journal.append(rows[max(0, journal.done - position + count) :])
        yield count
    if earlier:
        yield earlier


def _rows(model: Model, group: Sequence[Subject], batch_size: int, skip_unreadable: bool) -> list[dict[str, Any]]:
    images: list[Image.Image] = []
    reasons: dict[int, str] = {}
    for position, subject in enumerate(group):
        try:
            images.append(subject.open())
        except DataError as error:
            if not skip_unreadable:
                raise
            reasons[position] = str(error)
    asked = [subject.questions for position, subject in enumerate(group) if position not in reasons]
    replies = iter(answer_about(model, images, asked, batch_size))
    rows = []
    for position, subject in enumerate(group):
        found = None if position in reasons else next(replies)
        for number, question in enumerate(subject.questions):
            row = {**question.row, "question": question.text}
            if found is None:
                row["error"] = reasons[position]
            else:
                row |= {"answer": found[number].text, "log_prob": found[number].score}
                if question.choices:
                    row["chosen"] = found[number].chosen
            rows.append(row)
    return rows
