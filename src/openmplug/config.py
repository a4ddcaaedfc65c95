"""Settings: YAML in, checked pydantic objects out, with ``a.b=c`` overrides and "did you mean".

The only module that knows how a recipe is read, and it knows no single setting. YAML is read by the rules of YAML 1.2, because those
of 1.1 turn ``2e-5`` into a string and the answer ``no`` into False.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from openmplug.errors import UsageError

S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --------------------------------------------------------------------------------------------------------------- YAML 1.2


class _Loader(yaml.SafeLoader):
    """Safe YAML loader with the scalars of YAML 1.2's core schema; a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; refuse keys that occur twice, of which plain YAML keeps the last without a word."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' occurs twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Read an integer; a leading zero is decimal (YAML 1.1 reads 010 as 8)."""
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


class _Dumper(yaml.SafeDumper):
    """Safe YAML writer that also quotes strings which YAML 1.2 would read as numbers."""


# The loader starts with no rule at all; the writer keeps 1.1's, so that its files are read alike by old and new readers.
_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}


_FLOAT = re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
for _class in (_Loader, _Dumper):
    # Order matters: the first pattern that fits wins, so integers come before floats.
    for _tag, _pattern, _first in (
        ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
        ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
        ("int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
        ("float", _FLOAT, list("-+.0123456789")),
    ):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"{where} is not valid YAML{line}: {problem}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Args:
        path: The file. An empty file is an empty mapping.

    Raises:
        UsageError: If the file cannot be read, is not valid YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise UsageError(f"cannot read '{path}': {reason}") from error
    tree = _parse(text, f"'{path}'")
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise UsageError(f"'{path}' must be a mapping of names to values, got a {type(tree).__name__}")
    return tree


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Write a tree of plain values as YAML that ``read_yaml`` reads back unchanged, keys in the given order."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with every value of ``above`` put over it; mappings are merged, anything else is replaced.

    Example:
        >>> merge({"optim": {"lr": 1.0, "epochs": 8}}, {"optim": {"lr": 2.0}})
        {'optim': {'lr': 2.0, 'epochs': 8}}
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def load_tree(path: Path, base: Path | None = None) -> dict[str, Any]:
    """Read a recipe file and the one file it may extend.

    Args:
        path: The YAML file.
        base: The recipes root, where ``extends: vqa/_base.yaml`` is looked for first; the file's own folder comes second.

    Raises:
        UsageError: If a file cannot be read, the extended file is missing, or it extends another one itself (one level is the limit,
            so that a reader has at most two files to look at).
    """
    tree = read_yaml(path)
    extends = tree.pop("extends", None)
    if extends is None:
        return tree
    if not isinstance(extends, str):
        raise UsageError(f"'{path}': extends must be one file name, got {extends!r}")
    places = [folder / extends for folder in (base, path.parent) if folder is not None]
    parent = next((place for place in places if place.is_file()), None)
    if parent is None:
        raise UsageError(f"'{path}' extends '{extends}', which is not there; looked for {' and '.join(repr(str(p)) for p in places)}")
    below = read_yaml(parent)
    if "extends" in below:
        raise UsageError(f"'{path}' extends '{extends}', which extends another file itself; only one level is allowed")
    return merge(below, tree)


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Put settings of the form ``a.b=c`` over a tree.

    Args:
        tree: The recipe; it is not changed.
        overrides: Settings in order; the value is read as YAML (``lr=2e-5``, ``train=[train,dev]``, ``root=null``).

    Raises:
        UsageError: If a setting has no ``=``, an empty name or value, a value that is not YAML, or goes below a plain value.
    """
    result = dict(tree)
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(re.fullmatch(r"[A-Za-z_][\w-]*", key) for key in keys):
            raise UsageError(f"'{override}' is not a setting; write it as name=value, such as optim.lr=2e-5")
        if not text.strip():
            raise UsageError(f"'{override}' has no value; for an empty text write {name}='\"\"', for none {name}=null")
        above: Any = _parse(text, f"the value of '{override}'")
        for key in reversed(keys):
            above = {key: above}
        node: Any = result
        for depth, key in enumerate(keys[:-1]):
            node = node.get(key)
            if node is None:
                break
            if not isinstance(node, Mapping):
                above_name = ".".join(keys[: depth + 1])
                raise UsageError(f"'{override}': '{above_name}' is a plain value ({node!r}), it has no settings below it")
        result = merge(result, above)
    return result


# ------------------------------------------------------------------------------------------------------------- validation


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that ``name`` most likely meant, or None where none is near."""
    known = list(dict.fromkeys(candidates))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near and len(name) >= 3:
        # A name cut short ("vqa/vqav2") is far from the whole by edit distance, but its beginning says it.
        near = [item for item in known if item.startswith(name)]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.45)
    return near[0] if near else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the candidate nearest to ``name``, or an empty string where none is near.

    Example:
        >>> did_you_mean("vqa/vqav3", ["vqa/vqav2_mplug_base", "caption/coco_mplug_base"])
        "; did you mean 'vqa/vqav2_mplug_base'?"
    """
    near = nearest(name, candidates)
    return f"; did you mean '{near}'?" if near else ""


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class an annotation holds (``X``, ``X | None``, ``dict[str, X]``), if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict):
        return next((model for part in get_args(annotation) if (model := _model_of(part)) is not None), None)
    return None


def _names(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield prefix + name
        model = _model_of(field.annotation)
        if model is not None:
            yield from _names(model, f"{prefix}{name}.")


def _explain(cls: type[BaseModel], error: ErrorDetails, where: str) -> str:
    prefix = "" if where == "recipe" else f"{where}."
    dotted = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section, _, leaf = dotted.rpartition(".")
        known = list(_names(cls))
        beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
        elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
        near = elsewhere[0] if elsewhere else beside.get(nearest(leaf, beside) or "")
        hint = f"; did you mean '{prefix}{near}'?" if near else f"; known here: {', '.join(prefix + name for name in beside.values())}"
        return f"unknown setting '{prefix}{dotted}'{hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"setting '{prefix}{dotted}' is missing; add {prefix}{dotted}=VALUE"
    name = (prefix + dotted).rstrip(".")
    if error["type"] == "value_error":
        return f"{name}: {message}" if name else f"{where}: {message}"
    return f"setting '{name}': {message[:1].lower()}{message[1:]}, got {error['input']!r}"


def validate(cls: type[S], tree: Mapping[str, Any], where: str = "recipe") -> S:
    """Check a tree against a settings class.

    Args:
        cls: The settings class.
        tree: Plain values, as YAML gives them.
        where: ``"recipe"``, or the dotted section the tree stands in (``"settings"``), put before each name in a message.

    Raises:
        UsageError: One line that names every wrong setting (three at most), and for an unknown one the nearest that exists.
    """
    try:
        return cls.model_validate(dict(tree))
    except ValidationError as error:
        lines = list(dict.fromkeys(_explain(cls, detail, where) for detail in error.errors(include_url=False)))
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise UsageError(" ".join(("; ".join(lines[:3]) + more).split())) from error
