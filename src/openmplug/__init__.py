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
    from openmplug import compat
    from openmplug.checkpoints.report import list_models
    from openmplug.data.tokenizer import Tokenizer
    from openmplug.engine.catalog import list_recipes
    from openmplug.engine.recipe import RunConfig, load_recipe
    from openmplug.engine.run import evaluate, train
    from openmplug.errors import DataError, EnvironmentProblem, ModelError, OpenmplugError, UsageError
    from openmplug.inference.loading import load
    from openmplug.inference.model import Model
    from openmplug.inference.pipelines import Pipeline, pipeline
    from openmplug.inference.results import Answer, Box, Caption, Match
    from openmplug.inference.search.index import Index
    from openmplug.inference.search.results import Hit, IndexInfo
    from openmplug.models.mplug import MPLUG, MPLUGConfig
    from openmplug.models.mplug2 import MPLUG2, MPLUG2Config

__version__ = "0.1.0"

__all__ = [
    "MPLUG",
    "MPLUG2",
    "Answer",
    "Box",
    "Caption",
    "DataError",
    "EnvironmentProblem",
    "Hit",
    "Index",
    "IndexInfo",
    "MPLUG2Config",
    "MPLUGConfig",
    "Match",
    "Model",
    "ModelError",
    "OpenmplugError",
    "Pipeline",
    "RunConfig",
    "Tokenizer",
    "UsageError",
    "__version__",
    "compat",
    "evaluate",
    "list_models",
    "list_recipes",
    "load",
    "load_recipe",
    "pipeline",
    "train",
]

_HOMES = {
    "checkpoints.report": ("list_models",),
    "data.tokenizer": ("Tokenizer",),
    "engine.catalog": ("list_recipes",),
    "engine.recipe": ("RunConfig", "load_recipe"),
    "engine.run": ("evaluate", "train"),
    "errors": ("DataError", "EnvironmentProblem", "ModelError", "OpenmplugError", "UsageError"),
    "inference.loading": ("load",),
    "inference.model": ("Model",),
    "inference.pipelines": ("Pipeline", "pipeline"),
    "inference.results": ("Answer", "Box", "Caption", "Match"),
    "inference.search.index": ("Index",),
    "inference.search.results": ("Hit", "IndexInfo"),
    "models.mplug": ("MPLUG", "MPLUGConfig"),
    "models.mplug2": ("MPLUG2", "MPLUG2Config"),
}
_HOME_OF = {name: f"openmplug.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "compat":
        return import_module("openmplug.compat")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'openmplug' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
