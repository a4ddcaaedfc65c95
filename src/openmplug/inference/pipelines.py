"""A task by name: ``openmplug.pipeline("caption", "folder")`` returns something to call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmplug.config import did_you_mean
from openmplug.errors import UsageError
from openmplug.inference.loading import load
from openmplug.inference.model import Model

_CALLS: dict[str, tuple[str, str]] = {
    "vqa": ("answer", "vqa"),
    "caption": ("caption", "caption"),
    "match": ("match", "retrieval"),
    "ground": ("ground", "grounding"),
    "embed-images": ("embed_images", "retrieval"),
    "embed-texts": ("embed_texts", "retrieval"),
}
_OTHER_NAMES = {
    "answer": "vqa",
    "visual-question-answering": "vqa",
    "image-captioning": "caption",
    "image-to-text": "caption",
    "retrieval": "match",
    "image-text-retrieval": "match",
    "grounding": "ground",
    "visual-grounding": "ground",
}


class Pipeline:
    """One ability of a model as a function; ``model`` is the whole of it.

    Args:
        task: The name it was asked for by.
        model: A loaded model that can do it.
        call: The model's method.
    """

    def __init__(self, task: str, model: Model, call: Callable[..., Any]) -> None:
        self.task, self.model, self._call = task, model, call

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """Do it; arguments and results are those of the model's method of that name."""
        return self._call(*inputs, **settings)

    def __repr__(self) -> str:
        return f"Pipeline({self.task!r}, {self.model.network.config.name!r} on {self.model.device})"


def pipeline(task: str, model: str | Path | Model, **options: Any) -> Pipeline:
    """Make a callable for a task.

    Args:
        task: ``vqa``, ``caption``, ``match``, ``ground``, ``embed-images`` or ``embed-texts``; ModelScope's and transformers' names of the
            same tasks are understood too.
        model: What ``load`` takes, or a loaded model.
        options: What else ``load`` takes.

    Example:
        >>> describe = pipeline("caption", folder, device="cpu")
        >>> describe(picture, min_length=2, max_length=3).score < 0
        True

    Raises:
        UsageError: If the task is unknown, or the model cannot do it.
        ModelError: If the model cannot be loaded.
    """
    name = _OTHER_NAMES.get(task, task)
    if name not in _CALLS:
        raise UsageError(f"unknown task '{task}'{did_you_mean(task, _CALLS)} (one of {', '.join(_CALLS)})")
    method, needed = _CALLS[name]
    if not isinstance(model, Model):
        model = load(model, **options)
    elif options:
        raise UsageError(f"{', '.join(options)}: a model that is loaded already takes no more options; give them to load")
    model.require(needed)
    return Pipeline(name, model, getattr(model, method))
