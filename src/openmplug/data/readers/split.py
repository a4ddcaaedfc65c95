"""What a reader returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openmplug.batch import Sample
from openmplug.data.images import ImageSource

if TYPE_CHECKING:
    from openmplug.data.sources import Mixture


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a data set: its records, a list or made when they are asked for, and where their pictures lie.

    Of a ``mixture`` to train on, ``samples`` are those that are looked at beforehand.
    """

    name: str
    samples: Sequence[Sample]
    images: ImageSource
    mixture: Mixture | None = None


# (root folder, split name, declared columns: role -> column name) -> Split
Reader = Callable[[Path, str, Mapping[str, str | None]], Split]


class Numbering:
    """Numbers pictures in order of first appearance: equal names, equal numbers."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        """Return the picture's number, a new one for a new name."""
        return self._numbers.setdefault(name, len(self._numbers))
