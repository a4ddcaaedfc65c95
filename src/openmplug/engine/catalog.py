"""Which recipes there are and where they lie; listing them imports no torch.

A recipe is YAML: shipped ones live in ``openmplug/recipes/<task>/<name>.yaml`` and are called ``<task>/<name>``. Files and
folders whose name begins with ``_`` are bases to extend, not recipes.
"""

from __future__ import annotations

from pathlib import Path

from openmplug.config import did_you_mean
from openmplug.errors import UsageError


def recipes_root() -> Path:
    """Return the folder of the shipped recipes."""
    return Path(__file__).resolve().parent.parent / "recipes"


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes, sorted: ``vqa/easy_vqa_mplug_tiny`` and so on."""
    root = recipes_root()
    paths = (path.relative_to(root) for path in root.rglob("*.yaml"))
    return sorted(path.with_suffix("").as_posix() for path in paths if not any(part.startswith("_") for part in path.parts))


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a shipped recipe's name, or of a path that ends in ``.yaml`` or ``.yml``.

    Raises:
        UsageError: If there is no such recipe or file.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        for candidate in (path, recipes_root() / path):
            if candidate.is_file():
                return candidate
        raise UsageError(f"recipe file '{name_or_path}' does not exist; give a YAML file or a name from: openmplug recipes list")
    names = list_recipes()
    if name_or_path in names:
        return recipes_root() / f"{name_or_path}.yaml"
    # A name without its folder leads to the recipe too: 'easy_vqa' to 'vqa/easy_vqa_mplug_tiny'.
    near = next((name for name in names if name_or_path in name), None)
    hint = did_you_mean(name_or_path, names) or (f"; did you mean '{near}'?" if near else "")
    raise UsageError(f"unknown recipe '{name_or_path}'{hint}{'' if hint else '.'} See: openmplug recipes list")
