"""What the fusion benchmark measures: the protocol, the small grids, and the operations of a call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from fusion_stacks import Encoders, encoder_flops, stack_flops

MPLUG_BASE = Encoders()
FORWARD, BOTH = "forward", "forward+backward"


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Args:
        layers: Depths.
        vision, text: Tokens ``V`` and ``T``.
        strides: ``S`` of skip-connected fusion; of the depth and more means no connected layer.
        work: Mode and batch size.
        whole: The same for whole models, at the first depth and text length.
        dtypes, attention: Kinds.
        runs: Timed ones, after the call that tells the memory and ``warmup`` more.
        width, heads: Of every stack; the feed-forward is four times as wide.
        encoders: Of the whole models; mPLUG base's.
    """

    layers: tuple[int, ...]
    vision: tuple[int, ...]
    text: tuple[int, ...]
    strides: tuple[int, ...]
    work: tuple[tuple[str, int], ...]
    whole: tuple[tuple[str, int], ...]
    dtypes: tuple[str, ...] = ("fp32",)
    attention: tuple[str, ...] = ("sdpa", "eager")
    runs: int = 30
    warmup: int = 3
    width: int = 768
    heads: int = 12
    encoders: Encoders = MPLUG_BASE


EVERYTHING = tuple(product((FORWARD, BOTH), (100, 1)))
GRIDS = {
    "full": Grid((6, 12), (197, 257, 577, 1297), (25, 30), (1, 2, 3, 6), EVERYTHING, EVERYTHING, dtypes=("fp32", "bf16")),
    "quick": Grid((6,), (197, 577), (25,), (1, 3, 6), ((FORWARD, 4), (FORWARD, 1), (BOTH, 1)), ((FORWARD, 1),), runs=3, warmup=0),
    "tiny": Grid(
        (2,), (5, 10), (4,), (1, 2), ((FORWARD, 2), (BOTH, 1)), ((BOTH, 1),), runs=2, warmup=0, width=32, heads=2, encoders=Encoders(1, 1)
    ),
}


@dataclass(frozen=True)
class Setting:
    """One comparison: everything but the kind of stack."""

    scope: str
    layers: int
    dtype: str
    vision: int
    text: int
    mode: str
    batch: int
    attention: str

    def key(self) -> str:
        """Name the setting."""
        sizes = f"L={self.layers}, V={self.vision}, T={self.text}, batch {self.batch}"
        return f"{self.scope}, {sizes}, {self.mode}, {self.dtype}, {self.attention}"


def settings(grid: Grid) -> Iterator[Setting]:
    """List the comparisons; those that share their stacks follow each other."""
    for layers, dtype, vision, text in product(grid.layers, grid.dtypes, grid.vision, grid.text):
        for (mode, batch), attention in product(grid.work, grid.attention):
            yield Setting("fusion", layers, dtype, vision, text, mode, batch, attention)
        if (layers, text) == (grid.layers[0], grid.text[0]):
            for (mode, batch), attention in product(grid.whole, grid.attention):
                yield Setting("whole", layers, dtype, vision, text, mode, batch, attention)


def operations(grid: Grid, setting: Setting, variant: str) -> int:
    """Operations of one call."""
    sizes = (setting.vision, setting.text, grid.width, 4 * grid.width)
    total, pixels = (0, 0) if setting.scope == "fusion" else encoder_flops(grid.encoders, *sizes)
    total += stack_flops(variant, *sizes, setting.layers)
    return setting.batch * (total if setting.mode == FORWARD else 3 * total - pixels)
