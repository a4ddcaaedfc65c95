"""From a file to what is kept of it: the pixels of a picture or of each moment of a video, and thumbnails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openmplug.data.video import Video
from openmplug.errors import DataError
from openmplug.inference.bulk.decoding import Decoded, Decoder
from openmplug.inference.bulk.inputs import Inputs
from openmplug.inference.bulk.shards import TarShards
from openmplug.inference.bulk.sources import Key
from openmplug.inference.search.moments import Moment, cut, thumbnail
from openmplug.inference.visuals import VisualTransform

_AHEAD_BYTES = 2**24  # pixels of one file that a worker decodes; the model's process goes on from there, moment by moment


@dataclass(frozen=True, slots=True)
class Piece:
    """A picture, or a moment of a video, without its pixels; times are None of a picture."""

    thumbnail: bytes
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ReadFile(Decoded):
    """A file that was read, or why not: ``pixels`` (M, ...) of its first ``pieces``.

    Args:
        pieces: One for each of the pixels.
        total: How many the whole file has.
    """

    pieces: tuple[Piece, ...] = ()
    total: int = 0


class FileReader(Decoder):
    """Reads whole files, videos moment by moment; picklable, so that workers can be handed it.

    Args:
        inputs: Where the files come from.
        transform: Picture or clip to pixels.
        segment_seconds: Length of a moment.
    """

    def __init__(self, inputs: Inputs, transform: VisualTransform, segment_seconds: float) -> None:
        super().__init__(inputs, transform)
        self.segment_seconds = segment_seconds

    def __getitem__(self, key: Key) -> ReadFile:
        """Read a file, of a long video its beginning; one that cannot be read has ``failure`` set, and raises nothing."""
        _number, row = key
        try:
            loaded = self.inputs.load(key)
            fields = self._with_caption(key, loaded.fields)
            if isinstance(loaded.image, Video):
                with loaded.image as video:
                    moments = cut(video, self.segment_seconds)
                    read = [self._moment(moments[0])]
                    ahead = max(1, _AHEAD_BYTES // read[0][1].nbytes)
                    read += [self._moment(moment) for moment in moments[1:ahead]]
                pieces, pixels = zip(*read, strict=True)
                return ReadFile(row.name, fields=fields, pixels=torch.stack(pixels), pieces=pieces, total=len(moments))
            seen = self.transform.picture(loaded.image)[None]
            return ReadFile(row.name, fields=fields, pixels=seen, pieces=(Piece(thumbnail(loaded.image)),), total=1)
        except DataError as error:
            return ReadFile(row.name, fields=row.fields, failure=str(error))

    def rest(self, key: Key, start: int) -> Iterator[tuple[Piece, Tensor]]:
        """Read the moments of a video from one on, one at a time.

        Raises:
            DataError: If the video cannot be read.
        """
        video = self.inputs.load(key).image
        assert not isinstance(video, Image.Image)
        with video:
            for moment in cut(video, self.segment_seconds)[start:]:
                yield self._moment(moment)

    def _moment(self, moment: Moment) -> tuple[Piece, Tensor]:
        pixels = self.transform.clip(moment)
        return Piece(moment.thumbnail(), moment.start_seconds, moment.end_seconds), pixels

    def _with_caption(self, key: Key, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the caption that lies beside a picture of a shard, as ``KEY.caption`` or ``KEY.txt``."""
        source = self.inputs.sources[key[0]]
        if "caption" in fields or not isinstance(source, TarShards):
            return fields
        beside = source.text_beside(key[1], "caption") or source.text_beside(key[1], "txt")
        return {**fields, "caption": beside} if beside else fields
