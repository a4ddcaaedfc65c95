"""Sampled frames of videos against plain sequential PyAV: the same frames, the same process, one thread each.

    OMP_NUM_THREADS=1 python benchmarks/video.py [FOLDER]

``plain`` decodes one frame after the other with PyAV, up to the last one that is wanted, and converts those that are wanted. ``ours`` is
``open_video(...).read(...)``, finding out how many frames there are included, which plain decoding is told. The two take turns; the
median of ``--rounds`` is printed. Frames per second are frames of the video that were passed, in a second: what a data set of such videos
is read with. Without a folder, videos are encoded here by x264. Pixels are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np

from openmplug.data.frames import middle_indices
from openmplug.data.video_file import JUMP_FRAMES, VideoFile

GENERATED = {  # name -> frames, width, height, key frame every so many frames
    "300 frames, 320x240, key every 30": (300, 320, 240, 30),
    "300 frames, 320x240, one key": (300, 320, 240, 100_000),
    "3000 frames, 320x240, key every 30": (3000, 320, 240, 30),
    "3000 frames, 320x240, key every 250": (3000, 320, 240, 250),
    "3000 frames, 320x240, one key": (3000, 320, 240, 100_000),
    "300 frames, 1280x720, key every 30": (300, 1280, 720, 30),
    "300 frames, 1280x720, one key": (300, 1280, 720, 100_000),
}


def encode(path: Path, frames: int, width: int, height: int, key_every: int) -> Path:
    """Encode textured frames that move, by x264 with its own B-frames."""
    scene = np.random.default_rng(0).integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(key_every), "preset": "veryfast", "x264-params": "scenecut=0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            y, x = int(100 + 90 * np.sin(number / 37)), int(100 + 90 * np.cos(number / 53))
            picture = np.ascontiguousarray(scene[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def plain(path: Path, indices: Sequence[int], threads: int) -> list[np.ndarray]:
    """Decode in order with PyAV and convert the wanted frames."""
    wanted, found = set(indices), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
                if len(found) == len(wanted):
                    break
    return found


def ours(path: Path, indices: Sequence[int], threads: int, jump_frames: int) -> np.ndarray:
    """Open, count and read."""
    with VideoFile(path, path.name, jump_frames, threads) as video:
        return video.read(indices)


def timed(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median seconds of each call; they take turns, so that a busy minute meets all of them."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
    return [statistics.median(found) for found in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder of videos; without one, videos are made")
    parser.add_argument("--frames", type=int, default=16, help="sampled of each video")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of the decoder; 0 lets FFmpeg choose")
    parser.add_argument("--jump-frames", type=int, default=JUMP_FRAMES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder:
            paths = {path.name: path for path in sorted(arguments.folder.iterdir()) if path.suffix in (".mp4", ".mkv", ".webm", ".avi")}
        else:
            paths = {name: encode(Path(made) / f"{number}.mp4", *sizes) for number, (name, sizes) in enumerate(GENERATED.items())}
        print(f"| video | frames | plain ms | ours ms | plain frames/s | ours frames/s | times |\n|{'---|' * 7}")
        totals = [0.0, 0.0, 0.0]
        for name, path in paths.items():
            with VideoFile(path, name) as video:
                length = len(video)
            indices = sorted(set(middle_indices(arguments.frames, length)))
            expected = plain(path, indices, arguments.threads)
            if not np.array_equal(ours(path, indices, arguments.threads, arguments.jump_frames), expected):
                raise SystemExit(f"{name}: the pixels differ")
            calls = (
                lambda path=path, indices=indices: plain(path, indices, arguments.threads),
                lambda path=path, indices=indices: ours(path, indices, arguments.threads, arguments.jump_frames),
            )
            before, after = timed(calls, arguments.rounds)
            totals = [total + more for total, more in zip(totals, (length, before, after), strict=True)]
            print(row(name, length, before, after), flush=True)
        if arguments.folder:
            print(row("all", int(totals[0]), totals[1], totals[2]))


def row(name: str, length: int, before: float, after: float) -> str:
    """Format one line of the table."""
    rates = f"{length / before:,.0f} | {length / after:,.0f} | {before / after:.2f}"
    return f"| {name} | {length:,} | {1000 * before:.1f} | {1000 * after:.1f} | {rates} |"


if __name__ == "__main__":
    main()
