"""Adapters through a whole run: small folders, exact resume, merged answers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("peft")

from engine.test_run import recipe, write_data
from openmplug.checkpoints.adapters import BaseWeights
from openmplug.checkpoints.store import model_hash, save_tensors
from openmplug.config import dump_yaml, read_yaml, validate
from openmplug.data.transforms import ImageSettings
from openmplug.engine.lora import LoraSettings, add_adapters, learned_state, restore_weights
from openmplug.engine.merging import merge
from openmplug.engine.models import load_task, write_model
from openmplug.engine.optim import OptimSettings, parameter_groups
from openmplug.engine.run import evaluate, train
from openmplug.engine.tracking import read_lines
from openmplug.errors import ModelError, UsageError
from openmplug.models.adapted import adapt
from tiny_tasks import evaluation_batch, questions, random_task, training_batch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "vqa"
    train(recipe(data), folder, quiet=True)
    return folder


def adapters(data: Path, base: Path, **changes: Any) -> Any:
    settings = {"lora__rank": 4, "lora__dropout": 0.1, "init_from": str(base), "optim__lr": 2e-2, **changes}
    return recipe(data, **settings)


@pytest.fixture(scope="module")
def run(data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "vqa"
    result = train(adapters(data, base), folder, quiet=True)
    assert result["step"] == 6 and result["best"] is not None
    return folder


def predictions(folder: Path) -> list[Any]:
    return [(line["id"], line["text"], line["score"]) for line in read_lines(folder / "predictions.jsonl")]


def test_a_checkpoint_holds_the_adapters_alone(run: Path, base: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-last"):
        files = {item.name for item in (run / name).iterdir()}
        assert {"adapter.safetensors", "config.json", "vocab.txt"} <= files and "model.safetensors" not in files
    tensors = load_file(run / "checkpoint-best/adapter.safetensors")
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in tensors)
    assert {key.split(".")[0] for key in tensors} == {"vision", "text", "fusion", "decoder"}
    assert any(bool(value.any()) for key, value in tensors.items() if "lora_B" in key)
    record = json.loads((run / "checkpoint-best/config.json").read_text())["adapters"]
    assert record["rank"] == 4 and record["scaling"] == 2.0 and record["whole"] == []
    assert [Path(item["folder"]) for item in record["base"]] == [(base / "checkpoint-best").resolve()]
    moments = load_file(run / "checkpoint-last/training.safetensors")
    assert {key.split("/")[1] for key in moments if key.startswith("optimizer/")} == {
        key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.") for key in tensors
    }


def test_the_base_is_left_as_it_was_and_the_adapters_matter(run: Path, base: Path, data: Path, tmp_path: Path) -> None:
    evaluate(recipe(data), base, tmp_path / "base", quiet=True)
    evaluate(recipe(data), run, tmp_path / "lora", quiet=True)
    assert predictions(tmp_path / "base") != predictions(tmp_path / "lora")


def test_the_merged_model_answers_as_the_run(run: Path, data: Path, tmp_path: Path) -> None:
    result = merge(run, tmp_path / "merged")
    assert {item.name for item in (tmp_path / "merged").iterdir()} == {"model.safetensors", "config.json", "vocab.txt"}
    assert "adapters" not in json.loads((tmp_path / "merged/config.json").read_text())
    first = evaluate(recipe(data), run, tmp_path / "run", quiet=True)
    second = evaluate(recipe(data), tmp_path / "merged", tmp_path / "model", quiet=True)
    assert predictions(tmp_path / "run") == predictions(tmp_path / "model")
    assert second["model_hash"] == result["sha256"] != first["model_hash"]
    # The run itself validated with the adapters beside the weights.
    assert json.loads((run / "checkpoint-best/validation.json").read_text())["metrics"] == pytest.approx(first["metrics"])


@pytest.mark.parametrize("task", ["vqa", "caption", "retrieval"])
def test_resume_is_exact(task: str, data: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    train(recipe(data, task, run__max_steps=1, run__validate_every=0), base, quiet=True)
    extra: dict[str, Any] = {"settings__distill": True} if task == "vqa" else {}
    settings = {"lora__train_also": ["matching"] if task == "retrieval" else ["decoder"], **extra}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(_other(data, base, task, settings), whole, quiet=True)
    for steps in (2, 5, None):
        config = _other(data, base, task, {**settings, "run__max_steps": steps})
        train(config, broken, resume=steps != 2, quiet=True)
    one, other = (load_file(folder / "checkpoint-last/adapter.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    one, other = (load_file(folder / "checkpoint-last/training.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _other(data: Path, base: Path, task: str, settings: dict[str, Any]) -> Any:
    return recipe(data, task, **{"lora__rank": 4, "lora__dropout": 0.1, "init_from": str(base), "optim__lr": 2e-2, **settings})


def test_parts_without_weights_learn_whole(data: Path, base: Path, tmp_path: Path) -> None:
    train(recipe(data, "retrieval", lora__rank=2, init_from=str(base), run__validate_every=0), tmp_path / "run", quiet=True)
    folder = tmp_path / "run/checkpoint-last"
    assert json.loads((folder / "config.json").read_text())["adapters"]["whole"] == ["contrastive", "matching"]
    assert "matching.linear.weight" in load_file(folder / "adapter.safetensors")
    task, _ = load_task(folder, CPU)
    assert torch.equal(task.model.matching.linear.weight, load_file(folder / "adapter.safetensors")["matching.linear.weight"])


# ------------------------------------------------------------------------------------------------------------- in memory


def small_task(**settings: Any) -> Any:
    task = random_task("vqa", settings, training=True)
    add_adapters(task, LoraSettings(rank=3), (), ())
    for parameter in learned_state(task.model).values():
        torch.nn.init.normal_(parameter, std=0.2)
    return task


def test_merged_and_unmerged_compute_the_same(tmp_path: Path) -> None:
    """Loading merges by hand; this holds it to what peft computes, for losses and answers."""
    task, base = random_task("vqa", {"num_beams": 3, "max_length": 6}, training=True), tmp_path / "base"
    base.mkdir(), (tmp_path / "lora").mkdir()
    write_model(base, task, "vqa", validate(ImageSettings, {"size": 16}, where="image"))
    parts = tuple(name for name, _ in task.model.named_children())
    record = add_adapters(task, LoraSettings(rank=3, alpha=4.5), [BaseWeights(folder=base, sha256=model_hash(base), parts=parts)], ())
    for parameter in learned_state(task.model).values():
        torch.nn.init.normal_(parameter, std=0.2)
    write_model(tmp_path / "lora", task, "vqa", validate(ImageSettings, {"size": 16}, where="image"), record)
    merged, _ = load_task(tmp_path / "lora", CPU)
    assert not any("lora" in name for name in merged.state_dict())
    batch = evaluation_batch(task, questions())
    with torch.no_grad():
        one, other = task.eval().predict(batch), merged.predict(batch)
    assert [prediction.text for prediction in one] == [prediction.text for prediction in other]
    assert [prediction.score for prediction in one] == pytest.approx([prediction.score for prediction in other], abs=1e-4)
    batch = training_batch(task, questions())
    with torch.no_grad():
        assert task(batch).total.item() == pytest.approx(merged(batch).total.item(), rel=1e-4)


def test_the_twin_follows_with_adapters_of_its_own() -> None:
    task = small_task(distill=True)
    assert task.twin is not None and not any(p.requires_grad for p in task.twin.parameters())
    task.twin.copy_from(task.model)
    frozen = task.twin.model.decoder.layers[0].feed_forward.expand.base_layer.weight.clone()
    up = task.model.decoder.layers[0].feed_forward.expand.lora_B["default"].weight
    with torch.no_grad():
        before = up.clone()
        up += 1.0
    task.twin.update(task.model)
    followed = task.twin.model.decoder.layers[0].feed_forward.expand
    assert torch.allclose(followed.lora_B["default"].weight, before + 0.005)
    assert torch.equal(followed.base_layer.weight, frozen)


def test_only_what_learns_is_optimized() -> None:
    task = small_task()
    groups = parameter_groups(task.model, OptimSettings(lr=1e-3, vision_lr=1e-4))
    names = {name: group["base_lr"] for group in groups for name in group["names"]}
    assert all("lora_" in name for name in names) and names.keys() == {n for n, p in task.model.named_parameters() if p.requires_grad}
    assert {rate for name, rate in names.items() if name.startswith("vision.")} == {1e-4}


def test_targets_choose_layers() -> None:
    def adapted(**settings: Any) -> set[str]:
        task = random_task("vqa", training=True)
        add_adapters(task, LoraSettings(rank=1, **settings), (), ())
        return {name.removesuffix(".lora_A.weight") for name in learned_state(task.model) if name.endswith("lora_A.weight")}

    assert adapted(targets=["decoder.layers.1"]) < adapted(targets=["decoder"]) < adapted()
    assert all(name.endswith((".query", ".value")) for name in adapted(targets=["*.query", "*.value"]))
    assert not any(name.startswith("decoder") for name in adapted(train_also=["decoder"]))
    with pytest.raises(UsageError, match=r"lora.targets: no linear layer is called 'decodr'; did you mean 'decoder'"):
        adapted(targets=["decodr"])
    with pytest.raises(
        UsageError, match=r"lora.train_also: this model has no part 'decodr'; did you mean 'decoder'\? \(it has vision, text"
    ):
        adapted(train_also=["decodr"])
    with pytest.raises(UsageError, match=r"lora.targets leaves no layer to adapt; decoder learn whole"):
        adapted(targets=["decoder"], train_also=["decoder"])


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "adapter.safetensors", learned_state(small_task().model))
    other = random_task("vqa", training=True)
    add_adapters(other, LoraSettings(rank=2), (), ())
    with pytest.raises(ModelError, match=r"does not fit the model, nothing was loaded: keys \d+ of another shape"):
        restore_weights(tmp_path, other.model)


# ---------------------------------------------------------------------------------------------------------------- refused


def test_adapters_need_weights_to_adapt(data: Path) -> None:
    with pytest.raises(UsageError, match=r"lora.rank=8 needs weights to adapt: give init_from=DIR"):
        recipe(data, lora__rank=8)


def test_adapters_are_no_weights_to_start_from(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds adapters, not weights to start from; merge them first: openmplug merge"):
        train(adapters(data, run), tmp_path / "again", quiet=True)


def test_what_cannot_be_merged(run: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no adapters, it is an ordinary model already"):
        merge(base, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already; give a folder that is not"):
        merge(run, tmp_path / "there")
    with pytest.raises(ModelError, match=r"was learned on 1 folders of weights .*, 2 were given"):
        merge(run, tmp_path / "out", [base, base])


def test_a_base_that_moved_or_changed(run: Path, base: Path, data: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    for checkpoint in ("checkpoint-best", "checkpoint-last"):
        config = json.loads((copied / checkpoint / "config.json").read_text())
        config["adapters"]["base"][0]["folder"] = str(tmp_path / "gone")
        (copied / checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"which is not there; put it back, or name its new place: openmplug merge .* --base DIR"):
        evaluate(recipe(data), copied, tmp_path / "out", quiet=True)
    merge(copied, tmp_path / "merged", [base])
    assert (tmp_path / "merged/model.safetensors").is_file()
    other = shutil.copytree(base / "checkpoint-best", tmp_path / "gone")
    weights = load_file(other / "model.safetensors")
    weights["decoder.head.bias"] += 1.0
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="were learned on other weights than"):
        merge(copied, tmp_path / "again")


def test_resuming_on_a_changed_base_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base / "checkpoint-best", tmp_path / "base")
    train(adapters(data, own, run__max_steps=1, run__validate_every=0), tmp_path / "run", quiet=True)
    weights = load_file(own / "model.safetensors")
    weights["decoder.head.bias"] += 1.0
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="have changed since this run began"):
        train(adapters(data, own, run__max_steps=2, run__validate_every=0), tmp_path / "run", resume=True, quiet=True)


def test_a_run_older_than_adapters_resumes(data: Path, tmp_path: Path) -> None:
    train(recipe(data, run__max_steps=1, run__validate_every=0), tmp_path / "run", quiet=True)
    path = tmp_path / "run/recipe.yaml"
    tree = read_yaml(path)
    del tree["lora"], tree["run"]["gradient_checkpointing"]
    path.write_text(dump_yaml(tree))
    again = recipe(data, run__max_steps=2, run__validate_every=0, run__gradient_checkpointing=True)
    assert train(again, tmp_path / "run", resume=True, quiet=True)["step"] == 2


def test_a_damaged_description(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run / "checkpoint-best", tmp_path / "run")
    config = json.loads((copied / "config.json").read_text())
    del config["adapters"]["scaling"]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"holds adapters whose description is damaged: setting 'adapters.scaling' is missing"):
        load_task(copied, CPU)


def test_names_say_which_layers_are_adapted() -> None:
    """The key of an adapter is its layer's: a folder can be read without peft."""
    task = random_task("vqa", training=True)
    names = ["decoder.layers.0.feed_forward.expand"]
    adapt(task.model, names, 2, 4.0, 0.0)
    assert set(learned_state(task.model)) == {f"{names[0]}.lora_{side}.weight" for side in "AB"}
