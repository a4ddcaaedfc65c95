"""A run from shards and JSONL together: trained, stopped, resumed bit for bit, and stopped by too many bad samples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data.shards_made import image_files, picture, write_shards, write_tar
from openmplug.checkpoints.store import model_hash
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.engine.run import train
from openmplug.errors import DataError, UsageError

TINY = (
    "model.image_size=32 model.patch_size=16 model.width=16 model.vision_width=16 model.embed_dim=16 "
    "model.vision_layers=1 model.text_layers=1 model.fusion_layers=1 model.decoder_layers=1 model.connected_layers=[] "
    "model.intermediate=32 model.heads=2 model.vision_heads=2 optim.batch_size_per_device=4 optim.epochs=1 "
    "optim.warmup_steps=1 run.curves=false run.precision=fp32 run.device=cpu run.log_every=1 run.validate_every=0 "
    "data.workers=0"
).split()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "web", [4, 4])
    pictures = tmp_path / "own" / "images"
    pictures.mkdir(parents=True)
    for number in range(6):
        (pictures / f"{number}.jpg").write_bytes(picture(number))
    rows = [{"image": f"{number}.jpg", "captions": [f"own picture {number}", f"picture {number} of mine"]} for number in range(6)]
    (tmp_path / "own" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(root: Path, *overrides: str, name: str = "caption/shapes_mplug_tiny") -> RunConfig:
    web = f"web: {{reader: shards, root: {root}/web, train: [.], weight: 1}}"
    return load_recipe(name, [*TINY, f"data.sources={{{web}, own: {{root: {root}/own, weight: 2}}}}", *overrides])


def test_a_mixture_trains_and_resumes_bit_for_bit_whatever_the_workers(root: Path, tmp_path: Path) -> None:
    one = "settings.captions_per_example=1"
    whole = train(recipe(root, one), tmp_path / "whole", quiet=True)
    assert whole["step"] == 20 // 4 and whole["train_examples"] == 8 + 12 and whole["stopped"] is None
    train(recipe(root, one, "run.max_steps=2"), tmp_path / "parts", quiet=True)
    train(recipe(root, one, "data.workers=1"), tmp_path / "parts", resume=True, quiet=True)
    assert model_hash(tmp_path / "whole" / "checkpoint-last") == model_hash(tmp_path / "parts" / "checkpoint-last")


def test_the_log_tells_of_each_source(root: Path, tmp_path: Path) -> None:
    """Batches of web's pictures and of words: counts are those of the samples, and a resumed run tells the same."""
    files = [(name, b"no picture" if name.endswith("3.jpg") else data) for name, data in image_files(0, 4)]
    write_tar(root / "web" / "00000.tar", files)
    more = ["data.on_error=skip", "run.log_every=2", "run.log_ids=true", "settings.captions_per_example=1", "data.epoch_examples=64"]
    result = train(recipe(root, *more), tmp_path / "whole", quiet=True)
    seen = [json.loads(line) for line in (tmp_path / "whole" / "samples.jsonl").read_text().splitlines()]
    counts = Counter(name.partition("/")[0] for row in seen for name in row["ids"])
    failures = [json.loads(line) for line in (tmp_path / "whole" / "failures.jsonl").read_text().splitlines()]
    assert failures and {row["source"] for row in failures} == {"web"}
    log = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    for name in ("web", "own"):
        told = [row["sources"][name] for row in log if name in row["sources"]]
        assert sum(each["examples"] for each in told) == counts[name] == result["sources"][name]["examples"]
        assert all(0 < each["loss"] < 20 for each in told if each["examples"])
    assert sum(row["sources"]["web"]["failed"] for row in log) == len(failures) == result["sources"]["web"]["failed"]
    assert result["sources"]["own"]["failed"] == 0 and result["failures"] == len(failures)
    # A source's loss is the mean of its batches' losses, each as often as it has examples there.
    steps = [row for row in seen if row["step"] in (0, 1)]
    weights = [sum(name.startswith("own/") for name in row["ids"]) for row in steps]
    single = train(recipe(root, *more[:1], *more[2:], "run.log_every=1", "run.max_steps=2"), tmp_path / "single", quiet=True)
    assert single["step"] == 2
    losses = [json.loads(line)["loss"] for line in (tmp_path / "single" / "metrics.jsonl").read_text().splitlines()]
    mean = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert log[0]["sources"]["own"]["loss"] == pytest.approx(mean, rel=1e-5)

    train(recipe(root, *more, "run.max_steps=3"), tmp_path / "parts", quiet=True)
    again = train(recipe(root, *more), tmp_path / "parts", resume=True, quiet=True)
    assert again["sources"] == result["sources"]
    resumed = [json.loads(line)["sources"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert resumed == [row["sources"] for row in log]


def test_bad_samples_are_counted_and_too_many_stop_the_run(root: Path, tmp_path: Path) -> None:
    files = [(name, b"no picture" if name.endswith("1.jpg") else data) for name, data in image_files(0, 120)]
    write_tar(root / "web" / "00000.tar", files)  # 12 of 120
    more = r"of \d+ inputs could not be read, more than 1% \(\d+ of web\); the last was record 'web/00000/00000\d+1'"
    with pytest.raises(DataError, match=more):
        train(recipe(root, "data.on_error=skip"), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert lines and all(line["id"].startswith("web/00000/") and "is not a picture" in line["reason"] for line in lines)


def test_the_share_of_bad_samples_is_that_of_the_whole_run(root: Path, tmp_path: Path) -> None:
    """Stopped every few steps, a run never sees a hundred inputs at once; the share is looked at all the same."""
    files = [(name, b"no picture" if name.endswith("1.jpg") else data) for name, data in image_files(0, 120)]
    write_tar(root / "web" / "00000.tar", files)
    with pytest.raises(DataError, match=r"\((\d+) of web\)") as stop:
        for steps in range(10, 100, 10):
            train(recipe(root, "data.on_error=skip", f"run.max_steps={steps}"), tmp_path / "run", resume=steps > 10, quiet=True)
    failed, seen = (int(word) for word in str(stop.value).split()[:3:2])
    assert 100 <= seen < 104 and f"({failed} of web)" in str(stop.value)
    assert len((tmp_path / "run" / "failures.jsonl").read_text().splitlines()) >= failed - 4


def test_a_task_that_does_not_learn_from_captions_refuses_shards(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="source 'web' lies in shards, which hold captions and texts; this task learns from neither"):
        train(recipe(root, name="vqa/shapes_mplug_tiny"), tmp_path / "run", quiet=True)
