"""Checkpoints of every origin, read and understood: original mPLUG files, DeepSpeed and ModelScope folders, CLIP, BERT.

All of them become one thing first, a state dict under the originals' names; what follows is the same for each. Every key is mapped,
listed as unused with its reason, or an error, and nothing is copied: tensors stay in the mapped file until they are used.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.checkpoints import pretrained
from openmplug.checkpoints.architecture import Description, describe, flatten, read_hints
from openmplug.checkpoints.keymap import KeyMap
from openmplug.checkpoints.locating import Found, find_checkpoint
from openmplug.checkpoints.originals import QUEUE, final_name, is_momentum, original_keymap
from openmplug.checkpoints.store import check_keys
from openmplug.checkpoints.torch_files import TorchFile, read_torch_file
from openmplug.errors import ModelError
from openmplug.models.families import architecture_of, build_network, config_of, named_config, network_class
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.selections import SELECTIONS
from openmplug.models.vision import resize_positions

TASK_MODULES = {name: SELECTIONS[name].modules for name in ("vqa", "caption", "retrieval", "grounding")}
"""Parts of the model that each task runs which the originals have."""

_MODELSCOPE_TASKS = {
    "visual-question-answering": "vqa",
    "image-captioning": "caption",
    "image-text-retrieval": "retrieval",
    "visual-grounding": "grounding",
}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_TIED = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says about a checkpoint.

    Args:
        task: What it was trained for; None = what the file tells.
        size: A named size, for files that do not show theirs (BERT).
        image_size: Side of the pictures; the position grid is resized.
        architecture: Fields of ``MPLUGConfig`` that no shape tells, such as heads.
        configs: Configuration files to read besides those that lie beside the checkpoint.
        allow_missing: Patterns (``fnmatch``) of keys, original or ours, that may be missing; they stay random.
        ignore: Patterns of keys in the file that may be left out although nothing is known about them.
    """

    task: str | None = None
    size: str | None = None
    image_size: int | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    configs: Sequence[Path] = ()
    allow_missing: Sequence[str] = ()
    ignore: Sequence[str] = ()


@dataclass(slots=True)
class Foreign:
    """A foreign checkpoint under our names.

    Args:
        source: The file the tensors are in.
        origin: ``original``, ``deepspeed``, ``modelscope``, ``clip`` or ``bert``.
        file: What the file holds.
        config: The architecture.
        modules: Parts of the model it is for.
        task: What it was trained for, or None.
        tensors: Our name to tensor.
        mapped: The file's key to our names; several where a tensor is taken apart.
        unused: The file's key to the reason why nothing reads it.
        tied: The file's key to the file's key with the same values.
        new: Our keys that the file lacks and that ``allow_missing`` lets stay random.
        settings: What the file's configuration says about the task: beams, lengths, prompt.
        vocabulary: ``vocab.txt`` beside the file, or None.
        notes: What a user should know, one sentence each.
    """

    source: Path
    origin: str
    file: TorchFile
    config: MPLUGConfig
    modules: tuple[str, ...]
    task: str | None
    tensors: dict[str, Tensor]
    mapped: dict[str, tuple[str, ...]]
    unused: dict[str, str]
    tied: dict[str, str]
    new: list[str]
    settings: dict[str, Any]
    vocabulary: Path | None
    notes: list[str]


# ------------------------------------------------------------------------------------------------------------------ reading


def open_foreign(path: Path, options: Options | None = None) -> Foreign:
    """Read a foreign checkpoint.

    Args:
        path: A file or a folder.
        options: What the user says about it.

    Raises:
        ModelError: If it cannot be read, is incomplete, holds keys nobody knows, or leaves open what only the user can say.
    """
    options = options or Options()
    found = find_checkpoint(path)
    file = read_torch_file(found.file)
    hints = read_hints([*options.configs, *found.configs])
    saved = file.extras.get("config")
    if isinstance(saved, Mapping):
        hints |= {key: value for key, value in flatten(saved).items() if key not in hints}
    given = {**_named_size(options.size), **options.architecture}
    origin, state, names, notes = _as_original(file.tensors, found.kind, given)
    _check_types(state, names, found.file)
    student = {key: value for key, value in state.items() if not is_momentum(key) and key not in QUEUE}
    shapes = {key: tuple(value.shape) for key, value in student.items()}
    description = describe(shapes, hints, given, str(found.file))
    task = options.task or _task_of(found.kind, student, hints, file)
    if task is not None and task not in TASK_MODULES:
        raise ModelError(f"unknown task '{task}'; one of {', '.join(TASK_MODULES)}")
    notes += description.assumed
    return _assemble(found, file, origin, state, names, description, task, hints, options, notes)


_ANY_SIZE = ("image_size", "temporal_stride", "vocab_size", "max_positions", "embed_dim", "vision_dropout", "dropout", "attention_dropout")
"""What differs between checkpoints of one size."""


def _named_size(size: str | None) -> dict[str, Any]:
    if size is None:
        return {}
    config = named_config(size)
    told = {name: value for name, value in config.model_dump().items() if name not in _ANY_SIZE}
    return {**told, "name": size}


def _as_original(
    tensors: Mapping[str, Tensor], kind: str, given: Mapping[str, Any]
) -> tuple[str, dict[str, Tensor], dict[str, str], list[str]]:
    """Bring a state dict under the originals' final names.

    Returns:
        The origin, the state dict, the file's own key of each of its names, and notes.
    """
    keys = {key.removeprefix("module."): key for key in tensors}
    if pretrained.is_clip(keys):
        state = pretrained.clip_to_original({key: tensors[raw] for key, raw in keys.items()})
        return "clip", state, {key: key.removeprefix("visual_encoder.") for key in state}, []
    if pretrained.is_bert(keys):
        base = config_of(given)
        layers = [int(given.get(name, getattr(base, name))) for name in ("text_layers", "fusion_layers", "decoder_layers")]
        state = pretrained.bert_to_original({key: tensors[raw] for key, raw in keys.items()}, *layers)
        return "bert", state, {key: key for key in state}, ["cross-attention is new: BERT has none"]
    state, names, notes = {}, {}, []
    for raw, tensor in tensors.items():
        # ModelScope's own loader strips "model." wherever it stands.
        plain = raw.replace("model.", "") if kind == "modelscope" else raw
        name = final_name(plain.removeprefix("module."))
        if name in state and name != raw:
            # A renamed key and one that has the final name already: the final one wins.
            notes.append(f"{raw} is left out: {name} is there too")
            continue
        state[name], names[name] = tensor, raw
    return kind if kind != "file" else "original", state, names, notes


def _check_types(state: Mapping[str, Tensor], names: Mapping[str, str], where: Path) -> None:
    wrong = [key for key, value in state.items() if value.is_floating_point() and value.dtype not in _FLOATS]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        kind = str(state[wrong[0]].dtype).removeprefix("torch.")
        raise ModelError(
            f"'{where}': {names.get(wrong[0], wrong[0])}{more} is {kind}; expected float32, float16 or bfloat16;"
            " no released file holds such, convert it where it was made"
        )


def _task_of(kind: str, student: Mapping[str, Tensor], hints: Mapping[str, Any], file: TorchFile) -> str | None:
    """Tell what a checkpoint was trained for, or None where it does not show."""
    if kind == "modelscope":
        return _MODELSCOPE_TASKS.get(str(hints.get("task")))
    if "bbox_prob_mask" in student:
        return "grounding"
    writes, matches = any(key.startswith("text_decoder.") for key in student), "itm_head.weight" in student
    if matches and not writes:
        return "retrieval"
    if matches or not writes:
        return None
    if kind == "deepspeed" or file.wrapper == ("module",):
        return "vqa"  # the only script that trained with DeepSpeed
    saved = file.extras.get("config")
    if isinstance(saved, Mapping) and "prompt" in saved:
        return "caption"
    # Of mPLUG-2 there are two scripts, captioning and questions, and both save their configuration.
    return "vqa" if isinstance(saved, Mapping) and "visn_emb_norm.weight" in student else None


def _assemble(
    found: Found,
    file: TorchFile,
    origin: str,
    state: dict[str, Tensor],
    names: dict[str, str],
    description: Description,
    task: str | None,
    hints: Mapping[str, Any],
    options: Options,
    notes: list[str],
) -> Foreign:
    config, modules = description.config, description.modules
    if task is not None:
        # The originals' files of mPLUG-2 are about videos; their temporal modules come along and stand aside for pictures.
        needed = network_class(config).selection(TASK_MODULES[task], clips="temporal" in modules)
        if lacking := [name for name in needed if name not in modules and not _allowed(name, options.allow_missing)]:
            raise ModelError(
                f"'{found.file}' has no {', '.join(lacking)}, which {task} needs; give the checkpoint of that task,"
                f" or start from random values with {' '.join(f'--allow-missing {name}' for name in lacking)}"
            )
        modules = needed
    elif origin == "original" and "decoder" in modules:
        notes.append("the file does not say what it was trained for; without --task it may be used for whatever its parts allow")
    if task == "grounding" and "stride_layer" in hints:
        # The original cuts the text stack to `stride_layer` layers.
        config = config.model_copy(update={"text_layers": min(config.text_layers, int(hints["stride_layer"]))})
    keymap = original_keymap(config, description.fusion_start, modules)
    tensors, mapped, unused, unknown = _map_keys(state, names, keymap, options.ignore)
    tied = _check_tied(state, names, unused, found.file)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in build_network(config, modules).state_dict().items()}
    allowed = list(options.allow_missing)
    if origin == "bert":
        allowed += ["*crossattention*", "universal.latents", "universal.norm.*"]
    new = [key for key in shapes if key not in tensors and _allowed_key(key, keymap, allowed)]
    _check(tensors, shapes, new, unknown, keymap, found.file)
    if options.image_size is not None and options.image_size != config.image_size:
        config, note = _resize(config, options.image_size, tensors)
        notes.append(note)
    settings = {ours: hints[theirs] for theirs, ours in _SETTINGS.items() if theirs in hints and task in ("vqa", "caption")}
    if task == "caption" and "prompt" in hints:
        settings["prompt"] = hints["prompt"]
        if hints["prompt"] and architecture_of(config) == "mplug2":
            settings["generate_from"] = "start"  # as the released script does
    if task == "grounding" and {"prefix_ids", "target_ids"} <= state.keys():
        settings = {ours: int(state[theirs].flatten()[0]) for ours, theirs in _BOX_IDS.items()}
    return Foreign(found.file, origin, file, config, modules, task, tensors, mapped, unused, tied, new, settings, found.vocabulary, notes)


_BOX_IDS = {"prefix_id": "prefix_ids", "first_bin_id": "target_ids"}
_SETTINGS = {"beam_size": "num_beams", "min_length": "min_length", "max_length": "max_length"}


def _map_keys(
    state: Mapping[str, Tensor], names: Mapping[str, str], keymap: KeyMap, ignore: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]], dict[str, str], list[str]]:
    tensors: dict[str, Tensor] = {}
    mapped: dict[str, tuple[str, ...]] = {}
    unused: dict[str, str] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        raw = names.get(key, key)
        if key in QUEUE:
            unused[raw] = "a feature queue of training"
        elif is_momentum(key):
            unused[raw] = "a momentum copy"
        elif (reason := keymap.reason_ignored(key)) is not None:
            unused[raw] = reason
        elif found := keymap.take(key, tensor):
            tensors |= found
            mapped[raw] = tuple(found)
        elif any(fnmatch.fnmatchcase(raw, pattern) for pattern in ignore):
            unused[raw] = "unknown, and ignored by request"
        else:
            unknown.append(key)
    return tensors, mapped, unused, unknown


def _allowed(module: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def _allowed_key(ours: str, keymap: KeyMap, patterns: Collection[str]) -> bool:
    names = (ours, ours.split(".")[0], keymap.to_theirs(ours) or ours)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check_tied(state: Mapping[str, Tensor], names: Mapping[str, str], unused: Mapping[str, str], where: Path) -> dict[str, str]:
    """Hold the decoder's output layer to the word table it is tied to."""
    tied: dict[str, str] = {}
    for key, other in _TIED.items():
        if key not in state or other not in state or names.get(key, key) not in unused:
            continue
        mine, its = state[key], state[other]
        if mine.shape != its.shape or not (mine.data_ptr() == its.data_ptr() or torch.equal(mine, its)):
            raise ModelError(f"'{where}': {key} is tied to {other} in the original, but differs from it here; the file was edited")
        tied[names.get(key, key)] = names.get(other, other)
    return tied


def _check(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    new: Collection[str],
    unknown: Sequence[str],
    keymap: KeyMap,
    where: Path,
) -> None:
    """Compare with what the model needs, in the words of the file."""

    def theirs(name: str) -> str:
        return keymap.to_theirs(name) or name

    found = {theirs(name): tuple(tensor.shape) for name, tensor in tensors.items()} | dict.fromkeys(unknown, ())
    check_keys(found, {theirs(name): shape for name, shape in shapes.items() if name not in new}, str(where))


def _resize(config: MPLUGConfig, size: int, tensors: dict[str, Tensor]) -> tuple[MPLUGConfig, str]:
    if size % config.patch_size:
        raise ModelError(f"image size {size} is not a multiple of the patch size {config.patch_size}; choose one that is")
    tokens = 1 + (size // config.patch_size) ** 2
    tensors["vision.positions"] = resize_positions(tensors["vision.positions"], tokens)
    resized = config.model_copy(update={"image_size": size})
    return resized, f"position grid resized from {config.image_size} to {size} pixels (bilinear, as the original's loaders)"
