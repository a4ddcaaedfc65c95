"""CLIP and BERT under mPLUG's names: what the papers' pre-training starts from.

CLIP's image tower becomes the vision encoder. BERT's lower layers become the text encoder, its upper ones the fusion stack, and all of
them the decoder with its language head; the cross-attention in fusion and decoder has no counterpart there and stays new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from openmplug.errors import ModelError

CROSS_ATTENTION = r"(fusion_encoder|text_decoder\.bert)\.encoder\.layer\.\d+\.crossattention\..*"
"""Keys that BERT cannot fill."""


def is_clip(keys: Iterable[str]) -> bool:
    """Say whether these are the keys of a CLIP model, OpenAI's or transformers'."""
    return any(key in ("visual.class_embedding", "vision_model.embeddings.class_embedding") for key in keys)


def is_bert(keys: Iterable[str]) -> bool:
    """Say whether these are the keys of a BERT model, with or without the ``bert.`` prefix."""
    return any(key in ("bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight") for key in keys)


# --------------------------------------------------------------------------------------------------------------------- CLIP

_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_CLIP_OUTSIDE = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}


def clip_to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename CLIP's keys to mPLUG's ``visual_encoder.*``; its text tower comes along and is listed as unused later.

    Args:
        tensors: OpenAI's names (state dict or TorchScript archive) or those of the transformers library, whose separate query, key and
            value matrices are joined.
    """
    if "visual.class_embedding" in tensors:
        # Three numbers that the archive stores beside its weights.
        plain = {"input_resolution", "context_length", "vocab_size"}
        return {f"visual_encoder.{key}": value for key, value in tensors.items() if key not in plain}
    result: dict[str, Tensor] = {}
    for key, value in tensors.items():
        match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if match is None:
            outside = _CLIP_OUTSIDE.get(key)
            if outside is None and key.startswith("vision_model.") and not key.endswith("position_ids"):
                raise ModelError(f"unknown key in the CLIP weights: {key}; expected the names of the transformers library")
            result[f"visual_encoder.{outside or key}"] = value
            continue
        layer, part, kind = match.groups()
        ours = f"visual_encoder.visual.transformer.resblocks.{layer}"
        if part in _CLIP_LAYER:
            result[f"{ours}.{_CLIP_LAYER[part]}.{kind}"] = value
        elif part == "self_attn.q_proj":
            others = [f"vision_model.encoder.layers.{layer}.self_attn.{name}_proj.{kind}" for name in ("k", "v")]
            if missing := [name for name in others if name not in tensors]:
                raise ModelError(f"missing in the CLIP weights: {', '.join(missing)}; the file is incomplete")
            result[f"{ours}.attn.in_proj_{kind}"] = torch.cat([value, *(tensors[name] for name in others)])
    return result


# --------------------------------------------------------------------------------------------------------------------- BERT


def bert_to_original(tensors: Mapping[str, Tensor], text_layers: int, fusion_layers: int, decoder_layers: int) -> dict[str, Tensor]:
    """Hand BERT's weights to the three stacks under mPLUG's names.

    Args:
        tensors: Names of the transformers library, with or without ``bert.``; LayerNorms may be called gamma and beta.
        text_layers: The first so many layers become the text encoder.
        fusion_layers: The last so many become the fusion stack.
        decoder_layers: The first so many become the decoder.

    Raises:
        ModelError: If BERT has fewer layers than are asked for.
    """
    plain = {_modern(key): value for key, value in tensors.items()}
    layers = 1 + max((int(match[1]) for key in plain if (match := re.match(r"encoder\.layer\.(\d+)\.", key))), default=-1)
    for what, count in (("text", text_layers), ("fusion", fusion_layers), ("decoder", decoder_layers)):
        if count > layers:
            raise ModelError(f"BERT has {layers} layers, {what}_layers is {count}; choose another size or another BERT")
    result: dict[str, Tensor] = {}
    for key, value in plain.items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", key)
        number = int(layer[1]) if layer else -1
        if key.startswith("cls.predictions."):
            result[f"text_decoder.{key}"] = value
        elif key.startswith(("pooler.", "cls.seq_relationship.")):
            continue  # sentence-pair parts; mPLUG has neither
        else:
            if number < text_layers:
                result[f"text_encoder.{key}"] = value
            if layer and number >= layers - fusion_layers:
                result[f"fusion_encoder.{key}"] = value
            if number < decoder_layers:
                result[f"text_decoder.bert.{key}"] = value
    return result


def _modern(key: str) -> str:
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
