"""Configuration, named sizes, and that a model holds what it needs and no more."""

from __future__ import annotations

import pytest
import torch

from openmplug.errors import UsageError
from openmplug.models.families import named_config
from openmplug.models.fusion import ConnectedLayer
from openmplug.models.layers import PostNormCrossBlock
from openmplug.models.mplug import MPLUG, MPLUGConfig
from openmplug.tasks import TASKS
from tiny_models import random_ids, right_padded, tiny_config, tiny_model

SIZES = ("mplug-tiny", "mplug-small", "mplug-base", "mplug-large", "mplug-huge")


def on_meta(name: str, modules: tuple[str, ...] | None = None) -> MPLUG:
    with torch.device("meta"):
        return MPLUG(named_config(name), modules)


def millions(model: MPLUG) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_parameter_counts_are_those_of_the_paper() -> None:
    """The paper says 350 M and 600 M; released files hold dead weights besides (arXiv:2205.12005)."""
    assert millions(on_meta("mplug-base")) == pytest.approx(344.8, abs=0.1)
    assert millions(on_meta("mplug-large")) == pytest.approx(565.3, abs=0.1)
    for name, paper in (("mplug-base", 350), ("mplug-large", 600), ("mplug-huge", 1100)):
        assert millions(on_meta(name)) == pytest.approx(paper, rel=0.12)


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_is_built(name: str) -> None:
    config, model = named_config(name), on_meta(name)
    assert config.name == name
    assert hasattr(model, "vision_projection") == (config.vision_width != config.width)
    connected = tuple(number for number, layer in enumerate(model.fusion.layers) if isinstance(layer, ConnectedLayer))
    assert connected == config.connected_layers


def test_base_connects_layer_3_and_large_connects_none() -> None:
    assert named_config("mplug-base").connected_layers == (3,)
    assert named_config("mplug-large").connected_layers == ()
    assert MPLUGConfig() == named_config("mplug-base")


def test_single_values_of_a_named_size_can_be_replaced() -> None:
    config = named_config("mplug-base", image_size=384, dropout=0.0)
    assert (config.name, config.image_size, config.dropout, config.width) == ("mplug-base", 384, 0.0, 768)
    assert named_config(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("caption", {"vision", "decoder"}),
        ("vqa", {"vision", "text", "fusion", "decoder"}),
        ("retrieval", {"vision", "text", "fusion", "contrastive", "matching"}),
    ],
)
def test_a_task_s_model_holds_only_what_the_task_needs(task: str, parts: set[str]) -> None:
    model = tiny_model(TASKS[task].model_modules)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == parts
    assert set(model.modules_built) == parts


def test_captioning_builds_no_text_encoder_and_no_fusion() -> None:
    names = [name for name, _ in on_meta("mplug-large", TASKS["caption"].model_modules).named_parameters()]
    assert {name.split(".")[0] for name in names} == {"vision", "vision_projection", "decoder"}


# ---------------------------------------------------------------------------------------------------------------------- forward


def test_answer_memory_is_vision_then_text_with_the_question_s_mask() -> None:
    model, images = tiny_model(), torch.randn(2, 3, 16, 16)
    ids, mask = random_ids(2, 4), right_padded([2, 4])
    memory = model.answer_memory(images, ids, mask)
    assert memory.mask is not None
    assert memory.mask[:, 0, 0].int().tolist() == [[1] * 5 + [1, 1, 0, 0], [1] * 9]
    fused = model.fuse(model.encode_images(images), model.encode_text(ids, mask), mask)
    states = torch.cat([fused.vision, fused.text], dim=1)
    block = model.decoder.layers[1]
    assert isinstance(block, PostNormCrossBlock)
    expected = block.cross_attention.attention.project(states)
    torch.testing.assert_close(memory.layers[1].keys, expected.keys)


def test_caption_memory_is_all_of_the_vision_tokens() -> None:
    model, images = tiny_model(("vision", "decoder")), torch.randn(2, 3, 16, 16)
    memory = model.caption_memory(images)
    assert memory.mask is None
    assert memory.layers[0].keys.shape[2] == 5


def test_features_are_unit_class_tokens_and_frames_are_averaged() -> None:
    model = tiny_model()
    text = model.encode_text(random_ids(2, 4), right_padded([4, 3]))
    features = model.contrastive.text_features(text)
    expected = text[:, 0] @ model.contrastive.text.weight.T + model.contrastive.text.bias
    torch.testing.assert_close(features, expected / expected.norm(dim=1, keepdim=True))
    clips = torch.randn(2, 3, 3, 16, 16)
    tokens = model.encode_images(clips)
    each = torch.stack([model.contrastive.vision(model.encode_images(clips[:, frame])[:, 0]) for frame in range(3)]).mean(dim=0)
    torch.testing.assert_close(
        model.contrastive.vision_features(tokens, frames=3), each / each.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-5
    )


def test_matching_reads_the_class_token_of_the_text() -> None:
    model, text = tiny_model(), torch.randn(2, 4, 32)
    changed = text.clone()
    changed[:, 1:] = 0
    assert model.matching(text).shape == (2, 2)
    assert torch.equal(model.matching(text), model.matching(changed))


# ----------------------------------------------------------------------------------------------------------------------- errors


def test_unknown_size_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'mplug-bass'.*did you mean 'mplug-base'\?"):
        named_config("mplug-bass")


def test_unknown_size_far_from_any_lists_them_all() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'gpt'.*mplug-tiny.*mplug-large"):
        named_config("gpt")


def test_unknown_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown modules \['audio'\]; choose from vision, text, fusion, decoder"):
        MPLUG(tiny_config(), ("vision", "audio"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 20}, "image_size 20 is not a multiple of patch_size 8; choose one that is"),
        ({"heads": 5}, "width 32 is not a multiple of 5 heads; choose heads that divide it"),
        ({"vision_heads": 3}, "width 32 is not a multiple of 3 heads; choose heads that divide it"),
        ({"connected_layers": (1, 3)}, r"connected_layers \[3\] are not among the 3 fusion layers \(counted from 0\)"),
        ({"dropout": 1.0}, "less than 1"),
        ({"vocab_size": 0}, "greater than 0"),
        ({"with": 3}, "Extra inputs are not permitted"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**overrides)
