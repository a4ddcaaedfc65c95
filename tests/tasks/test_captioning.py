"""Captioning: prompts and their place in the loss, captions written, scores."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from openmplug.batch import Prediction
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import DataError, EnvironmentProblem, UsageError
from openmplug.objectives.language import IGNORE, token_losses
from openmplug.tasks import build_task
from openmplug.tasks.captioning import CaptioningTask, CaptionSettings
from tiny_models import SIZES
from tiny_tasks import WORDS, captions, evaluation_batch, items, random_task, tokenizer, training_batch


def task_with(training: bool = False, seed: int = 0, **settings: Any) -> CaptioningTask:
    task = random_task("caption", {"num_beams": 2, "min_length": 2, "max_length": 6, **settings}, training, seed)
    assert isinstance(task, CaptioningTask)
    return task


# ----------------------------------------------------------------------------------------------------------- examples, collator


def test_each_caption_is_an_example() -> None:
    sample = replace(captions()[0], targets=("a ball", "a red ball"))
    examples = task_with().examples([sample, captions()[1]])
    assert [one.targets for one in examples] == [("a ball",), ("a red ball",), ("a red box on the right",)]
    assert [one.image for one in examples] == ["0.jpg", "0.jpg", "1.jpg"]


def test_captions_of_a_picture_can_be_learned_together() -> None:
    sample = replace(captions()[0], targets=("a ball", "a red ball", "ball"))
    examples = task_with(captions_per_example=2).examples([sample, captions()[1]])
    assert [one.targets for one in examples] == [("a ball", "a red ball"), ("ball",), ("a red box on the right",)]


def test_training_batch_holds_lower_cased_captions_with_an_end() -> None:
    words = tokenizer()
    batch = training_batch(task_with(), [replace(captions()[0], targets=("A Red BALL",)), captions()[1]])
    assert batch.targets is not None and batch.text is None
    assert words.decode(batch.targets.ids[0].tolist()) == "a red ball"
    assert batch.targets.ids[0].tolist()[:5] == [101, *(words.token_to_id(word) for word in ("a", "red", "ball")), 102]
    assert not batch.targets.mask[0, 5:].any()


def test_prompt_and_caption_are_joined_without_a_space_and_a_long_caption_loses_its_end() -> None:
    words = tokenizer()
    batch = training_batch(task_with(prompt="a picture of "), captions()[:1])
    assert batch.targets is not None
    assert words.decode(batch.targets.ids[0].tolist()) == "a picture of a red ball on the left"
    short = training_batch(task_with(max_text_length=4), captions()[:1])
    assert short.targets is not None
    assert words.decode(short.targets.ids[0].tolist()) == "a red ball"
    assert 102 not in short.targets.ids


def test_evaluation_batch_holds_pictures_only() -> None:
    batch = evaluation_batch(task_with(), captions())
    assert batch.targets is None and batch.text is None
    assert batch.images is not None and len(batch.images) == 8


def test_a_record_without_a_caption_is_named() -> None:
    with pytest.raises(DataError, match="record '0' has no caption; training needs one for every picture"):
        task_with().collator(training=True)(items([replace(captions()[0], targets=())]))


def test_collator_can_go_to_a_worker() -> None:
    task = task_with()
    collator = pickle.loads(pickle.dumps(task.collator(training=True)))
    assert collator(items(task.examples(captions()))).targets.ids.shape[0] == 8


# ------------------------------------------------------------------------------------------------------------------------ loss


def plain_loss(task: CaptioningTask, ignored: int) -> float:
    """Average the cross-entropy of every token after the first ``ignored``, caption by caption."""
    total, count = 0.0, 0
    for sample in captions():
        batch = training_batch(task, [sample])
        assert batch.images is not None and batch.targets is not None
        labels = batch.targets.ids.clone()
        labels[:, :ignored] = IGNORE
        logits = task.model.decoder(batch.targets.ids, batch.targets.mask, task.model.caption_memory(batch.images))
        total += float(token_losses(logits, labels).sum().detach())
        count += int((labels[:, 1:] != IGNORE).sum())
    return total / count


def test_loss_is_the_mean_over_all_tokens_of_the_batch() -> None:
    task = task_with()
    loss = task(training_batch(task, captions())).total
    assert float(loss.detach()) == pytest.approx(plain_loss(task, ignored=1), rel=1e-4)


@pytest.mark.parametrize("counts", [(2, 2), (3, 1)])
def test_captions_learned_together_have_the_loss_of_captions_learned_apart(counts: tuple[int, int]) -> None:
    texts = [sample.targets[0] for sample in captions()]
    samples = [replace(captions()[0], targets=tuple(texts[: counts[0]])), replace(captions()[1], targets=tuple(texts[4 : 4 + counts[1]]))]
    together, apart = task_with(captions_per_example=5), task_with()
    assert len(training_batch(together, samples)) == 2 and len(training_batch(apart, samples)) == 4
    losses = [task(training_batch(task, samples)).total for task in (together, apart)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_the_prompt_is_left_out_of_the_loss_but_for_its_last_word() -> None:
    """[CLS] a picture of: the original takes the last id for a [SEP], so "of" is learned."""
    task = task_with(prompt="a picture of ")
    loss = task(training_batch(task, captions())).total
    assert float(loss.detach()) == pytest.approx(plain_loss(task, ignored=3), rel=1e-4)


def test_a_prompt_of_one_word_and_none_leave_nothing_out() -> None:
    assert task_with(prompt="a ").prompt_ids == [101, tokenizer().token_to_id("a")]
    task = task_with(prompt="a ")
    loss = task(training_batch(task, captions())).total
    assert float(loss.detach()) == pytest.approx(plain_loss(task, ignored=1), rel=1e-4)


def test_every_parameter_learns() -> None:
    task = task_with()
    task(training_batch(task, captions())).total.backward()
    assert not [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_prompt_that_leaves_no_word_to_learn_is_refused() -> None:
    """Otherwise the mean over no tokens is not a number."""
    with pytest.raises(UsageError, match="max_text_length 4"):
        task_with(prompt="a picture of the small red ", max_text_length=4)


# -------------------------------------------------------------------------------------------------------------------- captions


def test_a_captioner_may_begin_at_the_start_and_what_stands_behind_the_prompt_is_kept() -> None:
    """mPLUG-2's scripts: the prompt is for training; what is written is cut at it."""
    plain = task_with(prompt="")
    started = task_with(prompt="a picture of", generate_from="start")
    batch = evaluation_batch(plain, captions())
    free, same = (task.predict(batch) for task in (plain, started))
    assert [one.text for one in free] == [one.text for one in same]
    assert started._behind_prompt("a picture of a red ball") == "a red ball"
    assert started._behind_prompt("a red ball") == "a red ball"
    assert task_with(prompt="a picture of")._behind_prompt("a picture of a ball") == "a picture of a ball"


def test_captions_begin_with_the_prompt_but_for_its_last_word() -> None:
    for seed in range(3):
        task = task_with(prompt="a picture of ", seed=seed)
        for one in task.predict(evaluation_batch(task, captions())):
            assert one.text.startswith("a picture")


def test_lengths_are_kept() -> None:
    task = task_with(min_length=3, max_length=4)
    for one in task.predict(evaluation_batch(task, captions())):
        assert 1 <= len(tokenizer().encode(one.text)) - 1 <= 4


def test_predictions_carry_what_a_reader_of_them_needs() -> None:
    task = task_with()
    one = task.predict(evaluation_batch(task, captions()))[2]
    assert (one.id, one.references, one.extra) == ("2", captions()[2].references, {"image": "2.jpg"})
    assert one.score < 0


def test_another_vocabulary_s_begin_and_end_are_used() -> None:
    """Training begins captions with the tokenizer's own [CLS], so writing must too; not every BERT vocabulary has it at 101."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer.from_vocab(special + sorted(set(WORDS.split())) + [f"[unused{n}]" for n in range(80)])
    task = build_task("caption", SIZES, words, {"num_beams": 2, "min_length": 1, "max_length": 4}).eval()
    batch = task.collator(training=False)(items(captions()[:1]))
    seen: list[torch.Tensor] = []
    handle = task.model.decoder.embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.predict(batch)
    handle.remove()
    assert seen[0].tolist() == [[words.cls_id]]


def test_scores_are_the_metrics_of_captions() -> None:
    texts = [sample.targets[0] for sample in captions()]
    perfect = [Prediction(str(n), text, references=(text, "something else")) for n, text in enumerate(texts)]
    scores = task_with().score(perfect)
    assert scores["bleu_1"] == pytest.approx(1.0) and scores["rouge_l"] == pytest.approx(1.0)
    assert CaptioningTask.metric in scores and scores["cider"] > 1
    assert task_with().score([Prediction("0", "a ball")]) == {}
    assert set(task_with().scorer()) == {"tokenizer", "cider"}


# ----------------------------------------------------------------------------------------------------------- precision, settings


def test_bf16_is_close_and_can_be_trained_and_decoded() -> None:
    task = task_with()
    batch = training_batch(task, captions())
    exact = float(task(batch).total.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = task(batch).total
    loss.backward()
    assert loss.dtype is torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=0.05)
    assert all(bool(p.grad.isfinite().all()) for p in task.parameters() if p.grad is not None)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(task.predict(evaluation_batch(task, captions()))) == 8


def test_contradicting_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="min_length 8 is above max_length 7; lower min_length"):
        CaptionSettings(max_length=7)


@pytest.mark.parametrize("settings", [{"num_beams": 0}, {"max_text_length": 2}, {"max_length": 0, "min_length": 0}, {"promt": "a"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        task_with(**settings)


def test_there_is_no_training_state() -> None:
    assert task_with(training=True).training_state() == {}


# ----------------------------------------------------------------------------------------------------------------- instruction


def test_an_instruction_is_read_with_the_picture() -> None:
    asking, plain = task_with(training=True, instruction="what is it ?"), task_with(training=True)
    assert asking.model.modules_built == ("vision", "text", "fusion", "decoder") and plain.model.modules_built == ("vision", "decoder")
    batch = training_batch(asking, captions()[:3])
    assert batch.images is not None and batch.targets is not None
    asked = tokenizer()(["what is it ?"] * 3)
    memory = asking.model.answer_memory(batch.images, asked.ids, asked.mask)
    logits = asking.model.decoder(batch.targets.ids, batch.targets.mask, memory)
    labels = batch.targets.ids.masked_fill(~batch.targets.mask, IGNORE)
    expected = token_losses(logits, labels).sum() / (labels[:, 1:] != IGNORE).sum()
    torch.testing.assert_close(asking(batch).total, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        written = {question: [one.score for one in _written(question)] for question in ("what is it ?", "how many are there ?")}
    assert written["what is it ?"] != written["how many are there ?"]


def _written(question: str) -> list[Prediction]:
    task = task_with(instruction=question)
    return task.predict(evaluation_batch(task, captions()[:3]))


# -------------------------------------------------------------------------------------------------- the official Java scorers


def test_official_scores_stand_beside_the_others_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def scored(names: Any, hypotheses: Any, references: Any) -> dict[str, float]:
        asked.append((hypotheses, references))
        return dict.fromkeys(names, 0.25)

    monkeypatch.setattr("openmplug.tasks.captioning.require", lambda names: {"spice": "no parser here"} if "spice" in names else {})
    monkeypatch.setattr("openmplug.tasks.captioning.official_scores", scored)
    task = task_with(official=["meteor", "spice"])
    predictions = list(task.evaluate([evaluation_batch(task, captions())]))
    scores = task.score(predictions)
    assert scores["meteor"] == 0.25 and "spice" not in scores and "cider" in scores
    assert asked == [([one.text for one in predictions], [list(one.references) for one in predictions])]
    assert task.scorer()["spice"] == "not computed: no parser here" and task.scorer()["meteor"].startswith("METEOR 1.5")
    assert "meteor" not in task_with().scorer()


def test_what_an_official_score_needs_is_looked_for_before_anything_is_learned_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentProblem, match="METEOR needs"):
        task_with(training=True, official=["meteor"])
    task = task_with(official=["meteor"])  # a model that is only used needs no scorer
    with pytest.raises(EnvironmentProblem, match="METEOR needs"):
        next(iter(task.evaluate([])))
