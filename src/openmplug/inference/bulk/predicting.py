"""Rows in, records out, in this process: workers decode, the model predicts chunk after chunk."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from openmplug.batch import Item, Sample
from openmplug.data.workers import choose_workers
from openmplug.inference.bulk.decoding import Decoded, Decoder, decode
from openmplug.inference.bulk.inputs import Inputs
from openmplug.inference.bulk.verbs import Verb, predict_items
from openmplug.inference.model import Model

Record = dict[str, Any]
"""One line of the results: ``image``, the words, the results or ``error``, the row's other columns."""

_CHUNK_BATCHES, _CHUNK_ROWS, _CHUNK_BYTES = 8, 256, 2**29


def chunk_batches(verb: Verb, batch_size: int) -> int:
    """Return how many batches are predicted together: several, to be sorted by text length, as far as their pixels fit into memory."""
    return 1 if verb.words is None else max(1, min(_CHUNK_BATCHES, _CHUNK_ROWS // batch_size))


def predict_here(
    model: Model, verb: Verb, inputs: Inputs, start: int = 0, workers: int | None = None
) -> Generator[list[Record], None, None]:
    """Predict rows in order.

    Args:
        model: One trained for the verb's task.
        verb: What to predict.
        inputs: The rows.
        start: Rows to leave out, because they are done.
        workers: Processes that decode ahead of the model; None chooses.

    Yields:
        The records of one chunk.
    """
    size = model.batch_size
    left = None if inputs.total is None else inputs.total - start
    decoder = Decoder(inputs, model.visuals)
    with closing(decode(decoder, inputs.rows(start), size, choose_workers(left, size) if workers is None else workers)) as batches:
        while chunk := _chunk(batches, chunk_batches(verb, size)):
            yield predict_rows(model, verb, chunk)


def _chunk(batches: Iterator[list[Decoded]], most: int) -> list[Decoded]:
    """Draw so many batches, or fewer where the clips of videos fill the memory first."""
    rows: list[Decoded] = []
    drawn = 0
    for batch in islice(batches, most):
        rows += batch
        drawn += sum(row.pixels.nbytes for row in batch if row.pixels is not None)
        if drawn > _CHUNK_BYTES:
            break
    return rows


def predict_rows(model: Model, verb: Verb, rows: Sequence[Decoded]) -> list[Record]:
    """Predict decoded rows; one without pixels gets its reason as ``error``."""
    items = []
    for position, row in enumerate(rows):
        if row.pixels is not None:
            text = row.text if verb.words else None
            references = () if text is None else (text,)
            sample = Sample(str(position), text=text, references=references, image_index=position)
            items.append(Item(sample, row.pixels, placement=row.placement))
    found = iter(predict_items(model, verb, items))
    records = []
    for row in rows:
        words = {verb.words: row.text} if verb.words else {}
        outcome = {"error": row.failure} if row.pixels is None else next(found)
        records.append({"image": row.name, **words, **outcome, **verb.carried(row.fields or {})})
    return records
