"""How many greedy answers change when weights are stored in 8 or 4 bits, or in bf16: a trained model on a split of its data.

    OMP_NUM_THREADS=1 python benchmarks/quantization.py vqa/easy_vqa_mplug_tiny --model RUN data.root=DIR

Prints a Markdown row for fp32 and each kind: answers changed against fp32, metric, bytes of the weights, seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openmplug.batch import Prediction
from openmplug.config import validate
from openmplug.data.epochs import EpochSampler
from openmplug.data.loading import ImageTextDataset, build_loader
from openmplug.data.splits import read_split
from openmplug.data.transforms import EvalTransform, ImageSettings
from openmplug.engine.models import find_model, load_task
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.models.precision import cast_for_inference
from openmplug.models.quantize import quantize


def stored_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's weights, those inside quantised ones too."""
    seen: dict[int, int] = {}
    for parameter in model.parameters():
        inner = [getattr(parameter, name) for name in getattr(parameter, "tensor_data_names", ())]
        for tensor in inner or [parameter]:
            seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(seen.values())


def answers(config: RunConfig, folder: Path, kind: str) -> tuple[list[Prediction], dict[str, Any]]:
    """Answer a split greedily with a model quantised as asked for."""
    task, facts = load_task(folder, torch.device("cpu"), {**config.settings, "num_beams": 1})
    if kind == "bf16":
        cast_for_inference(task.model, torch.bfloat16)
    elif kind != "fp32":
        quantize(task.model, kind)
    split = read_split(config.data, config.data.evaluate)
    transform = EvalTransform(validate(ImageSettings, facts["image"], where="image"))
    dataset = ImageTextDataset(split.samples, split.images, transform, seed=0, on_error="error")
    size = config.run.evaluate_batch_size or 32
    loader = build_loader(dataset, EpochSampler(len(split.samples), size, shuffle=False), task.collator(training=False), workers=0)
    began, found = time.perf_counter(), []
    with torch.inference_mode():
        for batch in loader:
            found += task.predict(batch)
    seconds = time.perf_counter() - began
    return found, {"metric": task.score(found)[task.metric], "bytes": stored_bytes(task.model), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["bf16", "int8", "int4"])
    options = parser.parse_intermixed_args()
    config, folder = load_recipe(options.recipe, options.overrides), find_model(options.model)
    print("| weights | answers | changed | metric | MB | seconds |\n|---|---|---|---|---|---|")
    reference: list[Prediction] = []
    for kind in ("fp32", *options.kinds):
        found, facts = answers(config, folder, kind)
        reference = reference or found
        changed = sum(one.text != other.text for one, other in zip(reference, found, strict=True))
        share = f"{changed} ({100 * changed / len(found):.2f} %)"
        print(
            f"| {kind} | {len(found)} | {share} | {facts['metric']:.2f} | {facts['bytes'] / 1e6:.2f} | {facts['seconds']:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
