"""Every shipped recipe: short, complete, true to its source, and able to run."""

from __future__ import annotations

import re

import pytest
import torch

from openmplug.batch import Sample
from openmplug.config import read_yaml
from openmplug.data.clips import VideoSettings
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.engine.catalog import find_recipe, list_recipes, recipes_root
from openmplug.engine.recipe import load_recipe
from openmplug.tasks import TASKS, build_task

NAMES = list_recipes()
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
# Published numbers that may be printed: README of the release, read in its text (VQA test-dev, CIDEr after cross-entropy, R@1), and
# for video retrieval, TGIF and mPLUG-2's pictures what others quote (the recipe says who). A number that nobody could check is none.
PUBLISHED = {
    "vqa/msrvtt_qa_mplug2_large": 48.0,
    "vqa/msvd_qa_mplug2_large": 58.1,
    "vqa/tgif_frameqa_mplug2_large": 75.4,
    "vqa/msrvtt_qa_zeroshot_rank_mplug_base": 21.1,
    "vqa/msvd_qa_zeroshot_rank_mplug_base": 37.2,
    "caption/msrvtt_mplug2_large": 80.3,
    "caption/msvd_mplug2_large": 165.8,
    "caption/vatex_zeroshot_mplug_large": 42.0,
    "retrieval/msrvtt_mplug2_large": 53.1,
    "retrieval/msrvtt_mplug2_base": 48.3,
    "retrieval/didemo_mplug2_large": 56.4,
    "retrieval/msrvtt_zeroshot_mplug_large": 38.1,
    "classification/kinetics400_mplug2_large": 87.1,
    "vqa/vqav2_mplug_base": 79.79,
    "vqa/vqav2_mplug_large": 81.27,
    "vqa/vqav2_ocr_object_mplug_base": 79.79,
    "vqa/vqav2_ocr_object_mplug_large": 81.27,
    "caption/coco_mplug_base": 137.5,
    "caption/coco_mplug_large": 141.0,
    "caption/coco_scst_mplug_base": 150.4,
    "caption/coco_scst_mplug_large": 155.1,
    "classification/snli_ve_mplug_large": 89.45,
    "classification/nlvr2_mplug_large": 84.58,
    "grounding/refcoco_mplug_large": 92.4,
    "grounding/refcoco+_mplug_large": 86.02,
    "grounding/refcocog_mplug_large": 85.88,
    "retrieval/coco_mplug_large": 82.8,
    "retrieval/flickr30k_mplug_large": 97.6,
    "retrieval/msrvtt_zeroshot_mplug2_large": 47.1,
    "retrieval/didemo_zeroshot_mplug2_large": 45.7,
    "retrieval/coco_mplug2_large": 65.7,
    "retrieval/flickr30k_mplug2_large": 88.1,
    "vqa/vqav2_mplug2_large": 81.11,
    "caption/coco_mplug2_large": 137.7,
}
# Learning rates (rest, vision), epochs, batch size per GPU, image size: the released configurations.
RELEASED = {
    "vqa/vqav2_mplug_base": (3e-5, 5e-6, 8, 128, 384),
    "vqa/vqav2_mplug_large": (3e-5, 5e-6, 8, 256, 336),
    "vqa/vqav2_ocr_object_mplug_base": (3e-5, 5e-6, 8, 128, 384),
    "vqa/vqav2_ocr_object_mplug_large": (3e-5, 5e-6, 8, 256, 336),
    "caption/coco_mplug_base": (1e-5, 5e-6, 5, 64, 384),
    "caption/coco_mplug_large": (1e-5, 5e-6, 5, 64, 336),
    "retrieval/coco_mplug_large": (1e-5, 2e-6, 8, 128, 336),
    "retrieval/flickr30k_mplug_large": (1e-5, 2e-6, 8, 128, 336),
    # mPLUG-2 released none for pictures: mPLUG's.
    "vqa/vqav2_mplug2_large": (3e-5, 5e-6, 8, 256, 336),
    "caption/coco_mplug2_large": (1e-5, 5e-6, 5, 64, 336),
    "retrieval/coco_mplug2_large": (1e-5, 2e-6, 8, 128, 224),
    "retrieval/flickr30k_mplug2_large": (1e-5, 2e-6, 8, 128, 224),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_short_and_says_how_to_run_it(name: str) -> None:
    lines = find_recipe(name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 140 for line in lines)
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert "# Data: " in header
    verb = "evaluate" if "zeroshot" in name else "train"
    assert re.search(rf"# Run: +openmplug {verb} {re.escape(name)} data\.root=DIR", header)


ORIGIN = re.compile(
    r"Values?: |[Ee]very value|[Vv]alues: |[Nn]o values|published no|released none|not published|guess|gives none|taken over"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_where_its_values_come_from(name: str) -> None:
    """Those of the release, of another task, usual ones, or our own: in a comment of the recipe or of what it extends."""
    files = [find_recipe(name)]
    if base := read_yaml(files[0]).get("extends"):
        files.append(recipes_root() / base)
    comments = [line.partition("#")[2] for file in files for line in file.read_text(encoding="utf-8").splitlines() if "#" in line]
    assert any(ORIGIN.search(comment) for comment in comments)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_extends_one_file_at_most(name: str) -> None:
    tree = read_yaml(find_recipe(name))
    if "extends" in tree:
        assert "extends" not in read_yaml(recipes_root() / tree["extends"])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_its_name_says_what_it_is(name: str) -> None:
    config = load_recipe(name)
    folder, _, rest = name.partition("/")
    assert config.task == folder
    assert rest.endswith(config.model["name"].replace("-", "_"))
    assert config.description
    assert config.paper is not None
    assert config.paper.keys() >= {"benchmark", "metric", "value", "source"}
    assert config.paper["value"] == PUBLISHED.get(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds(name: str) -> None:
    config = load_recipe(name)
    tokenizer = Tokenizer.from_vocab(build_vocabulary(["a few words"], min_count=1, own=TASKS[config.task].own_words))
    settings = {**config.settings, **({"queue_size": 64} if config.task == "retrieval" else {})}
    settings = TASKS[config.task].prepared(settings, [Sample(label, text="a", targets=(label,)) for label in ("0", "1")])
    with torch.device("meta"):
        task = build_task(config.task, config.model, tokenizer, settings, clips=config.video != VideoSettings())
    assert isinstance(task, TASKS[config.task])
    assert all(parameter.is_meta for parameter in task.parameters())


# Of the released mPLUG-2 configurations: learning rates (rest, vision), epochs, batch size per GPU, size, frames, warm-up, beams.
RELEASED_VIDEO = {
    f"{task}/{name}_mplug2_large": (2e-5, 2e-6, 10, 4, 224, 16, 200, 5)
    for task, name in (("vqa", "msrvtt_qa"), ("vqa", "msvd_qa"), ("vqa", "tgif_frameqa"), ("caption", "msrvtt"), ("caption", "msvd"))
}


@pytest.mark.parametrize("name", RELEASED_VIDEO)
def test_the_numbers_for_videos_are_those_of_the_release(name: str) -> None:
    config = load_recipe(name)
    optim, video = config.optim, config.video
    found = (optim.lr, optim.vision_lr, optim.epochs, optim.batch_size_per_device, config.image.size, video.frames, optim.warmup_steps)
    assert (*found, config.settings["num_beams"]) == RELEASED_VIDEO[name]
    assert (optim.weight_decay, optim.min_lr, optim.warmup_lr, optim.betas) == (0.02, 1e-6, 1e-6, (0.9, 0.999))
    assert optim.schedule == ("mplug2" if config.task == "vqa" else "mplug2_caption")
    assert (video.sampling, video.train_sampling, video.resize, video.crop_scale) == ("middle", "random", "nearest", (0.5, 1.0))


@pytest.mark.parametrize("name", RELEASED)
def test_the_numbers_are_those_of_the_release(name: str) -> None:
    config = load_recipe(name)
    optim = config.optim
    assert (optim.lr, optim.vision_lr, optim.epochs, optim.batch_size_per_device, config.image.size) == RELEASED[name]
    assert (optim.weight_decay, optim.schedule, optim.min_lr, optim.warmup_lr) == (0.02, "mplug", 1e-6, 1e-5)
    assert config.image.crop_scale == (0.5, 1.0)


def test_the_recipes_that_are_promised() -> None:
    assert {f"{task}/shapes_mplug_tiny" for task in ("vqa", "caption", "retrieval")} <= set(NAMES)
    assert {f"classification/{name}_mplug2_base" for name in GLUE} <= set(NAMES)
    assert {"vqa/easy_vqa_mplug_tiny", "vqa/daquar_mplug_tiny", "retrieval/flickr8k_mplug_small", "caption/flickr8k_mplug_small"} <= set(
        NAMES
    )
    assert not any(part.startswith("_") for name in NAMES for part in name.split("/"))
