"""From a name to a model: folders of ours, released files, ModelScope and DeepSpeed folders, the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.checkpoints.adapters import folder_hash, holds_adapters, load_folder
from openmplug.checkpoints.convert import words_of
from openmplug.checkpoints.folder import drawn_weights, file_hash, find_folder, foreign_config, is_ours, read_folder
from openmplug.checkpoints.foreign import Options, open_foreign
from openmplug.checkpoints.hub import fetch_model, is_name
from openmplug.checkpoints.locating import find_checkpoint
from openmplug.checkpoints.shipped import named
from openmplug.checkpoints.store import CONFIG, WEIGHTS, check_keys, read_weights
from openmplug.config import did_you_mean
from openmplug.data.clips import saved_video
from openmplug.data.tokenizer import Tokenizer
from openmplug.device import choose_device, choose_precision
from openmplug.errors import ModelError, UsageError
from openmplug.inference.model import Model
from openmplug.models.families import SIZES, build_network, saved_config
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.network import Network
from openmplug.models.precision import cast_for_inference, choose_inference_dtype
from openmplug.models.quantize import quantize as quantize_network

AUTO_BF16_WIDTH = 512


def load(
    model: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int = 16,
    *,
    weights: str | Path | None = None,
    task: str | None = None,
    image_size: int | None = None,
    vocab: str | Path | None = None,
    allow_missing: Sequence[str] = (),
    quantize: str | None = None,
    frames: int | None = None,
    **architecture: Any,
) -> Model:
    """Load a model.

    Args:
        model: A folder that openmplug wrote (or a run's folder, for its ``checkpoint-best``); a released checkpoint: file, ModelScope or
            DeepSpeed folder; a name on the Hugging Face hub (``org/name``); a named size, with ``weights``; or ``small``, the weights that
            come with the package.
        device: ``auto`` (None), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` (None), ``fp32``, ``bf16`` or ``fp16``; see ``inference_precision``.
        batch_size: Items worked on at once.
        weights: The released file, where ``model`` is a named size.
        task: ``vqa``, ``caption``, ``retrieval`` or ``grounding``: use the model for this, whatever it was trained for.
        image_size: Side of the pictures in pixels; the position grid is resized. Released files only.
        vocab: ``vocab.txt`` of a released file, where it does not lie beside it; else BERT's uncased one is taken from the hub.
        allow_missing: Parts or keys of a released file that may be missing and stay random.
        quantize: ``int8`` or ``int4``: store the linear layers in so few bits (extra ``[export]``).
        frames: Frames that are looked at of a video; None takes as many as in training.
        architecture: Sizes that a released file does not tell, such as ``heads=4``.

    Example:
        >>> model = load(folder, device="cpu", task="caption")
        >>> model.name, model.precision
        ('caption', 'fp32')

    Raises:
        ModelError: If it is no model, is damaged or incomplete, or its weights do not fit its description.
        UsageError: If device, dtype or a name is unknown.
        EnvironmentProblem: If this machine has no such device, or the hub cannot be reached.
    """
    if frames is not None and frames < 1:
        raise UsageError(f"frames is {frames}; expected at least 1")
    chosen = choose_device(device)
    choose_precision(dtype, chosen)  # refuses an unknown one before anything is read
    options = Options(task, None, image_size, architecture, (), tuple(allow_missing))
    size = str(model) if str(model) in SIZES else None
    if size is not None and weights is None:
        raise UsageError(f"'{size}' is a size without weights; give weights=FILE, or a folder in its place")
    if size is None and weights is not None:
        raise UsageError(f"weights= belongs to a named size, and '{model}' is none{did_you_mean(str(model), SIZES)}; give the file alone")
    path = named(Path(weights if weights is not None else model).expanduser())
    if not path.exists() and weights is None and is_name(str(model)):
        path = fetch_model(str(model))
    if not path.exists() and weights is None and "/" not in str(model) and (hint := did_you_mean(str(model), SIZES)):
        raise ModelError(f"'{model}' is neither a path nor a size{hint}")
    folder = find_folder(path)
    if weights is None and (is_ours(folder) or ((folder / CONFIG).is_file() and not _transformers(folder))):
        config, tokenizer = read_folder(folder)
        if image_size is not None or architecture:
            raise UsageError(f"'{path}' says its own sizes; image_size and {', '.join(architecture) or 'others'} are for released files")
        network = _network_of(folder, config)
        return _model(folder, network, tokenizer, config, task, chosen, dtype, batch_size, quantize, frames)
    foreign = open_foreign(path, replace(options, size=size))
    words = words_of(foreign, None if vocab is None else Path(vocab))
    if words is None:
        raise ModelError(f"'{path}' holds no words, only {', '.join(foreign.modules)}; nothing can be asked of it")
    network = fill_network(foreign.config, foreign.modules, {**foreign.tensors, **drawn_weights(foreign)}, str(foreign.source))
    return _model(foreign.source, network, words, foreign_config(foreign), task, chosen, dtype, batch_size, quantize, frames)


def _network_of(folder: Path, config: Mapping[str, Any]) -> Network:
    """Build the network of a folder of ours; adapters are merged into the weights they were learned on."""
    sizes, modules = saved_config(config), config["modules"]
    if not holds_adapters(folder):
        return fill_network(sizes, modules, read_weights(folder), str(folder / WEIGHTS))
    network = build_network(sizes, modules)
    load_folder(folder, network)
    return network


def _transformers(folder: Path) -> bool:
    return '"model_type"' in (folder / CONFIG).read_text(encoding="utf-8", errors="replace")


def fill_network(config: MPLUGConfig, modules: Sequence[str], tensors: Mapping[str, Tensor], where: str) -> Network:
    """Build a network around weights, in float32, without drawing random ones first.

    Args:
        config: The sizes.
        modules: Parts of the model.
        tensors: Every weight of it, by our names.
        where: The file they are from, for messages.

    Raises:
        ModelError: If the weights are not exactly those of the architecture.
    """
    with torch.device("meta"):
        network = build_network(config, modules)
    shapes, expected = ({name: tuple(value.shape) for name, value in one.items()} for one in (tensors, network.state_dict()))
    check_keys(shapes, expected, where)
    network.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)
    return network


def _model(
    source: Path,
    network: Network,
    tokenizer: Tokenizer,
    config: Mapping[str, Any],
    task: str | None,
    device: torch.device,
    dtype: str | None,
    batch_size: int,
    bits: str | None,
    frames: int | None,
) -> Model:
    if frames is not None:
        config = {**config, "video": saved_video(config).model_dump(mode="json") | {"frames": frames}}
    if task is not None and task != config["task"]:
        config = {**config, "task": task, "settings": {}}
    network = network.to(device).eval()
    if bits is not None:
        quantize_network(network, bits)
        precision = choose_precision(dtype or "fp32", device)
    else:
        precision = inference_precision(dtype, device, network.config)
        if precision == "bf16":
            cast_for_inference(network, torch.bfloat16)
    model = Model(network, tokenizer, config, device, precision, batch_size)
    model.source = source
    return model


def weights_hash(path: Path) -> str:
    """Return the SHA-256 that identifies the weights ``load`` would read.

    Args:
        path: A folder of ours, a run's folder, or a released checkpoint.

    Raises:
        ModelError: If it is none.
    """
    folder = find_folder(path)
    return folder_hash(folder) if is_ours(folder) else file_hash(find_checkpoint(path).file)


def inference_precision(dtype: str | None, device: torch.device, config: MPLUGConfig) -> str:
    """Return the number type of inference: the one asked for, else the faster one where answers stay what they are in fp32.

    On a CPU with bf16 kernels (AMX, AVX512-BF16) bf16 weights are measured once a process, in a third of a second, and taken if they
    pay. Models narrower than ``AUTO_BF16_WIDTH`` are quick anyway and keep all digits.
    """
    if dtype not in (None, "auto") or device.type != "cpu" or config.width < AUTO_BF16_WIDTH:
        return choose_precision(dtype, device)
    return "bf16" if choose_inference_dtype(device, config.width) is torch.bfloat16 else "fp32"
