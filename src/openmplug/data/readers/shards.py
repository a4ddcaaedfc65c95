"""Tar shards in WebDataset's form, as a reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from openmplug.data.readers.split import Split
from openmplug.data.shards import open_shards


def read_shards(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the shards that a pattern names; they are indexed here where they are not yet.

    Args:
        root: Folder that the pattern is relative to.
        split: ``{00000..00331}.tar``, ``cc3m/*.tar``, a folder of shards (``.`` is ``root``), or a URL such as ``s3://BUCKET/{000..331}.tar``.
        columns: ``caption``: the field of the ``.json`` files that holds it; null reads none.

    Returns:
        One record per sample, made when it is asked for; the captions are its targets and references, words alone its text.

    Raises:
        UsageError: If ``columns`` names an unknown role.
        DataError: If there is no shard, or one is damaged.
        EnvironmentProblem: If a URL needs a part that is not installed.
    """
    samples = open_shards(root, [split], columns)
    # A name that can stand before ids and pictures of several splits.
    return Split(split.replace("/", "-"), samples, samples.shards)
