"""Rename rules that work both ways. Every key is mapped, ignored with a reason, or an error; nothing is passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from openmplug.errors import ModelError


@dataclass(frozen=True, slots=True)
class Rule:
    """One renaming. ``{i}`` stands for a layer number; theirs is ours plus ``offset``.

    Example:
        >>> Rule("layer.{i}.bias", "blocks.{i}.b", offset=6).to_ours("layer.7.bias")
        'blocks.1.b'
    """

    theirs: str
    ours: str
    offset: int = 0

    def to_ours(self, key: str) -> str | None:
        """Rename a foreign key, or return None if the rule does not match."""
        return _rename(key, self.theirs, self.ours, -self.offset)

    def to_theirs(self, key: str) -> str | None:
        """Rename one of our keys, or return None if the rule does not match."""
        return _rename(key, self.ours, self.theirs, self.offset)


def _rename(key: str, source: str, target: str, offset: int) -> str | None:
    match = re.fullmatch(re.escape(source).replace(r"\{i\}", r"(\d+)"), key)
    if match is None:
        return None
    if not match.groups():
        return target
    number = int(match[1]) + offset
    return target.replace("{i}", str(number)) if number >= 0 else None


@dataclass(frozen=True, slots=True)
class Ignored:
    """Keys a foreign file holds but no model uses: a pattern (``re.fullmatch``) and the reason."""

    pattern: str
    reason: str


@dataclass(slots=True)
class Converted:
    """What became of a foreign state dict: our tensors, and each ignored key with its reason."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


class KeyMap:
    """All rules of one format for one architecture.

    Args:
        rules: Tried in order.
        ignored: Keys without a home. They are tried first, so they may overrule a rule for some layers.
    """

    def __init__(self, rules: Iterable[Rule], ignored: Iterable[Ignored]) -> None:
        self.rules = tuple(rules)
        self.ignored = tuple(ignored)

    def reason_ignored(self, key: str) -> str | None:
        """Say why a foreign key has no home, or None."""
        return next((entry.reason for entry in self.ignored if re.fullmatch(entry.pattern, key)), None)

    def to_ours(self, key: str) -> str | None:
        """Rename one foreign key."""
        return next((name for rule in self.rules if (name := rule.to_ours(key)) is not None), None)

    def to_theirs(self, key: str) -> str | None:
        """Rename one of our keys."""
        return next((name for rule in self.rules if (name := rule.to_theirs(key)) is not None), None)

    def convert(self, state: Mapping[str, Tensor]) -> Converted:
        """Rename a whole state dict.

        Raises:
            ModelError: If a key is neither mapped nor known to be unused.
        """
        result, unknown = Converted(), []
        for key, tensor in state.items():
            if (reason := self.reason_ignored(key)) is not None:
                result.ignored[key] = reason
            elif (ours := self.to_ours(key)) is not None:
                result.tensors[ours] = tensor
            else:
                unknown.append(key)
        if unknown:
            shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
            raise ModelError(f"unknown keys in the checkpoint: {shown}; expected keys of an mPLUG model, check the file's origin")
        return result
