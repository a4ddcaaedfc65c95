"""Seconds to build, latency and recall@10 of the vector index, against exact search in the same run.

    OMP_NUM_THREADS=2 taskset -c 0,1 python benchmarks/search.py [--rows 100000] [--size 256] [--queries 200] [--json FILE]

Two sets of unit vectors: ``clustered``, around one centre for every hundred rows with noise of the same length as the centre, which is how
embeddings lie; and ``uniform``, in no order at all, which is harder than any archive. Queries are drawn like the rows. Each row has a
``year`` of 25; ``filtered`` asks for ``year > 2019`` (a fifth of the rows). ``exact`` compares with every row and says what is right.
``--probed-rows`` and ``--refine`` try other settings than the shipped ones. A search is what ``Index.search_vector`` does; there are no
thumbnails. ``cpu`` is what a search costs all cores together: where other jobs run it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from openmplug.inference.search import index as front_door
from openmplug.inference.search.index import Index
from openmplug.inference.search.manifest import Manifest

Vectors = NDArray[np.float32]
FIRST_YEAR, YEARS, FILTER = 2000, 25, "year > 2019"
BLOCK = 10_000


def clustered(rows: int, size: int, queries: int, rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Draw rows and queries around the same centres."""
    centres = unit(rng.standard_normal((max(1, rows // 100), size)))

    def draw(count: int) -> Vectors:
        return unit(centres[rng.integers(0, len(centres), count)] + unit(rng.standard_normal((count, size))))

    return draw(rows), draw(queries)


def uniform(rows: int, size: int, queries: int, rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Draw rows and queries in every direction alike."""
    return unit(rng.standard_normal((rows, size))), unit(rng.standard_normal((queries, size)))


def unit(vectors: NDArray[Any]) -> Vectors:
    """Bring rows to length 1."""
    found: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


SETS = {"clustered": clustered, "uniform": uniform}


def fill(index: Index, vectors: Vectors) -> NDArray[np.int64]:
    """Write the rows and return their years."""
    years = FIRST_YEAR + np.arange(len(vectors)) * 7 % YEARS
    index._store.add_columns({"year": "number"})
    schema = index._store.table.schema
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        names = [str(at) for at in range(start, start + len(part))]
        columns = {"id": names, "path": names, "kind": ["picture"] * len(part), "year": years[start : start + len(part)].astype(float)}
        columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.ravel()), part.shape[1])
        filled = [columns.get(one.name, pyarrow.nulls(len(part), one.type)) for one in schema]
        index._store.table.add(pyarrow.table(filled, schema=schema))
    return years


def nearest(vectors: Vectors, queries: Vectors, allowed: NDArray[np.bool_]) -> list[set[str]]:
    """Return the names of the ten nearest rows of each query."""
    scores = np.where(allowed[None], queries @ vectors.T, -2)
    return [{str(at) for at in row} for row in np.argpartition(-scores, 10, axis=1)[:, :10]]


def ask(index: Index, queries: Vectors, where: str | None, right: list[set[str]]) -> dict[str, float]:
    """Search for each query, the first ones twice, and measure."""
    for query in queries[:5]:
        index.search_vector(query, 10, where)
    seconds, found = [], 0
    busy = time.process_time()
    for query, names in zip(queries, right, strict=True):
        began = time.perf_counter()
        hits = index.search_vector(query, 10, where)
        seconds.append(time.perf_counter() - began)
        found += len(names & {hit.name for hit in hits})
    cpu = (time.process_time() - busy) / len(queries) * 1000
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50_ms": float(p50), "p99_ms": float(p99), "cpu_ms": cpu, "recall_at_10": found / (10 * len(queries))}


def measure(kind: str, rows: int, size: int, count: int, folder: Path) -> dict[str, Any]:
    """Measure one set."""
    vectors, queries = SETS[kind](rows, size, count, np.random.default_rng(0))
    manifest = Manifest("", "", size, 5.0, False, str(folder), ".")
    manifest.write(folder)
    index = Index(folder, manifest, None)
    began = time.perf_counter()
    years = fill(index, vectors)
    written = time.perf_counter()
    everything = np.ones(rows, bool)
    right, right_filtered = nearest(vectors, queries, everything), nearest(vectors, queries, years > 2019)
    numbers: dict[str, Any] = {"write_seconds": written - began}
    few = max(5, count // 10)
    numbers["exact"] = ask(index, queries[:few], None, right[:few])
    began = time.perf_counter()
    index._store.tidy()
    index._store.build_vector_index(rows)
    numbers["build_seconds"] = time.perf_counter() - began
    print(f"{kind}: written in {numbers['write_seconds']:.1f} s, index built in {numbers['build_seconds']:.1f} s", flush=True)
    numbers["index"] = ask(index, queries, None, right)
    limit, front_door.EXACT_ROWS = front_door.EXACT_ROWS, 0  # the index's own way with a filter, too
    numbers["filtered by the index"] = ask(index, queries, FILTER, right_filtered)
    front_door.EXACT_ROWS = limit
    numbers["filtered"] = ask(index, queries, FILTER, right_filtered)
    return numbers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256, help="length of a vector")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--probed-rows", type=int, default=front_door.PROBED_ROWS)
    parser.add_argument("--refine", type=int, default=front_door.REFINE)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    front_door.PROBED_ROWS, front_door.REFINE = options.probed_rows, options.refine
    settings = f"{options.probed_rows:,} rows probed, refine {options.refine}"
    print(f"{options.rows:,} vectors of {options.size}, {options.queries} queries, {settings}")
    results = {}
    for kind in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            results[kind] = numbers = measure(kind, options.rows, options.size, options.queries, Path(folder))
        for name in ("exact", "index", "filtered by the index", "filtered"):
            one = numbers[name]
            times = "   ".join(f"{part} {one[f'{part}_ms']:6.1f}" for part in ("p50", "p99", "cpu"))
            print(f"  {name:22s} {times} ms   recall@10 {one['recall_at_10']:.3f}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
