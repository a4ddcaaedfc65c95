"""Trains the small model that comes with the package, from data to weights: mplug2-small on everything at hand, on a CPU.

    python scripts/small_model.py data DATA --output DIR      # DATA: flickr8k, cifar10, nlvr1, daquar, easy_vqa; the rest is made
    python scripts/small_model.py train DIR --output RUNS     # four runs, each of which can be stopped and called again
    python scripts/small_model.py evaluate DIR RUNS           # the scores of its card, each with its blind control
    python scripts/small_model.py pack DIR RUNS               # into src/openmplug/weights/small

The pictures of the official and carved ``dev`` splits are in no training. Recipes: ``caption/everything_mplug2_small``,
``pretrain/everything_mplug2_small``; what each source is for is written there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from openmplug.checkpoints.store import CONFIG, WEIGHTS, open_tensors, save_weights
from openmplug.data.tokenizer import Tokenizer, build_vocabulary

Rows = Iterable[dict[str, Any]]
HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / "src" / "openmplug" / "weights" / "small"
CARD = HERE / "small_model_card.md"
KEPT_OUT = 10  # every tenth presentation of the drawings is left for evaluation
LAST = "everything"
ASKED = "settings.instruction=what does the {kind} describe?"
# What is scored: name, recipe, folder of the data, metric, settings.
SCORED: tuple[tuple[str, ...], ...] = (
    ("captions of moving shapes", "caption/moving_mplug2_tiny", "moving/caption", "cider", ASKED),
    ("questions about moving shapes", "vqa/moving_mplug2_tiny", "moving/vqa", "accuracy"),
    ("captions of shapes", "caption/shapes_mplug_tiny", "shapes/caption", "cider", ASKED),
    ("questions about shapes", "vqa/shapes_mplug_tiny", "shapes/vqa", "accuracy"),
    ("questions about one figure (easy-VQA)", "vqa/easy_vqa_mplug_tiny", "figures", "vqa_accuracy"),
    ("questions about rooms (DAQUAR)", "vqa/daquar_mplug_tiny", "rooms", "accuracy"),
    ("captions of photos (Flickr8k)", "caption/flickr8k_mplug_small", "photos", "cider", ASKED),
    ("photos found by captions (Flickr8k, 1,000)", "retrieval/flickr8k_mplug_small", "photos", "img_r10"),
)


def write_data(given: Path, out: Path) -> None:
    """Lay all sources out under one folder: what is there as links, what is made here as files."""
    out.mkdir(parents=True, exist_ok=True)
    for made in ("shapes", "moving"):
        if not (out / made / "vqa" / "dev.jsonl").exists():
            openmplug("data", "make", made, "--output", out / made)
    for name, target in (("photos", "flickr8k"), ("rooms", "daquar"), ("figures", "easy_vqa")):
        if not (out / name).is_symlink():
            (out / name).symlink_to((given / target).resolve())
    for split in ("train", "dev"):
        source = given / "cifar10" / f"{split}.zip"
        write_split(out / "things", split, named_things(source), source)
    for split, kept in (("train", range(1, KEPT_OUT)), ("dev", range(1))):
        rows = true_statements(given / "nlvr1" / "dev.jsonl", kept)
        write_split(out / "drawings", split, rows, next((given / "nlvr1").glob("dev_images.*")))
    vocabulary = build_vocabulary(training_texts(out), size=6000, min_count=3)
    Tokenizer.from_vocab(vocabulary).save(out)


def named_things(archive: Path) -> Iterator[dict[str, Any]]:
    """Yield the pictures of an archive with a folder for each class, with the class as their caption."""
    with zipfile.ZipFile(archive) as pictures:
        for name in sorted(name for name in pictures.namelist() if name.endswith(".jpg")):
            kind = Path(name).parts[0]
            yield {"image": name, "captions": [f"a photo of {'an' if kind[0] in 'aeiou' else 'a'} {kind}"]}


def true_statements(annotations: Path, kept: range) -> Iterator[dict[str, Any]]:
    """Yield the true statements of NLVR's drawings as their captions, of some presentations."""
    for row in map(json.loads, annotations.read_text(encoding="utf-8").splitlines()):
        if row["label"] in (True, "true") and int(row["identifier"].partition("-")[0]) % KEPT_OUT in kept:
            yield {"image": row["images"][0], "captions": [row["sentence"]]}


def write_split(folder: Path, split: str, rows: Rows, pictures: Path) -> None:
    """Write records beside a link to the archive of their pictures."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    link = folder / f"{split}_images{pictures.suffix}"
    if not link.is_symlink():
        link.symlink_to(pictures.resolve())


def training_texts(data: Path) -> Iterator[str]:
    """Yield all words of all training records."""
    for path in sorted(data.glob("*/train.jsonl")) + sorted(data.glob("*/*/train.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            for key in ("captions", "question", "answers", "answer", "sentence"):
                value = row.get(key, [])
                yield from [value] if isinstance(value, str) else value


def openmplug(*words: object) -> None:
    """Run the command line; stop where it fails."""
    print("$ openmplug", *map(str, words), flush=True)
    if code := subprocess.run([sys.executable, "-m", "openmplug", *map(str, words)]).returncode:
        sys.exit(code)


def train(data: Path, runs: Path) -> None:
    """Train what is not yet trained: directions of single shapes, captions, captions and questions."""
    vocabulary, size = f"tokenizer.vocab={data / 'vocab.txt'}", ["image_size=64", "vision_layers=4", "text_layers=2", "decoder_layers=2"]
    small = ["model.name=mplug2-small", *(f"model.{value}" for value in size), "optim.lr=8e-4", "optim.vision_lr=8e-4", "optim.epochs=2"]
    direction = [f"data.root={data / 'moving' / 'direction'}", "run.validate_every=2", *small]
    for name, recipe, given in (
        ("direction", "classification/moving_mplug2_tiny", direction),
        ("caption", "caption/everything_mplug2_small", [f"data.root={data}", f"init_from={runs / 'direction'}"]),
        (LAST, "pretrain/everything_mplug2_small", [f"data.root={data}", f"init_from={runs / 'caption'}"]),
    ):
        place = runs / name
        if not (place / "done").exists():
            again = ["--resume"] if (place / "recipe.yaml").exists() else []
            openmplug("train", recipe, *given, vocabulary, *again, "--output", place)
            (place / "done").touch()


def evaluate(data: Path, runs: Path) -> None:
    """Score the last run on the ``dev`` split of each source, and with the pictures of other records."""
    for number, (_, recipe, root, _, *settings) in enumerate(SCORED):
        for blind in (False, True):
            place = score_folder(runs, number, blind)
            if not (place / "metrics.json").exists():
                given = [f"data.root={data / root}", *settings, *(["data.shuffle_images=true"] if blind else [])]
                openmplug("evaluate", recipe, "--model", runs / LAST, *given, "--output", place)


def score_folder(runs: Path, number: int, blind: bool) -> Path:
    """Return where the scores of a line of ``SCORED`` lie."""
    return runs / "scores" / f"{number}{'_shuffled' if blind else ''}"


def pack(data: Path, runs: Path) -> None:
    """Write the last run's best weights in half precision, its words, its card and its curves into the package."""
    source = runs / LAST / "checkpoint-best"
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    del config["format"]
    config["defaults"] = {"caption": {"num_beams": 3, "min_length": 4, "max_length": 20}, "vqa": {"max_length": 6}}
    with open_tensors(source / WEIGHTS) as file:
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118 - not a mapping
    PLACE.mkdir(parents=True, exist_ok=True)
    save_weights(PLACE, tensors, config)
    shutil.copy(source / "vocab.txt", PLACE / "vocab.txt")
    table = scores(runs)
    lines = "\n".join(f"| {' | '.join(map(str, row))} |" for row in (table["columns"], ["---"] * len(table["columns"]), *table["rows"]))
    (PLACE / "README.md").write_text(CARD.read_text(encoding="utf-8").replace("<!-- scores -->", lines), encoding="utf-8")
    kept = HERE.parent / "docs" / "results"
    (kept / "small_model.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for name in ("direction", "caption", LAST):
        shutil.copy(runs / name / "metrics.jsonl", kept / "small_model" / f"{name}.jsonl")
        shutil.copy(runs / name / "curves.png", HERE.parent / "docs" / "pictures" / f"small_model_{name}.png")


def scores(runs: Path) -> dict[str, Any]:
    """Return the scores of the last run as a table of the results page."""
    rows = []
    for number, (name, _, _, metric, *_) in enumerate(SCORED):
        found = [json.loads((score_folder(runs, number, blind) / "metrics.json").read_text(encoding="utf-8")) for blind in (False, True)]
        rows.append([name, metric, *(f"{one['metrics'][metric]:.4g}" for one in found)])
    steps = ("data DATA --output DIR", "train DIR --output RUNS", "evaluate DIR RUNS", "pack DIR RUNS")
    commands = [f"python scripts/small_model.py {step}" for step in steps]
    return {"columns": ["`dev` of", "metric", "score", "with the picture of another record"], "rows": rows, "commands": commands}


def main() -> None:
    """Parse the command line and do one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("data")
    step.add_argument("given", type=Path)
    step.add_argument("--output", type=Path, required=True)
    step = steps.add_parser("train")
    step.add_argument("data", type=Path)
    step.add_argument("--output", type=Path, required=True)
    for name in ("evaluate", "pack"):
        step = steps.add_parser(name)
        step.add_argument("data", type=Path)
        step.add_argument("runs", type=Path)
    given = parser.parse_args()
    if given.step == "data":
        write_data(given.given, given.output)
    elif given.step == "train":
        train(given.data, given.output)
    else:
        {"evaluate": evaluate, "pack": pack}[given.step](given.data, given.runs)


if __name__ == "__main__":
    main()
