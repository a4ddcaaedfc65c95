"""Which frames of a video to look at: pure functions of the number of frames."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np


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


def _check(num_frames: int, length: int) -> None:
    if num_frames < 1 or length < 1:
        raise ValueError(f"num_frames is {num_frames} and length is {length}; expected both to be at least 1")
