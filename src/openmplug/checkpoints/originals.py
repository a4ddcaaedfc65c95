"""The released research code's key names: how they map to ours, and which of them no computation ever reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from openmplug.checkpoints.keymap import AS_IT_IS, Ignored, KeyMap, MiddleAndOuter, Rule, Scalar, Squeezed
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.mplug2 import MPLUG2Config

_POINTWISE = Squeezed(2, 3, 4)  # a linear layer written as a convolution over 1 x 1 x 1
_DEPTHWISE = Squeezed(1, 3, 4)  # over frames alone


def _affine(theirs: str, ours: str, offset: int = 0) -> list[Rule]:
    return [Rule(f"{theirs}.{kind}", f"{ours}.{kind}", offset) for kind in ("weight", "bias")]


def _vision(patches: Rule) -> list[Rule]:
    theirs, ours = "visual_encoder.visual.transformer.resblocks.{i}", "vision.layers.{i}"
    return [
        Rule("visual_encoder.visual.class_embedding", "vision.class_token"),
        Rule("visual_encoder.visual.positional_embedding", "vision.positions"),
        patches,
        *_affine("visual_encoder.visual.ln_pre", "vision.input_norm"),
        *_affine("visual_encoder.visual.ln_post", "vision.output_norm"),
        Rule(f"{theirs}.attn.in_proj_weight", f"{ours}.attention.qkv.weight"),
        Rule(f"{theirs}.attn.in_proj_bias", f"{ours}.attention.qkv.bias"),
        *_affine(f"{theirs}.attn.out_proj", f"{ours}.attention.output"),
        *_affine(f"{theirs}.ln_1", f"{ours}.attention_norm"),
        *_affine(f"{theirs}.ln_2", f"{ours}.mlp_norm"),
        *_affine(f"{theirs}.mlp.c_fc", f"{ours}.expand"),
        *_affine(f"{theirs}.mlp.c_proj", f"{ours}.contract"),
        *_affine("visn_fc", "vision_projection.linear"),
        *_affine("visn_layer_norm", "vision_projection.norm"),
    ]


def _embeddings(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.embeddings.word_embeddings.weight", f"{ours}.embeddings.words.weight"),
        Rule(f"{theirs}.embeddings.position_embeddings.weight", f"{ours}.embeddings.positions.weight"),
        Rule(f"{theirs}.embeddings.token_type_embeddings.weight", f"{ours}.embeddings.types.weight"),
        *_affine(f"{theirs}.embeddings.LayerNorm", f"{ours}.embeddings.norm"),
    ]


def _bert_layers(theirs: str, ours: str, cross: bool, offset: int = 0) -> list[Rule]:
    rules: list[Rule] = []
    pairs = [("attention", "self_attention")] + ([("crossattention", "cross_attention")] if cross else [])
    for their_part, our_part in pairs:
        for name in ("query", "key", "value"):
            rules += _affine(f"{theirs}.{their_part}.self.{name}", f"{ours}.{our_part}.attention.{name}", offset)
        rules += _affine(f"{theirs}.{their_part}.output.dense", f"{ours}.{our_part}.attention.output", offset)
        rules += _affine(f"{theirs}.{their_part}.output.LayerNorm", f"{ours}.{our_part}.norm", offset)
    rules += _affine(f"{theirs}.intermediate.dense", f"{ours}.feed_forward.expand", offset)
    rules += _affine(f"{theirs}.output.dense", f"{ours}.feed_forward.contract", offset)
    rules += _affine(f"{theirs}.output.LayerNorm", f"{ours}.feed_forward.norm", offset)
    return rules


def _temporal() -> list[Rule]:
    rules: list[Rule] = []
    parts = (("down_proj", "reduce", _POINTWISE), ("conv", "mixing", _DEPTHWISE), ("up_proj", "expand", _POINTWISE))
    for their_module, our_module in (("lmhra1", "before"), ("lmhra2", "after")):
        theirs = f"visual_encoder.visual.transformer.resblocks.{{i}}.{their_module}"
        ours = f"temporal.layers.{{i}}.{our_module}"
        rules += _affine(f"{theirs}.ln", f"{ours}.norm")
        for their_part, our_part, layout in parts:
            rules += [
                Rule(f"{theirs}.{their_part}.weight", f"{ours}.{our_part}.weight", layout=layout),
                Rule(f"{theirs}.{their_part}.bias", f"{ours}.{our_part}.bias"),
            ]
    return rules


def _universal(first: int) -> list[Rule]:
    """Name the universal layers, the last of the text encoder's, from the first of them on."""
    return [
        Rule(f"text_encoder.encoder.layer.{first}.latents", "universal.latents"),
        *_bert_layers("text_encoder.encoder.layer.{i}", "universal.layers.{i}", cross=True, offset=first),
        *_affine("visn_emb_norm", "universal.norm"),
    ]


def _patches(config: MPLUGConfig, modules: Collection[str]) -> Rule:
    theirs, ours = "visual_encoder.visual.conv1.weight", "vision.patches.weight"
    if not isinstance(config, MPLUG2Config):
        return Rule(theirs, ours, layout=AS_IT_IS)
    if config.temporal_stride and "temporal" in modules:
        return Rule(theirs, (ours, "temporal.outer_taps"), layout=MiddleAndOuter(2))
    return Rule(theirs, ours, layout=Squeezed(2))


def _numbers(layers: Iterable[int]) -> str:
    return "|".join(map(str, layers)) or "(?!)"


def original_keymap(config: MPLUGConfig, fusion_start: int, modules: Collection[str]) -> KeyMap:
    """Make the map for one checkpoint of either family.

    Args:
        config: Sizes. Text layers beyond ``text_layers`` are ignored (grounding cuts the stack); its type says which family.
        fusion_start: Absolute index of the first fusion layer that runs (``num_hidden_layers - fusion_layers``).
        modules: Modules the model was built with; keys of the others are ignored, and said to be so.
    """
    second = config if isinstance(config, MPLUG2Config) else None
    own_text = config.text_layers - second.universal_layers if second else config.text_layers
    rules = [
        *_vision(_patches(config, modules)),
        *(_temporal() if second else ()),
        *(_universal(own_text) if second else ()),  # before the text encoder's, whose rules fit every layer
        *_embeddings("text_encoder", "text"),
        *_bert_layers("text_encoder.encoder.layer.{i}", "text.layers.{i}", cross=False),
        *_bert_layers("fusion_encoder.encoder.layer.{i}", "fusion.layers.{i}.block", cross=True, offset=fusion_start),
        *_embeddings("text_decoder.bert", "decoder"),
        *_bert_layers("text_decoder.bert.encoder.layer.{i}", "decoder.layers.{i}", cross=True),
        *_affine("text_decoder.cls.predictions.transform.dense", "decoder.head.transform"),
        *_affine("text_decoder.cls.predictions.transform.LayerNorm", "decoder.head.norm"),
        Rule("text_decoder.cls.predictions.bias", "decoder.head.bias"),
        *_affine("vision_proj", "contrastive.vision"),
        *_affine("text_proj", "contrastive.text"),
        *_affine("itm_head", "matching.linear"),
        Rule("temp", "contrastive.temperature", layout=Scalar()),
    ]
    dead = _numbers(fusion_start + index for index in config.connected_layers)
    universal = _numbers(range(own_text, config.text_layers))
    ignored = [
        Ignored(r".*\.position_ids", "a constant buffer, 0 to 511"),
        Ignored(r"visual_encoder\.(?!visual\.).*", "CLIP's text tower never runs"),
        Ignored(r"visual_encoder\.visual\.proj", "CLIP's projection is not applied (skip_last_layer)"),
        Ignored(r"fusion_encoder\.embeddings\..*", "the fusion encoder takes states, its own embeddings never run"),
        Ignored(rf"fusion_encoder\.encoder\.layer\.({_numbers(range(fusion_start))})\..*", "fusion layers below the first that runs"),
        Ignored(rf"fusion_encoder\.encoder\.layer\.({dead})\.crossattention\..*", "a connected layer has no cross-attention"),
        Ignored(rf"text_encoder\.encoder\.layer\.(?!({_numbers(range(config.text_layers))})\.).*", "text layers that were cut off"),
        Ignored(r"text_decoder\.cls\.predictions\.decoder\.(weight|bias)", "tied to the word embeddings and to predictions.bias"),
        Ignored(r"(prefix_ids|target_ids|bbox_prob_mask)", "constant buffers of the grounding model"),
        Ignored(r"(text|fusion)_encoder\.cls\..*", "the masked-language head of pre-training"),
        Ignored(r"text_encoder\.pooler\..*|fusion_encoder\.pooler\..*|text_decoder\.bert\.pooler\..*", "BERT's pooler never runs"),
    ]
    if second:
        ignored += [
            Ignored(r".*\.(intermediate_vision|output_vision)\..*", "the feed-forward for vision is never called, words' serves both"),
            Ignored(r"text_decoder\.bert\.encoder\.layer\.\d+\.latents", "the decoder reads no vision through latents"),
        ]
    parts = {**_MODULE_KEYS, "text": rf"text_encoder\.(?!encoder\.layer\.({universal})\.).*"}
    if second:
        parts["universal"] = rf"text_encoder\.encoder\.layer\.({universal})\..*|visn_emb_norm\..*"
        parts["temporal"] = r"visual_encoder\.visual\.transformer\.resblocks\.\d+\.lmhra[12]\..*"
    ignored += [Ignored(pattern, f"the model was built without {module}") for module, pattern in parts.items() if module not in modules]
    return KeyMap(rules, ignored)


_MODULE_KEYS = {
    "vision": r"(visual_encoder\.|visn_fc\.|visn_layer_norm\.).*",
    "fusion": r"fusion_encoder\..*",
    "decoder": r"text_decoder\..*",
    "contrastive": r"(vision_proj\.|text_proj\.).*|temp",
    "matching": r"itm_head\..*",
}


QUEUE = ("image_queue", "text_queue", "idx_queue", "queue_ptr")


def is_momentum(key: str) -> bool:
    """Say whether a key belongs to a momentum copy (``visual_encoder_m.…``)."""
    first, dot, _ = key.partition(".")
    return bool(dot) and first.endswith("_m")


def split_momentum(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into student, momentum twin (renamed to student names) and queue buffers.

    Example:
        >>> student, twin, queue = split_momentum({"visn_fc.bias": 1, "visn_fc_m.bias": 2, "queue_ptr": 3})
        >>> student, twin, queue
        ({'visn_fc.bias': 1}, {'visn_fc.bias': 2}, {'queue_ptr': 3})
    """
    student: dict[str, Tensor] = {}
    twin: dict[str, Tensor] = {}
    queue: dict[str, Tensor] = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        if key in QUEUE:
            queue[key] = tensor
        elif is_momentum(key):
            twin[f"{first[:-2]}.{rest}"] = tensor
        else:
            student[key] = tensor
    return student, twin, queue


def final_name(key: str) -> str:
    """Rename a pre-training key (``text_encoder.bert.X``, ``fusion_encoder.fusion.X``) to the name fine-tuned models use.

    Example:
        >>> final_name("fusion_encoder.bert.encoder.layer.6.output.dense.bias")
        'fusion_encoder.encoder.layer.6.output.dense.bias'
        >>> final_name("text_decoder.bert.embeddings.LayerNorm.bias")
        'text_decoder.bert.embeddings.LayerNorm.bias'
    """
    if ("fusion" in key or "bert" in key) and "decode" not in key:
        return re.sub(r"(?<![A-Za-z_])(fusion|bert)\.", "", key)
    return key


def final_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename pre-training keys to the names fine-tuned models use.

    Unlike the original's loop, keys that have their final name already are kept; that loop deletes every ``fusion_encoder.*`` of a
    fine-tuned checkpoint. Where both names are present, the final one wins.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = final_name(key)
        if name == key or name not in state:
            result[name] = tensor
    return result
