"""Files of the original code's form, made from tiny models of ours: with dead keys, momentum copies, queues and tied tensors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from openmplug.checkpoints.export import export_original
from openmplug.checkpoints.store import save_weights
from openmplug.models.mplug import MODULES
from tiny_models import tiny_model

PARTS = tuple(name for name in MODULES if name not in ("classification", "language"))  # the originals have no such heads
VOCABULARY = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]
SIZES = {"vision_width": 64, "vision_heads": 1, "vocab_size": len(VOCABULARY)}
CONFIG = """{"num_attention_heads": 4, "fusion_layers": 3, "stride_layer": 2,
"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}"""
"""What no shape tells: with three fusion layers, a stride of 2 connects none but layer 2."""


def original_state(modules: Collection[str] = PARTS, folder: Path | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict under the originals' names, its dead keys included."""
    assert folder is not None
    model = tiny_model(modules, seed, connected_layers=(2,), **SIZES)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": "mplug", "model": model.config.model_dump(mode="json"), "modules": list(model.modules_built)}
    save_weights(folder, model.state_dict(), config)
    export_original(folder, folder / "made.pth")
    state: dict[str, Tensor] = torch.load(folder / "made.pth", weights_only=True)["model"]
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


def with_training(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add momentum copies and queues, as a file of retrieval or pre-training has them."""
    twins = {f"{first}_m.{rest}": tensor + 1 for key, tensor in state.items() for first, dot, rest in [key.partition(".")] if dot}
    queues = {"image_queue": torch.zeros(12, 6), "text_queue": torch.zeros(12, 6), "idx_queue": torch.full((1, 6), -100)}
    return {**state, **twins, **queues, "queue_ptr": torch.zeros(1, dtype=torch.int64)}


def write_original(
    folder: Path, state: dict[str, Tensor], name: str = "checkpoint_best.pth", wrapper: str = "model", **extras: object
) -> Path:
    """Write a file with its configuration and vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config_bert.json").write_text(CONFIG)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    torch.save({wrapper: state, "epoch": 3, **extras}, folder / name)
    return folder / name
