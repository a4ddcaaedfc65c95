"""A file of finished rows that survives ``kill -9``: the run that is started again goes on where the last one ended.

One JSON document a line; the first says which run the rows belong to. Rows are appended together and pushed to the disk before the
call returns, so what a killed run leaves is a prefix of its rows and perhaps a torn last line, which the next one cuts off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from openmplug.errors import UsageError, write_problem

_FORMAT = "openmplug journal 1"


class Journal:
    """Rows of one run, in the order they were finished.

    Args:
        path: The file; it is made where it is missing, and gone on with where it is there.
        run: What makes the run this one and no other (inputs, model, settings), as JSON values.
        restart: Throw away what another run, or this one, has left.

    Attributes:
        done: Rows in the file.

    Raises:
        UsageError: If the file holds rows of another run.
        EnvironmentProblem: If it cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], restart: bool = False) -> None:
        self.path = path
        self.done = 0
        header = json.dumps({"journal": _FORMAT, "run": run}, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if restart:
                path.unlink(missing_ok=True)
            # "a+" makes the file; reading and cutting need "r+".
            path.open("ab").close()
            self._file: BinaryIO = path.open("r+b")
        except OSError as error:
            raise write_problem(error, path) from error
        whole = self._whole_lines(header)
        self._file.truncate(whole)
        self._file.seek(whole)
        if whole == 0:
            self._write(header)

    def _whole_lines(self, header: bytes) -> int:
        """Count the rows and return where the last whole one ends."""
        end = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break
            if number == 0 and line != header:
                self._file.close()
                raise UsageError(
                    f"'{self.path}' holds the rows of an unfinished run with other inputs, model or settings; finish that one, or give"
                    " --restart to throw its rows away"
                )
            end += len(line)
            self.done = number
        return end

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and wait until they are on the disk.

        Raises:
            EnvironmentProblem: If the disk is full or the file cannot be written; the rows before stay.
        """
        lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
        self._write(b"".join(lines))
        self.done += len(lines)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_problem(error, self.path) from error

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows again, one at a time."""
        with self.path.open("rb") as file:
            next(file, None)
            for line in file:
                yield json.loads(line)

    def remove(self) -> None:
        """Delete the file; for when its rows are safe elsewhere."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; its rows stay."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
