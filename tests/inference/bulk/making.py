"""Inputs written for the tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def table(path: Path, *rows: Mapping[str, Any]) -> Path:
    """Write a JSONL table."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shard(path: Path, members: Mapping[str, bytes | str | Mapping[str, Any]]) -> Path:
    """Write a tar file of these members, in this order; mappings become JSON."""
    with tarfile.open(path, "w") as archive:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
