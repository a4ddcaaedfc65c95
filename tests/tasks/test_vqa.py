"""Visual question answering: batches, loss, distillation, answers written and answers ranked."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from openmplug.batch import Batch, Losses, Prediction, Sample
from openmplug.errors import DataError, UsageError
from openmplug.models.ranking import rank_answers
from openmplug.objectives.language import soft_token_losses, text_labels, token_losses
from openmplug.tasks import Progress
from openmplug.tasks.vqa import VQACollator, VQASettings, VQATask
from tiny_models import randomise
from tiny_tasks import evaluation_batch, items, questions, random_task, tokenizer, training_batch


def task_with(training: bool = False, seed: int = 0, **settings: Any) -> VQATask:
    task = random_task("vqa", settings, training, seed)
    assert isinstance(task, VQATask)
    return task


def several_answers() -> list[Sample]:
    first, second, third = questions()[:3]
    return [
        replace(first, targets=("red", "a blue box"), weights=(0.75, 0.25)),
        replace(second, targets=("blue",), weights=()),
        replace(third, targets=("ball", "cup", "one two three"), weights=(0.5, 0.3, 0.2)),
    ]


# -------------------------------------------------------------------------------------------------------------------- collator


def test_training_batch_holds_flattened_answers_with_end_and_weights() -> None:
    task, words = task_with(), tokenizer()
    batch = training_batch(task, several_answers())
    assert batch.images is not None and batch.text is not None and batch.targets is not None
    assert batch.images.shape == (3, 3, 16, 16)
    assert batch.targets_per_item is not None and batch.targets_per_item.tolist() == [2, 1, 3]
    assert batch.target_weights is not None
    torch.testing.assert_close(batch.target_weights, torch.tensor([0.75, 0.25, 1.0, 0.5, 0.3, 0.2]))
    texts = [row[real].tolist() for row, real in zip(batch.targets.ids, batch.targets.mask, strict=True)]
    assert texts[1] == [101, *(words.token_to_id(word) for word in ("a", "blue", "box")), 102]
    assert all(text[0] == 101 and text[-1] == 102 for text in texts)
    assert [words.decode(text) for text in texts] == ["red", "a blue box", "blue", "ball", "cup", "one two three"]
    assert 102 not in batch.text.ids, "questions have no end mark"


def test_words_and_objects_of_the_picture_stand_behind_the_question() -> None:
    words, first = tokenizer(), several_answers()[0]
    told = replace(first, extra={"ocr": [[0, "Red!"], [7, "CUP"]], "object_label": "ball&&blue box"})

    def asked(*samples: Sample, training: bool = False, **settings: Any) -> list[str]:
        make = training_batch if training else evaluation_batch
        text = make(task_with(**settings), list(samples)).text
        assert text is not None
        rows = (row[real].tolist() for row, real in zip(text.ids, text.mask, strict=True))
        return [" ".join("|" if token == words.sep_id else words.decode([token]) for token in row[1:]) for row in rows]

    (question,) = asked(told)
    both = {"add_ocr": True, "add_object": True}
    assert asked(told, first, **both) == [f"{question} | red cup | ball blue box", question]
    assert asked(told, add_ocr=True) == [f"{question} | red cup"]
    assert asked(told, add_object=True) == [f"{question} | ball blue box"]
    cut = asked(told, training=True, max_question_length=len(question.split()) + 3, **both)
    assert cut == [f"{question} | red"], "training cuts the whole, [CLS] included"


@pytest.mark.parametrize(("setting", "column"), [("add_ocr", "ocr"), ("add_object", "object_label")])
def test_what_is_to_stand_behind_the_questions_must_be_there(setting: str, column: str) -> None:
    task, samples = task_with(True, **{setting: True}), several_answers()
    with pytest.raises(DataError, match=f"settings.{setting} is on, and none of the 3 training records has '{column}'"):
        task.examples(samples)
    assert len(task.examples([samples[0], replace(samples[1], extra={column: None})])) == 2


def test_evaluation_batch_needs_no_answers() -> None:
    unanswered = [replace(sample, targets=(), references=()) for sample in questions()]
    batch = evaluation_batch(task_with(), unanswered)
    assert batch.targets is None and batch.target_weights is None
    assert [one.references for one in task_with().predict(batch)] == [()] * 8


def test_questions_are_cut_in_training_and_whole_in_evaluation() -> None:
    task, long = task_with(max_question_length=4), [replace(questions()[0], text="what colour is the small round thing")]
    for batch, length in ((training_batch(task, long), 4), (evaluation_batch(task, long), 8)):
        assert batch.text is not None and batch.text.ids.shape == (1, length)
    endless = [replace(questions()[0], text="red " * 99)]
    batch = evaluation_batch(task, endless)
    assert batch.text is not None and batch.text.ids.shape == (1, 24), "cut at the model's positions"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("text", [None, ""])
def test_a_record_without_a_question_is_named(training: bool, text: str | None) -> None:
    with pytest.raises(DataError, match="record '0' has no question; every record of a question-answering task needs one"):
        task_with().collator(training)(items([replace(questions()[0], text=text)]))


def test_a_record_without_an_answer_is_named_in_training() -> None:
    with pytest.raises(DataError, match="record '3' has no answer; training needs one for every question"):
        task_with().collator(training=True)(items([questions()[0], replace(questions()[3], targets=())]))


def test_collator_can_go_to_a_worker() -> None:
    collator = pickle.loads(pickle.dumps(task_with().collator(training=True)))
    assert isinstance(collator, VQACollator)
    targets = collator(items(questions())).targets
    assert targets is not None and len(targets.ids) == 8


# ------------------------------------------------------------------------------------------------------------------------ loss


def test_loss_is_the_weighted_sum_over_answers_per_picture() -> None:
    task, samples = task_with(), several_answers()
    loss = task(training_batch(task, samples)).total
    total = 0.0
    for sample in samples:
        for answer, weight in zip(sample.targets, sample.weights or (1.0,), strict=True):
            alone = training_batch(task, [replace(sample, targets=(answer,), weights=(1.0,))])
            assert alone.images is not None and alone.text is not None and alone.targets is not None
            memory = task.model.answer_memory(alone.images, alone.text.ids, alone.text.mask)
            logits = task.model.decoder(alone.targets.ids, alone.targets.mask, memory)
            total += weight * float(token_losses(logits, alone.targets.ids).sum().detach())
    assert float(loss.detach()) == pytest.approx(total / 3, rel=1e-4)


def same_picture() -> list[Sample]:
    """Return 5 questions about 2 pictures, out of order."""
    first, second, *others = several_answers() + questions()[3:5]
    return [
        replace(sample, image=image, image_index=int(image[0]))
        for sample, image in zip([first, second, *others], ["0.jpg", "1.jpg", "0.jpg", "0.jpg", "1.jpg"], strict=True)
    ]


@pytest.mark.parametrize(
    ("most", "groups"), [(1, [["0"], ["1"], ["2"], ["3"], ["4"]]), (2, [["0", "2"], ["3"], ["1", "4"]]), (9, [["0", "2", "3"], ["1", "4"]])]
)
def test_questions_about_a_picture_can_be_learned_together(most: int, groups: list[list[str]]) -> None:
    examples = task_with(questions_per_example=most).examples(same_picture())
    assert [[part.id for part in one.parts or (one,)] for one in examples] == groups
    assert {one.image for one in examples} == {"0.jpg", "1.jpg"}


@pytest.mark.parametrize("most", [2, 9])
def test_questions_learned_together_have_the_loss_of_questions_learned_apart(most: int) -> None:
    together, apart = task_with(questions_per_example=most), task_with()
    batches = [training_batch(task, same_picture()) for task in (together, apart)]
    assert batches[0].images is not None and len(batches[0].images) < len(batches[0]) == len(batches[1]) == 5
    losses = [task(batch).total for task, batch in zip((together, apart), batches, strict=True)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    for loss in losses:
        loss.backward()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4 * max(1.0, float(other.grad.abs().max())), rtol=1e-3)


def test_every_parameter_learns() -> None:
    task = task_with()
    task(training_batch(task, several_answers())).total.backward()
    # The second row of the type table is never used.
    assert not [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.any()]


def test_losses_carry_a_detached_part_for_the_log() -> None:
    losses: Losses = task_with()(training_batch(task_with(), questions()))
    assert set(losses.parts) == {"loss"}
    assert losses.total.requires_grad and not losses.parts["loss"].requires_grad


def test_a_twin_alone_does_not_change_the_loss_and_is_built_only_when_asked_for() -> None:
    plain, distilled = task_with(training=True), task_with(training=True, distill=True)
    assert plain.twin is None and task_with(distill=True).twin is None
    assert distilled.twin is not None
    batch = training_batch(plain, several_answers())
    assert torch.equal(plain(batch).total, distilled(batch).total)


def test_distillation_mixes_in_the_teacher_s_words() -> None:
    task, samples = task_with(training=True, distillation_alpha=0.4), several_answers()
    assert task.twin is not None
    randomise(task.twin.model, seed=5)
    batch = training_batch(task, samples)
    assert batch.images is not None and batch.text is not None and batch.targets is not None and batch.target_weights is not None
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    labels = text_labels(batch.targets.ids, batch.targets.mask)
    with torch.no_grad():
        logits, teacher = (
            model.decoder(
                batch.targets.ids, batch.targets.mask, model.answer_memory(batch.images, batch.text.ids, batch.text.mask).rows(owner)
            )
            for model in (task.model, task.twin.model)
        )
        losses = 0.6 * token_losses(logits, labels) + 0.4 * soft_token_losses(logits, labels, teacher[:, :-1].softmax(dim=-1))
        expected = (losses.sum(dim=1) * batch.target_weights).sum() / 3
    loss = task(batch).total
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert all(parameter.grad is None for parameter in task.twin.parameters())


def test_the_twin_moves_before_the_step_and_its_fusion_never() -> None:
    task = task_with(training=True, distill=True)
    assert task.twin is not None
    before = {name: parameter.clone() for name, parameter in task.twin.named_parameters()}
    randomise(task.model, seed=5)
    task.begin_step(Progress())
    moved = {name.split(".")[1] for name, parameter in task.twin.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"vision", "text", "decoder"}


# --------------------------------------------------------------------------------------------------------------------- answers


def test_predictions_carry_what_a_reader_of_them_needs() -> None:
    task = task_with()
    one = task.predict(evaluation_batch(task, questions()))[3]
    assert (one.id, one.references) == ("3", ("box",) * 10)
    assert one.extra == {"image": "3.jpg", "question": "what is on the left ?", "question_id": 503}
    assert one.score < 0


def test_ranking_chooses_among_the_given_answers() -> None:
    answers = ("yes", "no", "a small ball", "red", "blue")
    task = task_with(inference="rank", answers=answers, k_test=3)
    batch = evaluation_batch(task, questions())
    assert batch.images is not None and batch.text is not None
    with torch.no_grad():
        predictions = task.predict(batch)
        memory = task.model.answer_memory(batch.images, batch.text.ids, batch.text.mask)
        tokens = tokenizer()([answer + "[SEP]" for answer in answers])
        ranking = rank_answers(task.model.decoder, memory, tokens.ids, tokens.mask, k=3)
    assert [one.text for one in predictions] == [answers[index] for index in ranking.indices[:, 0].tolist()]
    assert [one.score for one in predictions] == pytest.approx(ranking.probabilities[:, 0].tolist())


def test_more_candidates_than_answers_are_no_error() -> None:
    task = task_with(inference="rank", answers=("yes", "no"))
    assert task.settings.k_test == 128
    assert {one.text for one in task.predict(evaluation_batch(task, questions()))} <= {"yes", "no"}


def test_without_given_answers_the_training_answers_are_ranked() -> None:
    task = task_with(inference="rank")
    task.examples([*several_answers(), *questions()])
    assert task.settings.answers[:4] == ("red", "a blue box", "blue", "ball")
    assert len(task.settings.answers) == len(set(task.settings.answers)) == 12
    fixed = task_with(inference="rank", answers=("yes",))
    fixed.examples(questions())
    assert fixed.settings.answers == ("yes",)


def test_ranking_without_any_answers_is_refused() -> None:
    task = task_with(inference="rank")
    with pytest.raises(DataError, match=r"settings\.inference is 'rank' but there are no answers to rank; give settings\.answers"):
        task.predict(evaluation_batch(task, questions()))


# ----------------------------------------------------------------------------------------------------------------------- score


def answered(*pairs: tuple[str, tuple[str, ...]]) -> list[Prediction]:
    return [Prediction(str(n), text, references=references) for n, (text, references) in enumerate(pairs)]


def test_scores_by_hand() -> None:
    predictions = answered(("red", ("red",) * 3 + ("blue",) * 7), ("two dogs", ("2 dogs",) * 9 + ("cats",)), ("?", ()))
    # Of ten annotators three say red: left out in turn, 7 x min(3/3, 1) + 3 x 2/3. "two" and "2" are the same officially.
    official = 100 * ((7 + 3 * 2 / 3) / 10 + 1) / 2
    scores = task_with().score(predictions)
    assert scores == {"accuracy": pytest.approx(official), "vqa_accuracy": pytest.approx(official), "exact_match": 50.0}
    assert task_with(metric="exact_match").score(predictions)["accuracy"] == 50.0
    assert VQATask.metric in scores


def test_scores_of_each_kind() -> None:
    predictions = answered(("red", ("red",)), ("blue", ("red",)), ("2", ("2",)))
    given = [replace(one, extra={"kind": kind}) for one, kind in zip(predictions, ("colour", "colour", "count"), strict=True)]
    scores = task_with(metric="exact_match", score_by="kind").score(given)
    assert (scores["accuracy_colour"], scores["accuracy_count"]) == (50.0, 100.0)
    assert scores["accuracy"] == pytest.approx(200 / 3) and "accuracy_colour" not in task_with().score(given)


def test_unanswered_questions_have_no_score() -> None:
    assert task_with().score(answered(("red", ()))) == {}


def test_exact_match_compares_whole_strings() -> None:
    assert task_with().score(answered(("r", ("red",))))["exact_match"] == 0.0


def test_scorer_says_which_accuracy() -> None:
    assert task_with(metric="exact_match").scorer()["accuracy"] == "exact_match"


# ------------------------------------------------------------------------------------------------------------------- precision


def test_bf16_is_close_and_can_be_trained_and_decoded() -> None:
    task = task_with(training=True, distill=True)
    batch: Batch = training_batch(task, several_answers())
    exact = float(task(batch).total.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = task(batch).total
    loss.backward()
    assert loss.dtype is torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=0.05)
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in task.parameters())
    ranking: dict[str, Any] = {"inference": "rank", "answers": ("yes", "no", "a small ball")}
    for settings in ({}, ranking):
        written = task_with(**settings)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert len(written.predict(evaluation_batch(written, questions()))) == 8


# ---------------------------------------------------------------------------------------------------------- settings and state


def test_contradicting_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="min_length 11 is above max_length 10; lower min_length"):
        VQASettings(min_length=11)
    with pytest.raises(UsageError, match="min_length 11 is above max_length 10"):
        task_with(min_length=11)


@pytest.mark.parametrize("settings", [{"num_beams": 0}, {"inference": "guess"}, {"k_test": 0}, {"distillation_alpha": 2.0}, {"beams": 3}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        task_with(**settings)


def test_training_state_goes_there_and_back() -> None:
    task, other = task_with(training=True, distill=True), task_with(training=True, distill=True, seed=3)
    state = {name: tensor.clone() for name, tensor in task.training_state().items()}
    assert state and all(name.startswith("twin.") for name in state)
    other.load_training_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.training_state().items())
    assert task_with().training_state() == {}


def test_training_state_of_another_task_is_refused_and_nothing_changes() -> None:
    task = task_with(training=True, distill=True)
    before = {name: tensor.clone() for name, tensor in task.training_state().items()}
    name = "twin.model.text.embeddings.words.weight"
    with pytest.raises(ValueError, match=rf"training state does not fit this task: missing \['{name}'\], unknown \[\], wrong shape \[\]"):
        task.load_training_state({key: tensor * 0 for key, tensor in before.items() if key != name})
    with pytest.raises(ValueError, match=r"unknown \['more'\]"):
        task.load_training_state({**{key: tensor * 0 for key, tensor in before.items()}, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"wrong shape \['{name}'\]"):
        task.load_training_state({**{key: tensor * 0 for key, tensor in before.items()}, name: torch.zeros(2)})
    assert all(torch.equal(tensor, before[key]) for key, tensor in task.training_state().items())
