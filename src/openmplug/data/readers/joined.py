"""Several splits as one, and their pictures behind one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from openmplug.batch import Sample
from openmplug.data.images import ImageSource
from openmplug.data.readers.split import Split
from openmplug.errors import DataError


def join_splits(splits: Sequence[Split]) -> Split:
    """Put several splits behind each other; ids and pictures of more than one are prefixed with ``{split}/``.

    Equal picture names in two splits are two pictures: ``image_index`` is renumbered so that splits do not overlap.
    """
    if len(splits) == 1:
        return splits[0]
    samples: list[Sample] = []
    first = 0
    for split in splits:
        for sample in split.samples:
            samples.append(
                replace(
                    sample,
                    id=f"{split.name}/{sample.id}",
                    image=None if sample.image is None else f"{split.name}/{sample.image}",
                    further_images=tuple(f"{split.name}/{name}" for name in sample.further_images),
                    image_index=sample.image_index + first if sample.image_index >= 0 else -1,
                )
            )
        first += 1 + max((sample.image_index for sample in split.samples), default=-1)
    return Split("+".join(split.name for split in splits), samples, JoinedImages({split.name: split.images for split in splits}))


class JoinedImages(ImageSource):
    """Several sources behind one: the name's first part, a key and a slash, chooses.

    Args:
        sources: Key -> source. A key may have slashes itself, as the splits ``photos/train`` and ``clips/train`` do.
    """

    def __init__(self, sources: Mapping[str, ImageSource]) -> None:
        self.sources = dict(sources)
        self.description = " and ".join(source.description for source in self.sources.values())

    def names(self) -> list[str]:
        """List all pictures, prefixed."""
        return sorted(f"{key}/{name}" for key, source in self.sources.items() for name in source.names())

    def read(self, name: str) -> bytes:
        """Return one picture's bytes."""
        key, rest = self._place(name)
        if key is None:
            raise DataError(f"image '{name}' not found: its first part must be one of {', '.join(self.sources)}")
        return self.sources[key].read(rest)

    def locate(self, name: str) -> Path | None:
        """Return where one lies as a file of its own."""
        key, rest = self._place(name)
        return None if key is None else self.sources[key].locate(rest)

    def members(self, name: str) -> list[str]:
        """Return the pictures of a folder of frames in an archive, prefixed."""
        key, rest = self._place(name)
        return [] if key is None else [f"{key}/{each}" for each in self.sources[key].members(rest)]

    def __contains__(self, name: object) -> bool:
        """Say whether the picture is there."""
        key, rest = self._place(str(name))
        return key is not None and rest in self.sources[key]

    def _place(self, name: str) -> tuple[str | None, str]:
        """Return the key of a name's source and the name there; the longest key that fits."""
        end = name.rfind("/")
        while end > 0:
            if name[:end] in self.sources:
                return name[:end], name[end + 1 :]
            end = name.rfind("/", 0, end)
        return None, name
