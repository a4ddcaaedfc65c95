"""The tabs of the page that are about one picture or clip: ask, caption, find, match."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from openmplug.errors import OpenmplugError
from openmplug.serving.page import shown
from openmplug.serving.page.calls import Calls

Path = str | None  # of an upload, as Gradio hands it over
_log = logging.getLogger(__name__)


def told(outputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a button's function put its errors into the first of its outputs, in a line, and empty the others.

    Args:
        outputs: How many there are.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            try:
                return function(*given, **named)
            except OpenmplugError as error:
                text = str(error)
            except MemoryError:
                text = "out of memory on the machine of this page; try a smaller picture"
            except Exception as error:  # ours to mend: people get a line, the terminal gets the trace
                _log.exception("the page failed on a request")
                text = f"something went wrong here ({type(error).__name__}); the terminal of this page says more"
            emptied = [gr.update(value=None, visible=False)] * (outputs - 1)
            return [shown.message(text), *emptied] if emptied else shown.message(text)

        return wrapped

    return wrap


def on(triggers: list[Any], function: Callable[..., Any], inputs: list[Any], outputs: list[Any], scroll: bool = True, **more: Any) -> None:
    """Wire a button; the page is the only caller there is."""
    gr.on(triggers, function, inputs, outputs, api_visibility="private", scroll_to_output=scroll, **more)


def choice(calls: Calls, verb: str) -> gr.Dropdown | gr.State:
    """Offer the models that can do something; nothing to choose where it is one."""
    names = [one.name for one in calls.able(verb)]
    return gr.Dropdown(names, value=names[0], label="Model") if len(names) > 1 else gr.State(names[0])


def text_box(calls: Calls, label: str, placeholder: str, name: str, **more: Any) -> gr.Textbox:
    """Make a line to type into."""
    return gr.Textbox(label=label, placeholder=placeholder, max_length=calls.limits.characters, lines=1, max_lines=4, elem_id=name, **more)


def result_box(name: str) -> gr.HTML:
    """Make the place of a result."""
    return gr.HTML("", elem_id=name, elem_classes="om-place")


def picture_box(name: str, label: str) -> gr.Image:
    """Make the place of a picture; there until it is needed, unseen."""
    return gr.Image(interactive=False, visible=False, label=label, show_label=False, elem_id=name, format="png", buttons=["download"])


def looking_box(on: bool, name: str) -> gr.Checkbox:
    """Make the switch for these pictures."""
    return gr.Checkbox(on, label="Show where it looked", container=False, elem_id=name)


def ask_tab(calls: Calls, upload: gr.File) -> gr.Textbox:
    """Make the tab for questions; returns where they are typed."""
    with gr.Tab("Ask", id="vqa"):
        question = text_box(calls, "Your question", "what colour is the circle?", "question")
        with gr.Accordion("Choose among answers", open=False):
            choices = text_box(calls, "Answers to choose among", "red, green, blue", "choices", info="Separated by commas.")
        model = choice(calls, "vqa")
        looking = looking_box(False, "ask-looking")
        button = gr.Button("Ask", variant="primary", elem_id="ask")
        result = result_box("answer")

        @told(1)
        def run(path: Path, text: str, among: str, name: str, look: bool, tell: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return calls.ask("vqa", path, text, choices=among, name=name, looking=look, tell=tell).html

        on([button.click, question.submit, choices.submit], run, [upload, question, choices, model, looking], [result])
    return question


def caption_tab(calls: Calls, upload: gr.File) -> None:
    """Make the tab for captions."""
    with gr.Tab("Caption", id="caption"):
        model = choice(calls, "caption")
        looking = looking_box(False, "caption-looking")
        button = gr.Button("Write a caption", variant="primary", elem_id="describe")
        result = result_box("caption")

        @told(1)
        def run(path: Path, name: str, look: bool, tell: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return calls.ask("caption", path, name=name, looking=look, tell=tell).html

        on([button.click], run, [upload, model, looking], [result])


def find_tab(calls: Calls, upload: gr.File) -> gr.Textbox:
    """Make the tab that finds things; returns where they are named."""
    with gr.Tab("Find", id="grounding"):
        phrase = text_box(calls, "What to find", "the red circle", "phrase")
        model = choice(calls, "grounding")
        button = gr.Button("Find it", variant="primary", elem_id="find")
        result = result_box("found")
        picture = picture_box("found-picture", "Where it is")

        @told(2)
        def run(path: Path, text: str, name: str, tell: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
            found = calls.ask("grounding", path, text, name=name, tell=tell)
            return [found.html, gr.update(value=found.picture, visible=True)]

        on([button.click, phrase.submit], run, [upload, phrase, model], [result, picture])
    return phrase


def match_tab(calls: Calls, upload: gr.File) -> gr.Textbox:
    """Make the tab that matches a sentence; returns where it is typed."""
    with gr.Tab("Match", id="retrieval"):
        sentence = text_box(calls, "A sentence", "a red circle left of a blue square", "sentence", info="Does it fit the picture?")
        model = choice(calls, "retrieval")
        looking = looking_box(True, "match-looking")
        button = gr.Button("Does it fit?", variant="primary", elem_id="match")
        result = result_box("matched")

        @told(1)
        def run(path: Path, text: str, name: str, look: bool, tell: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return calls.ask("retrieval", path, text, name=name, looking=look, tell=tell).html

        on([button.click, sentence.submit], run, [upload, sentence, model, looking], [result])
    return sentence
