"""Words, pictures and clips learned together: every batch of one kind, and a stopped run goes on bit for bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from openmplug.checkpoints.store import model_hash
from openmplug.data.epochs import EpochSampler
from openmplug.data.moving import write_moving
from openmplug.data.shapes import write_shapes
from openmplug.data.splits import read_training
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.engine.run import evaluate, train


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    write_moving(folder / "moving", 12, 6)
    write_shapes(folder / "shapes", 10, 6)
    return folder


def recipe(root: Path, *overrides: str) -> RunConfig:
    tiny = (
        "model.image_size=32 model.width=16 model.vision_width=16 model.vision_layers=1 model.heads=2 model.vision_heads=2 "
        "model.intermediate=32 model.text_layers=2 model.decoder_layers=1 video.frames=2 optim.batch_size_per_device=4 optim.epochs=2 "
        "run.evaluate_batch_size=8 run.curves=false run.precision=fp32 run.device=cpu run.log_every=1 run.validate_every=0"
    ).split()
    further = f"data.further=[{{root: {root}/shapes/vqa}}, {{root: {root}/moving/words, columns: {{image: null}}}}]"
    return load_recipe("vqa/moving_mplug2_tiny", [*tiny, f"data.root={root}/moving/vqa", further, *overrides])


def test_further_data_sets_are_read_with_their_own_columns_and_keep_their_pictures_apart(root: Path) -> None:
    split = read_training(recipe(root).data)
    kinds = Counter("clip" if sample.clip else "words" if sample.image is None else "picture" for sample in split.samples)
    assert set(kinds) == {"clip", "picture", "words"} and kinds["words"] == kinds["clip"]
    assert all(sample.image in split.images for sample in split.samples if sample.image is not None)
    numbers = {sample.image: sample.image_index for sample in split.samples if sample.image is not None}
    assert len(set(numbers.values())) == len(numbers) == 22 and len({sample.id for sample in split.samples}) == len(split.samples)


def test_batches_are_of_one_group_and_follow_from_seed_and_epoch() -> None:
    groups = ["clip"] * 10 + ["picture"] * 7 + ["words"] * 2
    sampler = EpochSampler(19, 3, seed=5, drop_last=True, groups=groups)
    first = [[index for _, index in batch] for batch in sampler]
    assert len(first) == sampler.batches_per_epoch == 3 + 2 + 1  # a group that fills no batch keeps its only one
    assert all(len({groups[index] for index in batch}) == 1 for batch in first)
    assert [groups[batch[0]] for batch in first] != sorted(groups[batch[0]] for batch in first)
    sampler.set_epoch(1, start_batch=2)
    resumed = list(sampler)
    sampler.set_epoch(1)
    whole = list(sampler)
    assert whole[2:] == resumed and [[index for _, index in batch] for batch in whole] != first


def test_one_group_has_the_order_of_none() -> None:
    assert list(EpochSampler(10, 3, seed=1, groups=["clip"] * 10)) == list(EpochSampler(10, 3, seed=1))


def test_a_joint_run_resumes_bit_for_bit_and_answers_about_each_kind(root: Path, tmp_path: Path) -> None:
    whole = train(recipe(root), tmp_path / "whole", quiet=True)
    train(recipe(root, f"run.max_steps={whole['step'] // 2}"), tmp_path / "parts", quiet=True)
    assert train(recipe(root), tmp_path / "parts", resume=True, quiet=True)["step"] == whole["step"]
    folders = [tmp_path / name / "checkpoint-last" for name in ("whole", "parts")]
    assert model_hash(folders[0]) == model_hash(folders[1])
    for name, columns in (("moving/vqa", "{}"), ("shapes/vqa", "{}"), ("moving/words", "{image: null}")):
        config = recipe(root, f"data.root={root}/{name}", f"data.columns={columns}", "data.further=[]")
        found = evaluate(config, folders[0], tmp_path / name, quiet=True)
        assert found["count"] > 0 and 0 <= found["metrics"]["accuracy"] <= 100
