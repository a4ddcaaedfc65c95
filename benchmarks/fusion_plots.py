"""Pictures of the fusion benchmark: time, ratio to connected attention and operations against the number of vision tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {"connected": "#4c72b0", "co-attention": "#c44e52"}
SKIP = ("#1b7837", "#5aae61", "#a6dba0", "#c2a5cf")  # skip-connected fusion, by how often a layer is connected
LINES = {"sdpa": "-", "eager": "--"}


def colours(names: Sequence[str]) -> dict[str, str]:
    skip = [name for name in names if name not in COLOURS]
    return COLOURS | {name: SKIP[number % len(SKIP)] for number, name in enumerate(skip)}


def draw(cells: list[dict[str, Any]], folder: Path, hardware: str) -> list[Path]:
    """Draw one PNG for everything but V, attention and stack.

    Args:
        cells: The settings that were measured, each with its ``stacks``.
        folder: Where to; made if needed.
        hardware: Said in the title.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in ("scope", "layers", "text", "batch", "mode", "dtype")), []).append(cell)
    paths = []
    for (scope, layers, text, batch, mode, dtype), members in groups.items():
        figure = Figure(figsize=(13.8, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        what = "whole model" if scope == "whole" else "fusion stack"
        figure.suptitle(f"{what}, L={layers}, T={text}, batch {batch}, {mode}, {dtype}; {hardware}", fontsize=10)
        panels(figure, members)
        name = f"{scope}_L{layers}_T{text}_b{batch}_{mode.replace('+', '_and_')}_{dtype}.png"
        figure.savefig(folder / name, format="png", dpi=110)
        paths.append(folder / name)
    return paths


def panels(figure: Figure, members: list[dict[str, Any]]) -> None:
    """Draw time, ratio and operations of one group."""
    names = list(members[0]["stacks"])
    colour = colours(names)
    time, ratio, work = figure.subplots(1, 3)
    for attention in sorted({cell["attention"] for cell in members}, key=list(LINES).index):
        rows = sorted((cell for cell in members if cell["attention"] == attention), key=lambda cell: cell["vision"])
        for name in names:
            measured = [(cell["vision"], cell["stacks"][name], cell["stacks"]["connected"]) for cell in rows]
            measured = [one for one in measured if "seconds" in one[1]]
            shared = {"color": colour[name], "linestyle": LINES[attention], "marker": "o", "markersize": 3, "linewidth": 1.4}
            points = [one[0] for one in measured]
            time.plot(points, [1e3 * one[1]["seconds"] for one in measured], label=f"{name}, {attention}", **shared)
            compared = [one for one in measured if "seconds" in one[2]]
            ratio.plot([one[0] for one in compared], [one[2]["seconds"] / one[1]["seconds"] for one in compared], **shared)
            if attention == members[0]["attention"]:
                work.plot(points, [one[1]["gflop"] for one in measured], **shared)
    for axes, title in ((time, "milliseconds of a call"), (ratio, "times faster than connected"), (work, "GFLOP by formula")):
        axes.set_title(title)
        axes.set_xlabel("vision tokens V")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    figure.legend(*time.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
