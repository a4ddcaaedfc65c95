"""What the buttons of the page do, in plain Python: read, check, ask the worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from openmplug.errors import UsageError
from openmplug.inference.model import Model
from openmplug.inference.results import Answer, Box, Caption, Match
from openmplug.serving.page import shown
from openmplug.serving.page.shelf import VERBS, Shelved
from openmplug.serving.page.uploads import Upload, UploadLimits, read_upload
from openmplug.serving.page.worker import ModelWorker

Tell = Callable[[float, str], Any]
"""Called with how far a request is, 0 to 1, and what is being done."""

EXPLAINED = ("vqa", "caption", "retrieval")
NEEDS = {"vqa": "a question", "grounding": "the words for what to find", "retrieval": "a sentence"}


@dataclass(frozen=True, slots=True)
class Found:
    """What a model said.

    Args:
        result: As the model gives it.
        html: To be read, with pictures of where the model looked, where somebody asked.
        picture: The upload with a box in it, where a box was found.
        labels: Of those pictures: all words together, then each.
        seconds: How long the model took, waiting included.
    """

    result: Answer | Caption | Match | Box
    html: str
    picture: Image.Image | None
    labels: list[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Calls:
    """What can be asked of the models of a page.

    Args:
        shelf: The models.
        worker: Runs them.
        limits: What is taken.
    """

    shelf: Sequence[Shelved]
    worker: ModelWorker
    limits: UploadLimits

    def able(self, verb: str) -> list[Shelved]:
        """Return the models that can do something."""
        return [one for one in self.shelf if verb in one.verbs]

    def named(self, name: str | None, verb: str) -> Shelved:
        """Return the model of that name; the first able one where none is named.

        Raises:
            UsageError: If there is none.
        """
        for one in self.able(verb):
            if name is None or one.name == name:
                return one
        raise UsageError(f"no model here{f' is called {name!r} and' if name else ''} can {VERBS[verb]}")

    def read(self, path: str | None, one: Shelved | None = None) -> Upload:
        """Read an upload as a model sees it; as the first one does where none is given.

        Raises:
            DataError: If it cannot be used; see ``read_upload``.
        """
        return self.read_for(path, (one or self.shelf[0]).model)

    def read_for(self, path: str | None, model: Model) -> Upload:
        """Read an upload as a model sees it that is on no shelf; see ``read_upload``."""
        return read_upload(path, model, self.limits)

    def ask(
        self,
        verb: str,
        path: str | None,
        text: str = "",
        *,
        choices: str = "",
        name: str | None = None,
        looking: bool = False,
        tell: Tell = lambda done, what: None,
    ) -> Found:
        """Do what a button says.

        Args:
            verb: One of ``VERBS``.
            path: The upload.
            text: Question, phrase or sentence; captions need none.
            choices: Of a question: answers to choose among, separated by commas.
            name: Which model; None takes the first that can.
            looking: Also show where the model looked; not of boxes, which say it themselves.
            tell: Told how far it is.

        Raises:
            DataError: If the upload cannot be used.
            UsageError: If the text is missing or too long, or no model can do it.
            EnvironmentProblem: If too many are waiting.
        """
        text = self.checked(text, NEEDS.get(verb))
        candidates = tuple(dict.fromkeys(part.strip() for part in self.checked(choices).split(",") if part.strip()))
        one = self.named(name, verb)
        tell(0.1, "Reading the picture")
        upload = self.read(path, one)
        tell(0.4, "The model is looking")
        began = time.monotonic()
        result = self.worker.run((verb, one.name, candidates), _compute(one, verb, candidates), (upload.visual, text))
        lines = one.remarks(verb, text) if text else []
        maps: list[tuple[Image.Image, str]] = []
        if looking and verb in EXPLAINED:
            tell(0.7, "Where did it look?")
            try:
                item = (upload.visual, text or None, getattr(result, "text", "") or None)
                maps = shown.heat_maps(self.worker.run(("look", verb, one.name), _explain(one, verb), item))
            except UsageError as error:  # a model without a matching head, say: its answer is worth showing all the same
                lines.append(f"Where it looked cannot be shown: {error}.")
        html, picture = _show(result, text, upload, lines)
        html += shown.grid(maps, shown.LOOKED) if maps else ""
        return Found(result, html, picture, [label for _, label in maps], time.monotonic() - began)

    def checked(self, text: str | None, needed: str | None = None) -> str:
        """Return a text in one line.

        Args:
            text: As it was typed.
            needed: What is asked for where there is none; None where there may be none.

        Raises:
            UsageError: If there is none, or too much.
        """
        text = " ".join((text or "").split())
        if needed and not text:
            raise UsageError(f"there is nothing to go on yet; type {needed} first")
        if len(text) > self.limits.characters:
            raise UsageError(f"the text has {len(text):,} characters; at most {self.limits.characters:,} are taken; shorten it")
        return text


def _compute(one: Shelved, verb: str, candidates: Sequence[str]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    model = one.model

    def compute(items: Sequence[Any]) -> Sequence[Any]:
        visuals, texts = [visual for visual, _ in items], [text for _, text in items]
        results: Any
        if verb == "caption":
            results = model.caption(visuals)
        elif verb == "vqa":
            results = model.answer(visuals, texts, candidates=candidates or None)
        elif verb == "grounding":
            results = model.ground(visuals, texts)
        else:
            results = model.match(visuals, texts)
        return list(results)

    return compute


def _explain(one: Shelved, verb: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
    def compute(items: Sequence[Any]) -> Sequence[Any]:
        visuals, texts, targets = (list(column) for column in zip(*items, strict=True))
        if verb == "caption":
            found: Any = one.model.explain(visuals, target=targets, task=verb)
        else:
            found = one.model.explain(visuals, texts, target=targets if verb == "vqa" else None, task=verb)
        return list(found)

    return compute


def _show(result: Any, text: str, upload: Upload, lines: Sequence[str]) -> tuple[str, Image.Image | None]:
    if isinstance(result, Answer):
        return shown.answer(result, lines), None
    if isinstance(result, Caption):
        return shown.caption(result), None
    if isinstance(result, Match):
        return shown.match(result, lines), None
    assert isinstance(result, Box)
    return shown.box(result, text, lines), shown.with_box(upload.pictures()[0], result)
