"""Drop-ins for other packages' front doors: ``from openmplug.compat import Tasks, modelscope_pipeline as pipeline``."""

from __future__ import annotations

from openmplug.inference.compat import ModelScopePipeline, OutputKeys, Tasks, modelscope_pipeline

__all__ = ["ModelScopePipeline", "OutputKeys", "Tasks", "modelscope_pipeline"]
