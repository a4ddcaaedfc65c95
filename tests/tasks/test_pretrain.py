"""Pre-training: every objective against a plain version, the plan of forwards, and that all of it can be learned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Batch, Item, Sample
from openmplug.errors import DataError, UsageError
from openmplug.models.network import Network
from openmplug.objectives.itm import Negatives
from openmplug.tasks import Progress, build_task
from openmplug.tasks.alignment import Aligned
from openmplug.tasks.pretrain import PretrainTask
from openmplug.tasks.readings import Reading, Readings
from tiny_models import SIZES, SIZES2, randomise
from tiny_tasks import captions, evaluation_batch, items, memorise, tokenizer, training_batch

ALL = {"queue_size": 12, "instruction": 1.0}
OBJECTIVES = ("itc", "itm", "mlm", "prefix", "instruction")  # of records with captions


def task_with(family: str = "mplug", seed: int = 0, training: bool = True, **settings: Any) -> PretrainTask:
    torch.manual_seed(seed)
    task = build_task("pretrain", SIZES if family == "mplug" else SIZES2, tokenizer(), {**ALL, **settings}, training=training).eval()
    randomise(task.model, seed)
    torch.nn.init.constant_(task.model.contrastive.temperature, 0.07)
    assert isinstance(task, PretrainTask)
    if task.twin is not None:
        randomise(task.twin.model, seed + 7)
    return task


def texts() -> list[Sample]:
    return [Sample(f"words {n}", None, sample.targets[0]) for n, sample in enumerate(captions())]


class Fixed(PretrainTask):
    """Draws once and keeps it, so that a plain version can read along."""

    drawn: Readings
    negatives: Negatives

    def _readings(self, *args: Any, **keywords: Any) -> Readings:
        self.drawn = super()._readings(*args, **keywords)
        return self.drawn

    def draw_negatives(self, aligned: Aligned) -> Negatives:  # type: ignore[override]
        self.negatives = super().draw_negatives(aligned)
        return self.negatives


# ---------------------------------------------------------------------------------------------- each objective, one row at a time


def plain_language(task: Fixed, batch: Batch, name: str, alpha: float) -> Tensor:
    """Sum the loss of one objective text by text, without padding and without sharing anything."""
    assert task.twin is not None and batch.images is not None
    reading, losses, counts = task.drawn[name], [], 0
    for row in range(len(reading.ids)):
        length = int(reading.mask[row].sum())
        said, true = plain_logits(task.model, batch.images[row : row + 1], reading, row, length)
        with torch.no_grad():
            believed, _ = plain_logits(task.twin.model, batch.images[row : row + 1], reading, row, length)
        hard = F.cross_entropy(said, true, reduction="sum")
        soft = -(believed.softmax(dim=1) * said.log_softmax(dim=1)).sum()
        losses.append((1 - alpha) * hard + alpha * soft)
        counts += len(true)
    return torch.stack(losses).sum() / (counts if name == "mlm" or task.settings.per_token else len(losses))


def plain_logits(model: Network, image: Tensor, reading: Reading, row: int, length: int) -> tuple[Tensor, Tensor]:
    ids, mask = reading.ids[row : row + 1, :length], reading.mask[row : row + 1, :length]
    fused = model.fuse(model.encode_images(image), model.encode_text(ids, mask), mask)
    if reading.written is None:
        places = [place for place in range(length) if reading.labels[row, place] != -100]
        table = model.text.embeddings.words.weight
        logits = torch.cat([model.language(fused.text[:, place], table) for place in places])
        return logits, reading.labels[row, places]
    written = int(reading.written.mask[row].sum())
    target = reading.written.ids[row : row + 1, :written]
    logits = model.decoder(target[:, :-1], torch.ones_like(target[:, :-1], dtype=torch.bool), model.decoder_memory(fused, mask))
    return logits[0], target[0, 1:]


def plain_matching(task: Fixed, batch: Batch) -> Tensor:
    assert batch.images is not None and batch.text is not None
    losses, size = [], len(batch.images)
    wrong = [(int(task.negatives.images[row]), row) for row in range(size)] + [(row, int(task.negatives.texts[row])) for row in range(size)]
    for picture, text in [*((row, row) for row in range(size)), *wrong]:
        length = int(batch.text.mask[text].sum())
        ids, mask = batch.text.ids[text : text + 1, :length], batch.text.mask[text : text + 1, :length]
        vision = task.model.encode_images(batch.images[picture : picture + 1])
        logits = task.model.matching(task.model.fuse(vision, task.model.encode_text(ids, mask), mask).text)
        losses.append(F.cross_entropy(logits, torch.tensor([int(picture == text)])))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("family", ["mplug", "mplug2"])
@pytest.mark.parametrize(
    ("name", "per_token"), [("itm", False), ("mlm", False), ("prefix", False), ("instruction", False), ("prefix", True)]
)
def test_each_objective_equals_a_plain_version_in_value_and_gradient(family: str, name: str, per_token: bool) -> None:
    task = task_with(family, per_token=per_token)
    task.__class__ = Fixed
    assert isinstance(task, Fixed)
    batch = training_batch(task, captions()[:5])
    task.begin_step(Progress(3, 1))  # alpha in full
    torch.manual_seed(1)
    losses = task(batch)
    assert task._alpha == 0.4
    # The objective alone: what the sum has more than with this objective's weight at 0.
    torch.manual_seed(1)
    task.settings = task.settings.model_copy(update={name: 2.0})
    parameters = dict(task.model.named_parameters())
    doubled = torch.autograd.grad(task(batch).total, list(parameters.values()), allow_unused=True)
    task.settings = task.settings.model_copy(update={name: 1.0})
    torch.manual_seed(1)
    single = torch.autograd.grad(task(batch).total, list(parameters.values()), allow_unused=True)
    plain = plain_matching(task, batch) if name == "itm" else plain_language(task, batch, name, task._alpha)
    torch.testing.assert_close(losses.parts[name], plain.detach(), rtol=2e-4, atol=1e-5)
    expected = torch.autograd.grad(plain, list(parameters.values()), allow_unused=True)
    assert sum(one is not None and bool(one.any()) for one in expected) > 20
    for key, twice, once, wanted in zip(parameters, doubled, single, expected, strict=True):
        if twice is None or once is None:
            assert wanted is None, key
            continue
        # A key's bias has no gradient but rounding: softmax does not see it.
        scale = max(float(once.abs().max()), 0.1)
        wanted = torch.zeros_like(once) if wanted is None else wanted
        torch.testing.assert_close(twice - once, wanted, rtol=2e-3, atol=2e-4 * scale, msg=lambda text, key=key: f"{key}: {text}")


def test_the_sum_and_the_weights() -> None:
    batch = training_batch(task_with(), captions())
    torch.manual_seed(0)
    losses = task_with()(batch)
    assert set(losses.parts) == set(OBJECTIVES)
    torch.testing.assert_close(losses.total, torch.stack([*losses.parts.values()]).sum())
    torch.manual_seed(0)
    heavier = task_with(mlm=3.0, itc=0.5)(batch)
    torch.testing.assert_close(heavier.total, losses.total + 2 * losses.parts["mlm"] - 0.5 * losses.parts["itc"], rtol=1e-4, atol=1e-4)


def test_every_parameter_learns_but_the_twin_s() -> None:
    for family in ("mplug", "mplug2"):
        task = task_with(family)
        task(training_batch(task, captions())).total.backward()
        assert not [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.any()]
        assert task.twin is not None and all(p.grad is None for p in task.twin.parameters())


@pytest.mark.parametrize(
    ("settings", "modules"),
    [
        ({"itm": 0, "mlm": 0, "prefix": 0, "instruction": 0}, {"vision", "text", "contrastive"}),
        ({"mlm": 0, "prefix": 0, "instruction": 0}, {"vision", "text", "contrastive", "fusion", "matching"}),
        ({"itm": 0, "prefix": 0, "instruction": 0}, {"vision", "text", "contrastive", "fusion", "language"}),
        ({"itm": 0, "mlm": 0, "instruction": 0}, {"vision", "text", "contrastive", "fusion", "decoder"}),
    ],
)
def test_an_objective_of_no_weight_is_not_computed_and_its_parts_are_not_built(settings: dict[str, float], modules: set[str]) -> None:
    task = task_with(**settings)
    assert set(task.model.modules_built) == modules
    assert task.twin is not None and "matching" not in task.twin.model.modules_built
    assert set(task(training_batch(task, captions())).parts) == {name for name in OBJECTIVES if settings.get(name, 1)}


# ------------------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("teaching", [False, True])
def test_the_plan_of_forwards(teaching: bool) -> None:
    """Count the calls, and the rows of each, as the module's docstring promises."""
    task = task_with(distill=teaching)
    calls: Counter[str] = Counter()
    rows: Counter[str] = Counter()

    def watch(owner: str, model: Network) -> None:
        for name in ("vision", "text", "fusion"):
            if hasattr(model, name):

                def note(_: Any, inputs: tuple[Tensor, ...], key: str = f"{owner} {name}", place: int = int(name == "fusion")) -> None:
                    calls[key] += 1
                    rows[key] += len(inputs[place])

                getattr(model, name).register_forward_pre_hook(note)
        if hasattr(model, "decoder"):
            plain = model.decoder.hidden

            def hidden(*inputs: Any) -> Tensor:
                calls[f"{owner} decoder"] += 1
                return plain(*inputs)

            model.decoder.hidden = hidden  # type: ignore[method-assign]

    assert task.twin is not None
    watch("student", task.model)
    watch("twin", task.twin.model)
    task.begin_step(Progress(1, 1))
    task(training_batch(task, captions()))
    student = {"student vision": 1, "student text": 2, "student fusion": 2, "student decoder": 2}
    twin = {"twin vision": 1, "twin text": 2, "twin fusion": 1, "twin decoder": 2} if teaching else {"twin vision": 1, "twin text": 1}
    assert calls == {**student, **twin}
    size = len(captions())
    assert rows["student vision"] == size and rows["student text"] == 4 * size and rows["student fusion"] == 6 * size
    assert not teaching or (rows["twin text"], rows["twin fusion"]) == (4 * size, 3 * size)


def test_a_picture_with_several_captions_is_seen_once() -> None:
    task = task_with(captions_per_example=2, queue_size=16)
    doubled = [replace(sample, targets=(sample.targets[0], "a small cup")) for sample in captions()]
    batch = training_batch(task, doubled)
    assert batch.images is not None and len(batch.images) == 8 and len(batch.samples) == 16
    losses = task(batch)
    assert set(losses.parts) == set(OBJECTIVES) and math.isfinite(float(losses.total))


# ------------------------------------------------------------------------------------------------------------ words, examples


def test_texts_alone_are_masked_and_continued() -> None:
    task = task_with("mplug2")
    losses = task(task.collator(training=True)([Item(sample) for sample in task.examples(texts())]))
    assert set(losses.parts) == {"text_mlm", "text_prefix"}
    losses.total.backward()
    touched = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"text", "universal", "decoder", "language"}
    alone = task_with("mplug2", prefix=0, instruction=0)
    alone(alone.collator(training=True)([Item(sample) for sample in alone.examples(texts())])).total.backward()
    touched = {name.split(".")[0] for name, p in alone.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"text", "language"}, "masked words of texts alone skip the universal layers"
    with pytest.raises(UsageError, match=r"give settings\.mlm or settings\.prefix a weight"):
        mute = task_with(mlm=0, prefix=0)
        mute(mute.collator(training=True)([Item(sample) for sample in mute.examples(texts())]))


def questions() -> list[Sample]:
    """Two questions about each picture, one of them with two answers."""
    seen = [replace(sample, image=f"{sample.id}.jpg") for sample in captions()]
    first = [replace(one, id=f"{one.id}a", text="what is it ?", targets=(one.targets[0].split()[-1],)) for one in seen]
    second = [replace(one, id=f"{one.id}b", text="is it a cup ?", targets=("yes", "no"), weights=(0.7, 0.3)) for one in seen]
    return [one for pair in zip(first, second, strict=True) for one in pair]


@pytest.mark.parametrize("per_token", [False, True])
def test_questions_are_answered_as_task_vqa_answers_them(per_token: bool) -> None:
    task = task_with(answer=0.5, questions_per_example=2, per_token=per_token)
    batch = training_batch(task, questions())
    assert batch.images is not None and len(batch.images) == 8 and len(batch.samples) == 16
    losses = task(batch)
    assert set(losses.parts) == {"answer"} and batch.targets is not None
    vqa = build_task("vqa", {**SIZES}, tokenizer(), {"questions_per_example": 2}, training=True).eval()
    vqa.model.load_state_dict({name: task.model.state_dict()[name] for name in vqa.model.state_dict()})
    expected = float(vqa(batch).total)
    if per_token:
        expected *= len(batch.samples) / float(batch.targets.mask[:, 1:].sum())
    assert float(losses.total) == pytest.approx(0.5 * expected, rel=1e-5)
    losses.total.backward()
    touched = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"vision", "text", "fusion", "decoder"}


def test_questions_are_scored_by_the_pieces_of_their_answers() -> None:
    task = task_with(answer=1.0, training=False)
    together, alone = predictions(task, questions()), [predictions(task, [one])[0] for one in questions()]
    for one, other in zip(together, alone, strict=True):
        assert one.extra["answer"][:2] == other.extra["answer"][:2] and "mlm" not in one.extra
        assert one.extra["answer"][2] == pytest.approx(other.extra["answer"][2], rel=1e-3)
    assert set(task.score(together)) == {"answer_accuracy", "answer_perplexity", "mean_accuracy"}


def test_what_cannot_be_learned_is_said() -> None:
    task = task_with()
    with pytest.raises(UsageError, match="record '0' asks a question about a picture"):
        task.examples([replace(captions()[0], text="what is it ?")])
    with pytest.raises(DataError, match="questions and captions cannot share a batch"):
        task.collator(training=True)(items([questions()[0], *task.examples(captions()[:1])]))
    with pytest.raises(DataError, match="record '9' has no text"):
        task.collator(training=True)(items([Sample("9", "9.jpg", image_index=9)]))
    with pytest.raises(DataError, match="with and without pictures cannot share a batch"):
        task.collator(training=True)([*items(task.examples(captions()[:1])), Item(texts()[0])])
    with pytest.raises(UsageError, match="is empty; say what is asked"):
        build_task("pretrain", {**SIZES2}, tokenizer(), {"instructions": [" "]})


def test_the_instruction_names_what_is_seen() -> None:
    task = task_with(instructions=["what is the {kind} ?", "a small photo"])
    seen = items(task.examples(captions()[:2]))
    clips = [replace(item, sample=replace(item.sample, clip=True), pixels=item.pixels[None]) for item in seen if item.pixels is not None]
    for given, said in ((seen, "image"), (clips, "video")):
        batch = task.collator(training=True)(given)
        assert batch.targets is not None
        assert batch.targets.ids.tolist() == tokenizer()([f"what is the {said} ?", "a small photo"]).ids.tolist()


# ------------------------------------------------------------------------------------------------------------- learning, scores


def test_all_of_it_is_learned_together() -> None:
    torch.manual_seed(0)
    settings = {"queue_size": 16, "instruction": 1.0, "per_token": True}
    task = build_task("pretrain", SIZES2, tokenizer(), settings, training=True)
    losses = memorise(task, captions(), steps=100)
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        scores = task.score(task.predict(evaluation_batch(task, captions())))
    assert scores["itc_accuracy"] >= 60 and scores["itm_accuracy"] >= 90  # by chance 12.5 and 50
    assert scores["instruction_accuracy"] >= 90 and scores["prefix_accuracy"] >= 70


def predictions(task: PretrainTask, samples: Sequence[Sample]) -> list[Any]:
    with torch.no_grad():
        return task.predict(evaluation_batch(task, samples))


def test_words_are_scored_alike_in_every_batch() -> None:
    task = task_with(training=False)
    together = predictions(task, captions())
    alone = [predictions(task, [sample])[0] for sample in captions()]
    for name in ("mlm", "prefix", "instruction"):
        for one, other in zip(together, alone, strict=True):
            assert one.extra[name][:2] == other.extra[name][:2]
            assert one.extra[name][2] == pytest.approx(other.extra[name][2], rel=1e-3)
    scores = task.score(together)
    assert scores["mean_accuracy"] == pytest.approx(sum(scores[f"{name}_accuracy"] for name in OBJECTIVES) / 5)
    assert task.score([]) == {}
    assert len(task.marks(together).values) == len(together)
