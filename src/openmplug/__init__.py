"""openmplug: mPLUG for images and text, from training to answers.

The whole public front door. Each name is imported when it is first used, so that ``import openmplug`` costs almost nothing:

Example:
    >>> import openmplug
    >>> "vqa/vqav2_mplug_base" in openmplug.list_recipes()
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmplug.data.tokenizer import Tokenizer
    from openmplug.engine.catalog import list_recipes
    from openmplug.engine.recipe import RunConfig, load_recipe
    from openmplug.engine.run import evaluate, train
    from openmplug.errors import DataError, EnvironmentProblem, ModelError, OpenmplugError, UsageError
    from openmplug.inference.pipelines import Answer, Caption, Match, Pipeline, load
    from openmplug.models.mplug import MPLUG, MPLUGConfig

__version__ = "0.1.0"

__all__ = [
    "MPLUG",
    "Answer",
    "Caption",
    "DataError",
    "EnvironmentProblem",
    "MPLUGConfig",
    "Match",
    "ModelError",
    "OpenmplugError",
    "Pipeline",
    "RunConfig",
    "Tokenizer",
    "UsageError",
    "__version__",
    "evaluate",
    "list_recipes",
    "load",
    "load_recipe",
    "train",
]

_HOMES = {
    "data.tokenizer": ("Tokenizer",),
    "engine.catalog": ("list_recipes",),
    "engine.recipe": ("RunConfig", "load_recipe"),
    "engine.run": ("evaluate", "train"),
    "errors": ("DataError", "EnvironmentProblem", "ModelError", "OpenmplugError", "UsageError"),
    "inference.pipelines": ("Answer", "Caption", "Match", "Pipeline", "load"),
    "models.mplug": ("MPLUG", "MPLUGConfig"),
}
_HOME_OF = {name: f"openmplug.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'openmplug' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
