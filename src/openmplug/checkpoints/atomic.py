"""Folders and files on disk: written whole or not at all.

A folder is written beside its place under another name, flushed to the disk and then renamed. Between any two system calls either the
old folder or the new one is whole; ``recover_folder`` puts the whole one in its place after a crash in the middle of the swap. A small
text file goes the same way, in one rename.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from openmplug.errors import write_problem


def _sibling(path: Path, stage: str) -> Path:
    return path.with_name(f".{path.name}.{stage}")


def _flush(folder: Path) -> None:
    """Push a folder's files and its own directory entries to the disk."""
    for item in [*sorted(folder.rglob("*")), folder]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems cannot sync a directory; the rename is still atomic there.
            if not item.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def _swap(path: Path) -> None:
    """Put the complete new folder in the place of the old one."""
    new, old = _sibling(path, "new"), _sibling(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> bool:
    """Finish or undo a swap that a crash interrupted, and remove what it left behind.

    Args:
        path: The folder's own place.

    Returns:
        Whether a whole folder is at ``path`` now.
    """
    shutil.rmtree(_sibling(path, "writing"), ignore_errors=True)
    if _sibling(path, "new").is_dir():
        _swap(path)
    elif not path.exists() and _sibling(path, "old").is_dir():
        _sibling(path, "old").rename(path)
    shutil.rmtree(_sibling(path, "old"), ignore_errors=True)
    return path.is_dir()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary sibling folder to write into; when the block ends well it takes the place of ``path``.

    Args:
        path: The folder's own place; its parent is made if needed.

    Yields:
        The folder to write into.

    Raises:
        EnvironmentProblem: If something cannot be written (disk full, no permission). What was at ``path`` stays.
    """
    writing, new = _sibling(path, "writing"), _sibling(path, "new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(path)
        writing.mkdir()
        yield writing
        _flush(writing)
        # From this rename on the new folder is known to be whole.
        writing.rename(new)
        _swap(path)
        _flush_parent(path)
    except (OSError, SafetensorError) as error:
        raise write_problem(error, path) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _flush_parent(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that a crash leaves either the old or the new content.

    Raises:
        EnvironmentProblem: If it cannot be written; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_problem(error, path) from error
