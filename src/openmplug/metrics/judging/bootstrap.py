"""How far a mean over few items can be trusted: percentile intervals of the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0


def bootstrap_interval(groups: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over all values, whole groups drawn with replacement.

    The questions about one picture stand or fall together, so what is drawn anew is pictures. A mean over items is the case of one
    value a group.

    Args:
        groups: Values of each group; at least one group, no group empty.
        resamples: How often the groups are drawn.
        seed: Equal seeds give equal intervals.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If there is nothing to draw from.

    Example:
        >>> bootstrap_interval([[1.0], [1.0]])
        (1.0, 1.0)
    """
    if not groups or not all(groups):
        raise ValueError("the bootstrap needs at least one group, and a value in each")
    sums = np.array([sum(group) for group in groups], np.float64)
    counts = np.array([len(group) for group in groups], np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):  # one draw at a time: memory does not grow with resamples x groups
        drawn = generator.integers(0, len(groups), len(groups))
        means[index] = sums[drawn].sum() / counts[drawn].sum()
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
