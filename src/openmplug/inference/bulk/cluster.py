"""Ray Data as the engine: rows go to actors that load the model once each, on one machine or a cluster; results come back in order.

Every machine must see the inputs and the model under the same paths. Rows travel as small descriptions, pictures are read by the actors.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from openmplug.errors import EnvironmentProblem, OpenmplugError
from openmplug.inference.bulk.decoding import Decoder
from openmplug.inference.bulk.inputs import Inputs
from openmplug.inference.bulk.predicting import Record, chunk_batches, predict_rows
from openmplug.inference.bulk.verbs import VERBS
from openmplug.inference.loading import load

_BLOCK_CHUNKS = 8  # chunks that an actor is handed at a time, where there are enough for all actors
_BLOCKS_PER_ACTOR = 4


def check_ray() -> None:
    """Refuse the engine where Ray Data is not installed.

    Raises:
        EnvironmentProblem: With the install line.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError:
        message = "the engine ray needs Ray Data, which is not installed: pip install 'openmplug[scale]'; or use --engine local"
        raise EnvironmentProblem(message) from None


class _Actor:
    """One loaded model; Ray makes as many as were asked for and calls them with chunks of rows."""

    def __init__(
        self,
        verb: str,
        inputs: Inputs,
        model: Path,
        device: str | None,
        dtype: str | None,
        batch_size: int,
        quantize: str | None,
        frames: int | None,
    ) -> None:
        self.verb = VERBS[verb]
        self.model = load(model, device, dtype, batch_size, quantize=quantize, frames=frames)
        self.decoder = Decoder(inputs, self.model.visuals)

    def __call__(self, chunks: dict[str, Any]) -> dict[str, list[Any]]:
        found = []
        for rows in chunks["rows"]:
            records = predict_rows(self.model, self.verb, [self.decoder[key] for key in pickle.loads(rows)])
            found.append(json.dumps(records))
        return {"number": list(chunks["number"]), "records": found}


def predict_on_ray(
    verb: str,
    inputs: Inputs,
    model: Path,
    device: str | None,
    dtype: str | None,
    batch_size: int,
    start: int,
    actors: int,
    quantize: str | None = None,
    frames: int | None = None,
) -> Generator[list[Record], None, None]:
    """Predict rows in order on a Ray cluster; one is started on this machine where none is running.

    Args:
        verb: A key of ``VERBS``.
        inputs: The rows.
        model: A trained folder that every machine sees.
        device: As for ``load``; an actor gets a GPU of its own unless this is ``cpu`` or the cluster has none.
        dtype: As for ``load``.
        batch_size: Rows a model works on at once.
        start: Rows to leave out, because they are done.
        actors: Models to load.
        quantize: As for ``load``.
        frames: As for ``load``.

    Yields:
        The records of one chunk.

    Raises:
        EnvironmentProblem: If Ray ends the run.
    """
    import ray
    import ray.data
    import ray.exceptions

    # Ray tells about its insides at length; what goes wrong comes as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nor does it send reports home unless the user wants that
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        settings = ray.data.DataContext.get_current()
        settings.execution_options.preserve_order = True
        settings.enable_progress_bars = False
        gpus = 0 if device == "cpu" or not ray.cluster_resources().get("GPU") else 1
        size = batch_size * chunk_batches(VERBS[verb], batch_size)
        # Blocks go to Ray's object store one by one, which moves them to the disk when it is full: this process holds none of them.
        blocks = [ray.put(block) for block in _blocks(inputs.rows(start), size, _block_chunks(inputs.total, size, actors))]
        if not blocks:
            return
        results = ray.data.from_arrow_refs(blocks).map_batches(
            _Actor,
            batch_size=1,
            fn_constructor_args=(verb, inputs, model.absolute(), device, dtype, batch_size, quantize, frames),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=gpus,
        )
        for expected, row in enumerate(results.iter_rows()):
            if row["number"] != expected:
                raise EnvironmentProblem(f"Ray returned chunk {row['number']} where {expected} was due; use --engine local")
            yield json.loads(row["records"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, OpenmplugError):
            raise cause from error
        raise EnvironmentProblem(f"Ray ended the run: {str(cause or error).strip().splitlines()[-1]}") from error
    finally:
        if ours:
            ray.shutdown()


def _block_chunks(total: int | None, size: int, actors: int) -> int:
    """Return how many chunks make a block: few where there are few, so that every actor gets some."""
    return _BLOCK_CHUNKS if total is None else max(1, min(_BLOCK_CHUNKS, total // (size * actors * _BLOCKS_PER_ACTOR)))


def _blocks(keys: Iterator[Any], size: int, block_chunks: int) -> Iterator[Any]:
    """Pack rows into Arrow tables of a few chunks each."""
    import pyarrow

    number = 0
    while chunks := [chunk for chunk in (list(islice(keys, size)) for _ in range(block_chunks)) if chunk]:
        numbers = list(range(number, number + len(chunks)))
        yield pyarrow.table({"number": numbers, "rows": [pickle.dumps(chunk) for chunk in chunks]})
        number += len(chunks)
