"""What a checkpoint says about its own architecture: sizes from the shapes, the rest from the configuration files beside it.

Shapes tell the family, and every size but four: the heads of the text stacks and of the vision tower, how many of the fusion stack's
layers run (the last ones; the others lie in every file and never do) and which of these are connected. Configuration files tell them;
else the published sizes do, where the shapes are exactly theirs; else they have to be given by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmplug.config import read_yaml
from openmplug.errors import ModelError
from openmplug.models.families import FAMILIES, architecture_of, named_config
from openmplug.models.fusion import connected_layers
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.mplug2 import MODULES

Shapes = Mapping[str, tuple[int, ...]]

CONFIG_NAMES = ("config_bert.json", "config_bert_stride3.json", "config.yaml", "config.json", "configuration.json")
"""Files beside a checkpoint that may describe it."""
_CLIP_HEAD = _BERT_HEAD = 64  # width of an attention head in every published CLIP and BERT


@dataclass(slots=True)
class Description:
    """An architecture and how it is known.

    Args:
        config: The sizes.
        fusion_start: Number of the first fusion layer that runs, in the file's counting.
        modules: Parts of the model that the file has.
        assumed: What no file says and the published sizes supply, one sentence each.
    """

    config: MPLUGConfig
    fusion_start: int
    modules: tuple[str, ...]
    assumed: list[str] = field(default_factory=list)


def read_hints(paths: Iterable[Path]) -> dict[str, Any]:
    """Collect the fields of JSON and YAML files, nested ones too; the first file that has a field wins.

    Raises:
        ModelError: If a file cannot be parsed.
    """
    found: dict[str, Any] = {}
    for path in paths:
        try:
            tree = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else read_yaml(path)
        except (ValueError, OSError) as error:
            raise ModelError(f"'{path}' cannot be read ({' '.join(str(error).split())[:100]}); mend it or move it away") from error
        for key, value in _flatten(tree):
            found.setdefault(key, value)
    return found


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return every plain field of a nested configuration under its own name."""
    found: dict[str, Any] = {}
    for key, value in _flatten(tree):
        found.setdefault(key, value)
    return found


def _flatten(tree: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            yield str(key), value
    for key, value in tree.items():
        # CLIP's fields have names that mean other things in BERT's, and its vision heads follow from the width.
        if isinstance(value, Mapping) and key != "clip":
            yield from _flatten(value)


def _count(shapes: Shapes, pattern: str) -> list[int]:
    """Return the sorted numbers that a pattern's group takes among the keys."""
    expression = re.compile(pattern)
    return sorted({int(match[1]) for key in shapes if (match := expression.match(key))})


def find_modules(shapes: Shapes) -> tuple[str, ...]:
    """Name the parts of the model that the keys (original names) belong to."""
    there = {
        "temporal": _is_video_tower(shapes),
        "universal": bool(_universal_layers(shapes)),
        "vision": any(key.startswith("visual_encoder.visual.") for key in shapes),
        "text": bool(set(_text_layers(shapes)) - set(_universal_layers(shapes))),
        "fusion": any(key.startswith("fusion_encoder.encoder.layer.") for key in shapes),
        "decoder": any(key.startswith("text_decoder.bert.encoder.layer.") for key in shapes),
        "contrastive": any(key.startswith(("vision_proj.", "text_proj.")) or key == "temp" for key in shapes),
        "matching": any(key.startswith("itm_head.") for key in shapes),
    }
    return tuple(name for name in MODULES if there.get(name))


def _is_video_tower(shapes: Shapes) -> bool:
    return any(".lmhra1." in key for key in shapes) or len(shapes.get("visual_encoder.visual.conv1.weight", ())) == 5


def _text_layers(shapes: Shapes) -> list[int]:
    return _count(shapes, r"text_encoder\.encoder\.layer\.(\d+)\.")


def _universal_layers(shapes: Shapes) -> list[int]:
    """Return the numbers of mPLUG-2's universal layers: the text layers that can attend across."""
    return _count(shapes, r"text_encoder\.encoder\.layer\.(\d+)\.crossattention\.")


def stack_depth(config: MPLUGConfig) -> int:
    """Return how many layers the original's fusion stack has, the last of which run: as many as the BERT it was started from."""
    return max(config.decoder_layers, config.fusion_layers, config.text_layers if architecture_of(config) == "mplug2" else 0)


def describe(shapes: Shapes, hints: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Description:
    """Read an architecture.

    Args:
        shapes: Shape by original name, without momentum copies.
        hints: Fields of the configuration files, as the originals name them.
        given: Fields of ``MPLUGConfig`` that the user named; they come first.
        where: The file, for messages.

    Raises:
        ModelError: If something can be known only from the user.
    """
    modules = find_modules(shapes)
    if not modules:
        raise ModelError(f"'{where}' has no key of an mPLUG model; first keys: {', '.join(list(shapes)[:3])}")
    family, asked_size = ("mplug2" if {"temporal", "universal"} & set(modules) else None), given.get("name")
    asked_family = next((one for one, content in FAMILIES.items() if asked_size in content.sizes), None)
    if family and asked_family not in (None, family):
        raise ModelError(f"'{where}' does not fit {asked_size}: it is an mPLUG-2 checkpoint; leave the size out, or give the right weights")
    family = family or asked_family or "mplug"
    if family == "mplug2" and "text" in modules:
        # BERT's last layers become the universal ones.
        modules = tuple(name for name in MODULES if name in {*modules, "universal"})
    sizes: dict[str, Any] = {}
    assumed: list[str] = []
    if "vision" in modules:
        sizes |= _vision_sizes(shapes, hints, given, assumed, where)
    sizes |= _word_sizes(shapes, modules)
    if sizes.get("vision_width") and "width" not in sizes:
        sizes["width"] = shapes["visn_fc.weight"][0] if "visn_fc.weight" in shapes else sizes["vision_width"]
    if text := _text_layers(shapes):
        sizes["text_layers"] = 1 + text[-1]  # a captioner of mPLUG-2 that was trained here has the universal ones alone
    if universal := _universal_layers(shapes):
        sizes["universal_layers"] = len(universal)
        latents = shapes.get(f"text_encoder.encoder.layer.{universal[0]}.latents")
        if latents:
            sizes["latents"] = latents[0]
    stack = _count(shapes, r"fusion_encoder\.encoder\.layer\.(\d+)\.")
    depth = 1 + max(stack, default=-1)
    decoder = _count(shapes, r"text_decoder\.bert\.encoder\.layer\.(\d+)\.")
    if decoder:
        sizes["decoder_layers"] = len(decoder)
    if other := [f"{key} {sizes[key]} instead of {value}" for key, value in given.items() if key in sizes and sizes[key] != value]:
        asked = given.get("name", "the sizes you gave")
        raise ModelError(f"'{where}' does not fit {asked}: it has {', '.join(other)}; leave the size out, or give the right weights")
    name = _published(sizes, modules, depth, family)
    sizes |= _unseen(sizes, modules, hints, given, name, assumed, where)
    sizes |= {ours: hints[theirs] for theirs, ours in _DROPOUTS.items() if theirs in hints}
    config = FAMILIES[family].config(**{"name": name or Path(where).stem, "connected_layers": (), **sizes, **given})
    if "fusion" in modules and config.fusion_layers > len(stack):
        raise ModelError(f"'{where}' has {len(stack)} fusion layers, fusion_layers is {config.fusion_layers}; give the right configuration")
    return Description(config, depth - config.fusion_layers if stack else 0, modules, assumed)


_DROPOUTS = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}


def _vision_sizes(shapes: Shapes, hints: Mapping[str, Any], given: Mapping[str, Any], assumed: list[str], where: str) -> dict[str, Any]:
    tower = "visual_encoder.visual."
    kernel, table = shapes.get(f"{tower}conv1.weight"), shapes.get(f"{tower}positional_embedding")
    if kernel is None or table is None:
        lost = "conv1.weight" if kernel is None else "positional_embedding"
        raise ModelError(f"'{where}' lacks {tower}{lost}, without which the image size cannot be known; the file is incomplete")
    frames: dict[str, Any] = {}
    if len(kernel) == 5 and kernel[2] in (1, 3):
        frames["temporal_stride"] = 0
        if kernel[2] == 3:
            frames["temporal_stride"] = given.get("temporal_stride") or int(hints.get("temporal_stride", 2))
            if not given.get("temporal_stride") and "temporal_stride" not in hints:
                assumed.append("frames are merged in time by 2, as in the released configurations; no file says by how many")
        kernel = (*kernel[:2], *kernel[3:])
    grid = round((table[0] - 1) ** 0.5)
    if len(kernel) != 4 or len(table) != 2 or table[0] != 1 + grid * grid:
        raise ModelError(f"'{where}': patch kernel {kernel} and position table {table} are no square picture; the file was edited")
    return {
        **frames,
        "patch_size": kernel[2],
        "image_size": kernel[2] * grid,
        "vision_width": kernel[0],
        "vision_layers": len(_count(shapes, r"visual_encoder\.visual\.transformer\.resblocks\.(\d+)\.")),
    }


def _word_sizes(shapes: Shapes, modules: tuple[str, ...]) -> dict[str, Any]:
    """Read the sizes that text encoder, fusion and decoder share from the first of them that tells each."""
    sizes: dict[str, Any] = {}
    for stack in ("text_encoder", "text_decoder.bert", "fusion_encoder"):
        words, positions = (shapes.get(f"{stack}.embeddings.{part}_embeddings.weight", ()) for part in ("word", "position"))
        if len(words) == 2:
            sizes.setdefault("vocab_size", words[0])
            sizes.setdefault("width", words[1])
        if len(positions) == 2:
            sizes.setdefault("max_positions", positions[0])
        wide = [shape for key, shape in shapes.items() if key.startswith(stack) and key.endswith(".intermediate.dense.weight")]
        if wide and len(wide[-1]) == 2:
            sizes.setdefault("intermediate", wide[-1][0])
            sizes.setdefault("width", wide[-1][1])
    if "contrastive" in modules:
        sizes["embed_dim"] = next(
            (shapes[key][0] for key in ("vision_proj.bias", "text_proj.bias", "vision_proj.weight") if shapes.get(key)), 1
        )
    return sizes


def _published(sizes: Mapping[str, Any], modules: tuple[str, ...], depth: int, family: str) -> str | None:
    """Name the published size whose shapes these are; the image size may differ."""
    compared: dict[str, tuple[str, ...]] = {
        "vision": ("patch_size", "vision_width", "vision_layers"),
        "text": ("text_layers", "width", "intermediate"),
        "universal": ("universal_layers", "latents", "width"),
        "fusion": ("width", "intermediate"),
        "decoder": ("decoder_layers", "width", "intermediate"),
    }
    fields = [name for module in modules for name in compared.get(module, ())]
    for size in (f"{family}-base", f"{family}-large"):
        published = named_config(size)
        if "fusion" in modules and depth != stack_depth(published):
            continue
        if fields and all(sizes.get(name) == getattr(published, name) for name in fields):
            return size
    return None


def _unseen(
    sizes: Mapping[str, Any],
    modules: tuple[str, ...],
    hints: Mapping[str, Any],
    given: Mapping[str, Any],
    name: str | None,
    assumed: list[str],
    where: str,
) -> dict[str, Any]:
    """Find what no shape shows: heads, fusion layers that run, and which of them are connected."""
    found: dict[str, Any] = {}
    asked: list[str] = []
    worded = {"text", "fusion", "decoder"} & set(modules)
    if "vision" in modules and "vision_heads" not in given:
        if sizes["vision_width"] % _CLIP_HEAD:
            asked.append("vision_heads")
        else:
            found["vision_heads"] = sizes["vision_width"] // _CLIP_HEAD  # so in every CLIP
    if "heads" not in given:
        if "num_attention_heads" in hints:
            found["heads"] = hints["num_attention_heads"]
        elif worded and sizes["width"] not in (768, 1024):
            asked.append("heads")
        elif "width" in sizes:
            found["heads"] = sizes["width"] // _BERT_HEAD if sizes["width"] % _BERT_HEAD == 0 else 1
    if "fusion" in modules and "fusion_layers" not in given:
        if "fusion_layers" in hints:
            found["fusion_layers"] = int(hints["fusion_layers"])
        elif name is None:
            asked.append("fusion_layers")
        else:
            found["fusion_layers"] = named_config(name).fusion_layers
    if "fusion" in modules and "connected_layers" not in given:
        layers = int(given.get("fusion_layers", found.get("fusion_layers", 0)))
        if "stride_layer" in hints:
            found["connected_layers"] = connected_layers(int(hints["stride_layer"]), layers)
        elif name is None:
            asked.append("connected_layers")
        else:
            found["connected_layers"] = named_config(name).connected_layers
            assumed.append(
                f"{layers} fusion layers, connected: {list(found['connected_layers'])}; those of {name}, whose shapes the file has"
            )
    if asked:
        example = {"vision_heads": "vision_heads=12", "heads": "heads=12", "fusion_layers": "fusion_layers=6"}
        example["connected_layers"] = "connected_layers=[3]"
        raise ModelError(
            f"'{where}': no shape tells {', '.join(asked)}, and no configuration beside it does;"
            f" give {' '.join(example[one] for one in asked)}, or --config FILE (config_bert.json)"
        )
    return found
