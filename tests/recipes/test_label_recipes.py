"""The recipes of classes, numbers, summaries and hidden words run: two steps and an evaluation on a few records in official layouts."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openmplug.checkpoints.store import model_hash, read_config
from openmplug.data.clips import VideoSettings
from openmplug.engine.catalog import list_recipes
from openmplug.engine.models import find_model
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.engine.run import evaluate, train
from openmplug.engine.tracking import read_lines

SENTENCES = ["it works", "it does not work", "the film is good", "the film is not good", "a dog runs", "no dog runs", "he came", "he left"]
SMALLEST = (
    "model.vision_width=16 model.vision_layers=1 model.vision_heads=2 model.width=16 model.heads=2 model.intermediate=32 "
    "model.text_layers=2 model.universal_layers=1 model.latents=2 model.fusion_layers=1 model.decoder_layers=1 "
    "optim.epochs=2 optim.batch_size_per_device=4 optim.accumulation=1 optim.warmup_steps=1 tokenizer.min_count=1 "
    "data.workers=0 run.device=cpu run.log_every=1 run.curves=false run.evaluate_batch_size=4"
).split()
OTHERS = (
    "classification/imagenet_mplug2_base",
    "classification/imagenet_probe_mplug2_base",
    "classification/cifar10_mplug2_tiny",
    "summarization/gigaword_mplug2_base",
    "mlm/texts_mplug2_base",
)


def table(path: Path, header: str, rows: list[list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in ([header.split("|")] if header else []) + rows), encoding="utf-8")


def official(root: Path, task: str) -> None:
    """Write a GLUE task's training and development tables."""
    folder, header = {
        "cola": ("CoLA", ""),
        "sst2": ("SST-2", "sentence|label"),
        "mrpc": ("MRPC", "Quality|#1 ID|#2 ID|#1 String|#2 String"),
        "stsb": ("STS-B", "index|sentence1|sentence2|score"),
        "qqp": ("QQP", "id|question1|question2|is_duplicate"),
        "mnli": ("MNLI", "index|sentence1|sentence2|gold_label"),
        "qnli": ("QNLI", "index|question|sentence|label"),
        "rte": ("RTE", "index|sentence1|sentence2|label"),
    }[task]
    labels = {"stsb": ["0.5", "4.2"], "mnli": ["neutral", "entailment", "contradiction"], "rte": ["entailment", "not_entailment"]}
    rows = []
    for number, sentence in enumerate(SENTENCES):
        label, other = labels.get(task, ["0", "1"])[number % len(labels.get(task, ["0", "1"]))], SENTENCES[number - 1]
        by_task = {"cola": ["gj04", label, "", sentence], "sst2": [sentence, label], "mrpc": [label, "1", "2", sentence, other]}
        rows.append(by_task.get(task, [str(number), sentence, other, label]))
    for split in ("train", "dev_matched" if task == "mnli" else "dev"):
        table(root / folder / f"{split}.tsv", header, rows)


def own(root: Path, task: str) -> None:
    """Write a GLUE task's splits as lines of JSON with the columns that its recipe declares."""
    fields = {"cola": ("sentence",), "sst2": ("sentence",), "qnli": ("question", "sentence")}.get(task, ("sentence1", "sentence2"))
    for split in ("train", "valid"):
        rows = [
            {**dict.fromkeys(fields, sentence), **({"score": number / 2} if task == "stsb" else {"label": number % 2})}
            for number, sentence in enumerate(SENTENCES)
        ]
        (root / f"{task}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pictures(root: Path, *splits: str) -> None:
    for split in splits:
        with zipfile.ZipFile(root / f"{split}.zip", "w") as archive:
            for number in range(8):
                buffer = io.BytesIO()
                Image.new("RGB", (40, 32), (255 * (number % 2), 30 * number, 0)).save(buffer, "PNG")
                archive.writestr(f"{'red' if number % 2 else 'black'}/{number}.png", buffer.getvalue())


def lines(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_text("".join(f"{sentence}\n" for sentence in SENTENCES))


def fixture_of(name: str) -> Callable[[Path], None]:
    task = name.partition("/")[2].partition("_")[0]
    if name.endswith("_mplug2_base") and task not in ("imagenet", "gigaword", "texts"):
        return lambda root: official(root, task)
    return {
        "imagenet": lambda root: pictures(root, "train", "val"),
        "cifar10": lambda root: pictures(root, "train", "dev"),
        "gigaword": lambda root: lines(root, "train.src.txt", "train.tgt.txt", "dev.src.txt", "dev.tgt.txt"),
        "texts": lambda root: lines(root, "train.txt", "dev.txt"),
    }.get(task, lambda root: own(root, task))


def recipe(name: str, root: Path, *changes: str) -> RunConfig:
    return load_recipe(name, [*SMALLEST, f"data.root={root}", *changes])


# Recipes about clips have their own fixtures (test_video_recipes.py).
GLUE = [
    name
    for name in list_recipes()
    if name.startswith("classification/")
    and load_recipe(name).data.reader in ("glue", "jsonl")
    and load_recipe(name).video == VideoSettings()
]


@pytest.mark.parametrize("name", [*GLUE, *OTHERS])
def test_two_steps_and_an_evaluation(tmp_path: Path, name: str) -> None:
    fixture_of(name)(tmp_path)
    config = recipe(name, tmp_path, "run.max_steps=2", "run.validate_every=0")
    result = train(config, tmp_path / "run", quiet=True)
    assert result["step"] == 2
    content = evaluate(config, tmp_path / "run", tmp_path / "evaluation", quiet=True)
    assert content["count"] == 8 and result["metric"] in content["metrics"]
    for line in read_lines(tmp_path / "evaluation" / "predictions.jsonl"):
        assert "probabilities" not in line or sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_what_evaluation_needs_is_saved_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    own(tmp_path, "rte")
    name, validated = "classification/rte_mplug2_tiny", "run.validate_every=1"
    result = train(recipe(name, tmp_path, validated), tmp_path / "whole", quiet=True)
    saved: dict[str, Any] = dict(read_config(find_model(tmp_path / "whole"))["settings"])
    assert (saved["labels"], saved["majority"]) == (["0", "1"], "0")
    assert {"accuracy", "f1", "mcc", "majority_accuracy"} <= result["metrics"].keys() and result["metrics"]["majority_accuracy"] == 50.0
    train(recipe(name, tmp_path, validated, "run.max_steps=1"), tmp_path / "broken", quiet=True)
    train(recipe(name, tmp_path, validated), tmp_path / "broken", resume=True, quiet=True)
    hashes = {model_hash(tmp_path / run / "checkpoint-last") for run in ("whole", "broken")}
    assert len(hashes) == 1


def test_a_whole_mixed_run_resumes_the_same(tmp_path: Path) -> None:
    pictures(tmp_path, "train", "dev")
    name, changes = "classification/cifar10_mplug2_tiny", ("settings.mixing=0.8", "run.validate_every=0", "run.precision=fp32")
    train(recipe(name, tmp_path, *changes), tmp_path / "whole", quiet=True)
    train(recipe(name, tmp_path, *changes, "run.max_steps=3"), tmp_path / "broken", quiet=True)
    train(recipe(name, tmp_path, *changes), tmp_path / "broken", resume=True, quiet=True)
    assert model_hash(tmp_path / "whole" / "checkpoint-last") == model_hash(tmp_path / "broken" / "checkpoint-last")


def test_weights_of_one_task_open_for_another(tmp_path: Path) -> None:
    lines(tmp_path, "train.txt", "dev.txt")
    own(tmp_path, "sst2")
    train(recipe("mlm/texts_mplug2_base", tmp_path, "run.max_steps=1", "run.validate_every=0"), tmp_path / "words", quiet=True)
    started = recipe(
        "classification/sst2_mplug2_tiny", tmp_path, f"init_from={tmp_path / 'words'}", "model.max_positions=512", "run.validate_every=0"
    )
    result = train(started, tmp_path / "sst2", quiet=True)
    assert result["step"] == 4
    assert read_config(find_model(tmp_path / "sst2"))["modules"] == ["text", "universal", "classification"]
