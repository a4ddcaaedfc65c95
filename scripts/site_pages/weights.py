"""Tables of the page of model cards: named sizes, released files that are known, models that were trained here."""

from __future__ import annotations

from pathlib import Path

from site_pages.tables import cell, code, table

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def sizes() -> str:
    """Return a row for each named size."""
    from openmplug.checkpoints.report import size_rows

    columns = ("name", "million", "pixels", "vision", "text", "universal", "fusion", "decoder")
    head = ("size", "million parameters", "pixels", "vision (layers x width / patch)", "text", "universal layers", "fusion", "decoder")
    return table(head, [[code(row["name"]), *(cell(row[column]) for column in columns[1:])] for row in size_rows()])


def released() -> str:
    """Return a row for each released checkpoint that is known by name."""
    from openmplug.checkpoints.report import RELEASED

    rows = [[code(name), code(size), cell(task), cell(origin)] for name, size, task, origin in RELEASED]
    return table(("file or folder", "size", "trained for", "published by"), rows)


def measured() -> str:
    """Return a row for each model whose training is kept as a result."""
    from openmplug.engine.results import read_results

    results, _ = read_results(RESULTS)
    rows = []
    for each in results.values():
        controls = "; ".join(f"{cell(control.name)} {control.value:.4g}" for control in each.controls)
        split = f"{each.split}, {each.count:,} {cell(each.unit)}"
        rows.append([code(each.recipe), f"{cell(each.metric)} {each.value:.4g}", controls, split, code(each.model_hash[:8])])
    return table(("recipe", "score", "control", "measured on", "weights (SHA-256)"), sorted(rows))
