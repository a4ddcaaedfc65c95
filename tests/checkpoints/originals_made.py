"""Files of the original code's form, made from tiny models of ours: with dead keys, momentum copies, queues and tied tensors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from openmplug.checkpoints.export import export_original
from openmplug.checkpoints.store import save_weights
from openmplug.models.families import architecture_of
from openmplug.models.mplug import MODULES
from openmplug.models.network import Network
from tiny_models import tiny_model, tiny_model2

PARTS = tuple(name for name in MODULES if name not in ("classification", "language"))  # the originals have no such heads
VOCABULARY = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]
SIZES = {"vision_width": 64, "vision_heads": 1, "vocab_size": len(VOCABULARY)}
CONFIG = """{"num_attention_heads": 4, "fusion_layers": 3, "stride_layer": 2,
"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}"""
"""What no shape tells: with three fusion layers, a stride of 2 connects none but layer 2."""
SECOND_CONFIG = """{"num_attention_heads": 4, "fusion_layers": 5, "stride_layer": 1000,
"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}"""
"""As mPLUG-2's, which connects no layer."""


def original_state(modules: Collection[str] = PARTS, folder: Path | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict under the originals' names, its dead keys included."""
    assert folder is not None
    state = _exported(tiny_model(modules, seed, connected_layers=(2,), **SIZES), folder)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    state["visual_encoder.visual.proj"] = draw(64, 8)
    state["visual_encoder.token_embedding.weight"] = draw(8, 8)
    state["visual_encoder.logit_scale"] = torch.tensor(4.6)
    if "fusion" in modules:
        # The released stacks have layers below the first that runs: they lie in the file and never do.
        live = {key: state.pop(key) for key in list(state) if key.startswith("fusion_encoder.encoder.layer.")}
        for key, value in live.items():
            number = int(key.split(".")[3])
            state[key.replace(f"layer.{number}.", f"layer.{number + 2}.")] = value
            if number < 2:
                state[key] = draw(*value.shape)
        state["fusion_encoder.embeddings.word_embeddings.weight"] = draw(SIZES["vocab_size"], 32)
        # A connected layer has a cross-attention that nobody runs.
        for key in [key for key in state if key.startswith("fusion_encoder.encoder.layer.0.crossattention.")]:
            state[key.replace("layer.0.", "layer.4.")] = draw(*state[key].shape)
    return state


def second_original_state(
    folder: Path,
    modules: Collection[str] = ("vision", "temporal", "text", "universal", "fusion", "decoder"),
    seed: int = 0,
    **sizes: object,
) -> dict[str, Tensor]:
    """Return mPLUG-2's state dict under the original's names, its dead keys included; there is no fusion layer below the first here."""
    model = tiny_model2(modules, seed, **{**SIZES, "fusion_layers": 5, **sizes})
    state = _exported(model, folder)
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    universal = range(config.text_layers - config.universal_layers, config.text_layers)
    last = range(max(config.decoder_layers - config.universal_layers, 0), config.decoder_layers)
    stacks = {"text_encoder": universal, "text_decoder.bert": last if "decoder" in modules else ()}
    for stack, layers in stacks.items():
        for number in layers:
            layer = f"{stack}.encoder.layer.{number}"
            for part in ("intermediate", "output"):
                for key in [key for key in state if key.startswith(f"{layer}.{part}.")]:
                    state[key.replace(f".{part}.", f".{part}_vision.")] = torch.randn(state[key].shape, generator=generator)
    if stacks["text_decoder.bert"]:
        state[f"text_decoder.bert.encoder.layer.{last[0]}.latents"] = torch.randn(config.latents, config.width, generator=generator)
    state["visual_encoder.visual.proj"] = torch.randn(64, 8, generator=generator)
    return state


def _exported(model: Network, folder: Path) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": architecture_of(model.config),
        "model": model.config.model_dump(mode="json"),
        "modules": list(model.modules_built),
    }
    save_weights(folder, model.state_dict(), config)
    export_original(folder, folder / "made.pth")
    state: dict[str, Tensor] = torch.load(folder / "made.pth", weights_only=True)["model"]
    return state


def with_training(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add momentum copies and queues, as a file of retrieval or pre-training has them."""
    twins = {f"{first}_m.{rest}": tensor + 1 for key, tensor in state.items() for first, dot, rest in [key.partition(".")] if dot}
    queues = {"image_queue": torch.zeros(12, 6), "text_queue": torch.zeros(12, 6), "idx_queue": torch.full((1, 6), -100)}
    return {**state, **twins, **queues, "queue_ptr": torch.zeros(1, dtype=torch.int64)}


def write_original(
    folder: Path,
    state: dict[str, Tensor],
    name: str = "checkpoint_best.pth",
    wrapper: str = "model",
    description: str = CONFIG,
    **extras: object,
) -> Path:
    """Write a file with its configuration and vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config_bert.json").write_text(description)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    torch.save({wrapper: state, "epoch": 3, **extras}, folder / name)
    return folder / name
