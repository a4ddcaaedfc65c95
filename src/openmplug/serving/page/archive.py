"""The index behind the search tab: opened with the model that made it, asked through the worker."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from openmplug.errors import ModelError, OpenmplugError, UsageError
from openmplug.inference.search.index import Index
from openmplug.inference.search.results import Hit
from openmplug.serving.page.calls import Calls, Tell
from openmplug.serving.page.shelf import Shelved

RESULTS, RERANKED = 12, 32


def open_index(path: Path, shelf: Sequence[Shelved], device: str | None = None, dtype: str | None = None) -> Index:
    """Open an index with the model of the page that made it; else with the one it names.

    Raises:
        DataError: If the folder holds no index.
        ModelError: If the model that made it is not to be found.
        EnvironmentProblem: If LanceDB is not installed.
    """
    for one in shelf:
        if "retrieval" in one.verbs:
            try:
                return Index.open(path, model=one.model)
            except ModelError:
                continue  # made by another one
    return Index.open(path, device=device, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Archive:
    """What can be asked of an index.

    Args:
        index: The index, with its model.
        calls: Whose worker and limits are used.
    """

    index: Index
    calls: Calls

    @property
    def can_rerank(self) -> bool:
        """Say whether the model has a matching head to take a second look with."""
        return self.index.model is not None and {"fusion", "matching"} <= set(self.index.model.network.modules_built)

    @property
    def reranks(self) -> bool:
        """Say whether it does so unless told otherwise: a model whose own retrieval does not (``k_test`` 0) orders better without."""
        model = self.index.model
        return model is not None and self.can_rerank and bool(model.task_for("retrieval").settings.k_test)

    def about(self) -> str:
        """Say in a line what there is to search."""
        info = self.index.info()
        moments = f" and {info.moments:,} moments of videos, {info.segment_seconds:g} seconds each" if info.moments else ""
        return f"{info.pictures:,} pictures{moments}."

    def search(self, words: str, again: bool, tell: Tell = lambda done, what: None) -> list[Hit]:
        """Find by words.

        Args:
            words: What to look for.
            again: Let the matching head order the best.
            tell: Told how far it is.

        Raises:
            UsageError: If there are no words, or too many.
        """
        return self._run(self.calls.checked(words, "what to look for"), RERANKED if again and self.can_rerank else 0, tell)

    def alike(self, path: str | None, tell: Tell = lambda done, what: None) -> list[Hit]:
        """Find what is similar to an upload.

        Raises:
            DataError: If it cannot be used.
        """
        tell(0.1, "Reading the picture")
        model = self.index.model
        if model is None:
            raise UsageError("this index was opened without its model")
        return self._run(self.calls.read_for(path, model).visual, 0, tell)

    def _run(self, query: Any, rerank: int, tell: Tell) -> list[Hit]:
        def compute(queries: Sequence[Any]) -> list[Any]:
            return [_hits_or_error(self.index, query, rerank) for query in queries]

        tell(0.4, "Searching")
        found = self.calls.worker.run(("search", rerank), compute, query)
        if isinstance(found, OpenmplugError):
            raise found
        return list(found)


def _hits_or_error(index: Index, query: Any, rerank: int) -> list[Hit] | OpenmplugError:
    try:
        return index.search(query, RESULTS, rerank=rerank)
    except OpenmplugError as error:  # of this query alone: the others of its batch are not asked twice
        return error


def tiles(hits: Sequence[Hit]) -> list[tuple[Image.Image, str]]:
    """Return thumbnails with what is said of each."""
    return [(_thumbnail(hit), _label(hit)) for hit in hits]


def _thumbnail(hit: Hit) -> Image.Image:
    if not hit.thumbnail:
        return Image.new("RGB", (128, 128), (128, 128, 128))
    with Image.open(io.BytesIO(hit.thumbnail)) as image:
        return image.convert("RGB")


def _label(hit: Hit) -> str:
    moment = "" if hit.start_seconds is None else f", {_clock(hit.start_seconds)} to {_clock(hit.end_seconds or hit.start_seconds)}"
    caption = f": {hit.caption}" if hit.caption else ""
    return f"{hit.name}{moment}{caption} ({hit.similarity:.2f})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
