"""From rows to pixels, in worker processes ahead of the model."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openmplug.batch import Placement
from openmplug.data.workers import from_workers, start_worker
from openmplug.errors import DataError
from openmplug.inference.bulk.inputs import Inputs
from openmplug.inference.bulk.sources import Key
from openmplug.inference.visuals import VisualTransform

_WAITING = 2  # batches that each worker may be ahead of the model


@dataclass(frozen=True, slots=True)
class Decoded:
    """A row that is ready for the model: pixels (C, H, W) or (F, C, H, W) float32, or the reason why there are none.

    ``placement`` is the way back to the picture, where boxes are looked for.
    """

    name: str
    text: str = ""
    fields: Mapping[str, Any] | None = None
    pixels: Tensor | None = None
    failure: str | None = None
    placement: Placement | None = None


class Decoder(Dataset[Decoded]):
    """Loads and transforms single rows; picklable, so that workers can be handed it.

    Args:
        inputs: Where the rows come from.
        transform: Picture or video to pixels, as in evaluation.
    """

    def __init__(self, inputs: Inputs, transform: VisualTransform) -> None:
        self.inputs = inputs
        self.transform = transform

    def __getitem__(self, key: Key) -> Decoded:
        """Decode one row; one that cannot be read has ``failure`` set, and raises nothing."""
        _, row = key
        try:
            loaded = self.inputs.load(key)
            pixels, placement = self.transform.placed(loaded.image)
            return Decoded(row.name, loaded.text, loaded.fields, pixels, placement=placement)
        except DataError as error:
            return Decoded(row.name, row.text, row.fields, failure=str(error))


_Packed = tuple[list[Decoded], list[list[int]], list[Tensor]]


def _pack(rows: list[Decoded]) -> _Packed:
    """Make rows ready to leave a worker: all pixels of a shape in one tensor, as each costs a file handle of its own."""
    shapes: dict[torch.Size, dict[int, Tensor]] = {}
    for position, row in enumerate(rows):
        if row.pixels is not None:
            shapes.setdefault(row.pixels.shape, {})[position] = row.pixels
    stacked = [torch.stack(list(alike.values())) for alike in shapes.values()]
    return [replace(row, pixels=None) for row in rows], [list(alike) for alike in shapes.values()], stacked


def _unpack(packed: _Packed) -> list[Decoded]:
    rows, places, stacked = list(packed[0]), packed[1], packed[2]
    for positions, pixels in zip(places, stacked, strict=True):
        for position, one in zip(positions, pixels, strict=True):
            rows[position] = replace(rows[position], pixels=one)
    return rows


def _batches(keys: Iterable[Key], size: int) -> Iterator[list[Key]]:
    keys = iter(keys)
    while batch := list(islice(keys, size)):
        yield batch


def decode(decoder: Decoder, keys: Iterable[Key], batch_size: int, workers: int) -> Generator[list[Decoded], None, None]:
    """Decode rows in order, a batch at a time.

    Args:
        decoder: Of the rows' inputs.
        keys: The rows; they are drawn as workers become free, at most ``2 * workers`` batches ahead of what was yielded.
        batch_size: Rows per batch.
        workers: Processes that decode; 0 decodes in this one, with the same result.

    Raises:
        EnvironmentProblem: If a worker dies.
    """
    batches = _batches(keys, batch_size)
    if workers == 0:
        for batch in batches:
            yield [decoder[key] for key in batch]
        return
    # The tokenizers library warns on every fork unless this is decided; workers do not tokenise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_sampler=batches,  # keys are rows themselves, so no worker needs a list of all
        num_workers=workers,
        collate_fn=_pack,
        worker_init_fn=start_worker,
        prefetch_factor=_WAITING,
        generator=torch.Generator(),  # without one a number would be drawn from torch's global state
    )
    for packed in from_workers(loader, "lower --workers or --batch-size"):
        yield _unpack(packed)
