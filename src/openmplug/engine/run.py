"""Training and evaluation put together from a recipe: splits, vocabulary, task, loaders, loop, files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import openmplug
from openmplug import distributed
from openmplug.batch import Sample
from openmplug.checkpoints.adapters import AdapterRecord, folder_hash, holds_adapters, read_record
from openmplug.checkpoints.atomic import write_atomic
from openmplug.config import dump_yaml, read_yaml, validate
from openmplug.data.clips import VideoSettings, saved_video
from openmplug.data.loading import BatchLoader
from openmplug.data.readers import Split
from openmplug.data.readers.submissions import submission
from openmplug.data.splits import read_candidates, read_split, read_training
from openmplug.data.transforms import ImageSettings
from openmplug.device import choose_device, choose_precision, flushed_denormals, limited_threads
from openmplug.engine.checkpointing import BEST, LAST
from openmplug.engine.circumstances import circumstances
from openmplug.engine.evaluator import evaluate_task, write_evaluation
from openmplug.engine.inputs import check_first_images, evaluation_loader, tokenizer_for, training_loader
from openmplug.engine.models import find_model, load_task, new_task, write_model
from openmplug.engine.recipe import RunConfig
from openmplug.engine.recompute import recompute_layers
from openmplug.engine.report import write_report
from openmplug.engine.tracking import METRICS, Advance, Display
from openmplug.engine.trainer import Trainer
from openmplug.errors import DataError, UsageError
from openmplug.tasks import find_task
from openmplug.tasks.base import Task

RECIPE = "recipe.yaml"

MAY_CHANGE = (
    "description",
    "paper",
    "data.root",
    "data.workers",
    "data.on_error",
    "run.device",
    "run.threads",
    "run.log_every",
    "run.save_every_minutes",
    "run.save_every_steps",
    "run.max_steps",
    "run.max_minutes",
    "run.evaluate_batch_size",
    "run.gradient_checkpointing",
    "run.curves",
    "run.parallel",
    "run.shard_size",
    "run.timeout_minutes",
    "run.compile",
    "run.save_in_background",
    "optim.batch_size_per_device",
)
"""Settings that a resumed run may change: none of them changes what is learned.

The batch of a process may as long as that of all processes together stays what it was, which the trainer looks at.
"""

# ----------------------------------------------------------------------------------------------------------------- train


def train(config: RunConfig, output: Path, resume: bool = False, device: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train what a recipe says, together with the other processes where ``torchrun`` started several.

    Writes ``recipe.yaml`` (resolved), ``metrics.jsonl``, ``checkpoint-last/``, ``checkpoint-best/`` and ``curves.png``.

    Args:
        config: The checked recipe.
        output: The run's folder; made if needed.
        resume: Go on where the run in ``output`` stopped.
        device: Overrides ``run.device``.
        quiet: Show no progress.

    Returns:
        What ``Trainer.fit`` returns, and ``task``, ``metric``, ``output``, ``parameters``, ``train_examples``.

    Raises:
        UsageError: If ``output`` holds another run, or a resumed run's recipe was changed.
        DataError: If the data cannot be used; the first rows and pictures are looked at before anything is built.
        ModelError: If weights do not fit or a loss is not finite.
        EnvironmentProblem: If memory or disk run out, or the device is not there.
    """
    with flushed_denormals(), limited_threads(config.run.threads):
        target = choose_device(device or config.run.device)
        if target == torch.device("cuda"):
            target = distributed.local_device("cuda")
        with distributed.joined(target, config.run.timeout_minutes):
            result = _train(config, Path(output), resume, target, quiet or not distributed.is_main())
    return result


def _train(config: RunConfig, output: Path, resume: bool, target: torch.device, quiet: bool) -> dict[str, Any]:
    with distributed.agreed():
        if distributed.is_main():
            _check_output(config, output, resume)
    display = Display(quiet=quiet)
    try:
        with distributed.agreed():
            build, facts = _prepare(config, output, resume, target, display)
        if distributed.is_main():
            write_atomic(output / RECIPE, dump_yaml(config.model_dump(mode="json")))
        result = build().fit(resume)
    finally:
        display.close()
    return {**facts, **result}


def _prepare(
    config: RunConfig, output: Path, resume: bool, target: torch.device, display: Display
) -> tuple[Callable[[], Trainer], dict[str, Any]]:
    """Read, check and build all that needs no word between the processes; return what builds the trainer, and the run's facts."""
    split = read_training(config.data)
    check_first_images(split, config.data.on_error)
    held_out = read_split(config.data, config.data.evaluate) if config.run.validate_every else None
    if held_out is not None:
        check_first_images(held_out, config.data.on_error)
    tokenizer = tokenizer_for(config, split.samples)
    clips = any(sample.clip for sample in split.samples)
    prepared = _prepared(config, split.samples)
    prepared = prepared.model_copy(update={"settings": {**prepared.settings, **read_candidates(config.data)}})
    task, adapters = new_task(prepared, tokenizer, display, clips)
    if adapters is not None and resume:
        _check_same_base(output / LAST, adapters)
    task.to(target)
    recompute_layers(task.model, config.run.gradient_checkpointing)
    mixture = split.mixture
    examples = task.examples(split.samples) if mixture is None else mixture.examples(task.examples, task.draw(), config.seed)
    if not examples:
        raise DataError(
            f"split '{split.name}' has {len(split.samples)} records and nothing to learn from; its rows hold no answer or caption"
        )
    sampler, loader = training_loader(config, task, examples, split.images)
    count = sum(parameter.numel() for parameter in task.model.parameters())
    learning = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    processes, precision = distributed.world_size(), choose_precision(config.run.precision, target)
    learned = "" if learning == count else f" of which {learning:,} learn"
    together = "" if processes == 1 else f", {processes} processes"
    display.say(
        f"{config.task}: {len(examples):,} examples, {sampler.batches_per_epoch:,} batches of {sampler.batch_size * processes} per epoch,"
        f" {config.optim.epochs} epochs; {count:,} parameters{learned}, {precision} on {target}{together}"
    )
    facts = {"task": config.task, "metric": task.metric, "output": str(output), "parameters": count, "train_examples": len(examples)}

    def batches(epoch: int, start: int) -> BatchLoader:
        sampler.set_epoch(epoch, start)
        return loader

    def build() -> Trainer:
        return Trainer(
            task,
            batches,
            sampler.batches_per_epoch,
            optim=config.optim,
            loop=config.run,
            folder=output,
            device=target,
            write_model=lambda folder, weights: write_model(folder, task, config.task, config.image, adapters, config.video, weights),
            on_error=config.data.on_error,
            validate=None if held_out is None else _validation(config, task, held_out, target),
            validate_count=0 if held_out is None else len(held_out.samples[: config.run.validate_limit]),
            display=display,
        )

    return build, facts


def _check_output(config: RunConfig, output: Path, resume: bool) -> None:
    """Refuse a folder that holds another run, and a resumed run whose recipe was changed.

    Raises:
        UsageError: In both cases, or if there is nothing to resume.
    """
    recipe = output / RECIPE
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output '{output}' is a file; give a folder")
    if not resume:
        there = [name for name in (RECIPE, METRICS, LAST, BEST) if (output / name).exists()]
        if there:
            raise UsageError(f"'{output}' holds another run ({there[0]}); go on with it by --resume, or give another --output")
        return
    if not recipe.is_file():
        raise UsageError(f"'{output}' holds no run to resume (no {RECIPE}); leave out --resume to start one")
    # Read as a recipe, so that settings younger than the run have their defaults.
    before, now = (_flat(one.model_dump(mode="json")) for one in (validate(RunConfig, read_yaml(recipe)), config))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and key not in MAY_CHANGE)
    if changed:
        shown = ", ".join(f"{key} ({before.get(key)} before, {now.get(key)} now)" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UsageError(
            f"the run in '{output}' was started with another recipe: {shown}{more}; resume with {recipe}, or give another --output"
        )


def _check_same_base(checkpoint: Path, adapters: AdapterRecord) -> None:
    """Refuse to go on with adapters on other weights than they were learned on.

    Raises:
        UsageError: If the weights of ``init_from`` have changed since.
    """
    if not holds_adapters(checkpoint):
        return
    before, now = ([(item.sha256, item.parts) for item in record.base] for record in (read_record(checkpoint), adapters))
    if before != now:
        places = ", ".join(str(item.folder) for item in adapters.base)
        raise UsageError(f"the weights in {places} have changed since this run began; put the old ones back, or start anew")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _prepared(config: RunConfig, samples: Sequence[Sample]) -> RunConfig:
    """Complete the task's settings from the training records; the recipe that is written stays as it was given."""
    return config.model_copy(update={"settings": find_task(config.task).prepared(config.settings, samples)})


def _evaluated(video: VideoSettings) -> dict[str, Any]:
    """Return the settings of evaluation that were stated, not left at their defaults."""
    return {name: getattr(video, name) for name in ("frames", "sampling", "resize") if name in video.model_fields_set}


def _validation(config: RunConfig, task: Task, split: Split, device: torch.device) -> Callable[[Task, Advance], dict[str, float]]:
    """Return what measures a task. Several processes share the batches, unless its predictions depend on all samples."""
    samples, size = split.samples[: config.run.validate_limit], config.run.evaluate_batch_size or config.optim.batch_size_per_device
    shared = type(task).evaluate is Task.evaluate and distributed.world_size() > 1
    if shared:
        batches = -(-len(samples) // size)
        first, end = (size * (batches * number // distributed.world_size()) for number in (distributed.rank(), distributed.rank() + 1))
        samples = samples[first:end]
    loader = evaluation_loader(config, task, samples, split.images, config.image, config.video)
    precision = choose_precision(config.run.precision, device)

    def validate_now(task: Task, advance: Advance) -> dict[str, float]:
        return evaluate_task(
            task, loader, device=device, precision=precision, on_error=config.data.on_error, advance=advance, shared=shared
        ).metrics

    return validate_now


# -------------------------------------------------------------------------------------------------------------- evaluate


def evaluate(
    config: RunConfig,
    model: Path,
    output: Path,
    device: str | None = None,
    quiet: bool = False,
    report: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a trained model on a split and write ``predictions.jsonl``, ``metrics.json`` and the benchmark's own form of the former.

    Architecture, vocabulary, picture and video settings are the model's; the recipe gives the data, and task settings that replace the
    model's. Video settings that the recipe states replace the model's too: a model may be asked about more frames than it was trained on.

    Args:
        config: The checked recipe; ``data.evaluate`` names the split.
        model: A folder of weights, or a run's folder.
        output: Where to; made if needed.
        device: Overrides ``run.device``.
        quiet: Show no progress.
        report: Write ``report.html`` too.
        origin: Where the evaluation comes from (recipe, command): written into ``metrics.json`` first.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UsageError: If the model was trained for another task, or a setting is unknown.
        DataError: If the data cannot be used.
        ModelError: If the model cannot be loaded.
        EnvironmentProblem: If memory or disk run out, or the device is not there.
    """
    target = choose_device(device or config.run.device)
    folder = find_model(model)
    task, facts = load_task(folder, target, {**config.settings, **read_candidates(config.data)}, wanted=config.task)
    if facts["task"] != config.task:
        raise UsageError(
            f"the model in '{folder}' was trained for task '{facts['task']}', the recipe is for '{config.task}'; use a recipe of its task"
        )
    image = validate(ImageSettings, facts["image"], where="image")
    video = saved_video(facts).model_copy(update=_evaluated(config.video))
    split = read_split(config.data, config.data.evaluate)
    check_first_images(split, config.data.on_error)
    precision = choose_precision(config.run.precision, target)
    loader = evaluation_loader(config, task, split.samples, split.images, image, video)
    display = Display(quiet=quiet)
    try:
        with limited_threads(config.run.threads), display.bar(f"evaluate {split.name}", len(split.samples)) as advance:
            evaluation = evaluate_task(task, loader, device=target, precision=precision, on_error=config.data.on_error, advance=advance)
    finally:
        display.close()
    result = write_evaluation(
        Path(output),
        evaluation,
        {
            **(origin or {}),
            "task": config.task,
            "split": split.name,
            "data": {key: value for key, value in config.data.model_dump(mode="json").items() if key not in ("train", "workers")},
            "settings": task.settings.model_dump(mode="json"),
            "image": image.model_dump(mode="json"),
            **({"video": video.model_dump(mode="json")} if any(sample.clip for sample in split.samples) else {}),
            "scorer": dict(task.scorer()),
            "model": str(folder),
            "model_hash": folder_hash(folder),
            "precision": precision,
            "device": target.type,
            "openmplug": openmplug.__version__,
            "torch": torch.__version__,
            **circumstances(target, config.run.threads),
        },
        submission(config.data.reader, config.data.evaluate, evaluation.predictions),
    )
    if report:
        write_report(Path(output), evaluation, result, task, split)
    return result
