"""The front door of search: make an index, add to it, ask it."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmplug.errors import DataError, ModelError, UsageError
from openmplug.inference.bulk.inputs import Inputs, open_inputs
from openmplug.inference.loading import load
from openmplug.inference.model import Model
from openmplug.inference.search.building import Builder, BuildTally, check_captions, disk_bytes
from openmplug.inference.search.manifest import Manifest, is_index, model_hash, read_manifest
from openmplug.inference.search.places import Root, choose_root, exists
from openmplug.inference.search.reranking import check_reranking, rerank
from openmplug.inference.search.results import Hit, IndexInfo
from openmplug.inference.search.store import Store, import_lancedb, partitions, quoted
from openmplug.inference.visuals import VisualInput
from openmplug.lock import alone

EXACT_ROWS = 20_000
"""Up to so many rows every one is compared: as fast as an index, and exact."""

PROBED_ROWS = 100_000
"""So many rows are looked at through the index's short codes: all of 100,000, the nearest tenth of a million (benchmarks/search.py)."""

REFINE = 40
"""``REFINE`` times as many rows as were asked for are compared by their whole vectors."""

DEFAULT_SEGMENT_SECONDS = 5.0

Report = Callable[[BuildTally], None]


class Index:
    """Pictures and moments of videos on disk, found by words or by a picture.

    ``Index.build`` makes one, ``Index.open`` opens it. Searching from several threads is safe, also while another process adds: a search
    sees the rows of one moment.

    Attributes:
        path: The folder.
        model: What questions are embedded with; None where the index was opened without.

    Example:
        >>> import openmplug as om
        >>> index, counts = om.Index.build(index_folder, [picture], folder, device="cpu", workers=0)
        >>> counts.added
        1
        >>> (hit,) = index.search("a red cup", k=3)
        >>> hit.name, -1 <= hit.similarity <= 1
        ('picture.png', True)
    """

    def __init__(self, path: Path, manifest: Manifest, model: Model | None) -> None:
        self.path = path
        self.model = model
        self._manifest = manifest
        self._root = Root.of(manifest, path)
        self._store = Store(path, manifest.vector_size)
        self._computing = threading.Lock()
        self._indexed = (-1, 0)  # version of the table, and rows in its vector index then
        if model is not None:
            manifest.check_model(model, path)

    # ------------------------------------------------------------------------------------------------------------------- making

    @classmethod
    def open(cls, path: str | Path, model: Model | str | Path | None = None, **options: Any) -> Index:
        """Open an index.

        Args:
            path: Its folder.
            model: The model that made it: loaded, or its folder; None takes it from where it was then.
            options: Of ``openmplug.load``: ``device``, ``dtype``, ``batch_size``.

        Raises:
            DataError: If the folder holds no index.
            ModelError: If the model is another one, or is not where it was.
            EnvironmentProblem: If LanceDB is not installed.
        """
        folder = Path(path).expanduser()
        manifest = read_manifest(folder)
        import_lancedb()
        if not isinstance(model, Model):
            if model is None and not os.path.exists(manifest.model):
                raise ModelError(f"the model of index '{folder}' is no longer at '{manifest.model}'; say where it is now: --model DIR")
            model = load(manifest.model if model is None else model, **options)
        return cls(folder, manifest, model)

    @classmethod
    def open_without_model(cls, path: str | Path) -> Index:
        """Open an index to look at it, delete from it or search it by vectors; see ``open``."""
        folder = Path(path).expanduser()
        return cls(folder, read_manifest(folder), None)

    @classmethod
    def build(
        cls,
        path: str | Path,
        inputs: Sequence[str | Path],
        model: Model | str | Path,
        *,
        segment_seconds: float | None = None,
        captions: bool | None = None,
        on_error: str = "skip",
        max_failures: int | float | None = None,
        workers: int | None = None,
        report: Report = lambda tally: None,
        **options: Any,
    ) -> tuple[Index, BuildTally]:
        """Make an index, or go on with one that a stopped run left.

        Args:
            path: Its folder.
            inputs: Pictures, videos, folders of them, JSONL or CSV tables, tar shards; as for ``openmplug predict``.
            model: One that was trained to match: loaded, or its folder.
            segment_seconds: Videos are cut into moments of so many seconds; None is 5.
            captions: Let the model write a caption for what comes without one.
            on_error: ``error`` or ``skip``; see ``Builder.add``.
            max_failures: See ``Builder.add``.
            workers: Processes that decode.
            report: Called on the way.
            options: Of ``openmplug.load``.

        Raises:
            UsageError: If the model cannot embed or write captions, or the folder holds an index with other settings.
            ModelError: If the folder holds an index of another model.
            DataError: If an input does not exist, or files cannot be read.
            EnvironmentProblem: If something cannot be written, or LanceDB is not installed.
        """
        folder = Path(path).expanduser()
        import_lancedb()
        if segment_seconds is not None and not segment_seconds > 0:
            raise UsageError(f"segment_seconds is {segment_seconds}; expected more than 0")
        sources = open_inputs([str(one) for one in inputs], None)
        known = read_manifest(folder) if is_index(folder) else None
        if known is None and folder.is_dir() and any(entry.name not in _NOTHING for entry in folder.iterdir()):
            raise DataError(f"'{folder}' is a folder with other things in it; give a new name for the index")
        model = model if isinstance(model, Model) else load(model, **options)
        model.require("retrieval")
        manifest = known or Manifest(
            str(Path(model.source).absolute()) if model.source else "",
            model_hash(model),
            model.network.config.embed_dim,
            segment_seconds or DEFAULT_SEGMENT_SECONDS,
            bool(captions),
            root := choose_root(sources.sources),
            os.path.relpath(root, folder.absolute()),
        )
        manifest.check_model(model, folder)
        for name, asked, was in (("segment_seconds", segment_seconds, manifest.segment_seconds), ("captions", captions, manifest.captions)):
            if asked is not None and asked != was:
                raise UsageError(f"index '{folder}' was begun with {name} {was}, and this asks for {asked}; give a new folder")
        if manifest.captions:
            check_captions(model)
        if known is None:
            manifest.write(folder)
        index = cls(folder, manifest, model)
        return index, index._add(sources, on_error, max_failures, workers, report)

    def add(
        self,
        inputs: Sequence[str | Path],
        *,
        on_error: str = "skip",
        max_failures: int | float | None = None,
        workers: int | None = None,
        report: Report = lambda tally: None,
    ) -> BuildTally:
        """Add files. One that is there and unchanged is passed over, one that has changed is replaced.

        Args:
            inputs: As for ``build``.
            on_error: As for ``build``.
            max_failures: As for ``build``.
            workers: As for ``build``.
            report: As for ``build``.

        Raises:
            DataError: If an input does not exist, or files cannot be read.
            UsageError: If another process is writing.
            EnvironmentProblem: If something cannot be written.
        """
        return self._add(open_inputs([str(one) for one in inputs], None), on_error, max_failures, workers, report)

    def _add(self, inputs: Inputs, on_error: str, max_failures: int | float | None, workers: int | None, report: Report) -> BuildTally:
        with self._writing():
            builder = Builder(self._store, self._manifest, self._root, self._needed())
            tally = builder.add(inputs, on_error, max_failures, workers, report)
            self._refresh()
        return tally

    def delete(self, paths: Sequence[str | Path] = (), where: str | None = None, missing: bool = False) -> int:
        """Take files out; nothing happens to the files themselves.

        Args:
            paths: Files, or folders with all below them: as they are now, or by the index's names.
            where: Rows that fit a filter.
            missing: Files that are no longer where they were.

        Returns:
            The rows that were taken out.

        Raises:
            DataError: If a path is not in the index.
            UsageError: If the filter is not understood, nothing is named, or another process is writing.
        """
        if not paths and where is None and not missing:
            raise UsageError("nothing was named to delete; give paths, a filter (--where), or --missing")
        with self._writing():
            conditions = [self._condition(str(path)) for path in paths] + ([f"({where})"] if where is not None else [])
            if missing:
                gone = sorted(name for name in self._store.files() if not exists(self._root.path(name)))
                conditions += [f"path IN ({', '.join(map(quoted, gone[at : at + 500]))})" for at in range(0, len(gone), 500)]
            count = sum(self._store.delete(condition) for condition in conditions)
            if count:
                self._refresh()
        return count

    def _condition(self, path: str) -> str:
        for name in dict.fromkeys((self._root.name(path), Path(path).as_posix().rstrip("/"))):
            condition = "true" if name == "." else f"(path = {quoted(name)} OR starts_with(path, {quoted(name + '/')}))"
            if self._store.count(condition):
                return condition
        raise DataError(f"'{path}' is not in the index; its names are relative to '{self._root.folder}'")

    def _writing(self) -> Any:
        return alone(self.path / ".lock", f"index '{self.path}'", "work on another index")

    def _refresh(self) -> None:
        """Bring the vector index up to the rows: none for few of them, a new one when they have doubled."""
        self._store.tidy()
        rows, now = self._store.count(), self._store.vector_index()
        if rows >= EXACT_ROWS and (now is None or rows > 2 * max(1, self._trained_rows())):
            self._store.build_vector_index(rows)
            (self.path / _TRAINED).write_text(f"{rows}\n", encoding="utf-8")

    def _trained_rows(self) -> int:
        try:
            return int((self.path / _TRAINED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0

    # ------------------------------------------------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """Count rows: pictures and moments."""
        return self._store.count()

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        store, manifest, now = self._store, self._manifest, self._store.vector_index()
        pictures, rows = store.count("kind = 'picture'"), store.count()
        return IndexInfo(
            str(self.path),
            self._root.folder,
            manifest.model,
            manifest.model_hash,
            len(store.files()),
            pictures,
            rows - pictures,
            manifest.segment_seconds,
            manifest.vector_size,
            store.count("caption IS NOT NULL"),
            store.columns(),
            now[0] if now else None,
            now[2] if now else 0,
            disk_bytes(str(self.path)),
        )

    def search(self, query: str | VisualInput, k: int = 10, where: str | None = None, rerank: int = 0) -> list[Hit]:
        """Find pictures and moments.

        Args:
            query: Words (every ``str``); or a picture or video to find similar ones of (``Path``, bytes, PIL image, array).
            k: How many to return.
            where: A filter in SQL on ``path``, ``kind`` (``picture`` or ``video``), ``start_seconds``, ``end_seconds``, ``caption`` and the
                metadata columns, such as ``year > 2019``; it holds before anything is compared.
            rerank: Let the matching head order so many of the nearest; their files are read again. 0 keeps the order of similarity.

        Returns:
            At most k hits, best first.

        Raises:
            UsageError: If the query is empty, the filter is not understood, or what was asked cannot be ranked again.
            DataError: If a picture that was asked with cannot be read.
        """
        if k < 1 or rerank < 0:
            raise UsageError(f"k is {k} and rerank {rerank}; expected at least 1, and at least 0")
        model = self._needed()
        if rerank:
            if not isinstance(query, str):
                raise UsageError("the matching head reads words, so only a search by words can be ranked again; search without --rerank")
            check_reranking(model)
        vector = self.embed(query)
        hits = self.search_vector(vector, max(k, rerank), where)
        if rerank:
            assert isinstance(query, str)
            with self._computing:
                hits = _rerank(model, query, hits[:rerank]) + hits[rerank:]
        return hits[:k]

    def embed(self, query: str | VisualInput) -> NDArray[np.float32]:
        """Return the vector (E,) of words or of a picture, for ``search_vector``.

        Raises:
            UsageError: If the words are empty.
            DataError: If the picture cannot be read.
        """
        model = self._needed()
        if isinstance(query, str) and not query.strip():
            raise UsageError("the search is empty; say what to look for")
        with self._computing:
            found = model.embed_texts([query]) if isinstance(query, str) else model.embed_images([query])
        vector: NDArray[np.float32] = found[0]
        return vector

    def search_vector(self, vector: NDArray[np.float32], k: int = 10, where: str | None = None) -> list[Hit]:
        """Find what is nearest to a vector of length 1; arguments and errors as ``search``.

        Raises:
            UsageError: If the vector is of another size.
        """
        if vector.shape != (self._manifest.vector_size,):
            raise UsageError(f"the vector is {tuple(vector.shape)}; this index holds vectors of ({self._manifest.vector_size},)")
        # A filter that leaves few rows is answered exactly, which is then also faster.
        indexed = self._indexed_rows()
        exact = not indexed or (where is not None and self._store.count(where) <= EXACT_ROWS)
        probes = max(1, math.ceil(partitions(indexed) * min(1.0, PROBED_ROWS / max(indexed, 1))))
        rows = self._store.nearest(np.asarray(vector, np.float32), k, where, probes, REFINE, exact)
        return [self._hit(row) for row in rows]

    def _indexed_rows(self) -> int:
        """Count the rows in the vector index, 0 without one; looked up again when the table has changed."""
        version = self._store.version()
        if self._indexed[0] != version:
            now = self._store.vector_index()
            self._indexed = (version, now[1] if now else 0)
        return self._indexed[1]

    def _hit(self, row: dict[str, Any]) -> Hit:
        name, similarity = row.pop("path"), row.pop("similarity")
        own = {key: row.pop(key) for key in ("start_seconds", "end_seconds", "caption", "thumbnail")}
        row.pop("kind")
        metadata = {key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in row.items()}
        given = {key: value for key, value in metadata.items() if value is not None}
        return Hit(self._root.path(name), name, similarity, similarity, metadata=given, **own)

    def _needed(self) -> Model:
        if self.model is None:
            raise UsageError("this index was opened without its model; open it with Index.open(path, model)")
        return self.model


_rerank = rerank  # ``search`` has an argument of that name
_TRAINED = "vector_index.txt"
_NOTHING = frozenset({".lock", "moments.lance"})
