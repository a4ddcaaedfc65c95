"""The families of models by name: mPLUG and mPLUG-2. A configuration says which family it is of by its type."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from openmplug.errors import UsageError
from openmplug.models.mplug import MPLUG, MPLUGConfig
from openmplug.models.mplug import SIZES as MPLUG_SIZES
from openmplug.models.mplug2 import MPLUG2, MPLUG2Config
from openmplug.models.mplug2 import SIZES as MPLUG2_SIZES
from openmplug.models.network import Network


class Family(NamedTuple):
    """A family: its configuration, its model, its named sizes."""

    config: type[MPLUGConfig]
    network: type[Network]
    sizes: Mapping[str, Mapping[str, Any]]


FAMILIES = {"mplug": Family(MPLUGConfig, MPLUG, MPLUG_SIZES), "mplug2": Family(MPLUG2Config, MPLUG2, MPLUG2_SIZES)}

SIZES: dict[str, Mapping[str, Any]] = {name: size for family in FAMILIES.values() for name, size in family.sizes.items()}


def named_config(name: str, **overrides: Any) -> MPLUGConfig:
    """Return the configuration of a named size, with single values replaced.

    Raises:
        UsageError: If no size has that name.
    """
    for family in FAMILIES.values():
        if name in family.sizes:
            return family.config(**{"name": name, **family.sizes[name], **overrides})
    near = difflib.get_close_matches(name, SIZES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SIZES)}"
    raise UsageError(f"unknown model {name!r}; {hint}")


def config_of(fields: Mapping[str, Any]) -> MPLUGConfig:
    """Return the configuration that fields mean: all of a family's under whatever name, or a named size and what differs from it.

    Raises:
        UsageError: If they are not all, and no size has that name.
    """
    for family in reversed(FAMILIES.values()):  # the one with more fields first
        if fields.keys() >= family.config.model_fields.keys():
            return family.config(**fields)
    return named_config(**fields) if "name" in fields else MPLUGConfig(**fields)


def network_class(config: MPLUGConfig) -> type[Network]:
    """Return the class of a configuration's model."""
    return FAMILIES[architecture_of(config)].network


def architecture_of(config: MPLUGConfig) -> str:
    """Return the name of a configuration's family."""
    return next(name for name, family in FAMILIES.items() if type(config) is family.config)


def saved_config(record: Mapping[str, Any]) -> MPLUGConfig:
    """Return the configuration of a folder's ``config.json``: its ``architecture`` and its ``model``."""
    return FAMILIES[record.get("architecture", "mplug")].config(**record["model"])


def build_network(config: MPLUGConfig, modules: Collection[str] | None = None) -> Network:
    """Build a freshly initialised model.

    Args:
        config: Sizes; its type says which family.
        modules: Which modules; None builds all of them, and a classification head only where the configuration has classes.
    """
    return network_class(config)(config, modules)
