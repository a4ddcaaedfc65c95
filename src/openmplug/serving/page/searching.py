"""The tab that searches an index of pictures and moments of videos."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from openmplug.inference.search.results import Hit
from openmplug.serving.page import shown
from openmplug.serving.page.archive import Archive, tiles
from openmplug.serving.page.tabs import Path, on, result_box, text_box, told


def search_tab(archive: Archive, upload: gr.File) -> gr.Textbox:
    """Make the tab; returns where the words are typed."""
    with gr.Tab("Search", id="search"):
        words = text_box(archive.calls, "What to look for", "a red circle left of a blue square", "search-words", info=archive.about())
        again = gr.Checkbox(
            archive.can_rerank, label="Look twice at the best", container=False, visible=archive.can_rerank, elem_id="again"
        )
        with gr.Row():
            button = gr.Button("Search", variant="primary", elem_id="search", min_width=120)
            alike = gr.Button("Like my picture", elem_id="alike", min_width=120)
        result = result_box("hits-said")
        gallery = gr.Gallery(
            show_label=False,
            visible=False,
            interactive=False,
            columns=3,
            height="auto",
            object_fit="contain",
            format="jpeg",
            buttons=[],
            elem_id="hits",
        )

        @told(2)
        def by_words(text: str, twice: bool, tell: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
            return _show(archive.search(text, twice, tell))

        @told(2)
        def by_picture(path: Path, tell: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
            return _show(archive.alike(path, tell))

        on([button.click, words.submit], by_words, [words, again], [result, gallery])
        on([alike.click], by_picture, [upload], [result, gallery])
    return words


def _show(hits: Sequence[Hit]) -> list[Any]:
    if not hits:
        return [shown.headline("Nothing found", "the index is empty"), gr.update(value=None, visible=False)]
    problems = [f"{hit.name}: {hit.problem}" for hit in hits if hit.problem]
    said = f'<p class="om-soft">{escape(f"The best {len(hits)}, best first.")}</p>' if len(hits) > 1 else ""
    return [said + shown.remarks(problems[:3]), gr.update(value=tiles(hits), visible=True)]
