"""Does pre-training help? Pre-trained and fine-tuned against from scratch, at equal steps; and what it does without fine-tuning.

    python benchmarks/pretraining_helps.py --flickr8k DIR --nlvr1 DIR --output OUT --seeds 1 2
    python benchmarks/pretraining_helps.py --flickr8k DIR --nlvr1 DIR --output OUT --few 1000 --size mplug-tiny
    python benchmarks/pretraining_helps.py --output OUT --table    # what is there, as a table and curves; starts nothing

Flickr8k photos, true statements of NLVR ``dev`` drawings (one presentation in ten left out) and the built-in shapes are pre-trained
on together (``pretrain/flickr8k_mplug_small``, 2 epochs); then comes 1 epoch of Flickr8k retrieval or captions. From scratch, the same task
takes 5 epochs: 470 steps of 64 pictures against 296 + 94, and five captions of a picture in all of them. One vocabulary.
The pre-trained model alone is evaluated too: retrieval, captions when asked for, answers by ranking, and clips of the moving
shapes, which it never saw, as flattened frames; beside each the same with pictures shuffled. What OUT has is not done again.

``--few N`` asks the question that pre-training is for: the task has N photos (or N questions about shapes) and no more, and the photos
are not among those of pre-training. From scratch, the task gets as many steps as pre-training and fine-tuning together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EPOCHS = {"pretrain": 2, "finetune": 1, "scratch": 5}
PHOTOS_TO_OTHERS = (7, 1, 2)  # Flickr8k, NLVR, shapes
BATCH = 64
FEW_EPOCHS = 10  # of the task, after pre-training
FEW_QUESTIONS = ("vqa/shapes_mplug_tiny", ["settings.questions_per_example=1"])
SHARED = [f"optim.batch_size_per_device={BATCH}", "run.threads=1", "model.fusion_layers=2"]
RECIPES = {
    "retrieval": ("retrieval/flickr8k_mplug_small", ["settings.captions_per_example=5"]),
    "caption": ("caption/flickr8k_mplug_small", ["settings.captions_per_example=5"]),
}
SHOWN = {
    "retrieval": ("mean_recall", "img_r10", "txt_r10"),
    "caption": ("cider", "bleu_4"),
    "vqa": ("exact_match",),
    "answers": ("accuracy",),
    "clips": ("img_r10", "txt_r10"),
}


def openmplug(*words: object, quick: bool = False) -> None:
    """Run the command line; its last lines are shown if it fails."""
    command = [sys.executable, "-m", "openmplug", *map(str, words), *(["run.max_steps=4", "data.limit=96"] if quick else [])]
    print("$ openmplug", *map(str, words), flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{done.stdout[-500:]}\n{done.stderr[-2000:]}")


def statements(nlvr1: Path, folder: Path) -> Path:
    """Write the true statements of NLVR's ``dev`` as captions of their drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    with (nlvr1 / "dev.jsonl").open(encoding="utf-8") as rows, (folder / "train.jsonl").open("w", encoding="utf-8") as out:
        for row in map(json.loads, rows):
            if row["label"] in (True, "true") and int(row["identifier"].partition("-")[0]) % 10:
                out.write(json.dumps({"image": row["images"][0], "captions": [row["sentence"]]}) + "\n")
    images = folder / "train_images.tar"
    if not images.exists():
        images.symlink_to((nlvr1 / "dev_images.tar").resolve())
    return folder


def split_photos(flickr8k: Path, few: int, out: Path) -> tuple[Path, Path]:
    """Divide the photos of training in those to pre-train on and the last ``few``, the task's; ``dev`` is the same for both."""
    lines = (flickr8k / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    found = []
    for name, kept in (("photos_before", lines[:-few]), ("photos_task", lines[-few:])):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.jsonl").write_text("".join(kept), encoding="utf-8")
        for path in (*flickr8k.glob("dev*"), *flickr8k.glob("train_images*")):
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path.resolve())
        found.append(folder.resolve())
    return found[0], found[1]


def steps_of(run: Path) -> int:
    """Return the number of training steps of a finished pre-training, which is validated when it ends; 0 for ``--quick``, which is not."""
    return max((step for step, _ in points(run, "mean_accuracy")), default=0)


def run_seed(seed: int, data: dict[str, Path], out: Path, given: argparse.Namespace) -> None:
    """Train and evaluate everything of one seed."""
    quick, few = given.quick, given.few
    photos, scenes, shapes, moving = data["flickr8k"], data["nlvr1"], data["shapes"], data["moving"]
    weights = dict(zip(("photos", "scenes", "shapes"), PHOTOS_TO_OTHERS, strict=True))
    places = {"photos": data["photos_before"], "scenes": scenes, "shapes": shapes / "caption"}
    sources = "{" + ", ".join(f"{name}: {{reader: jsonl, root: {places[name]}, weight: {weights[name]}}}" for name in places) + "}"
    sized = [f"model.name={given.size}", f"model.image_size={given.image_size}", f"model.patch_size={given.image_size // 8}"]
    common, before = [f"seed={seed}", *SHARED, *sized], out / "pretrained"
    if not (before / "done").exists():
        epochs = given.pretrain_epochs or EPOCHS["pretrain"]
        words = [f"data.root={photos}", f"data.sources={sources}", f"optim.epochs={epochs}", "run.validate_every=1", *common]
        openmplug("train", "pretrain/flickr8k_mplug_small", *words, "--output", before, quick=quick)
        (before / "done").touch()
    vocabulary = f"tokenizer.vocab={next(before.glob('checkpoint-*/vocab.txt'))}"
    tasks = {name: recipe for name, recipe in {**RECIPES, **({"vqa": FEW_QUESTIONS} if few else {})}.items() if name in given.tasks}
    for task, (recipe, settings) in tasks.items():
        root = f"data.root={shapes / 'vqa' if task == 'vqa' else photos}"
        for arm in ("finetune", "scratch"):
            place = out / f"{task}_{arm}"
            if not (place / "done").exists():
                start = [f"init_from={before}"] if arm == "finetune" else []
                length = lengths(arm, before, few)
                openmplug("train", recipe, root, *common, *settings, vocabulary, *length, *start, "--output", place, quick=quick)
                (place / "done").touch()
            evaluate(recipe, place, place / "dev", [root], quick)
    asked = "settings.instruction=what does the image describe?"
    answers = json.dumps(sorted({answer for row in questions(shapes / "vqa" / "train.jsonl") for answer in row}))
    ranked = ["settings.inference=rank", "settings.k_test=64", f"settings.answers={answers}"]
    for name, recipe, given in (
        ("retrieval", RECIPES["retrieval"][0], [f"data.root={photos}"]),
        ("caption", RECIPES["caption"][0], [f"data.root={photos}", asked]),
        ("answers", "vqa/shapes_mplug_tiny", [f"data.root={shapes / 'vqa'}", *ranked]),
        ("clips", "retrieval/moving_mplug2_tiny", [f"data.root={moving / 'retrieval'}"]),
    ):
        evaluate(recipe, before, out / "zero_shot" / name, given, quick)


def lengths(arm: str, before: Path, few: int) -> list[str]:
    """Return the settings that say how long an arm trains: from scratch, as many steps as pre-training and fine-tuning together."""
    if not few:
        return [f"optim.epochs={EPOCHS[arm]}", "run.validate_every=1"]
    an_epoch = -(-few // BATCH)
    epochs = FEW_EPOCHS + (round(steps_of(before) / an_epoch) if arm == "scratch" else 0)
    return [f"data.limit={few}", f"optim.epochs={epochs}", f"run.validate_every={max(1, epochs // 6)}"]


def questions(path: Path) -> Iterator[list[str]]:
    """Yield the answers of each question."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = row.get("answers", row.get("answer"))
        yield answer if isinstance(answer, list) else [answer]


def evaluate(recipe: str, model: Path, place: Path, given: list[str], quick: bool) -> None:
    """Evaluate a model, and once more with the pictures shuffled."""
    for folder, more in ((place, []), (place.with_name(place.name + "_shuffled"), ["data.shuffle_images=true"])):
        if not (folder / "metrics.json").exists():
            limit = ["data.limit=64"] if quick else []
            openmplug("evaluate", recipe, "--model", model, *given, *more, *limit, "--output", folder)


# ------------------------------------------------------------------------------------------------------------- what came out


def scores(folder: Path) -> dict[str, float]:
    """Return an evaluation's metrics; none where it was not made."""
    path = folder / "metrics.json"
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.exists() else {}
    return found


def rows(out: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each score: what, which way, metric, one value a seed."""
    seeds = sorted(path for path in out.glob("seed*") if path.is_dir())
    for task in (*RECIPES, "vqa"):
        for arm in ("scratch", "finetune"):
            for metric in SHOWN[task]:
                for place in ("dev", "dev_shuffled"):
                    found = [scores(seed / f"{task}_{arm}" / place).get(metric) for seed in seeds]
                    yield {"what": task, "way": arm + ("" if place == "dev" else ", shuffled"), "metric": metric, "values": found}
    for task in ("retrieval", "caption", "answers", "clips"):
        for metric in SHOWN[task]:
            for more in ("", "_shuffled"):
                found = [scores(seed / "zero_shot" / (task + more)).get(metric) for seed in seeds]
                yield {"what": task, "way": "zero-shot" + more.replace("_", ", "), "metric": metric, "values": found}


def curves(out: Path) -> None:
    """Draw validation scores over all steps, those of pre-training counted, as ``curves.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [("retrieval", "img_r10"), ("caption", "cider"), ("vqa", "exact_match")]
    shown = [(task, metric) for task, metric in shown if list(out.glob(f"seed*/{task}_*"))]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.5 * len(shown), 3.4), layout="constrained", squeeze=False)
    for axis, (task, metric) in zip(axes[0], shown, strict=True):
        for seed in sorted(out.glob("seed*")):
            offset = steps_of(seed / "pretrained")
            for arm, colour, start in (("scratch", "tab:gray", 0), ("finetune", "tab:blue", offset)):
                found = points(seed / f"{task}_{arm}", metric)
                label = {"scratch": "from scratch", "finetune": "pre-trained"}[arm]
                axis.plot([start + step for step, _ in found], [value for _, value in found], "o-", color=colour, label=label, markersize=3)
        axis.set(xlabel="steps, pre-training counted", ylabel=metric, title="shapes, questions" if task == "vqa" else f"Flickr8k {task}")
        handles, labels = axis.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axis.legend(unique.values(), unique.keys(), frameon=False)
    figure.savefig(out / "curves.png", dpi=120)


def points(run: Path, metric: str) -> list[tuple[int, float]]:
    """Return (step, score) of each validation of a run."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [(int(line["step"]), float(line[metric])) for line in lines if line.get("kind") == "validation" and metric in line]


def table(out: Path) -> None:
    """Print the scores as a table in Markdown and keep them as ``scores.json``."""
    found = [row for row in rows(out) if any(value is not None for value in row["values"])]
    (out / "scores.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("| task | way | metric | seeds | mean |\n|---|---|---|---|---|")
    for row in found:
        values = [value for value in row["values"] if value is not None]
        each = ", ".join(f"{value:.4g}" for value in values)
        print(f"| {row['what']} | {row['way']} | {row['metric']} | {each} | {statistics.mean(values):.4g} |")
    curves(out)


def main() -> None:
    """Parse the command line, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, help="folder with train.jsonl, dev.jsonl and their images")
    parser.add_argument("--nlvr1", type=Path, help="folder with dev.jsonl and dev_images.tar")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="four steps of each, to see that it runs")
    parser.add_argument("--few", type=int, default=0, help="photos, or questions, that a task has; 0: all of them")
    parser.add_argument("--size", default="mplug-small", help="the model's size")
    parser.add_argument("--image-size", type=int, default=64, help="pixels a side; patches are an eighth")
    parser.add_argument("--pretrain-epochs", type=int, help=f"default {EPOCHS['pretrain']}")
    parser.add_argument(
        "--tasks", nargs="+", default=[*RECIPES, "vqa"], choices=[*RECIPES, "vqa"], help="default all; vqa with --few alone"
    )
    parser.add_argument("--table", action="store_true", help="only show what is there")
    given = parser.parse_args()
    if not given.table:
        if not (given.flickr8k and given.nlvr1):
            parser.error("--flickr8k and --nlvr1 name the data; --table alone shows what is there")
        out = given.output
        data = {"flickr8k": given.flickr8k.resolve(), "nlvr1": statements(given.nlvr1, (out / "nlvr1").resolve())}
        before, task = split_photos(given.flickr8k, given.few, out) if given.few else (data["flickr8k"], data["flickr8k"])
        data |= {"photos_before": before, "flickr8k": task}
        for made in ("shapes", "moving"):
            data[made] = (out / made).resolve()
            if not (data[made] / "retrieval" / "dev.jsonl").exists():
                openmplug("data", "make", made, "--output", data[made])
        for seed in given.seeds:
            run_seed(seed, data, out / f"seed{seed}", given)
    table(given.output)


if __name__ == "__main__":
    main()
