"""Retrieval: momentum, queue and hard negatives in training; the ranking of a whole split in evaluation."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from openmplug.batch import Batch, Item, Sample
from openmplug.errors import DataError, UsageError
from openmplug.objectives.itm import Negatives
from openmplug.tasks import Progress, build_task
from openmplug.tasks.reranking import NOT_A_CANDIDATE, Encoded, image_to_text, text_to_image
from openmplug.tasks.retrieval import RetrievalSettings, RetrievalTask
from tiny_models import SIZES, randomise
from tiny_tasks import captions, evaluation_batch, items, random_task, tokenizer, training_batch


def task_with(training: bool = True, seed: int = 0, model: dict[str, Any] | None = None, **settings: Any) -> RetrievalTask:
    task = random_task("retrieval", {"queue_size": 12, **settings}, training, seed, **(model or {}))
    assert isinstance(task, RetrievalTask)
    return task


def several_captions() -> list[Sample]:
    """Return 5 pictures with 1 to 3 captions each."""
    texts = [sample.targets[0] for sample in captions()]
    each = [texts[:2], texts[2:3], texts[3:6], texts[6:7], [texts[7], "one small round box"]]
    return [replace(sample, targets=tuple(own), references=tuple(own)) for sample, own in zip(captions()[:5], each, strict=True)]


# ----------------------------------------------------------------------------------------------------------- examples, collator


def test_each_caption_is_an_example_of_its_picture() -> None:
    examples = task_with().examples(several_captions())
    assert [one.image_index for one in examples] == [0, 0, 1, 2, 2, 2, 3, 4, 4]


def test_training_batch_holds_cleaned_captions_and_picture_numbers() -> None:
    batch = training_batch(task_with(max_words=3), [replace(captions()[4], targets=("Red-BALL, on the left!",))])
    assert batch.text is not None and batch.image_index is not None
    assert tokenizer().decode(batch.text.ids[0].tolist()) == "red ball on"
    assert batch.image_index.tolist() == [4]
    assert 102 not in batch.text.ids


def test_evaluation_batch_holds_all_captions_of_each_picture_in_order() -> None:
    batch = evaluation_batch(task_with(max_text_length=3), several_captions())
    assert batch.text is not None and batch.targets_per_item is not None
    assert batch.targets_per_item.tolist() == [2, 1, 3, 1, 2]
    assert batch.text.ids.shape == (9, 3)
    assert tokenizer().decode(batch.text.ids[2].tolist()) == "two small"


@pytest.mark.parametrize("training", [False, True])
def test_a_record_without_a_caption_is_named(training: bool) -> None:
    with pytest.raises(DataError, match="record '1' has no caption; retrieval needs at least one for every picture"):
        samples = [replace(captions()[0], text="a ball"), replace(captions()[1], references=())]
        task_with().collator(training)(items(samples))


def test_an_empty_caption_among_several_is_named() -> None:
    task = task_with(captions_per_example=2)
    examples = task.examples([replace(captions()[0], targets=("a ball", ""))])
    with pytest.raises(DataError, match="record '0' has no caption"):
        task.collator(True)(items(examples))


def test_collator_can_go_to_a_worker() -> None:
    task = task_with()
    collator = pickle.loads(pickle.dumps(task.collator(training=True)))
    assert collator(items(task.examples(captions()))).text.ids.shape[0] == 8


# -------------------------------------------------------------------------------------------------------------------- training


def plain_contrastive(task: RetrievalTask, batch: Batch, alpha: float) -> float:
    """Compute the contrastive loss from the definition, one row at a time."""
    assert task.twin is not None and task.queue is not None
    assert batch.images is not None and batch.text is not None and batch.image_index is not None
    with torch.no_grad():
        features = []
        for model in (task.model, task.twin.model):
            vision = model.encode_images(batch.images)[:, 0] @ model.contrastive.vision.weight.T + model.contrastive.vision.bias
            text = model.encode_text(batch.text.ids, batch.text.mask)[:, 0] @ model.contrastive.text.weight.T + model.contrastive.text.bias
            features.append((vision / vision.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)))
        (vision, text), (vision_m, text_m) = features
        numbers = torch.cat([batch.image_index, task.queue.index])
        total = 0.0
        for mine, mine_m, others in (
            (vision, vision_m, torch.cat([text_m, task.queue.text])),
            (text, text_m, torch.cat([vision_m, task.queue.vision])),
        ):
            for row in range(len(mine)):
                same = (numbers == batch.image_index[row]).float()
                believed = (others @ mine_m[row] / task.model.contrastive.temperature).softmax(dim=0)
                target = alpha * believed + (1 - alpha) * same / same.sum()
                total -= float(target @ (others @ mine[row] / task.model.contrastive.temperature).log_softmax(dim=0)) / len(mine) / 2
    return total


@pytest.mark.parametrize(("progress", "alpha"), [(Progress(), 0.0), (Progress(5, 0, 0.5), 0.2), (Progress(10, 1, 0.1), 0.4)])
def test_contrastive_loss_and_the_ramp_of_alpha(progress: Progress, alpha: float) -> None:
    task = task_with()
    assert task.twin is not None
    randomise(task.twin.model, seed=5)
    batch = training_batch(task, several_captions())
    task.begin_step(progress)
    parts = task(batch).parts
    assert set(parts) == {"itc", "itm"}
    assert float(parts["itc"]) == pytest.approx(plain_contrastive(task, batch, alpha), rel=1e-4)


def test_matching_logits_equal_three_plain_calls() -> None:
    for connected in ((), (1,)):
        task = task_with(model={"connected_layers": connected})
        batch = training_batch(task, captions()[:4])
        assert batch.images is not None and batch.text is not None
        vision, mask = task.model.encode_images(batch.images), batch.text.mask
        text = task.model.encode_text(batch.text.ids, mask)
        drawn = Negatives(images=torch.tensor([1, 0, 3, 2]), texts=torch.tensor([2, 3, 0, 0]))
        logits = task.matching_logits(vision, text, mask, drawn)

        def pairs(pictures: Tensor, words: Tensor, task: RetrievalTask = task, inputs: Any = (vision, text, mask)) -> list[Tensor]:
            seen, said, real = inputs
            rows = zip(pictures.tolist(), words.tolist(), strict=True)
            return [task.model.matching(task.model.fuse(seen[i : i + 1], said[j : j + 1], real[j : j + 1]).text) for i, j in rows]

        own = torch.arange(4)
        expected = torch.cat(pairs(own, own) + pairs(drawn.images, own) + pairs(own, drawn.texts))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_total_is_the_sum_and_every_parameter_learns_but_the_twin() -> None:
    task = task_with()
    losses = task(training_batch(task, several_captions()))
    torch.testing.assert_close(losses.total, losses.parts["itc"] + losses.parts["itm"])
    lighter = task_with(matching_weight=0.25)(training_batch(task, several_captions()))
    torch.testing.assert_close(lighter.total, lighter.parts["itc"] + 0.25 * lighter.parts["itm"])
    losses.total.backward()
    assert not [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert task.twin is not None and all(p.grad is None for p in task.twin.parameters())


def test_the_queue_takes_the_twin_s_features_after_the_step_and_only_then() -> None:
    task = task_with()
    assert task.queue is not None and task.twin is not None
    batch = training_batch(task, several_captions())
    assert batch.images is not None
    task(batch)
    assert task.queue.pointer.tolist() == [0]
    task.end_step()
    assert task.queue.index.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, -100, -100, -100]
    expected = task.twin.model.contrastive.vision_features(task.twin.model.encode_images(batch.images))
    torch.testing.assert_close(task.queue.vision[:9], expected)
    task.end_step()
    assert task.queue.pointer.tolist() == [9], "a second call has nothing to write"


def test_evaluation_writes_no_queue() -> None:
    task = task_with()
    assert task.queue is not None
    with torch.no_grad():
        list(task.evaluate([evaluation_batch(task, several_captions())]))
    task.end_step()
    assert task.queue.pointer.tolist() == [0]


def test_the_twin_moves_with_the_momentum_of_the_settings() -> None:
    task = task_with(momentum=0.75)
    assert task.twin is not None
    old = task.twin.model.text.embeddings.words.weight.clone()
    randomise(task.model, seed=5)
    task.begin_step(Progress())
    torch.testing.assert_close(task.twin.model.text.embeddings.words.weight, 0.75 * old + 0.25 * task.model.text.embeddings.words.weight)
    assert {name.split(".")[0] for name, _ in task.twin.model.named_parameters()} == {"vision", "text", "contrastive"}


def test_the_temperature_is_free_unless_a_range_is_given() -> None:
    for limits, expected in ((None, 3.0), ((0.01, 0.5), 0.5)):
        task = task_with(temperature_range=limits)
        torch.nn.init.constant_(task.model.contrastive.temperature, 3.0)
        task.begin_step(Progress())
        assert float(task.model.contrastive.temperature.detach()) == expected


@pytest.mark.parametrize("count", [1, 4])
def test_a_batch_of_one_picture_alone_can_be_learned_from(count: int) -> None:
    task = task_with()
    batch = training_batch(task, [captions()[0]] * count)
    loss = task(batch).total
    loss.backward()
    assert bool(loss.isfinite())


def test_bf16_is_close_and_can_be_trained_and_ranked() -> None:
    task = task_with()
    batch = training_batch(task, several_captions())
    torch.manual_seed(3)
    exact = task(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(3)
        losses = task(batch)
    losses.total.backward()
    assert float(losses.parts["itc"]) == pytest.approx(float(exact.parts["itc"]), rel=0.05)
    assert bool(losses.total.isfinite()) and losses.total.dtype is torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in task.parameters() if p.grad is not None)
    task.end_step()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(list(task.evaluate([evaluation_batch(task, several_captions())]))) == 5


# ------------------------------------------------------------------------------------------------------------------ evaluation


@torch.no_grad()
def all_pairs(task: RetrievalTask, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Return matching scores and cosine similarities (pictures, captions), each pair computed alone."""
    encoded = []
    for sample in samples:
        batch = evaluation_batch(task, [sample])
        assert batch.images is not None and batch.text is not None
        words = [(batch.text.ids[n : n + 1, : int(real.sum())], real[None, real]) for n, real in enumerate(batch.text.mask)]
        encoded.append((task.model.encode_images(batch.images), [(task.model.encode_text(*one), one[1]) for one in words]))
    texts = [one for _, own in encoded for one in own]
    scores, similarities = torch.zeros(len(encoded), len(texts)), torch.zeros(len(encoded), len(texts))
    for i, (vision, _) in enumerate(encoded):
        for j, (text, mask) in enumerate(texts):
            scores[i, j] = task.model.matching(task.model.fuse(vision, text, mask).text)[0, 1]
            heads = task.model.contrastive
            similarities[i, j] = heads.vision_features(vision)[0] @ heads.text_features(text)[0]
    return scores, similarities


def only_best(scores: Tensor, similarities: Tensor, k: int) -> Tensor:
    """Keep the scores of each row's k most similar candidates."""
    kept = torch.full_like(scores, -100.0)
    for row in range(len(scores)):
        best = similarities[row].argsort(descending=True)[:k]
        kept[row, best] = scores[row, best]
    return kept


def plain_rank(row: Tensor, right: set[int]) -> int:
    """Find the best place of a right candidate; of equal scores the later one comes first."""
    order = sorted(range(len(row)), key=lambda n: (float(row[n]), n), reverse=True)
    return min(order.index(n) for n in right)


def test_a_matching_weight_of_0_builds_and_computes_no_matching() -> None:
    settings = {"queue_size": 0, "alpha": 0.0, "matching_weight": 0.0, "k_test": 0}
    assert RetrievalTask.needed_modules(RetrievalSettings(**settings)) == ("vision", "text", "contrastive")
    samples = several_captions()
    task, whole = task_with(**settings), task_with(queue_size=0, alpha=0.0)
    assert not {name.split(".")[0] for name in task.model.state_dict()} & {"fusion", "matching"}
    task.model.load_state_dict({name: value for name, value in whole.model.state_dict().items() if name in task.model.state_dict()})
    losses = task(training_batch(task, samples))
    assert losses.parts.keys() == {"itc"}
    assert losses.total.item() == pytest.approx(whole(training_batch(whole, samples)).parts["itc"].item(), rel=1e-5)


def test_words_are_masked_in_training_only_and_special_tokens_never() -> None:
    task = task_with(masked_words=0.5)
    batch = training_batch(task, several_captions())
    text = batch.text
    assert text is not None
    torch.manual_seed(0)
    task.train()
    drawn = torch.stack([task.read_ids(batch) for _ in range(200)])
    hidden = drawn == task.tokenizer.mask_id
    assert (drawn == text.ids)[~hidden].reshape(-1).all()  # nothing else changes
    words = text.mask & (text.ids != task.tokenizer.cls_id)
    assert not hidden[:, ~words].any()
    torch.testing.assert_close(hidden[:, words].float().mean().item(), 0.5, atol=0.02, rtol=0)
    assert torch.equal(task.eval().read_ids(batch), text.ids)


def test_without_reranking_the_similarity_alone_orders() -> None:
    samples = several_captions()
    own, pictures = [{0, 1}, {2}, {3, 4, 5}, {6}, {7, 8}], [0, 0, 1, 2, 2, 2, 3, 4, 4]
    task = task_with(training=False, k_test=0)
    _, similarities = all_pairs(task, samples)
    with torch.no_grad():
        batches = [evaluation_batch(task, part) for part in (samples[:2], samples[2:])]
        split = task.encode(batches)[0]
        predictions = list(task.evaluate(batches))
    assert split.vision.numel() == split.text.numel() == 0  # states that nothing needs are not kept
    assert [one.extra["text_rank"] for one in predictions] == [plain_rank(row, right) for row, right in zip(similarities, own, strict=True)]
    image_ranks = [rank for one in predictions for rank in one.extra["image_ranks"]]
    assert image_ranks == [plain_rank(row, {picture}) for row, picture in zip(similarities.T, pictures, strict=True)]
    assert [one.score for one in predictions] == pytest.approx([float(row.max()) for row in similarities], abs=1e-5)
    assert task.scorer()["protocol"].startswith("contrastive similarity")


@pytest.mark.parametrize("k", [1, 3, 1000])
@pytest.mark.parametrize("connected", [(), (1,)])
def test_ranks_equal_those_of_all_pairs(k: int, connected: tuple[int, ...]) -> None:
    samples = several_captions()
    own, pictures = [{0, 1}, {2}, {3, 4, 5}, {6}, {7, 8}], [0, 0, 1, 2, 2, 2, 3, 4, 4]
    for seed in range(2):
        task = task_with(training=False, seed=seed, k_test=k, model={"connected_layers": connected})
        scores, similarities = all_pairs(task, samples)
        to_text, to_image = only_best(scores, similarities, k), only_best(scores.T, similarities.T, k)
        with torch.no_grad():
            # Batches of different widths: captions are padded to the longest of the split only for the ranking.
            predictions = list(task.evaluate(evaluation_batch(task, part) for part in (samples[:2], samples[2:])))
        assert [one.extra["text_rank"] for one in predictions] == [plain_rank(row, right) for row, right in zip(to_text, own, strict=True)]
        image_ranks = [rank for one in predictions for rank in one.extra["image_ranks"]]
        assert image_ranks == [plain_rank(row, {picture}) for row, picture in zip(to_image, pictures, strict=True)]
        texts = [text for sample in samples for text in sample.references]
        assert [one.text for one in predictions] == [texts[int(row.argmax())] for row in to_text]
        assert [one.score for one in predictions] == pytest.approx([float(row.max()) for row in to_text], abs=1e-4)
        found = [image for one in predictions for image in one.extra["best_images"]]
        assert found == [f"{int(row.argmax())}.jpg" for row in to_image]


def encoded(task: RetrievalTask) -> Encoded:
    return task.encode([evaluation_batch(task, several_captions())])[0]


@pytest.mark.parametrize("pairs_per_call", [1, 7, 512])
def test_score_rows_do_not_depend_on_the_size_of_a_call(pairs_per_call: int) -> None:
    task = task_with(training=False)
    scores, similarities = all_pairs(task, several_captions())

    def table(rows: Iterator[Tensor]) -> Tensor:
        return torch.cat(list(rows))

    with torch.no_grad():
        split = encoded(task)
        for k in (2, 5):
            for added in (False, True):
                expected = scores + similarities if added else scores
                to_text = table(image_to_text(task.model, split, k, added, pairs_per_call))
                torch.testing.assert_close(to_text, only_best(expected, similarities, k), atol=1e-4, rtol=1e-4)
                to_image = table(text_to_image(task.model, split, k, added, pairs_per_call))
                torch.testing.assert_close(to_image, only_best(expected.T, similarities.T, k), atol=1e-4, rtol=1e-4)
                assert int((to_text == NOT_A_CANDIDATE).sum()) == 5 * (9 - k)


def test_predictions_of_one_batch_and_scores() -> None:
    task = task_with(training=False)
    with torch.no_grad():
        predictions = task.predict(evaluation_batch(task, several_captions()))
    assert [one.id for one in predictions] == ["0", "1", "2", "3", "4"]
    assert [len(one.extra["image_ranks"]) for one in predictions] == [2, 1, 3, 1, 2]
    scores = task.score(predictions)
    assert RetrievalTask.metric in scores
    ranks = [rank for one in predictions for rank in one.extra["image_ranks"]]
    assert scores["img_r1"] == pytest.approx(100 * ranks.count(0) / 9)
    assert scores["txt_r10"] == 100.0
    assert task.score([]) == {}
    assert "contrastive top 256" in task.scorer()["protocol"]


def test_a_split_without_a_readable_picture_is_an_error() -> None:
    with pytest.raises(DataError, match="no picture could be read, so there is nothing to rank; see the failures"):
        list(task_with(training=False).evaluate([]))


# ---------------------------------------------------------------------------------------------------------- state and settings


def test_training_state_is_twin_and_queue_and_goes_there_and_back() -> None:
    task, other = task_with(), task_with(seed=3)
    task(training_batch(task, several_captions()))
    task.end_step()
    state = {name: tensor.clone() for name, tensor in task.training_state().items()}
    assert {name.split(".")[0] for name in state} == {"twin", "queue"}
    other.load_training_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.training_state().items())
    assert other.queue is not None and other.queue.pointer.tolist() == [9]
    assert task_with(training=False).training_state() == {}


def test_a_queue_of_another_size_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"training state does not fit this task: .*wrong shape \['queue.index', 'queue.text', 'queue.vision'\]"
    ):
        task_with(queue_size=10).load_training_state(task_with().training_state())


def test_a_batch_longer_than_the_queue_is_refused() -> None:
    task = task_with(queue_size=4)
    with pytest.raises(UsageError, match=r"a batch of 9 does not fit into settings.queue_size=4; enlarge it or take a smaller batch"):
        task(training_batch(task, several_captions()))


@pytest.mark.parametrize(
    "settings",
    [
        {"queue_size": -1},
        {"queue_size": 0, "alpha": 0.1},
        {"momentum": 1.0},
        {"alpha": -0.1},
        {"k_test": -1},
        {"matching_weight": 0},
        {"temp": 0.07},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        task_with(**settings)


def test_without_a_queue_the_batch_is_contrasted_with_itself_and_both_sides_learn() -> None:
    task = task_with(queue_size=0, alpha=0.0)
    assert task.twin is None and task.queue is None and task.training_state() == {}
    batch = training_batch(task, several_captions())
    assert batch.images is not None and batch.text is not None and batch.image_index is not None
    task.begin_step(Progress())
    found = task(batch).parts["itc"]
    task.end_step()
    vision = task.model.contrastive.vision_features(task.model.encode_images(batch.images)).detach()
    text = task.model.contrastive.text_features(task.model.encode_text(batch.text.ids, batch.text.mask)).detach()
    expected = 0.0
    for mine, others in ((vision, text), (text, vision)):
        for row in range(len(mine)):
            same = (batch.image_index == batch.image_index[row]).float()
            log_probs = (others @ mine[row] / task.model.contrastive.temperature.detach()).log_softmax(dim=0)
            expected -= float(same / same.sum() @ log_probs) / len(mine) / 2
    assert float(found) == pytest.approx(expected, rel=1e-4)
    task(batch).total.backward()
    assert not [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("queue_size", [0, 12])
def test_captions_learned_together_have_the_contrastive_loss_of_pairs_that_share_pictures(queue_size: int) -> None:
    together = task_with(queue_size=queue_size, alpha=0.0, captions_per_example=2)
    if together.twin is not None:
        together.twin.copy_from(together.model)
    examples = together.examples(several_captions())
    assert [len(one.parts) for one in examples] == [2, 1, 2, 1, 1, 2]
    batch = together.collator(True)(items(examples))
    assert batch.images is not None and batch.text is not None and batch.image_index is not None and batch.samples_per_image is not None
    assert len(batch.images) == 6 and batch.image_index.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4] == [
        one.image_index for one in batch.samples
    ]
    assert batch.samples_per_image.tolist() == [2, 1, 2, 1, 1, 2]
    # Picture 2 stands in two examples: its features are equal, so it counts twice among the pictures and the texts share it.
    found = together(batch).parts["itc"]
    vision = together.model.contrastive.vision_features(together.model.encode_images(batch.images)).detach()
    text = together.model.contrastive.text_features(together.model.encode_text(batch.text.ids, batch.text.mask)).detach()
    pictures, index = torch.tensor([0, 1, 2, 2, 3, 4]), batch.image_index
    keys_v, keys_t, number_v, number_t = vision, text, pictures, index
    if together.queue is not None:  # the twin's features are the student's
        keys_v, keys_t = torch.cat([vision, together.queue.vision]), torch.cat([text, together.queue.text])
        number_v, number_t = torch.cat([pictures, together.queue.index]), torch.cat([index, together.queue.index])
    expected = 0.0
    for mine, numbers, keys, own in ((vision, pictures, keys_t, number_t), (text, index, keys_v, number_v)):
        for row in range(len(mine)):
            same = (own == numbers[row]).float()
            log_probs = (keys @ mine[row] / together.model.contrastive.temperature.detach()).log_softmax(dim=0)
            expected -= float(same / same.sum() @ log_probs) / len(mine) / 2
    assert float(found) == pytest.approx(expected, rel=1e-4)
    together.end_step()
    if together.queue is not None:
        assert together.queue.index.tolist()[:9] == index.tolist()
        torch.testing.assert_close(together.queue.vision[:9], vision.repeat_interleave(batch.samples_per_image, dim=0))


def test_training_without_twin_and_queue_is_our_own_mistake() -> None:
    task = task_with(training=False)
    with pytest.raises(AssertionError, match=r"training needs RetrievalTask\(..., training=True\)"):
        task(training_batch(task, several_captions()))


@pytest.mark.parametrize("family", ["mplug", "mplug2"])
def test_videos_are_ranked_by_matching_logit_plus_similarity(family: str) -> None:
    """As the original's video script; a clip's feature is the mean over its frames (mPLUG) or its one class token (mPLUG-2)."""
    extra = {} if family == "mplug" else {"connected_layers": (), "universal_layers": 1, "latents": 4, "temporal_stride": 0}
    settings = {"queue_size": 0, "alpha": 0.0, "k_test": 3}
    task = build_task("retrieval", {**SIZES, **extra, "name": f"{family}-tiny"}, tokenizer(), settings, clips=True)
    assert isinstance(task, RetrievalTask)
    randomise(task.model, 0)
    model, heads = task.eval().model, task.model.contrastive
    samples = [replace(sample, clip=True) for sample in captions()[:4]]
    clips = torch.randn(4, 3, 3, 16, 16)
    batch = task.collator(training=False)([Item(sample, clip) for sample, clip in zip(samples, clips, strict=True)])
    assert batch.text is not None
    with torch.no_grad():
        found = list(task.evaluate([batch]))
        vision, text, mask = model.encode_images(clips), model.encode_text(batch.text.ids, batch.text.mask), batch.text.mask
        features = heads.vision_features(vision)
        if family == "mplug":
            classes = torch.stack([heads.vision(model.encode_images(clips[:, n])[:, 0]) for n in range(3)]).mean(dim=0)
            features = classes / classes.norm(dim=1, keepdim=True)
        similarities = features @ heads.text_features(text).T
        logits = torch.stack([model.matching(model.fuse(own.expand(len(text), -1, -1), text, mask).text)[:, 1] for own in vision.split(1)])
    scores = only_best(logits + similarities, similarities, 3)
    assert [one.extra["text_rank"] for one in found] == [plain_rank(row, {n}) for n, row in enumerate(scores)]
    torch.testing.assert_close(torch.tensor([one.score for one in found]), scores.max(dim=1).values, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ memory of a large evaluation


def test_evaluation_never_holds_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the split: as many pairs are fused at a time as are asked for, and rows of scores come in blocks."""
    pictures, texts, k, pairs_per_call, block = 23, 37, 10, 4, 50
    task = task_with(training=False, k_test=k)
    randomise(task.model, std=0.2)
    draw = torch.Generator().manual_seed(0)
    width = task.model.config.width
    split = Encoded(
        torch.randn(pictures, 5, width, generator=draw),
        torch.nn.functional.normalize(torch.randn(pictures, 8, generator=draw), dim=1),
        torch.randn(texts, 6, width, generator=draw),
        torch.ones(texts, 6, dtype=torch.bool),
        torch.nn.functional.normalize(torch.randn(texts, 8, generator=draw), dim=1),
    )
    monkeypatch.setattr("openmplug.tasks.reranking._BLOCK_PAIRS", block)
    fused: list[int] = []
    matching = task.model.matching.forward
    monkeypatch.setattr(task.model.matching, "forward", lambda states: (fused.append(len(states)), matching(states))[1])

    class Largest(TorchDispatchMode):
        """Notes the most elements that any tensor made here has."""

        elements = 0

        def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = call(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else (made,):
                if isinstance(tensor, Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return made

    for score, queries in ((image_to_text, pictures), (text_to_image, texts)):
        fused.clear()
        with torch.no_grad(), Largest() as largest:
            rows = [len(each) for each in score(task.model, split, k, False, pairs_per_call)]
        assert sum(fused) == queries * k and max(fused) <= pairs_per_call
        assert sum(rows) == queries and max(rows) <= block // k
        # The largest thing is the states of a block's texts, or of all of them: never those of all pairs.
        states = texts * 6 * width
        assert largest.elements <= 4 * states < queries * k * 6 * width
