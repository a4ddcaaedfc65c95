"""Videos whose every frame says its own number, so that a test can tell which frame it was given."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BITS = 12


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Draw a frame: its number as black and white columns, over a scene that moves a little, (H, W, 3) uint8."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[...] = (60 + np.arange(width) // 2)[None, :, None]
    x = (3 * number) % (width - 8)
    frame[height // 2 : height // 2 + 8, x : x + 8] = (200, 40, 40)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[: height // 3, left:right] = 235 if number >> bit & 1 else 20
    return frame


def number_in(frame: np.ndarray) -> int:
    """Read the number that a frame (H, W, 3) shows, whatever its size."""
    height, width = frame.shape[:2]
    bright = frame[: height // 3].mean(axis=(0, 2))
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(middles) if bright[max(0, x - 1) : x + 1].mean() > 128)


def numbers_in(frames: np.ndarray) -> list[int]:
    return [number_in(frame) for frame in frames]


def write_video(
    path: Path,
    length: int,
    *,
    codec: str = "libx264",
    rate: int = 25,
    size: tuple[int, int] = (96, 64),
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    times: list[int] | None = None,
    rotation: int = 0,
    sound: bool = False,
) -> Path:
    """Encode ``length`` numbered frames.

    Args:
        path: Where to; its suffix says the container, unless ``container`` does.
        length: How many frames.
        codec: FFmpeg's name of the encoder.
        rate: Frames a second.
        size: Width and height.
        pixels: FFmpeg's name of the pixel format.
        options: Of the encoder, such as ``{"g": "30"}``.
        container: FFmpeg's name of the container.
        container_options: Of the container.
        times: When each frame is shown, in hundredths of a second, for a variable frame rate.
        rotation: Degrees that a player turns the picture, counter-clockwise.
        sound: Add a second of silence.
    """
    import av

    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = output.add_stream("aac", rate=16000, layout="mono") if sound else None
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16000
            for packet in audio.encode(silence) + audio.encode(None):
                output.mux(packet)
        for number in range(length):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """Write a file that has sound and no picture."""
    import av

    with av.open(str(path), "w") as output:
        audio: Any = output.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        for packet in audio.encode(silence) + audio.encode(None):
            output.mux(packet)
    return path


def write_gif(path: Path, length: int, size: tuple[int, int] = (96, 64), **options: Any) -> Path:
    """Write an animation of numbered frames, a tenth of a second each; the suffix says which kind."""
    frames = [Image.fromarray(numbered_frame(number, *size)) for number in range(length)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0, **options)
    return path


def write_frames(folder: Path, length: int, size: tuple[int, int] = (96, 64)) -> Path:
    """Write a folder of frames, ``frame0.png``, ``frame1.png``, ... whose names do not sort as their numbers do."""
    folder.mkdir(parents=True)
    for number in range(length):
        Image.fromarray(numbered_frame(number, *size)).save(folder / f"frame{number}.png")
    return folder
