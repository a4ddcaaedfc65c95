"""Every key of a recipe on one page, made of the pydantic models that check it and of their docstrings."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from site_pages.tables import cell, code, table

_HEAD = """# Recipe keys

Every key a recipe may have and a command may set as `a.b=c`; made of the models that check them. What is not here is an error that names
the nearest key. [Training](../training.md) shows a recipe, `openmplug recipes show NAME` one that is filled in.
"""


def page() -> str:
    """Return the page."""
    from openmplug.engine.recipe import RunConfig
    from openmplug.models.families import FAMILIES
    from openmplug.tasks import TASKS

    sections = {name: field.annotation for name, field in RunConfig.model_fields.items() if _is_settings(field.annotation)}
    parts = [_HEAD, "## At the top\n", _table(RunConfig, "", leave_out=set(sections))]
    for name, model in sections.items():
        parts.append(_section(f"{name}", model, f"{name}."))
    parts.append(
        "## model { #model }\n\n`name` is a named size (`openmplug models list`); every other key replaces one of its numbers. "
        "`vocab_size` follows the tokenizer, `classes` the task.\n"
    )
    for family in FAMILIES.values():
        config = family.config
        parts.append(f"### model: {config.__name__.removesuffix('Config')}\n\nSizes: {', '.join(code(size) for size in family.sizes)}\n")
        parts.append(_table(config, "model."))
    parts.append("## settings { #settings }\n\nWhat the task itself knows; each task has its own.\n")
    for name, task in TASKS.items():
        parts.append(_section(f"settings of task {name}", task.Settings, "settings.", "###"))
    return "\n".join(parts)


def _section(title: str, model: Any, prefix: str, marks: str = "##") -> str:
    text = f"{marks} {title}\n\n{_summary(model)}\n\n{_table(model, prefix)}"
    for name, inner in _inner(model).items():
        text += f"\n{marks}# {prefix}{name}\n\n{_summary(inner)}\n\n{_table(inner, f'{prefix}{name}.')}"
    return text


def _table(model: Any, prefix: str, leave_out: set[str] | None = None) -> str:
    said = described(model)
    rows = [
        [code(f"{prefix}{name}"), f"{cell(said.get(name, ''))}<br><small>{_value(field)}</small>".removeprefix("<br>")]
        for name, field in model.model_fields.items()
        if name not in (leave_out or set())
    ]
    return table(("key", "means"), rows)


def _value(field: Any) -> str:
    """Return what a key takes and what it is where nothing is said."""
    default = _default(field)
    said = "required" if field.is_required() else f"default {code(default)}" if default else ""
    return "; ".join(filter(None, (cell(_kind(field.annotation, field.metadata)).replace("<", "&lt;"), said)))


def described(model: type) -> dict[str, str]:
    """Return what the ``Args:`` of a model's docstring say of each field, those of its bases included."""
    said: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        _, _, arguments = text.partition("Args:\n")
        for match in re.finditer(r"^    ([a-z_0-9, ]+): (.*?)(?=^    \S|^\S|\Z)", arguments, re.MULTILINE | re.DOTALL):
            for name in match[1].split(","):
                said[name.strip()] = " ".join(match[2].split()).replace("``", "`")
    return said


def _summary(model: type) -> str:
    text = inspect.cleandoc(model.__doc__ or "").partition("\nArgs:")[0].strip()
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def _is_settings(annotation: Any) -> bool:
    from openmplug.config import Settings

    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _inner(model: Any) -> dict[str, Any]:
    """Return the settings inside settings, also where there are many of a kind or none."""
    found = {}
    for name, field in model.model_fields.items():
        for annotation in (field.annotation, *get_args(field.annotation)):
            if _is_settings(annotation):
                found[name] = annotation
    return found


def _kind(annotation: Any, metadata: Any = ()) -> str:
    """Return a type in words a reader of recipes knows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if each is type(None) else _kind(each) for each in arguments) + _bounds(metadata)
    if origin is Literal:
        return ", ".join(str(each) for each in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin in (list, dict) or annotation is dict or (origin is not None and issubclass(origin, dict)):
        return "mapping" if origin is not list else f"list of {_kind(arguments[0])}"
    names = {int: "whole number", float: "number", str: "word", bool: "true, false", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).replace("Settings", " settings").lower()) + _bounds(
        metadata
    )


def _bounds(metadata: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    said = [f" {sign} {getattr(each, name):g}" for each in metadata for name, sign in signs.items() if hasattr(each, name)]
    return ",".join(said)


def _default(field: Any) -> str:
    from openmplug.config import Settings

    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, Settings):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
