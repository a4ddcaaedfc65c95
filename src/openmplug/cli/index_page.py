"""A page of what a search found: thumbnails, scores, times; one file, nothing loaded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from openmplug.checkpoints.atomic import write_atomic
from openmplug.engine.html import definitions, document

if TYPE_CHECKING:
    from openmplug.inference.search.results import Hit


def write_page(path: Path, query: str, where: str | None, hits: Sequence[Hit]) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        query: What was looked for.
        where: The filter.
        hits: Best first.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    filtered = f'<p class="soft">where {escape(where)}</p>' if where else ""
    cards = "".join(f"<li>{_card(number, hit)}</li>" for number, hit in enumerate(hits, 1))
    body = f'<h1>{escape(query)}</h1>{filtered}<ul class="cards">{cards}</ul>' if hits else f"<h1>{escape(query)}</h1><p>Nothing found.</p>"
    write_atomic(path, document(f"Search: {query}", body))


def _card(number: int, hit: Hit) -> str:
    from openmplug.cli.index import when

    name = escape(hit.caption or hit.name)
    data = base64.b64encode(hit.thumbnail).decode()
    picture = f'<img class="thumb" src="data:image/jpeg;base64,{data}" alt="{name}">'
    link = f'<a href="file://{quote(hit.path)}">{escape(hit.name)}</a>'
    rows = [(f"{number}.", link, "asked")]
    rows += [("Time", when(hit), "")] * (hit.start_seconds is not None)
    rows += [("Caption", escape(hit.caption or ""), "")] * bool(hit.caption)
    rows.append(("Score" if hit.matching is None else "Matching score", f"{hit.score:.3f}", ""))
    rows += [("Similarity", f"{hit.similarity:.3f}", "")] * (hit.matching is not None)
    rows += [(name, escape(str(value)), "") for name, value in hit.metadata.items()]
    rows += [("Not ranked again", escape(hit.problem or ""), "bad")] * bool(hit.problem)
    return f'<div class="card">{picture}{definitions(rows)}</div>'
