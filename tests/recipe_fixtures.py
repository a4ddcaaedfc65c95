"""Ten made-up records in official formats, and settings under which a recipe of the large model trains in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from openmplug.engine.recipe import load_recipe
from openmplug.engine.run import evaluate, train

TINY = (
    "model.name=mplug-tiny model.image_size=32 model.width=32 model.vision_width=32 model.vision_layers=1 model.heads=2 "
    "model.vision_heads=2 model.intermediate=64 model.decoder_layers=1 tokenizer.min_count=1 data.workers=0 optim.batch_size_per_device=5 "
    "optim.accumulation=1 optim.epochs=1 optim.warmup_steps=1 run.max_steps=2 run.curves=false run.evaluate_batch_size=5 "
    "run.precision=fp32 run.device=cpu run.validate_every=0"
).split()
WORDS = ["red", "green", "blue", "a cup", "two", "three", "yes", "no", "left", "right"]


def pictures(folder: Path, pattern: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(10):
        Image.new("RGB", (40, 36), (25 * number, 100, 50)).save(folder / pattern.format(number))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def karpathy(root: Path) -> None:
    images = []
    for split in ("train", "test"):
        pictures(root / split, "{}.jpg")
        for number, word in enumerate(WORDS):
            sentences = [{"raw": f"a {word} thing"}, {"raw": f"it is {word}"}]
            images.append({"filename": f"{number}.jpg", "filepath": split, "cocoid": len(images), "split": split, "sentences": sentences})
    write(root / "dataset_coco.json", {"images": images})


def two_steps(name: str, changes: list[str], root: Path) -> dict[str, Any]:
    """Train a recipe for two steps on the records below ``root``, and return what its evaluation says."""
    config = load_recipe(name, [*TINY, *changes, f"data.root={root}"])
    result = train(config, root / "run", quiet=True)
    assert result["step"] == 2
    found = evaluate(config, root / "run", root / "evaluation", quiet=True)
    assert result["metric"] in found["metrics"]
    return found
