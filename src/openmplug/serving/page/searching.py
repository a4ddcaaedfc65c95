"""The tab that searches an index of pictures and moments of videos."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from openmplug.inference.search.results import Hit
from openmplug.serving.page import shown
from openmplug.serving.page.archive import Archive, tiles
from openmplug.serving.page.tabs import Path, on, result_box, text_box, told


def search_tab(archive: Archive, upload: gr.File) -> gr.Textbox:
    """Make the tab; returns where the words are typed."""
    with gr.Tab("Search", id="search"):
        words = text_box(archive.calls, "What to look for", "a red circle left of a blue square", "search-words", info=archive.about())
        again = gr.Checkbox(archive.reranks, label="Look twice at the best", container=False, visible=archive.can_rerank, elem_id="again")
        with gr.Row():
            button = gr.Button("Search", variant="primary", elem_id="search", min_width=120)
            alike = gr.Button("Like my picture", elem_id="alike", min_width=120)
        result = result_box("hits")

        @told(1)
        def by_words(text: str, twice: bool, tell: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return _show(archive.search(text, twice, tell))

        @told(1)
        def by_picture(path: Path, tell: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return _show(archive.alike(path, tell))

        on([button.click, words.submit], by_words, [words, again], [result])
        on([alike.click], by_picture, [upload], [result])
    return words


def _show(hits: Sequence[Hit]) -> str:
    if not hits:
        return shown.headline("Nothing found", "the index is empty")
    problems = [f"{hit.name}: {hit.problem}" for hit in hits if hit.problem]
    return shown.grid(tiles(hits), f"The best {len(hits)}, best first.") + shown.remarks(problems[:3])
