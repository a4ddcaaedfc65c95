"""mPLUG-2: its modules, what each task selects of them and how many parameters that is, casting and quantising, twins."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from openmplug.models import quantize as quantizing
from openmplug.models.families import build_network, named_config, network_class
from openmplug.models.momentum import MomentumTwin
from openmplug.models.mplug2 import MPLUG2, MPLUG2Config
from openmplug.models.precision import cast_for_inference
from openmplug.models.quantize import QuantizedLinear, quantize
from openmplug.models.selections import SELECTIONS, selected_modules
from openmplug.tasks import TASKS
from tiny_models import Called, only_callable, random_ids, right_padded, tiny_config2, tiny_model2

TEXT = ("text", "universal")
VIDEO = ("vision", "temporal", "universal")


def counted(config: MPLUG2Config) -> dict[str, int]:
    """Count each module's parameters by hand, from the sizes alone."""
    w, d, i = config.vision_width, config.width, config.intermediate
    patches = (config.image_size // config.patch_size) ** 2
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * i + i + d, 2 * d
    block, cross = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    words = (config.vocab_size + config.max_positions + 2) * d + norm
    own_text = config.text_layers - config.universal_layers
    kernel = 3 * config.patch_size**2 * w
    return {
        "vision": kernel + w + (1 + patches) * w + 4 * w + config.vision_layers * (12 * w * w + 13 * w),
        "vision_projection": (w * d + d + norm) if w != d else 0,
        "temporal": config.vision_layers * (2 * w * w + 11 * w) + (2 * kernel if config.temporal_stride else 0),
        "text": words + own_text * block,
        "universal": config.universal_layers * cross + config.latents * d + norm,
        "fusion": config.fusion_layers * cross,
        "decoder": words + config.decoder_layers * cross + d * d + d + norm + config.vocab_size,
        "contrastive": 2 * (d * config.embed_dim + config.embed_dim) + 1,
        "matching": 2 * d + 2,
        "classification": d * d + d + norm + d * config.classes + config.classes,
        "language": d * d + d + norm + config.vocab_size,
    }


@pytest.mark.parametrize("size", ["mplug2-base", "mplug2-large", "narrow"])
@pytest.mark.parametrize("task", SELECTIONS)
def test_a_task_builds_its_modules_and_nothing_else(task: str, size: str) -> None:
    narrow = {"vision_width": 64, "vision_heads": 1, "temporal_stride": 2, "classes": 7}
    config = tiny_config2(**narrow) if size == "narrow" else named_config(size, classes=400)
    assert isinstance(config, MPLUG2Config)
    with torch.device("meta"):
        model = build_network(config, selected_modules(config, task))
    by_hand = counted(config)
    expected = {name: by_hand[name] for name in model.modules_built}
    if "vision" in expected and by_hand["vision_projection"]:
        expected["vision_projection"] = by_hand["vision_projection"]
    found = {name: sum(parameter.numel() for parameter in child.parameters()) for name, child in model.named_children()}
    assert found == expected
    assert sum(found.values()) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("task", "modules"),
    [
        ("text-classification", (*TEXT, "classification")),
        ("summarization", (*TEXT, "decoder")),
        ("masked-words", (*TEXT, "language")),
        ("image-classification", ("vision", "universal", "classification")),
        ("action-classification", (*VIDEO, "classification")),
        ("caption", ("vision", "universal", "decoder")),
        ("video-caption", (*VIDEO, "decoder")),
        ("video-vqa", ("vision", "temporal", "text", "universal", "fusion", "decoder")),
        ("video-retrieval", ("vision", "temporal", "text", "universal", "fusion", "contrastive", "matching")),
    ],
)
def test_selections(task: str, modules: tuple[str, ...]) -> None:
    assert selected_modules(named_config("mplug2-large"), task) == modules


def test_the_list_of_selections_is_what_the_tasks_declare() -> None:
    for name in ("vqa", "caption", "retrieval"):
        assert SELECTIONS[name].modules == SELECTIONS[f"video-{name}"].modules == TASKS[name].model_modules


def test_large_is_of_the_published_size() -> None:
    """Figures of the released key list: 24 blocks of temporal modules are 50.6 M, two universal layers 33.6 M."""
    with torch.device("meta"):
        model = build_network(named_config("mplug2-large"))
    assert counted(named_config("mplug2-large"))["temporal"] == 50_601_984  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(1032e6, rel=1e-3)


def test_more_universal_layers_than_text_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="universal_layers 6 is above text_layers 5"):
        tiny_config2(universal_layers=6)


@pytest.mark.parametrize("clips", [False, True])
def test_a_twin_follows_with_all_that_belongs_to_the_pairs(clips: bool) -> None:
    model = tiny_model2(network_class(tiny_config2()).selection(("vision", "text", "fusion", "decoder"), clips))
    twin = MomentumTwin(model, paired=("vision", "text", "decoder"), unpaired=("fusion",))
    assert set(twin.paired) == {"vision", "text", "universal", "decoder", *(("temporal",) if clips else ())}
    before = copy.deepcopy(twin.model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    twin.update(model)
    changed = {name.split(".")[0] for name, value in twin.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(twin.paired)


# --------------------------------------------------------------------------------------------------------- smaller weights


@torch.no_grad()
def test_bf16_is_near_fp32_for_clips_and_texts() -> None:
    model = tiny_model2(classes=3, temporal_stride=2)
    small = cast_for_inference(copy.deepcopy(model))
    clips, ids, mask = torch.randn(2, 5, 3, 16, 16), random_ids(2, 6), right_padded([6, 4])
    sides = []
    for side in (model, small):
        vision, text = side.encode_images(clips), side.encode_text(ids, mask)
        fused = side.fuse(vision, text, mask)
        sides.append((vision, text[mask], fused.text[mask], side.vision_features(vision, 5), side.classification(vision)))
    for expected, found in zip(*sides, strict=True):
        assert float((found.float() - expected).abs().max()) <= 0.1 * float(expected.abs().max())
    types = {name: parameter.dtype for name, parameter in small.named_parameters()}
    assert types["temporal.layers.0.before.reduce.weight"] is types["universal.latents"] is torch.bfloat16
    assert types["temporal.layers.0.before.norm.weight"] is types["classification.linear.weight"] is torch.float32


@torch.no_grad()
def test_every_path_goes_through_layers_that_can_only_be_called() -> None:
    model = tiny_model2()
    clips, ids, mask = torch.randn(2, 3, 3, 16, 16), random_ids(2, 6), right_padded([6, 4])
    expected = model.fuse(model.encode_images(clips), model.encode_text(ids, mask), mask)
    for part in ("vision", "temporal", "text", "universal", "fusion"):
        only_callable(getattr(model, part))
    assert sum(isinstance(module, Called) for module in model.modules()) > 40
    found = model.fuse(model.encode_images(clips), model.encode_text(ids, mask), mask)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_heads_stay_and_everything_else_is_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "_recipe", lambda bits, device: lambda layer: layer)
    model = tiny_model2(classes=3)
    clips = torch.randn(1, 3, 3, 16, 16)
    before = model.classification(model.encode_images(clips))
    quantize(model, "int8")
    torch.testing.assert_close(model.classification(model.encode_images(clips)), before, atol=1e-5, rtol=1e-5)
    assert type(model.classification.linear) is nn.Linear
    assert type(model.temporal.layers[0].before.reduce) is QuantizedLinear
    assert type(model.universal.layers[0].cross_attention.attention.key) is QuantizedLinear


def test_the_model_knows_its_type() -> None:
    assert isinstance(build_network(tiny_config2()), MPLUG2)
