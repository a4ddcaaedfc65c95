"""The page as a whole: the picture and the examples on one side, what can be done with it on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import gradio as gr

from openmplug.errors import UsageError
from openmplug.serving.page import shown
from openmplug.serving.page.archive import Archive
from openmplug.serving.page.calls import Calls
from openmplug.serving.page.comparing import compare_tab, shared_verbs
from openmplug.serving.page.examples import Example
from openmplug.serving.page.searching import search_tab
from openmplug.serving.page.style import TITLE
from openmplug.serving.page.tabs import ask_tab, caption_tab, find_tab, match_tab, on, picture_box, told

Filled: TypeAlias = "tuple[gr.Textbox, str]"
"""A place to type, and the field of ``Example`` that fills it."""

FIELDS = {"vqa": "question", "grounding": "phrase", "retrieval": "sentence"}
_CLICKED = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('click', {number: Number(button.dataset.number)});
});"""
_KEPT_SECONDS = 3600  # uploads and pictures of results are deleted after so long


class Page(gr.Blocks):
    """Gradio's blocks, except that nothing is fetched: whoever sends a link in the place of a file is refused."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> Any:
        """Prepare what a browser sent for a button's function.

        Raises:
            gr.Error: If it names a file by a link.
        """
        if _has_link(inputs):
            raise gr.Error("Links are not fetched; upload the file itself.", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *rest, **more)


def _has_link(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(_has_link(each) for each in value.values())
    return isinstance(value, list | tuple) and any(_has_link(each) for each in value)


def build_page(calls: Calls, examples: Sequence[Example], archive: Archive | None = None) -> Page:
    """Build the page.

    Args:
        calls: What can be asked.
        examples: To try; their files lie where Gradio may read them.
        archive: What the search tab searches; there is none without it.
    """
    page = Page(title=TITLE, analytics_enabled=False, delete_cache=(_KEPT_SECONDS // 4, _KEPT_SECONDS))
    with page:
        gr.HTML(
            "<h1>Ask about a picture</h1><p>Choose a picture or a short clip, then say what you want to know. Everything is computed by the"
            " machine that serves this page; nothing is sent anywhere else.</p>",
            elem_classes="om-head",
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                upload = gr.File(label="Picture or clip", file_types=["image", "video"], height=130, elem_id="upload")
                seen = picture_box("preview", "What the model looks at")
                facts = gr.HTML("", elem_id="facts")
                tray = gr.HTML(shown.tray(examples), js_on_load=_CLICKED, elem_id="examples")
            with gr.Column(scale=5, min_width=280), gr.Tabs(overflow_behavior="wrap"):
                filled = _tabs(calls, upload, archive)
        with gr.Accordion("What these models can and cannot do", open=False, elem_id="about"):
            for one in calls.shelf:
                gr.Markdown(one.description())
        _wire(calls, examples, upload, tray, seen, facts, filled)
    return page


def _tabs(calls: Calls, upload: gr.File, archive: Archive | None) -> list[Filled]:
    """Make the tabs of what the models can do; returns what an example fills in."""
    filled: list[Filled] = []
    if calls.able("vqa"):
        filled.append((ask_tab(calls, upload), "question"))
    if calls.able("caption"):
        caption_tab(calls, upload)
    if calls.able("grounding"):
        filled.append((find_tab(calls, upload), "phrase"))
    if calls.able("retrieval"):
        filled.append((match_tab(calls, upload), "sentence"))
    if archive is not None:
        filled.append((search_tab(archive, upload), "sentence"))
    shared = shared_verbs(calls)
    if shared:
        box = compare_tab(calls, upload)
        filled += [(box, FIELDS[shared[0]])] if shared[0] in FIELDS else []
    return filled


def _wire(
    calls: Calls,
    examples: Sequence[Example],
    upload: gr.File,
    tray: gr.HTML,
    seen: gr.Image,
    facts: gr.HTML,
    filled: Sequence[Filled],
) -> None:
    """Join upload, preview and examples."""

    @told(2)
    def show(path: str | None) -> list[Any]:
        if not path:
            return ["", gr.update(value=None, visible=False)]
        read = calls.read(path)
        return [shown.facts(read), gr.update(value=shown.preview(read), visible=True)]

    @told(1 + len(filled))
    def take(event: gr.EventData) -> list[str]:
        number = event._data.get("number") if isinstance(event._data, dict) else None
        if not isinstance(number, int) or not 0 <= number < len(examples):
            raise UsageError(f"there is no example {number!r}")
        one = examples[number]
        return [str(one.path), *(getattr(one, field) for _, field in filled)]

    on([upload.change], show, [upload], [facts, seen], scroll=False)
    on([tray.click], take, [], [upload, *(box for box, _ in filled)], scroll=False, show_progress="hidden")
