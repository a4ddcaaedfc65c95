"""The LanceDB table of an index: rows are added, replaced and deleted in one transaction each, so a killed run leaves whole files only."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmplug.errors import EnvironmentProblem, UsageError, write_problem
from openmplug.inference.search.metadata import OWN

TABLE = "moments"
_SEEN_AGAIN = timedelta(seconds=1)  # a reader looks for what another process wrote as often as this
_OLD = timedelta(hours=1)  # versions of the table that a reader may still be at
_NAMED_COLUMNS = 12

Row = Mapping[str, Any]


def import_lancedb() -> Any:
    """Return the module ``lancedb``.

    Raises:
        EnvironmentProblem: With the install line, where it is missing.
    """
    try:
        import lancedb
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise EnvironmentProblem(f"search needs LanceDB ({error}); install it: pip install 'openmplug[search]'") from None
    # Decoding workers are forked while it is loaded; they never touch it.
    warnings.filterwarnings("ignore", message="lancedb fork support", category=RuntimeWarning)
    return lancedb


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


class Store:
    """The rows of an index.

    Args:
        folder: The index's.
        vector_size: Length of a vector.

    Raises:
        EnvironmentProblem: If LanceDB is missing, or the table cannot be read or made.
    """

    def __init__(self, folder: Path, vector_size: int) -> None:
        self.folder = folder
        self._vector_size = vector_size
        database = import_lancedb().connect(str(folder), read_consistency_interval=_SEEN_AGAIN)
        try:
            # One that is there may have further columns; create_table(exist_ok=True) would refuse it for its schema.
            if TABLE in database.list_tables().tables:
                self.table = database.open_table(TABLE)
            else:
                self.table = database.create_table(TABLE, schema=self._schema(), exist_ok=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise write_problem(error, folder) from error

    def _schema(self) -> Any:
        import pyarrow as pa

        text, number = pa.string(), pa.float64()
        kinds = {"id": text, "path": text, "stamp": text, "note": text, "kind": text, "start_seconds": number, "end_seconds": number}
        kinds |= {"caption": text, "thumbnail": pa.binary(), "vector": pa.list_(pa.float32(), self._vector_size)}
        return pa.schema(list(kinds.items()))

    # ------------------------------------------------------------------------------------------------------------------ reading

    def columns(self) -> dict[str, str]:
        """Return the metadata columns and their kinds: ``number``, ``text`` or ``boolean``."""
        kinds = {"double": "number", "bool": "boolean"}
        return {one.name: kinds.get(str(one.type), "text") for one in self.table.schema if one.name not in OWN}

    def files(self) -> dict[str, tuple[str, str]]:
        """Return the state of every file: path -> stamp and note."""
        found: dict[str, tuple[str, str]] = {}
        for batch in self.scan(["path", "stamp", "note"]):
            found.update((row["path"], (row["stamp"], row["note"])) for row in batch)
        return found

    def scan(self, columns: Sequence[str], where: str | None = None) -> Iterator[list[dict[str, Any]]]:
        """Read rows in batches, in no particular order."""
        query = self.table.search().select(list(columns))
        for batch in self._asked(where, lambda: (query.where(where) if where else query).to_batches(4096)):
            yield batch.to_pylist()

    def count(self, where: str | None = None) -> int:
        """Count rows.

        Raises:
            UsageError: If the filter is not understood.
        """
        return int(self._asked(where, lambda: self.table.count_rows(where)))

    def nearest(
        self, vector: NDArray[np.float32], k: int, where: str | None, probes: int, refine: int, exact: bool
    ) -> list[dict[str, Any]]:
        """Return the rows nearest to a vector, nearest first, each with its ``similarity``.

        Args:
            vector: (E,), of length 1.
            k: How many.
            where: Filters rows before they are compared.
            probes: Partitions of the vector index that are looked into.
            refine: Compare ``refine * k`` candidates of the index by their whole vectors.
            exact: Compare with every row.

        Raises:
            UsageError: If the filter is not understood.
        """
        query = self.table.search(vector, vector_column_name="vector").distance_type("l2").limit(k)
        query = query.bypass_vector_index() if exact else query.nprobes(probes).refine_factor(refine)
        if where:
            query = query.where(where, prefilter=True)
        columns = [one.name for one in self.table.schema if one.name not in ("vector", "id", "stamp", "note")]
        rows: list[dict[str, Any]] = self._asked(where, lambda: query.select([*columns, "_distance"]).to_list())
        for row in rows:
            row["similarity"] = 1 - row.pop("_distance") / 2  # of vectors of length 1: |a - b|^2 = 2 - 2 a.b
        return rows

    def _asked(self, where: str | None, read: Any) -> Any:
        try:
            return read()
        except (ValueError, RuntimeError, OSError) as error:
            if where is None:
                raise EnvironmentProblem(f"index '{self.folder}' cannot be read: {_first_line(error)}") from error
            columns = self.columns()
            named = [f"{name} ({kind})" for name, kind in list(columns.items())[:_NAMED_COLUMNS]]
            named += [f"and {len(columns) - _NAMED_COLUMNS} more"] if len(columns) > _NAMED_COLUMNS else []
            raise UsageError(
                f'filter "{where}" is not understood: {_first_line(error)}; columns: path, kind, start_seconds, end_seconds, caption'
                f"{''.join(', ' + one for one in named)}; such as: kind = 'video'"
            ) from None

    # ------------------------------------------------------------------------------------------------------------------ writing

    def write(self, rows: Sequence[Row], replaced: Collection[str]) -> None:
        """Add the rows of whole files, in one transaction; those of ``replaced`` files take the place of what was there.

        Raises:
            EnvironmentProblem: If it cannot be written; nothing of these files is changed then.
        """
        import pyarrow as pa

        data = pa.Table.from_pylist(list(rows), schema=self.table.schema)
        try:
            if not replaced:
                self.table.add(data)
                return
            merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            # A video that has become shorter leaves no moments behind.
            merge.when_not_matched_by_source_delete(f"path IN ({', '.join(map(quoted, sorted(replaced)))})").execute(data)
        except (RuntimeError, OSError, ValueError) as error:
            raise write_problem(error, self.folder) from error

    def add_columns(self, kinds: Mapping[str, str]) -> None:
        """Add metadata columns; rows that are there have nothing in them."""
        import pyarrow as pa

        types = {"number": pa.float64(), "boolean": pa.bool_(), "text": pa.string()}
        try:
            self.table.add_columns(pa.schema([(name, types[kind]) for name, kind in kinds.items()]))
        except (RuntimeError, OSError, ValueError) as error:
            raise write_problem(error, self.folder) from error

    def delete(self, where: str) -> int:
        """Delete rows and return how many they were.

        Raises:
            UsageError: If the filter is not understood.
        """
        count = self.count(where)
        if count:
            self._asked(where, lambda: self.table.delete(where))
        return count

    # ------------------------------------------------------------------------------------------------------------- vector index

    def version(self) -> int:
        """Return the number of the table's state; it grows with every change."""
        return int(self.table.version)

    def vector_index(self) -> tuple[str, int, int] | None:
        """Return kind, indexed rows and unindexed rows of the vector index; None without one."""
        for one in self.table.list_indices():
            if list(one.columns) == ["vector"]:
                stats = self.table.index_stats(one.name)
                if stats is not None:
                    return str(stats.index_type), int(stats.num_indexed_rows), int(stats.num_unindexed_rows)
        return None

    def tidy(self) -> None:
        """Put many small files together, bring new rows into the vector index, and drop versions nobody reads any more.

        Raises:
            EnvironmentProblem: If it cannot be written.
        """
        try:
            self.table.optimize(cleanup_older_than=_OLD)
        except (RuntimeError, OSError, ValueError) as error:
            raise write_problem(error, self.folder) from error

    def build_vector_index(self, rows: int) -> None:
        """Make the vector index anew for so many rows.

        Raises:
            EnvironmentProblem: If it cannot be written.
        """
        from lancedb.index import IvfPq

        config = IvfPq(distance_type="l2", num_partitions=partitions(rows), num_sub_vectors=self._sub_vectors())
        try:
            self.table.create_index("vector", config=config, replace=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise write_problem(error, self.folder) from error

    def _sub_vectors(self) -> int:
        """Return into how many parts a vector is cut: of four numbers, as far as the size can be divided."""
        return next(parts for parts in range(max(1, self._vector_size // 4), 0, -1) if self._vector_size % parts == 0)


def partitions(rows: int) -> int:
    """Return how many partitions a vector index of so many rows has: about their square root, a power of two."""
    return int(2 ** max(4, round(np.log2(max(rows, 1) ** 0.5))))


def _first_line(error: BaseException) -> str:
    """Return what a person needs of LanceDB's message: no source line of its own, no list of columns that are not for filters."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line.split(", /")[0].split(". Valid fields")[0].removeprefix("Invalid input, ").removeprefix("Schema error: ").rstrip(". ")
