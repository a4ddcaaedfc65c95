"""Operations by formula: the paper protocol's table, and what torch counts on the modules (nothing is computed)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark_files import load_benchmark
from openmplug.models.families import build_network, named_config

# V, T, layers, connected layers of skip-connected fusion -> GFLOP of connected, co-attention, skip-connected, and none connected.
TABLE = {
    (257, 25, 6, 1): ("25.4", "33.4", "9.4", "6.3"),
    (577, 30, 6, 1): ("58.4", "75.5", "19.3", "11.5"),
    (1297, 25, 6, 1): ("144.5", "181.9", "42.0", "21.5"),
    (577, 30, 12, 3): ("116.7", "151.1", "46.4", "23.0"),
}


@pytest.fixture
def flops(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("flops", monkeypatch)


def shown(operations: int) -> str:
    """Round to one digit as the table was: through two (6.245 -> 6.25 -> 6.3)."""
    twice = Decimal(operations) / 10**9
    for digits in ("0.01", "0.1"):
        twice = twice.quantize(Decimal(digits), ROUND_HALF_UP)
    return str(twice)


@pytest.mark.parametrize(("sizes", "expected"), TABLE.items())
def test_the_stacks_of_the_protocol(flops: ModuleType, sizes: tuple[int, ...], expected: tuple[str, ...]) -> None:
    vision, text, layers, connected = sizes
    of_layers = (vision, text, 768, 3072, layers)
    found = (
        flops.connected_stack(*of_layers),
        flops.co_attention_stack(*of_layers),
        flops.skip_connected_stack(*of_layers, connected),
        flops.skip_connected_stack(*of_layers, 0),
    )
    assert tuple(map(shown, found)) == expected


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    with FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


FEWER = {"vision_layers": 2, "text_layers": 3, "fusion_layers": 3, "decoder_layers": 1}


# Widths, patches and vocabulary of the published sizes; all is linear in the layers.
@pytest.mark.parametrize(
    ("size", "layers"), [("mplug-tiny", {}), ("mplug-large", {**FEWER, "connected_layers": (1,)}), ("mplug2-large", FEWER)]
)
def test_formulas_equal_what_torch_counts(flops: ModuleType, size: str, layers: dict[str, Any]) -> None:
    config, rows, tokens = named_config(size, **layers), 2, 7
    with torch.device("meta"):
        model = build_network(config, None)
        side = config.image_size
        ids, mask = torch.zeros(rows, tokens, dtype=torch.int64), torch.ones(rows, tokens, dtype=torch.bool)
        found, vision = counted(lambda: model.encode_images(torch.empty(rows, 3, side, side)))
        assert found == rows * flops.vision(config)
        assert vision.shape[1] == flops.vision_tokens(config)
        found, text = counted(lambda: model.encode_text(ids, mask))
        assert found == rows * flops.text(config, tokens)
        found, fused = counted(lambda: model.fuse(vision, text, mask))
        assert found == rows * flops.fusion(config, vision.shape[1], tokens)
        found, _ = counted(lambda: model.fuse(vision, torch.cat([text, text]), torch.cat([mask, mask])))
        assert found == rows * flops.fusion(config, vision.shape[1], tokens, texts_per_picture=2)
        found, _ = counted(lambda: model.decoder(ids, mask, model.decoder_memory(fused, mask)))
        assert found == rows * flops.decoder(config, tokens, vision.shape[1] + tokens)
        found, _ = counted(lambda: (model.contrastive.text_features(text), model.vision_features(vision)))
        assert found == rows * flops.contrastive(config)
        found, _ = counted(lambda: model.matching(text))
        assert found == rows * flops.matching(config)


@pytest.mark.parametrize("changes", [{}, {"temporal_stride": 2}])
def test_clips(flops: ModuleType, changes: dict[str, int]) -> None:
    config = named_config("mplug2-base", vision_layers=2, text_layers=3, **changes)
    with torch.device("meta"):
        model = build_network(config, ("vision", "temporal", "universal"))
        found, vision = counted(lambda: model.encode_images(torch.empty(2, 5, 3, 224, 224)))
    assert vision.shape[1] == flops.vision_tokens(config, 5)
    assert found == 2 * flops.vision(config, 5)


def test_frames_are_pictures_to_the_first_family(flops: ModuleType) -> None:
    config = named_config("mplug-tiny")
    with torch.device("meta"):
        model = build_network(config, ("vision",))
        found, vision = counted(lambda: model.encode_images(torch.empty(2, 5, 3, 64, 64)))
    assert (found, vision.shape[1]) == (2 * flops.vision(config, 5), flops.vision_tokens(config, 5))


def test_a_gradient_takes_two_products_except_of_pixels(flops: ModuleType) -> None:
    config = named_config("mplug-tiny")
    with torch.device("meta"):
        model = build_network(config, ("vision",))
        found, _ = counted(lambda: model.encode_images(torch.empty(2, 3, 64, 64)).sum().backward())
    assert found == 2 * (3 * flops.vision(config) - flops.patches(config))
