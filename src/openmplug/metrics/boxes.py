"""How well a box fits another one."""

from __future__ import annotations

from collections.abc import Sequence

BoxCorners = Sequence[float]


def intersection_over_union(one: BoxCorners, other: BoxCorners) -> float:
    """Return the shared part of two boxes' areas, 0 to 1; boxes without area share nothing.

    Args:
        one: Left, top, right, bottom.
        other: Likewise, in the same unit.

    Example:
        >>> round(intersection_over_union([0, 0, 2, 2], [1, 0, 3, 2]), 3)
        0.333
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0
