"""The recipes of one model for photos, drawings, shapes and clips, on the data that their script lays out, made up at tiny size."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from openmplug.data.moving import write_moving
from openmplug.data.readers import READERS
from openmplug.data.shapes import write_shapes
from openmplug.engine.recipe import load_recipe
from openmplug.engine.run import evaluate, train
from recipe_fixtures import TINY, WORDS, pictures

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "everything_data.py"
DRAWN = "pretrain/drawings_mplug2_tiny"
NAMES = ["caption/everything_mplug2_small", "pretrain/everything_mplug2_small"]
MPLUG2 = (
    "model.name=mplug2-tiny model.image_size=32 model.patch_size=16 model.text_layers=1 model.universal_layers=1 model.latents=2".split()
)
CHANGES = [*TINY, *MPLUG2, "model.fusion_layers=1", "video.frames=2", "data.epoch_examples=40", "run.validate_limit=4"]


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("everything_data", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(folder: Path, splits: tuple[str, ...], *records: dict[str, object]) -> None:
    """Write ten pictures and the given records for each split."""
    for split in splits:
        pictures(folder / f"{split}_images", "{}.jpg")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def everything(root: Path) -> None:
    """Lay tiny data out as ``scripts/everything_data.py`` does, by the script itself."""
    given = root.parent / "given"
    told = [{"image": f"{number}.jpg", "captions": [f"a {word} thing", f"it is {word}"]} for number, word in enumerate(WORDS)]
    rows(given / "flickr8k", ("train", "dev", "unassigned"), *told)
    asked = [{"question_id": n, "image": f"{n}.jpg", "question": "what is it ?", "answers": [word]} for n, word in enumerate(WORDS)]
    rows(given / "daquar", ("train", "dev"), *asked)
    rows(given / "easy_vqa", ("train", "dev"), *({**row, "answer": word} for row, word in zip(asked, WORDS, strict=True)))
    said = [{"identifier": f"{n}-0", "sentence": "there is a box", "label": n % 3 > 0, "images": [f"{n}.jpg"]} for n in range(10)]
    said += [{"identifier": "20-0", "sentence": "there is one box", "label": "true", "images": ["1.jpg"]}]
    pictures(given / "nlvr1" / "dev_images", "{}.jpg")
    (given / "nlvr1" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    with zipfile.ZipFile(given / "nlvr1" / "dev_images.zip", "w") as archive:
        for path in sorted((given / "nlvr1" / "dev_images").iterdir()):
            archive.write(path, path.name)
    (given / "cifar10").mkdir()
    buffer = io.BytesIO((given / "nlvr1" / "dev_images" / "3.jpg").read_bytes())
    for split in ("train", "dev"):
        with zipfile.ZipFile(given / "cifar10" / f"{split}.zip", "w") as archive:
            for name in ("airplane/0000.jpg", "cat/0000.jpg", "cat/0001.jpg"):
                archive.writestr(name, buffer.getvalue())
    write_shapes(root / "shapes", train_images=10, dev_images=5)
    write_moving(root / "moving", train_clips=8, dev_clips=4)
    script().write_data(given, root)


def drawings(root: Path) -> None:
    """Write the drawings that the package makes itself, and their words."""
    write_shapes(root / "shapes", train_images=10, dev_images=5)
    write_moving(root / "moving", train_clips=8, dev_clips=4)
    words = [(root / made / "vocab.txt").read_text(encoding="utf-8").splitlines() for made in ("moving", "shapes")]
    (root / "vocab.txt").write_text("".join(f"{word}\n" for word in dict.fromkeys([*words[0], *words[1]])), encoding="utf-8")


def test_the_data_are_laid_out(tmp_path: Path) -> None:
    everything(tmp_path / "data")
    things = READERS["jsonl"](tmp_path / "data" / "things", "train", {})
    assert [sample.targets for sample in things.samples] == [("a photo of an airplane",), ("a photo of a cat",), ("a photo of a cat",)]
    assert all(sample.image in things.images for sample in things.samples)
    drawings = {
        split: [sample.image for sample in READERS["jsonl"](tmp_path / "data" / "drawings", split, {}).samples]
        for split in ("train", "dev")
    }
    assert drawings == {"train": [f"{n}.jpg" for n in (1, 2, 4, 5, 7, 8)], "dev": ["1.jpg"]}  # every tenth presentation is kept out
    words = (tmp_path / "data" / "vocab.txt").read_text(encoding="utf-8").split()
    assert {"photo", "circle", "moves", "thing"} <= set(words) and not {"airplane", "boxes"} & set(words)  # once is too seldom


def test_they_train_one_after_the_other(tmp_path: Path) -> None:
    root = tmp_path / "data"
    everything(root)
    common = [*CHANGES, f"data.root={root}", f"tokenizer.vocab={root / 'vocab.txt'}"]
    caption = load_recipe(NAMES[0], [*common, "settings.num_beams=1"])
    assert train(caption, tmp_path / "caption", quiet=True)["step"] == 2
    last = load_recipe(NAMES[1], [*common, f"init_from={tmp_path / 'caption'}"])
    assert train(last, tmp_path / "everything", quiet=True)["step"] == 2
    assert evaluate(last, tmp_path / "everything", tmp_path / "evaluation", quiet=True)["metrics"]["mean_accuracy"] >= 0


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_are_those_of_one_model(name: str) -> None:
    """Weights of one run start the next one."""
    config, other = load_recipe(name), load_recipe(NAMES[0])
    assert (config.model, config.video, config.tokenizer) == (other.model, other.video, other.tokenizer)
    assert {*other.data.sources} - {"things"} <= {*config.data.sources}


def test_drawings_alone(tmp_path: Path) -> None:
    """The recipe of the weights that come with the package starts from a captioner of both and answers afterwards."""
    root = tmp_path / "data"
    drawings(root)
    sizes = [change for change in CHANGES if not change.startswith("video.")]
    common = [*sizes, "video.frames=2", f"tokenizer.vocab={root / 'vocab.txt'}"]
    further = f"data.further=[{{root: {root / 'shapes' / 'caption'}}}]"
    captions = [*(change for change in common if "epoch_examples" not in change), f"data.root={root / 'moving' / 'caption'}", further]
    assert train(load_recipe("caption/moving_mplug2_tiny", captions), tmp_path / "caption", quiet=True)["step"] == 2
    last = load_recipe(DRAWN, [*common, f"data.root={root}", f"init_from={tmp_path / 'caption'}"])
    assert train(last, tmp_path / "drawings", quiet=True)["step"] == 2
    asked = load_recipe("vqa/shapes_mplug_tiny", [f"data.root={root / 'shapes' / 'vqa'}", "run.device=cpu"])
    assert evaluate(asked, tmp_path / "drawings", tmp_path / "evaluation", quiet=True)["metrics"]["exact_match"] >= 0
