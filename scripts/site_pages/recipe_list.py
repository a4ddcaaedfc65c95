"""The shipped recipes on one page: what each is for, the published number it aims at, and what was measured."""

from __future__ import annotations

from site_pages.tables import cell, code, table

_HEAD = """# Shipped recipes

What can be trained with a name alone: `openmplug train NAME data.root=DIR --output DIR`. "Paper" is the number its authors published,
copied from where the recipe says; "ours" is what was measured here ([results](../results.md)). Most large recipes were never run to the
end here: they stand as the papers and the released code describe them. `openmplug recipes show NAME` prints every setting.
"""


def page() -> str:
    """Return the page."""
    from openmplug.cli.recipes import describe
    from openmplug.engine.catalog import list_recipes

    rows = [describe(name) for name in list_recipes()]
    parts = [_HEAD]
    for task in dict.fromkeys(str(row["task"]) for row in rows):
        parts.append(f"## {task}\n")
        lines = [
            [code(row["name"]), cell(row["description"]), cell(row["metric"]), _number(row["paper"]), _number(row["ours"])]
            for row in rows
            if row["task"] == task
        ]
        parts.append(table(("recipe", "what it does", "metric", "paper", "ours"), lines))
    return "\n".join(parts)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else cell(value)
