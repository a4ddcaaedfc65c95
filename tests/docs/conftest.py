"""A folder in which the code of the documentation runs: the pictures, clips, tables and models that the pages name, all tiny."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

# What answers, describes, matches, finds and embeds: one model with every part, trained for nothing in particular.
DOES_ALL = (
    "DIR",
    "mplug_visual-question-answering_coco_large_en",
    "mplug_image-captioning_coco_base_en",
    *(f"weights/{name}" for name in ("base", "captioner", "judge", "retrieval")),
    *(f"runs/{name}" for name in ("NAME", "boxes", "captions", "retrieval", "vqa")),
)
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "runs/cifar10": {"labels": ("cat", "dog", "ship")},
    "runs/mrpc": {"labels": ("no", "yes"), "input": "text"},
    "runs/nlvr2": {"labels": ("no", "yes"), "input": "image_text", "images_per_example": 2},
}
PICTURES = (
    "a.jpg",
    "b.jpg",
    "a.png",
    "kitchen.jpg",
    "photo.jpg",
    "left.jpg",
    "right.jpg",
    "holiday.jpg",
    "new/1.jpg",
    "frames/1.png",
    "frames/2.png",
    "photos/1.jpg",
    "photos/blurred.jpg",
)
SHARDS = 13


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory, example_folder: Path) -> Path:
    """Make the folder."""
    root = tmp_path_factory.mktemp("desk")
    for number, name in enumerate(PICTURES):
        (root / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    frames = [Image.new("RGB", (32, 24), (40 * number, 90, 120)) for number in range(6)]
    for name in ("moving.gif", "clips/one.gif"):
        (root / name).parent.mkdir(exist_ok=True)
        frames[0].save(root / name, save_all=True, append_images=frames[1:])
    _write_clip(root / "clip.mp4")
    (root / "pairs.csv").write_text("image,text\na.jpg,a red cup\n", encoding="utf-8")
    (root / "questions.csv").write_text("image,question\na.jpg,what colour is the cup?\n", encoding="utf-8")
    (root / "shards").mkdir()
    for number in range(SHARDS):
        _write_shard(root / "shards" / f"{number:06}.tar", (root / "a.jpg").read_bytes())
    for name in DOES_ALL:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(example_folder)
    for name, settings in CLASSIFIERS.items():
        _write_classifier(root / name, settings)
    return root


@pytest.fixture
def at_desk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder."""
    monkeypatch.chdir(desk)
    return desk


def _write_clip(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_shard(path: Path, picture: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("000000.jpg")
        member.size = len(picture)
        archive.addfile(member, BytesIO(picture))


def _write_classifier(folder: Path, settings: dict[str, Any]) -> None:
    from openmplug.checkpoints.store import save_weights
    from openmplug.data.tokenizer import Tokenizer, build_vocabulary
    from openmplug.data.transforms import ImageSettings
    from openmplug.tasks import build_task

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_vocab(build_vocabulary(["it is raining . there are two dogs in the left image"], min_count=1))
    task = build_task("classification", {"name": "mplug-tiny"}, tokenizer, settings)
    config = task.model.config
    content = {
        "architecture": "mplug",
        "model": config.model_dump(mode="json"),
        "modules": list(task.model.modules_built),
        "task": "classification",
        "settings": task.settings.model_dump(mode="json"),
        "image": ImageSettings(size=config.image_size).model_dump(mode="json"),
    }
    folder.mkdir()
    save_weights(folder, task.model.state_dict(), content)
    tokenizer.save(folder)
