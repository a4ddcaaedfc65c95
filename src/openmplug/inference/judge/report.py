"""What a judged benchmark leaves behind: ``report.json`` and a row per question in ``answers.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmplug.checkpoints.atomic import write_atomic
from openmplug.metrics.judging.bootstrap import RESAMPLES, SEED, bootstrap_interval

REPORT, ANSWERS = "report.json", "answers.jsonl"
INTERVAL = f"95 % percentile bootstrap, {RESAMPLES} resamples, seed {SEED}; drawn with replacement: "

Report = dict[str, Any]


def figure(groups: Sequence[Sequence[float]], scale: float = 1.0) -> dict[str, Any]:
    """Return the mean over all values with its 95 % interval, whole groups resampled; one group alone has no interval (None).

    Args:
        groups: Values from 0 to 1, at least one group, none empty.
        scale: 100 for percent.
    """
    values = [value for group in groups for value in group]
    low, high = bootstrap_interval(groups) if len(groups) > 1 else (None, None)
    return {
        "score": scale * sum(values) / len(values),
        "low": None if low is None else scale * low,
        "high": None if high is None else scale * high,
    }


def write_report(folder: Path, report: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write both files; each whole or not at all.

    Raises:
        EnvironmentProblem: If the folder cannot be written.
    """
    write_atomic(folder / ANSWERS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_atomic(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
