"""A request apart from HTTP: what is asked about what, and the limits that its words are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openmplug.serving.limits import Limits
from openmplug.serving.refusals import Refusal, too_large
from openmplug.serving.schemas import Request


@dataclass(slots=True)
class Question:
    """A checked request, apart from HTTP.

    Args:
        endpoint: Which.
        texts: What is said; None where nothing is.
        field: ``image`` or ``video``; None where nothing is to be seen.
        source: Its bytes, or its address; given away with ``take``, so that nothing keeps them longer than the decoder needs them.
        settings: For the model.
    """

    endpoint: str
    texts: tuple[str | None, ...]
    field: str | None = None
    source: bytes | str | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, endpoint: str, request: Request) -> Question:
        """Take a request apart."""
        seen = request.seen()
        field, source = (None, None) if seen is None else (seen[0].partition("_")[0], seen[1])
        given = ((name, getattr(request, name)) for name in request.settings)
        settings = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in given if value is not None)
        return cls(endpoint, tuple(request.said()), field, source, settings)

    def take(self) -> bytes | str:
        """Give the file away."""
        assert self.source is not None
        source, self.source = self.source, None
        return source


def check_words(question: Question, limits: Limits) -> None:
    """Hold what a request says and asks for to the limits.

    Raises:
        Refusal: 413 if there are too many words, 422 if a setting is too high.
    """
    settings = dict(question.settings)
    texts = [text for text in question.texts if text is not None]
    candidates = settings.get("candidates", ())
    for words, most, name in ((texts, limits.texts, "texts"), (candidates, limits.candidates, "candidates")):
        if len(words) > most:
            raise too_large(f"{len(words):,} {name}; expected at most {most:,}")
    longest = max(map(len, (*texts, *candidates, settings.get("prompt", ""), settings.get("where", ""))))
    if longest > limits.text_characters:
        raise too_large(f"a text of {longest:,} characters; expected at most {limits.text_characters:,}")
    bounds = {"max_length": limits.new_tokens, "min_length": limits.new_tokens, "num_beams": limits.beams}
    bounds.update(k=limits.results, rerank=limits.results)
    for name, most in bounds.items():
        if settings.get(name, 0) > most:
            raise Refusal(422, "invalid_request", f"{name} is {settings[name]}; this service allows at most {most}")
