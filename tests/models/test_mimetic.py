"""The mimetic start: what is alike attends to each other, near places look alike, frames reach each other; loaded weights win."""

import pytest
import torch

from openmplug.models.decoder import TextDecoder
from openmplug.models.fusion import CoAttentionLayer, SkipConnectedFusion
from openmplug.models.mimetic import grid_positions, start_fusion, start_temporal, start_text, start_tower
from openmplug.models.text import TextEncoder
from openmplug.models.video import TemporalModules, encode_clips
from openmplug.models.vision import VisionTransformer
from tiny_models import tiny_model


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = VisionTransformer(32, 8, 64, 2, 4, 0.0)
    start_tower(tower)
    return tower


def test_each_head_compares_by_likeness_and_all_take_away_what_they_read(tower):
    for layer in tower.layers:
        query, key, value = layer.attention.qkv.weight.detach().view(3, 4, 16, 64)
        for head in range(4):
            assert torch.trace(query[head].T @ key[head]) > 10  # of noise alone: 0 give or take 2
        moved = layer.attention.output.weight.detach() @ value.reshape(64, 64)
        assert moved.diagonal().mean() == pytest.approx(-0.4, abs=0.05)
        assert (moved - torch.diag(moved.diagonal())).mean().abs() < 0.02


def test_near_places_look_alike():
    table = grid_positions(6, 64).view(6, 6, 64)
    place = table[2, 2]
    distances = [(table[2, 2 + step] - place).norm() for step in (0, 1, 2)]
    assert distances[0] == 0 and distances[1] < distances[2]
    assert len(table.flatten(0, 1).unique(dim=0)) == 36
    torch.testing.assert_close(table[0, 1], torch.cat([table[1, 0][32:], table[1, 0][:32]]))  # columns first, then rows


def test_a_width_that_four_does_not_divide_is_filled_with_zeros():
    assert grid_positions(3, 10).shape == (9, 10)
    assert grid_positions(3, 10)[:, 8:].abs().max() == 0


@pytest.mark.parametrize("stride", [0, 2])
def test_the_order_of_frames_matters_from_the_first_step_on(tower, stride):
    clips = torch.randn(2, 4, 3, 32, 32)
    temporal = TemporalModules(64, 2, 8, stride)
    kept = 4 if not stride else 2

    def mean(order):
        return encode_clips(tower, temporal, clips[:, order])[:, 1:].unflatten(1, (kept, -1)).mean(1)

    forward, backward = [0, 1, 2, 3], [3, 2, 1, 0]
    if not stride:
        torch.testing.assert_close(mean(forward), mean(backward))  # identity at first: frames pass apart from each other
    start_temporal(temporal)
    assert (mean(forward) - mean(backward)).abs().max() > 0.05
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(mean(forward).square().sum(), [*temporal.parameters()]))


def test_fusion_begins_as_the_decoder_around_its_connected_layers():
    torch.manual_seed(0)
    decoder = TextDecoder(30, 16, 2, 32, 2, 12, 0.0, 0.0)
    fusion = SkipConnectedFusion(16, 2, 32, 4, (1,), 0.0, 0.0)
    text = TextEncoder(30, 16, 2, 32, 1, 12, 0.0, 0.0)
    before = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in fusion.layers]
    start_fusion(fusion, decoder)
    start_text(text, decoder)
    for index, source in {0: 0, 2: 1}.items():
        assert isinstance(fusion.layers[index], CoAttentionLayer)
        assert all(
            torch.equal(value, decoder.layers[source].state_dict()[name]) for name, value in fusion.layers[index].block.state_dict().items()
        )
    for index in (1, 3):  # connected, and beyond the decoder's two layers
        assert all(torch.equal(value, before[index][name]) for name, value in fusion.layers[index].state_dict().items())
    assert torch.equal(text.embeddings.words.weight, decoder.embeddings.words.weight)


def test_the_head_of_masked_words_begins_as_the_decoder_s():
    torch.manual_seed(0)
    model = tiny_model(("text", "fusion", "decoder", "language"))
    before = {name: value.clone() for name, value in model.language.state_dict().items()}
    model.start_mimetic({"text"})
    assert all(torch.equal(value, before[name]) for name, value in model.language.state_dict().items())
    model.start_mimetic({"language"})
    assert all(torch.equal(value, model.decoder.head.state_dict()[name]) for name, value in model.language.state_dict().items())
