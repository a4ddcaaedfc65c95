"""The tab that lets two models do the same, side by side."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from openmplug.serving.page.calls import NEEDS, Calls
from openmplug.serving.page.shelf import VERBS
from openmplug.serving.page.tabs import on, picture_box, result_box, text_box, told

_BUTTONS = {"vqa": "Ask", "caption": "Caption", "grounding": "Find", "retrieval": "Match"}


def shared_verbs(calls: Calls) -> list[str]:
    """Return what two models or more can do."""
    return [verb for verb in VERBS if len(calls.able(verb)) > 1]


def compare_tab(calls: Calls, upload: gr.File) -> gr.Textbox:
    """Make the tab; returns where the text for both is typed."""
    verbs = shared_verbs(calls)
    pairs = {verb: [one.name for one in calls.able(verb)] for verb in verbs}
    first = pairs[verbs[0]]
    with gr.Tab("Compare", id="compare"):
        verb = gr.Radio(
            [(_BUTTONS[one], one) for one in verbs], value=verbs[0], label="What both do", visible=len(verbs) > 1, elem_id="both-do"
        )
        text = text_box(calls, "Question, phrase or sentence", "", "both-text", visible=verbs[0] in NEEDS)
        with gr.Row():
            names = [gr.Dropdown(first, value=first[place], label=label, min_width=140) for place, label in enumerate(("First", "Second"))]
        button = gr.Button("Compare", variant="primary", elem_id="compare")
        with gr.Row(equal_height=False):
            results, pictures = [], []
            for place in ("first", "second"):
                with gr.Column(min_width=140):
                    results.append(result_box(f"{place}-result"))
                    pictures.append(picture_box(f"{place}-picture", "Where it is"))

        def choose(chosen: str) -> list[Any]:
            able = pairs[chosen]
            boxes = [gr.update(choices=able, value=able[place]) for place in range(2)]
            return [gr.update(visible=chosen in NEEDS), *boxes]

        def side(place: int) -> Any:
            @told(2)
            def run(path: str | None, chosen: str, words: str, name: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
                found = calls.ask(chosen, path, words if chosen in NEEDS else "", name=name, tell=progress)
                html = f'<h3 class="om-soft">{escape(name)}, {found.seconds:.2f} s</h3>{found.html}'
                return [html, gr.update(value=found.picture, visible=found.picture is not None)]

            return run, [upload, verb, text, names[place]], [results[place], pictures[place]]

        on([verb.change], choose, [verb], [text, *names], scroll=False, show_progress="hidden")
        for number in range(2):
            on([button.click, text.submit], *side(number))
    return text
