"""A run on videos: from a folder of files to numbers, with workers, interrupted, and where files are bad."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.videos_made import write_frames, write_gif, write_video
from openmplug.engine.recipe import RunConfig, check_recipe
from openmplug.engine.run import evaluate, train
from openmplug.engine.tracking import read_lines
from openmplug.errors import DataError

pytest.importorskip("av", reason="videos need PyAV: pip install 'openmplug[video]'")

TINY = {
    **{"name": "mplug2-tiny", "image_size": 16, "patch_size": 8, "vision_width": 16, "vision_layers": 1, "vision_heads": 2, "width": 16},
    **{"heads": 2, "intermediate": 32, "text_layers": 2, "universal_layers": 1, "latents": 4, "fusion_layers": 1, "decoder_layers": 1},
    **{"embed_dim": 8},
}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail where something hangs."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"still not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "videos").mkdir()
    names = [f"{number}.mp4" for number in range(8)] + ["8.gif", "9"]
    for number, name in enumerate(names[:8]):
        write_video(root / "videos" / name, 10 + number)
    write_gif(root / "videos" / "8.gif", 5)
    write_frames(root / "videos" / "9", 6)
    for split in ("train", "dev"):
        rows = [{"video": name, "question": "how long?", "answer": f"a{number % 2}"} for number, name in enumerate(names)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "videos" / "bad.mp4").write_bytes((root / "videos" / "0.mp4").read_bytes()[:900])
    rows += [{"video": name, "question": "how long?", "answer": "a0"} for name in ("bad.mp4", "none.mp4")]
    (root / "holed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def recipe(root: Path, **changes: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "task": "vqa",
        "model": dict(TINY),
        "tokenizer": {"min_count": 1},
        "data": {"root": str(root)},
        "video": {"frames": 3},
        "optim": {"lr": 3e-3, "vision_lr": 1e-3, "epochs": 2, "batch_size_per_device": 4, "warmup_steps": 1},
        "run": {"device": "cpu", "log_every": 1, "curves": False},
        "settings": {"num_beams": 1, "max_length": 4},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        tree[section] = {**tree.get(section, {}), key: value}
    return check_recipe(tree)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "vqa"
    assert train(recipe(data), folder, quiet=True)["step"] == 4
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint-last" / "model.safetensors")


def alike(one: Path, other: Path) -> bool:
    before, after = weights(one), weights(other)
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_folder_says_how_it_looks_at_videos(trained: Path, data: Path, tmp_path: Path) -> None:
    config = json.loads((trained / "checkpoint-best" / "config.json").read_text())
    assert config["video"]["frames"] == 3 and "temporal" in config["modules"]
    result = evaluate(recipe(data), trained, tmp_path / "a", quiet=True)
    assert result["video"]["frames"] == 3 and result["count"] == 10 and result["failures"] == 0
    more = evaluate(recipe(data, video__frames=5, video__sampling="ends"), trained, tmp_path / "b", quiet=True)
    assert (more["video"]["frames"], more["video"]["sampling"]) == (5, "ends")


def test_workers_do_not_change_what_is_learned(trained: Path, data: Path, tmp_path: Path) -> None:
    with at_most(120):
        train(recipe(data, data__workers=2), tmp_path / "run", quiet=True)
    assert alike(trained, tmp_path / "run")


def test_a_resumed_run_learns_the_same_bit_for_bit(trained: Path, data: Path, tmp_path: Path) -> None:
    assert train(recipe(data, run__max_steps=1), tmp_path / "run", quiet=True)["step"] == 1
    train(recipe(data, run__max_steps=3), tmp_path / "run", resume=True, quiet=True)
    train(recipe(data), tmp_path / "run", resume=True, quiet=True)
    assert alike(trained, tmp_path / "run")


def test_videos_that_cannot_be_read_are_counted(trained: Path, data: Path, tmp_path: Path) -> None:
    with at_most(120):
        result = evaluate(
            recipe(data, data__evaluate="holed", data__on_error="skip", data__workers=2), trained, tmp_path / "skip", quiet=True
        )
    assert result["count"] == 10 and result["failures"] == 2
    reasons = [line["reason"] for line in read_lines(tmp_path / "skip" / "predictions.jsonl") if "reason" in line]
    assert all("\n" not in reason for reason in reasons)
    with pytest.raises(DataError, match=r"video '(bad|none)\.mp4'"), at_most(120):
        evaluate(recipe(data, data__evaluate="holed"), trained, tmp_path / "error", quiet=True)


def test_the_blind_control_takes_other_videos(trained: Path, data: Path, tmp_path: Path) -> None:
    result = evaluate(recipe(data, data__shuffle_images=True), trained, tmp_path, quiet=True)
    assert result["count"] == 10 and result["data"]["shuffle_images"] is True
    names = [line["image"] for line in read_lines(tmp_path / "predictions.jsonl")]
    assert sorted(names) == sorted([f"{number}.mp4" for number in range(8)] + ["8.gif", "9"]) and names[0] != "0.mp4"


def test_pictures_and_videos_in_one_split(data: Path, tmp_path: Path) -> None:
    rows = [{"video": "0.mp4", "question": "q", "answer": "a"}, {"image": "0.png", "question": "q", "answer": "a"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="1 of 2 records are about videos, the others about pictures; make two splits"):
        train(recipe(tmp_path), tmp_path / "run", quiet=True)
