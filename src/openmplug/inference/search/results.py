"""What a search finds and what an index says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture, or a moment of a video, that was found.

    Args:
        path: Where the file is; inside an archive the path goes on behind the archive's name (``shard.tar/000.jpg``).
        name: The path as the index keeps it: relative to its root where the file lies below that. Filters on ``path`` mean this.
        score: What the order follows: the matching head's score where that ranked it, else the similarity.
        similarity: Cosine similarity to what was asked, -1 to 1.
        start_seconds: Where the moment begins; None of a picture.
        end_seconds: Where it ends.
        caption: The caption, if the index has one.
        metadata: The other columns of its row.
        thumbnail: A small JPEG.
        matching: The matching head's score; None where it was not asked.
        problem: Why it was not ranked again although it should have been (the file is gone, say).
    """

    path: str
    name: str
    score: float
    similarity: float
    start_seconds: float | None = None
    end_seconds: float | None = None
    caption: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = field(default=b"", repr=False)
    matching: float | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the thumbnail as JSON values."""
        names = ("path", "name", "score", "similarity", "start_seconds", "end_seconds", "caption", "matching", "problem")
        return {**{name: getattr(self, name) for name in names}, "metadata": dict(self.metadata)}


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index holds.

    Args:
        path: Its folder.
        root: The folder that names are relative to.
        model: Name and place of the model that made it.
        model_hash: SHA-256 of that model's weights.
        files: Pictures and videos.
        pictures: Rows that are pictures.
        moments: Rows that are moments of videos.
        segment_seconds: Length of a moment.
        vector_size: Length of a vector.
        captions: Rows with a caption.
        columns: Metadata columns and their kinds.
        vector_index: Kind of the vector index; None while searches compare with every row.
        unindexed: Rows that came after the vector index; they are compared one by one.
        size_bytes: On the disk.
    """

    path: str
    root: str
    model: str
    model_hash: str
    files: int
    pictures: int
    moments: int
    segment_seconds: float
    vector_size: int
    captions: int
    columns: Mapping[str, str]
    vector_index: str | None
    unindexed: int
    size_bytes: int
