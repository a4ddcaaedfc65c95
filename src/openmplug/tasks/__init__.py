"""Tasks by name. A new task is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmplug.config import did_you_mean, validate
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import UsageError
from openmplug.models.families import build_network, config_of, network_class
from openmplug.models.mplug import MPLUGConfig
from openmplug.models.network import Network
from openmplug.tasks.base import Progress, Task
from openmplug.tasks.captioning import CaptioningTask
from openmplug.tasks.classification import ClassificationTask
from openmplug.tasks.grounding import GroundingTask
from openmplug.tasks.mlm import MaskedWordsTask
from openmplug.tasks.pretrain import PretrainTask
from openmplug.tasks.retrieval import RetrievalTask
from openmplug.tasks.summarization import SummarizationTask
from openmplug.tasks.vqa import VQATask

TASKS: dict[str, type[Task]] = {
    "vqa": VQATask,
    "caption": CaptioningTask,
    "retrieval": RetrievalTask,
    "grounding": GroundingTask,
    "classification": ClassificationTask,
    "summarization": SummarizationTask,
    "mlm": MaskedWordsTask,
    "pretrain": PretrainTask,
}
PRETRAINING = "pretrain"
"""The task whose models may do any other, without having been trained for it."""

__all__ = ["PRETRAINING", "TASKS", "Progress", "Task", "build_task", "find_task", "task_around"]


def build_task(
    name: str,
    model: Mapping[str, Any] | MPLUGConfig,
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    training: bool = False,
    clips: bool = False,
) -> Task:
    """Build a task with a freshly initialised model of just the modules it needs.

    Args:
        name: A key of ``TASKS``.
        model: A configuration, or fields of one; with ``name`` alone, a named size.
        tokenizer: Its vocabulary is the model's; ``vocab_size`` follows it.
        settings: Fields of the task's ``Settings``.
        training: Build the momentum twin and queues too.
        clips: The data are videos: build what the model needs for them.

    Raises:
        UsageError: If the task, the size or a setting is unknown.
    """
    cls = find_task(name)
    fields = model.model_dump() if isinstance(model, MPLUGConfig) else dict(model)
    family = type(model) if isinstance(model, MPLUGConfig) else None
    checked = validate(cls.Settings, settings, where="settings")
    fields |= {"vocab_size": tokenizer.vocab_size, **cls.model_sizes(checked)}
    config = family(**fields) if family else config_of(fields)
    modules = network_class(config).selection(cls.needed_modules(checked), clips)
    return cls(build_network(config, modules), tokenizer, checked, training)


def find_task(name: str) -> type[Task]:
    """Return the task of a name.

    Raises:
        UsageError: If there is none; with the nearest name.
    """
    if name not in TASKS:
        raise UsageError(f"unknown task '{name}'{did_you_mean(name, TASKS)} (one of {', '.join(sorted(TASKS))})")
    return TASKS[name]


def task_around(name: str, model: Network, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Task:
    """Build a task around a model that exists; several tasks may share one.

    Raises:
        UsageError: If the task or a setting is unknown.
    """
    cls = find_task(name)
    return cls(model, tokenizer, validate(cls.Settings, settings, where="settings"))
