"""Which parts of a model each task runs. Tasks declare the same themselves; this list is for what must not know tasks."""

from __future__ import annotations

from typing import NamedTuple

from openmplug.models.families import network_class
from openmplug.models.mplug import MPLUGConfig


class Selection(NamedTuple):
    """The parts a task runs, in the names that every family has, and whether it is about videos."""

    modules: tuple[str, ...]
    clips: bool = False


_QUESTION = ("vision", "text", "fusion", "decoder")
_CAPTION = ("vision", "decoder")
_RETRIEVAL = ("vision", "text", "fusion", "contrastive", "matching")

SELECTIONS = {
    "vqa": Selection(_QUESTION),
    "caption": Selection(_CAPTION),
    "retrieval": Selection(_RETRIEVAL),
    "grounding": Selection(_QUESTION),
    "image-classification": Selection(("vision", "classification")),
    "video-vqa": Selection(_QUESTION, clips=True),
    "video-caption": Selection(_CAPTION, clips=True),
    "video-retrieval": Selection(_RETRIEVAL, clips=True),
    "action-classification": Selection(("vision", "classification"), clips=True),
    "text-classification": Selection(("text", "classification")),
    "pair-classification": Selection(("vision", "text", "fusion", "classification")),
    "summarization": Selection(("text", "decoder")),
    "masked-words": Selection(("text", "language")),
}


def selected_modules(config: MPLUGConfig, task: str) -> tuple[str, ...]:
    """Name the modules that a task needs of a model of this configuration's family.

    Example:
        >>> from openmplug.models.families import named_config
        >>> selected_modules(named_config("mplug2-tiny"), "video-caption")
        ('vision', 'temporal', 'universal', 'decoder')
    """
    chosen = SELECTIONS[task]
    return network_class(config).selection(chosen.modules, chosen.clips)
