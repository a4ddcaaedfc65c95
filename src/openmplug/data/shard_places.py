"""Which tar shards a pattern names, in folders and behind URLs that ``fsspec`` opens."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from openmplug.data.images import one_line
from openmplug.errors import DataError, EnvironmentProblem

_BRACES = re.compile(r"\{([^{}]*)\}")


def is_remote(place: str) -> bool:
    """Say whether a shard is named by a URL."""
    return "://" in place


def expand_braces(pattern: str) -> list[str]:
    """Write out ``{00000..00331}`` (numbers of equal length) and ``{a,b}`` (alternatives).

    Raises:
        DataError: If a range runs backward.

    Example:
        >>> expand_braces("{a,b}/{08..10}.tar")
        ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar', 'b/09.tar', 'b/10.tar']
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    inside = found.group(1)
    limits = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if limits is not None:
        first, last = limits.groups()
        if int(first) > int(last):
            raise DataError(f"'{pattern}': the range {{{inside}}} runs backward; write the smaller number first")
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        parts = inside.split(",")
    return [each for part in parts for each in expand_braces(pattern[: found.start()] + part + pattern[found.end() :])]


def find_shards(root: Path | None, patterns: Sequence[str]) -> list[str]:
    """Find the shards that patterns name, in the order of the patterns and of the names, each once.

    Args:
        root: Folder that paths are relative to; not needed for URLs.
        patterns: Paths or URLs with braces (``expand_braces``) and wildcards; a folder stands for all its ``.tar`` files.

    Raises:
        DataError: If a pattern names nothing, or there is no folder that it is relative to.
        EnvironmentProblem: If a URL needs a part that is not installed.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        for each in expand_braces(pattern):
            found |= dict.fromkeys(_remote(each) if is_remote(each) else _local(root, each))
    return list(found)


def _local(root: Path | None, pattern: str) -> list[str]:
    if root is None and not Path(pattern).expanduser().is_absolute():
        raise DataError(f"shards '{pattern}' are relative to data.root, which is not set; give the folder of the shards: data.root=DIR")
    place = (root or Path()).expanduser() / Path(pattern).expanduser()
    if place.is_file():
        return [str(place)]
    names = sorted(str(each) for each in place.glob("*.tar")) if place.is_dir() else sorted(glob.glob(str(place), recursive=True))
    names = [name for name in names if os.path.isfile(name)]
    if not names:
        raise DataError(f"no shards at {place}; expected .tar files there, as img2dataset and openmplug data shard write them")
    return names


def _remote(pattern: str) -> list[str]:
    if not any(sign in pattern.rpartition("::")[2] for sign in "*[") and pattern.endswith(".tar"):
        return [pattern]
    # Of a chain such as filecache::s3://..., the last link says what there is.
    chain, joint, last = pattern.rpartition("::")
    system, path = file_system(last)
    try:
        names = sorted(system.glob(path if path.endswith(".tar") else f"{path.rstrip('/')}/*.tar"))
    except (OSError, ValueError) as error:
        raise DataError(f"shards '{pattern}' cannot be listed ({one_line(error)}); name them: {{00000..00331}}.tar") from None
    if not names:
        raise DataError(f"no shards at '{pattern}'; expected .tar files there, as img2dataset and openmplug data shard write them")
    return [f"{chain}{joint}{system.unstrip_protocol(name)}" for name in names]


def cache_folder() -> Path:
    """Return the folder of what is kept about shards elsewhere: ``$OPENMPLUG_CACHE/shards``, else below ``~/.cache``."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return Path(os.environ.get("OPENMPLUG_CACHE") or caches / "openmplug") / "shards"


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it; each process has its own, as connections survive no fork.

    Raises:
        EnvironmentProblem: If fsspec, or what the protocol needs besides, is not installed.
        DataError: If there is no such protocol, or it refuses.
    """
    return _file_system(url, os.getpid())


@lru_cache(maxsize=64)
def _file_system(url: str, process: int) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise EnvironmentProblem(f"'{url}' needs fsspec; install it: pip install fsspec") from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise EnvironmentProblem(f"'{url}' cannot be opened: {one_line(error)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"'{url}' cannot be opened: {one_line(error)}; expected a path or a URL that fsspec knows") from None
    return system, str(path)
