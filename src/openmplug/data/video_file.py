"""Video files by PyAV: which frames there are, the cheapest way to the wanted ones, and what to do about damage.

**Which frames there are** is found by reading the packets once, without decoding them: every packet that carries a frame to show has a
presentation time, and frame ``i`` is the one with the ``i``-th smallest. Headers are not believed; they are often absent (mkv, webm) or
wrong (cut files). Where packets do not tell (AVI with B-frames, raw streams), everything is decoded once to count.

**The way to the frames**: decode on from where the decoder stands, or jump to the key frame before the next wanted frame when that
saves more than ``JUMP_FRAMES``. Frames that no other frame needs and nobody asked for are left out. Either way the frame is known by its
presentation time, so every way gives the same pixels.

**Damage**: a frame is handed out only if no packet since its key frame failed to decode; else the error says which frame.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from openmplug.data.images import MAX_PIXELS, one_line
from openmplug.data.video import Frames, Video, VideoLimits
from openmplug.errors import DataError, EnvironmentProblem, TooLarge

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

JUMP_FRAMES = 12
"""A jump costs about as much as decoding so many frames (docs/video.md)."""

_SKIPPING = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"})
"""Decoders that can leave out single frames that nothing refers to."""

TIMEOUT_SECONDS = 60.0
"""For one read of the file: a drive that does not answer must not hang a worker."""


@dataclass(frozen=True, slots=True)
class _Table:
    """The frames of a file by number, that is, in the order they are shown.

    Shapes: times (N,) int64 in units of the stream, increasing; places (N,) int64, a frame's place in the file; keys (K,) int64, the
    numbers of the key frames, increasing. Without times, frames are numbered as they leave the decoder, and there are no keys.
    """

    length: int
    times: np.ndarray | None
    places: np.ndarray
    keys: np.ndarray

    def number(self, time: int | None) -> int | None:
        """Return the number of the frame that is shown at a time; None if there is none."""
        if time is None or self.times is None:
            return None
        number = int(np.searchsorted(self.times, time))
        return number if number < self.length and self.times[number] == time else None

    def start(self, number: int) -> int:
        """Return the key frame from which a frame can be decoded: the last one both before it in the file and shown no later."""
        at = int(np.searchsorted(self.keys, number, side="right")) - 1
        while at > 0 and self.places[self.keys[at]] > self.places[number]:
            at -= 1
        return int(self.keys[at]) if at >= 0 else 0


class _Damage:
    """Packets that could not be decoded, and the frames that may show it: all from there to the next key frame."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._parts: list[tuple[int, float]] = []  # places: from, to

    def add(self, place: int) -> None:
        keys = self._table.places[self._table.keys]
        self._parts.append((place, min((int(key) for key in keys if key > place), default=float("inf"))))

    def reaches(self, number: int) -> bool:
        return any(begin <= self._table.places[number] < end for begin, end in self._parts)


class _Broken(Exception):
    """A packet could not be decoded, by a decoder of several threads: which packet it was is not known."""


class VideoFile(Video):
    """A video file.

    Args:
        place: Its path, or its content.
        name: What errors call it.
        jump_frames: Jump when that saves more than so many frames; 0 jumps whenever it saves any, None never.
        threads: Of the decoder; None takes one in a data worker and lets FFmpeg choose elsewhere.
        limits: What it may ask of this machine.

    Raises:
        DataError: If it is no video, holds no frame, or is damaged so that its frames cannot be told.
        TooLarge: If it is beyond a limit, by its header or as it turns out.
        EnvironmentProblem: If PyAV is not installed.
    """

    def __init__(
        self,
        place: Path | bytes,
        name: str,
        jump_frames: int | None = JUMP_FRAMES,
        threads: int | None = None,
        limits: VideoLimits | None = None,
    ) -> None:
        self.name = name
        self._limits = limits or VideoLimits()
        self._begun = time.monotonic()
        self._place = place
        self._jump_frames = jump_frames
        self._threads = (1 if get_worker_info() else 0) if threads is None else threads
        try:
            import av
        except ImportError as error:
            raise EnvironmentProblem(f"video '{name}' needs PyAV ({error}); install it: pip install 'openmplug[video]'") from error
        self._errors: tuple[type[Exception], ...] = (av.error.FFmpegError, OSError, EOFError)
        self._av = av
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._table = self._find_frames()

    # ------------------------------------------------------------------------------------------------------------- which frames

    def _open(self, threads: int | None = None) -> tuple[InputContainer, VideoStream]:
        try:
            # Files only: a playlist in a video's place must not make us fetch what it names. What came as bytes may name no file either.
            inside = isinstance(self._place, bytes)
            source: Any = BytesIO(self._place) if isinstance(self._place, bytes) else f"file:{self._place}"
            options = {"protocol_whitelist": "none" if inside else "file"}
            container = self._av.open(source, timeout=TIMEOUT_SECONDS, options=options, metadata_errors="ignore")
        except self._errors as error:
            raise DataError(f"video '{self.name}' is not a video or damaged at its head ({_reason(error)}); get the file again") from None
        shown = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not shown:
            what = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            raise DataError(f"video '{self.name}' has no moving pictures, only {what}; replace the file or remove its record")
        best = container.streams.best("video")
        stream: VideoStream = best if best in shown else shown[0]
        context = stream.codec_context
        try:
            self._limits.check(self.name, stream.frames, _duration(container, stream), (context.width, context.height))
        except TooLarge:
            container.close()
            raise
        context.thread_type = "AUTO"
        context.thread_count = self._threads if threads is None else threads
        # Rather an error than a frame with grey blocks in it.
        options = {"err_detect": "explode"}
        if self._limits.pixels < MAX_PIXELS:
            options["max_pixels"] = str(self._limits.pixels)  # a stream may grow behind its header
        context.options = options
        return container, stream

    def _find_frames(self) -> _Table:
        container, stream = self._open()
        try:
            self._rate = float(stream.average_rate or stream.guessed_rate or 25)
            self._unit = float(stream.time_base or 1 / self._rate)
            table = self._from_packets(container, stream)
        except DataError:
            container.close()
            raise
        if table is not None and table.times is not None:
            self._opened = container, stream  # to open a file anew costs as much as decoding several frames
        else:
            container.close()
        table = table or self._by_decoding()
        if not table.length:
            raise DataError(f"video '{self.name}' holds no frame that can be shown; replace the file or remove its record")
        return table

    def _from_packets(self, container: InputContainer, stream: VideoStream) -> _Table | None:
        """Number the frames by the packets' presentation times; None where these do not tell."""
        codec = stream.codec_context.name
        announced = stream.frames if "mp4" in container.format.name else 0  # elsewhere it is a guess
        times: list[int | None] = []
        keys: list[int] = []
        packets = 0
        for packet in self._packets(container, stream):
            packets += 1
            # VP8 has frames that are never shown, in packets of their own.
            hidden = codec in ("vp8", "libvpx") and not bytes(packet)[0] & 0x10
            if packet.is_discard or hidden:
                continue
            if packet.is_keyframe:
                keys.append(len(times))
            times.append(packet.pts)
            self._limits.check(self.name, len(times))
        if packets < announced:
            raise DataError(f"video '{self.name}' is cut short: {packets} of its {announced} frames are there; get the file again")
        known = np.array([time for time in times if time is not None], np.int64)
        ordered = np.unique(known)
        if len(ordered):  # headers may say less than there is
            self._limits.check(self.name, seconds=float(ordered[-1] - ordered[0]) * self._unit)
        # AVI stores no presentation times: with B-frames, what is given for one is the order in the file.
        guessed = container.format.name == "avi" and stream.codec_context.has_b_frames
        if len(ordered) < len(times) or guessed:
            return None if times else _Table(0, None, np.zeros(0, np.int64), np.zeros(0, np.int64))
        return _Table(len(times), ordered, np.argsort(known), np.searchsorted(ordered, np.sort(known[keys])))

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Yield the packets that hold something."""
        count = 0
        try:
            for packet in container.demux(stream):
                self._limits.check_work(self.name, self._begun)
                if packet.size:
                    yield packet
                    count += 1
        except self._errors as error:
            raise DataError(f"video '{self.name}' breaks off after frame {count} ({_reason(error)}); get the file again") from None

    def _by_decoding(self) -> _Table:
        length = sum(1 for _ in self._in_order())
        return _Table(length, None, np.arange(length), np.zeros(0, np.int64))

    def _in_order(self) -> Iterator[VideoFrame]:
        """Decode every frame in the order they leave the decoder."""
        container, stream = self._open(threads=1)
        count = 0
        with container:
            try:
                for frame in container.decode(stream):
                    yield frame
                    count += 1
                    self._limits.check(self.name, count)
                    self._limits.check_work(self.name, self._begun)
            except self._errors as error:
                raise DataError(f"video '{self.name}' is damaged after frame {count} ({_reason(error)}); get the file again") from None

    # ------------------------------------------------------------------------------------------------------------------- frames

    def __len__(self) -> int:
        return self._table.length

    def times(self) -> np.ndarray:
        """Return when each frame appears; by the average rate where the file does not say."""
        if self._table.times is None:
            return np.arange(len(self)) / self._rate
        return (self._table.times - self._table.times[0]) * self._unit

    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        found: dict[int, Frames] = {}
        self._size: tuple[int, int] | None = None
        if self._table.times is None:
            for number, frame in enumerate(self._in_order()):
                if number in indices:
                    found[number] = self._pixels(frame)
                if len(found) == len(indices):
                    break
        else:
            ways = [(self._jump_frames, self._threads), (None, 1)] if self._jump_frames is not None else [(None, self._threads), (None, 1)]
            # The second way is the sure one: from the beginning, by one thread. Files whose key frames are none need it.
            for jump_frames, threads in ways:
                with contextlib.suppress(_Broken):
                    found = self._decode(indices, jump_frames, threads)
                if len(found) == len(indices):
                    break
        missing = [index for index in indices if index not in found]
        if missing:
            raise DataError(f"video '{self.name}' is damaged: frame {missing[0]} of {len(self)} cannot be decoded; get the file again")
        return found

    def _decode(self, indices: Sequence[int], jump_frames: int | None, threads: int) -> dict[int, Frames]:
        """Decode frames by number, those that can be."""
        assert self._table.times is not None
        found: dict[int, Frames] = {}
        legs = self._legs(indices, jump_frames)
        if self._opened is not None and threads == self._threads:
            container, stream = self._opened
            first = int(self._table.places.argmin())  # where the file begins
            legs = [(first if start is None else start, wanted) for start, wanted in legs]
        else:
            self.close()
            container, stream = self._opened = self._open(threads)
        # An error ends the search: what was not found by then is reported as damaged.
        with contextlib.suppress(*self._errors):
            for start, wanted in legs:
                if start is not None:
                    container.seek(int(self._table.times[start]), stream=stream)
                for number, frame in self._leg(container, stream, wanted, start):
                    found[number] = self._pixels(frame)
        if len(found) < len(indices):
            self.close()
        return found

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def _legs(self, indices: Sequence[int], jump_frames: int | None) -> list[tuple[int | None, list[int]]]:
        """Divide the wanted frames into runs that are decoded without a jump.

        Returns:
            Per run: the key frame to jump to (None: go on from here), and the frames.
        """
        legs: list[tuple[int | None, list[int]]] = [(None, [])]
        here = 0  # place of the next packet
        for number in indices:
            start = self._table.start(number)
            place = int(self._table.places[start])
            if jump_frames is not None and place - here > jump_frames:
                legs.append((start, []))
            legs[-1][1].append(number)
            here = int(self._table.places[number]) + 1
        return [leg for leg in legs if leg[1]]

    def _leg(
        self, container: InputContainer, stream: VideoStream, wanted: Sequence[int], start: int | None
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Decode on until the wanted frames are there, as far as they can be."""
        context, table = stream.codec_context, self._table
        left, skips = set(wanted), context.name in _SKIPPING
        place, damage = -1, _Damage(table)
        for packet in container.demux(stream):
            self._limits.check_work(self.name, self._begun)
            number = table.number(packet.pts) if packet.size else None
            if number is not None:
                if start is not None and place < 0 and table.places[number] > table.places[start]:
                    return  # the container led past the key frame: its index is wrong
                place = int(table.places[number])
            if skips:  # frames that nothing refers to and nobody wants need not be decoded
                context.skip_frame = "DEFAULT" if number is None or number in left else "NONREF"
            frames: Sequence[VideoFrame] = []
            try:
                if packet.is_corrupt:
                    damage.add(place)
                else:
                    frames = packet.decode()
            except self._errors as error:
                if context.thread_count != 1:
                    raise _Broken from error
                damage.add(place)
            for frame in frames:
                number = table.number(frame.pts)
                if number in left and not frame.is_corrupt and not damage.reaches(number):
                    left.discard(number)
                    yield number, frame
            if not left:
                return

    def _pixels(self, frame: VideoFrame) -> Frames:
        size = self._size or (frame.width, frame.height)
        self._size = size  # a stream may change its size: all frames of a clip are the first one's
        pixels: Frames = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])  # type: ignore[assignment]
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _is_cover(stream: VideoStream) -> bool:
    """Say whether a stream is the picture on the cover of a piece of music."""
    return bool(stream.disposition & stream.disposition.attached_pic)


def _duration(container: InputContainer, stream: VideoStream) -> float:
    """Return the longest duration that the header claims, in seconds; 0 where it says nothing."""
    claims = [container.duration / 1_000_000 if container.duration else 0.0]
    if stream.duration and stream.time_base:
        claims.append(float(stream.duration * stream.time_base))
    return max(claims)


def _reason(error: BaseException) -> str:
    return one_line(error).removeprefix("[Errno ").partition("] ")[2].partition(":")[0].strip("'\" ") or one_line(error)
