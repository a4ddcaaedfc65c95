"""Which frames of a video to look at: pure functions of the number of frames."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np

Sampling = Literal["uniform", "middle", "random", "ends"]


def uniform_indices(num_frames: int, length: int, literal: bool = False) -> list[int]:
    """Choose frames 0, s, 2s, ... with the integer step ``s = floor(length / num_frames)``.

    The tail of the video is never seen when the division leaves a rest, and a video shorter than ``num_frames`` gives frame 0
    every time: that is what the released mPLUG models were evaluated on.

    Args:
        num_frames: How many indices to return, >= 1.
        length: Frames in the video, >= 1.
        literal: Also return the extra index that the original returns where ``length / num_frames`` is rounded down, as for 7
            frames of 17: it then has one frame more than asked for, which no fixed-size batch can hold.

    Returns:
        ``num_frames`` indices in 0 .. length - 1, or one more if ``literal``.

    Raises:
        ValueError: If either argument is not positive.

    Source: mPLUG's ``np.arange(0, length, length / num_frames, dtype=int)``.

    Example:
        >>> uniform_indices(8, 100)
        [0, 12, 24, 36, 48, 60, 72, 84]
    """
    _check(num_frames, length)
    step = length // num_frames
    count = math.ceil(length / (length / num_frames)) if literal else num_frames  # NumPy's own count
    return [index * step for index in range(count)]


def middle_indices(num_frames: int, length: int) -> list[int]:
    """Choose the middle frame of each of ``num_frames`` intervals; a short video repeats its last choice.

    Args:
        num_frames: How many indices to return, >= 1.
        length: Frames in the video, >= 1.

    Returns:
        ``num_frames`` non-decreasing indices in 0 .. length - 1.

    Raises:
        ValueError: If either argument is not positive.

    Source: mPLUG-2's ``middle`` sampling, used for validation and test.

    Example:
        >>> middle_indices(4, 100)
        [12, 37, 62, 87]
        >>> middle_indices(8, 5)
        [0, 1, 2, 3, 4, 4, 4, 4]
    """
    _check(num_frames, length)
    # Through floats, as the original: i * length // n can differ from the truncated float by one.
    edges = np.linspace(0, length, min(num_frames, length) + 1).astype(int).tolist()
    chosen = [(start + stop - 1) // 2 for start, stop in pairwise(edges)]
    return chosen + [chosen[-1]] * (num_frames - len(chosen))


def random_indices(num_frames: int, length: int, rng: random.Random) -> list[int]:
    """Choose a random frame inside each of ``num_frames`` intervals, the last frame of an interval excluded.

    Where an interval has one frame only, a random subset of all frames in their order is taken instead; a video shorter than
    ``num_frames`` gives every frame and repeats its last one.

    Args:
        num_frames: How many indices to return, >= 1.
        length: Frames in the video, >= 1.
        rng: Where chance comes from.

    Returns:
        ``num_frames`` non-decreasing indices in 0 .. length - 1.

    Raises:
        ValueError: If ``num_frames`` or ``length`` is not positive.

    Source: mPLUG-2's ``rand`` sampling, used for training.
    """
    _check(num_frames, length)
    edges = np.linspace(0, length, min(num_frames, length) + 1).astype(int).tolist()
    if all(stop - start > 1 for start, stop in pairwise(edges)):
        chosen = [rng.randrange(start, stop - 1) for start, stop in pairwise(edges)]
    else:
        chosen = sorted(rng.sample(range(length), len(edges) - 1))
    return chosen + [chosen[-1]] * (num_frames - len(chosen))


def end_to_end_indices(num_frames: int, length: int) -> list[int]:
    """Choose frames at equal distances, the first and the last one among them.

    Args:
        num_frames: How many indices to return, >= 1; a single one is the middle frame.
        length: Frames in the video, >= 1.

    Returns:
        ``num_frames`` non-decreasing indices in 0 .. length - 1.

    Raises:
        ValueError: If either argument is not positive.

    Example:
        >>> end_to_end_indices(5, 101)
        [0, 25, 50, 75, 100]
        >>> end_to_end_indices(4, 2)
        [0, 0, 1, 1]
    """
    _check(num_frames, length)
    if num_frames == 1:
        return [(length - 1) // 2]
    return [(index * (length - 1) + (num_frames - 1) // 2) // (num_frames - 1) for index in range(num_frames)]


def indices_at(seconds: list[float], times: np.ndarray) -> list[int]:
    """Find the frame that is on the screen at each of several times.

    Args:
        seconds: Times since the first frame.
        times: When each frame appears, in seconds, increasing; the first is 0.

    Returns:
        One index per time: the last frame that has appeared by then, the first one for a time before 0.

    Example:
        >>> indices_at([0.0, 0.45, 9.0], np.array([0.0, 0.2, 0.4, 0.6]))
        [0, 2, 3]
    """
    # Containers count time in small units: half a millisecond of tolerance finds frame 7 at 7 / 30 seconds.
    found = np.searchsorted(times, np.asarray(seconds, float) + 5e-4, side="right") - 1
    return np.maximum(found, 0).astype(int).tolist()


def chooser(sampling: Sampling) -> Callable[[int, int, random.Random], list[int]]:
    """Return the function ``(num_frames, length, rng) -> indices`` of a way of sampling."""
    return _CHOOSERS[sampling]


_CHOOSERS: dict[str, Callable[[int, int, random.Random], list[int]]] = {
    "uniform": lambda num_frames, length, rng: uniform_indices(num_frames, length),
    "middle": lambda num_frames, length, rng: middle_indices(num_frames, length),
    "random": random_indices,
    "ends": lambda num_frames, length, rng: end_to_end_indices(num_frames, length),
}


def _check(num_frames: int, length: int) -> None:
    if num_frames < 1 or length < 1:
        raise ValueError(f"num_frames is {num_frames} and length is {length}; expected both to be at least 1")
