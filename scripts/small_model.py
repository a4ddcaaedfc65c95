"""Trains the small model that comes with the package, from nothing, on drawings and clips that the package makes itself, on a CPU.

    python scripts/small_model.py train DIR --output RUNS     # five runs, two hours of one core; stopped, it goes on when called again
    python scripts/small_model.py evaluate DIR RUNS           # the scores of its card, each with its blind control
    python scripts/small_model.py pack DIR RUNS               # into src/openmplug/weights/small

DIR gets the data. What is trained on which, and why in this order, stands in ``pretrain/drawings_mplug2_tiny``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from openmplug.checkpoints.store import CONFIG, WEIGHTS, open_tensors, save_weights

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / "src" / "openmplug" / "weights" / "small"
CARD = HERE / "small_model_card.md"
RUNS = ("direction", "caption", "drawings", "stills", "more")
LAST = RUNS[-1]
LARGE = "large"
"""Folder of data of which there is more, for the last run; its ``dev`` is the same."""

STILLS = (  # the last two runs see more of what the third knew least: pictures, and questions about them
    "data.sources.moving.weight=2",
    "data.sources.moving_questions.weight=4",
    "data.sources.shapes_questions.weight=9",
    "data.evaluate=shapes/caption/dev",
)
ASKED = "settings.instruction=what does the {kind} describe?"
RERANKED = ("settings.matching_weight=1", "settings.k_test=64")
# What is scored: name, recipe, folder of the data, metric, settings.
SCORED: tuple[tuple[str, ...], ...] = (
    ("captions of moving shapes", "caption/moving_mplug2_tiny", "moving/caption", "cider", ASKED),
    ("questions about moving shapes", "vqa/moving_mplug2_tiny", "moving/vqa", "accuracy"),
    ("clips found by captions, of 500", "retrieval/moving_mplug2_tiny", "moving/retrieval", "img_r1", "settings.k_test=0"),
    ("the same, the best 64 matched", "retrieval/moving_mplug2_tiny", "moving/retrieval", "img_r1", *RERANKED),
    ("captions of shapes", "caption/shapes_mplug_tiny", "shapes/caption", "cider", ASKED),
    ("questions about shapes", "vqa/shapes_mplug_tiny", "shapes/vqa", "exact_match"),
    ("pictures found by captions, of 500", "retrieval/shapes_mplug_tiny", "shapes/retrieval", "img_r1", "settings.k_test=0"),
    ("the same, the best 64 matched", "retrieval/shapes_mplug_tiny", "shapes/retrieval", "img_r1", *RERANKED),
)


def openmplug(*words: object) -> None:
    """Run the command line; stop where it fails."""
    print("$ openmplug", *map(str, words), flush=True)
    if code := subprocess.run([sys.executable, "-m", "openmplug", *map(str, words)]).returncode:
        sys.exit(code)


def train(data: Path, runs: Path) -> None:
    """Make what is not yet made and train what is not yet trained."""
    for folder, clips, pictures in ((data, 6000, 3000), (data / LARGE, 12000, 24000)):
        for made, many in (("moving", f"--train-clips={clips}"), ("shapes", f"--train-images={pictures}")):
            if not (folder / made / "vqa" / "dev.jsonl").exists():
                openmplug("data", "make", made, many, "--output", folder / made)
    words = [(data / made / "vocab.txt").read_text(encoding="utf-8").splitlines() for made in ("moving", "shapes")]
    (data / "vocab.txt").write_text("".join(f"{word}\n" for word in dict.fromkeys([*words[0], *words[1]])), encoding="utf-8")
    told = f"[{{root: {data / 'shapes' / 'caption'}}}]"
    drawings = "pretrain/drawings_mplug2_tiny"
    for name, recipe, root, start, given in (
        ("direction", "classification/moving_mplug2_tiny", data / "moving" / "direction", None, ()),
        ("caption", "caption/moving_mplug2_tiny", data / "moving" / "caption", "direction", (f"data.further={told}",)),
        ("drawings", drawings, data, "caption", ()),
        ("stills", drawings, data, "drawings", ("optim.epochs=4", *STILLS)),
        (LAST, drawings, data / LARGE, "stills", ("optim.epochs=6", *STILLS)),
    ):
        given = [f"data.root={root}", *given, *([f"init_from={runs / start}"] if start else [])]
        place = runs / name
        if not (place / "done").exists():
            again = ["--resume"] if (place / "recipe.yaml").exists() else []
            openmplug("train", recipe, *given, f"tokenizer.vocab={data / 'vocab.txt'}", *again, "--output", place)
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
    config["defaults"] = {
        "caption": {"num_beams": 3, "min_length": 4, "max_length": 20},
        "vqa": {"max_length": 6},
        "retrieval": {"k_test": 64},
    }
    with open_tensors(source / WEIGHTS) as file:
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118 - not a mapping
    PLACE.mkdir(parents=True, exist_ok=True)
    save_weights(PLACE, tensors, config)
    shutil.copy(source / "vocab.txt", PLACE / "vocab.txt")
    table = scores(runs)
    lines = "\n".join(f"| {' | '.join(map(str, row))} |" for row in (table["columns"], ["---"] * len(table["columns"]), *table["rows"]))
    (PLACE / "README.md").write_text(CARD.read_text(encoding="utf-8").replace("<!-- scores -->", lines), encoding="utf-8")
    kept = HERE.parent / "docs" / "results"
    (kept / "small_model").mkdir(exist_ok=True)
    (kept / "small_model.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for name in RUNS:
        shutil.copy(runs / name / "metrics.jsonl", kept / "small_model" / f"{name}.jsonl")
    shutil.copy(runs / LAST / "curves.png", HERE.parent / "docs" / "pictures" / "small_model.png")


def scores(runs: Path) -> dict[str, Any]:
    """Return the scores of the last run as a table of the results page."""
    rows = []
    for number, (name, _, _, metric, *_) in enumerate(SCORED):
        found = [json.loads((score_folder(runs, number, blind) / "metrics.json").read_text(encoding="utf-8")) for blind in (False, True)]
        rows.append([name, metric, *(f"{one['metrics'][metric]:.4g}" for one in found)])
    steps = ("train DIR --output RUNS", "evaluate DIR RUNS", "pack DIR RUNS")
    commands = [f"python scripts/small_model.py {step}" for step in steps]
    return {"columns": ["`dev` of", "metric", "score", "with the picture of another record"], "rows": rows, "commands": commands}


def main() -> None:
    """Parse the command line and do one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("train")
    step.add_argument("data", type=Path)
    step.add_argument("--output", type=Path, required=True)
    for name in ("evaluate", "pack"):
        step = steps.add_parser(name)
        step.add_argument("data", type=Path)
        step.add_argument("runs", type=Path)
    given = parser.parse_args()
    if given.step == "train":
        train(given.data, given.output)
    else:
        {"evaluate": evaluate, "pack": pack}[given.step](given.data, given.runs)


if __name__ == "__main__":
    main()
