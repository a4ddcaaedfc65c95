"""ModelScope's pipelines for mPLUG, called as benchmark scripts call them: change the import, keep the script.

``from modelscope.pipelines import pipeline`` and ``from modelscope.utils.constant import Tasks`` become::

    from openmplug.compat import Tasks, modelscope_pipeline as pipeline

Source: ``VisualQuestionAnsweringPipeline``, ``ImageCaptioningPipeline``, ``ImageTextRetrievalPipeline`` and ``MPlugPreprocessor`` of
modelscope/modelscope; their call sites in ELLA's ``compute_dpg_bench.py``, DSG's ``vqa_utils.py`` and TIFA's ``vqa_models.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmplug.config import did_you_mean
from openmplug.errors import ModelError, UsageError
from openmplug.inference.loading import load
from openmplug.inference.model import Model


class Tasks:
    """Names of the tasks that mPLUG has at ModelScope."""

    visual_question_answering = "visual-question-answering"
    image_captioning = "image-captioning"
    image_text_retrieval = "image-text-retrieval"


class OutputKeys:
    """Names of the results."""

    TEXT = "text"
    CAPTION = "caption"
    SCORES = "scores"


_TASKS = (Tasks.visual_question_answering, Tasks.image_captioning, Tasks.image_text_retrieval)


def modelscope_pipeline(
    task: str, model: str | Path | Model, device: str = "gpu", model_revision: str | None = None, **others: Any
) -> ModelScopePipeline:
    """Return a callable that answers, captions or matches as ModelScope's pipeline of the task does.

    Nothing is downloaded: ``model`` is a folder, or a hub name such as ``damo/mplug_visual-question-answering_coco_large_en`` that
    ModelScope has put into its cache (``$MODELSCOPE_CACHE`` or ``~/.cache/modelscope``).

    Args:
        task: One of ``Tasks``.
        model: Folder, hub name, or what ``openmplug.load`` returned.
        device: ``gpu`` is a CUDA GPU where there is one, else the CPU, as at ModelScope; or ``cpu``, ``cuda``, ``cuda:N``, ``mps``.
        model_revision: Taken for the sake of scripts that give it; a folder has one revision.
        others: Refused; named so that the error can say which.

    Raises:
        UsageError: If the task or an argument is unknown.
        ModelError: If there is no such folder, or it is not a model.
    """
    if task not in _TASKS:
        raise UsageError(f"unknown task '{task}'{did_you_mean(task, _TASKS)}; one of {', '.join(_TASKS)}")
    if others:
        raise UsageError(f"argument '{next(iter(others))}' of ModelScope's pipeline is not supported; leave it out")
    if isinstance(model, Model):
        return ModelScopePipeline(task, model)
    return ModelScopePipeline(task, load(_folder(model), "auto" if device == "gpu" else device.replace("gpu", "cuda")))


def _folder(model: str | Path) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    cache = Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope")
    # ModelScope writes a dot of a name as three underscores, and newer versions have a folder "models".
    name = str(model).replace(".", "___")
    for place in (cache / "hub" / "models", cache / "models", cache / "hub", cache):
        if (place / name).is_dir():
            return place / name
    raise ModelError(
        f"model '{model}' is neither a folder nor in ModelScope's cache {cache}; openmplug downloads nothing: give the folder that holds it"
    )


class ModelScopePipeline:
    """A model of one task that takes and returns what ModelScope's does.

    Args:
        task: One of ``Tasks``.
        model: The model.
    """

    def __init__(self, task: str, model: Model) -> None:
        self.task = task
        self.model = model

    def __call__(self, inputs: Any, batch_size: int | None = None) -> dict[str, Any] | list[dict[str, Any]]:
        """Answer, caption or match one input, or a list of them.

        Args:
            inputs: ``{"image": ..., "question": ...}``, or with ``text`` for ``question``, or a tuple of both; for captions the picture
                alone or ``{"image": ...}``. A picture is a path, PIL image or array.
            batch_size: Inputs of a list worked on at once.

        Returns:
            ``{"text": answer}``, ``{"caption": caption}`` or ``{"scores": [no match, match]}``; a list of them for a list.

        Raises:
            UsageError: If an input lacks its picture or its words, or the model is one for another task.
            DataError: If a picture cannot be read.
        """
        many = list(inputs) if isinstance(inputs, list) else [inputs]
        if batch_size is not None:
            if batch_size < 1:
                raise UsageError(f"batch_size must be at least 1, got {batch_size}")
            self.model.batch_size = batch_size
        images = [self._image(each) for each in many]
        results = self._results(images, [] if self.task == Tasks.image_captioning else [self._words(each) for each in many])
        return results if isinstance(inputs, list) else results[0]

    def _results(self, images: Sequence[Any], words: Sequence[str]) -> list[dict[str, Any]]:
        if self.task == Tasks.visual_question_answering:
            return [{OutputKeys.TEXT: answer.text} for answer in self.model.answer(images, words)]  # type: ignore[union-attr]
        if self.task == Tasks.image_captioning:
            return [{OutputKeys.CAPTION: caption.text} for caption in self.model.caption(images)]  # type: ignore[union-attr]
        scores = []
        for match in self.model.match(images, words):  # type: ignore[union-attr]
            if match.probability is None:
                raise UsageError("this model was trained without matching and has no scores; ModelScope's retrieval needs one with it")
            scores.append({OutputKeys.SCORES: [1 - match.probability, match.probability]})
        return scores

    def _image(self, given: Any) -> Any:
        if isinstance(given, Mapping):
            if "image" not in given:
                raise UsageError(f"an input needs 'image'; found {', '.join(map(str, given)) or 'nothing'}")
            return given["image"]
        return given[0] if isinstance(given, tuple) else given

    def _words(self, given: Any) -> str:
        if isinstance(given, tuple) and len(given) > 1:
            return str(given[1])
        # Both names at once: "text" comes first there.
        for key in ("text", "question"):
            if isinstance(given, Mapping) and key in given:
                return str(given[key])
        found = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise UsageError(f"an input of task '{self.task}' needs 'question' or 'text' beside 'image'; found {found}")
