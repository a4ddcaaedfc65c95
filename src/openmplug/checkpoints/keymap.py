"""Rename rules that work both ways. Every key is mapped, ignored with a reason, or an error; nothing is passed over."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from openmplug.errors import ModelError


class Layout(Protocol):
    """How one tensor of theirs lies in one or several of ours. A tensor it does not fit stays as it is, for the shape check to name."""

    def to_ours(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Take theirs apart."""

    def to_theirs(self, parts: Sequence[Tensor]) -> Tensor:
        """Put ours together again, bit for bit."""


class AsItIs:
    """The same shape on both sides."""

    def to_ours(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the tensor."""
        return (tensor,)

    def to_theirs(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the only part."""
        (part,) = parts
        return part


@dataclass(frozen=True, slots=True)
class Squeezed:
    """Theirs has axes of length 1 that ours has not.

    Example:
        >>> layout = Squeezed(1, 3)
        >>> (ours,) = layout.to_ours(torch.zeros(4, 1, 3, 1))
        >>> ours.shape, layout.to_theirs([ours]).shape
        (torch.Size([4, 3]), torch.Size([4, 1, 3, 1]))
    """

    axes: tuple[int, ...]

    def __init__(self, *axes: int) -> None:
        object.__setattr__(self, "axes", tuple(sorted(axes)))

    def to_ours(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Drop the axes."""
        if tensor.ndim <= self.axes[-1] or any(tensor.shape[axis] != 1 for axis in self.axes):
            return (tensor,)
        return (tensor.squeeze(self.axes),)

    def to_theirs(self, parts: Sequence[Tensor]) -> Tensor:
        """Put the axes back."""
        (part,) = parts
        for axis in self.axes:
            part = part.unsqueeze(axis)
        return part


class Scalar:
    """Theirs is a scalar, ours has shape (1,)."""

    def to_ours(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Give it an axis."""
        return (tensor.reshape(1) if tensor.ndim == 0 else tensor,)

    def to_theirs(self, parts: Sequence[Tensor]) -> Tensor:
        """Take the axis away."""
        (part,) = parts
        return part.reshape(())


@dataclass(frozen=True, slots=True)
class MiddleAndOuter:
    """Theirs has an axis of length 3; ours are its middle slice, and the outer two stacked in front.

    Example:
        >>> kernel = torch.arange(6).view(2, 3)
        >>> [part.tolist() for part in MiddleAndOuter(1).to_ours(kernel)]
        [[1, 4], [[0, 3], [2, 5]]]
    """

    axis: int

    def to_ours(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Take the slices apart."""
        if tensor.ndim <= self.axis or tensor.shape[self.axis] != 3:
            return tensor, tensor
        before, middle, after = tensor.unbind(self.axis)
        return middle.contiguous(), torch.stack((before, after))

    def to_theirs(self, parts: Sequence[Tensor]) -> Tensor:
        """Put the slices together."""
        middle, (before, after) = parts
        return torch.stack((before, middle, after), dim=self.axis)


AS_IT_IS = AsItIs()


@dataclass(frozen=True, slots=True)
class Rule:
    """One renaming. ``{i}`` stands for a layer number; theirs is ours plus ``offset``.

    Args:
        theirs: The foreign name.
        ours: Our name, or several where the layout takes a tensor apart.
        offset: Their layer number less ours.
        layout: How the tensor itself changes.

    Example:
        >>> Rule("layer.{i}.bias", "blocks.{i}.b", offset=6).to_ours("layer.7.bias")
        ('blocks.1.b',)
    """

    theirs: str
    ours: str | tuple[str, ...]
    offset: int = 0
    layout: Layout = AS_IT_IS

    @property
    def names(self) -> tuple[str, ...]:
        """Our names."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def to_ours(self, key: str) -> tuple[str, ...]:
        """Rename a foreign key; nothing if the rule does not match."""
        renamed = [_rename(key, self.theirs, name, -self.offset) for name in self.names]
        return tuple(name for name in renamed if name is not None)

    def to_theirs(self, key: str) -> str | None:
        """Rename one of our keys, or return None if the rule does not match."""
        return next((found for name in self.names if (found := _rename(key, name, self.theirs, self.offset)) is not None), None)


@functools.cache  # the cache of ``re`` itself is smaller than a key map, and would compile every pattern anew for every key
def _pattern(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\{i\}", r"(\d+)"))


def _rename(key: str, source: str, target: str, offset: int) -> str | None:
    match = _pattern(source).fullmatch(key)
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
        rules: Tried in order, the first that matches counts.
        ignored: Keys without a home. They are tried first, so they may overrule a rule for some layers.
    """

    def __init__(self, rules: Iterable[Rule], ignored: Iterable[Ignored]) -> None:
        self.rules = tuple(rules)
        self.ignored = tuple((re.compile(entry.pattern), entry.reason) for entry in ignored)

    def reason_ignored(self, key: str) -> str | None:
        """Say why a foreign key has no home, or None."""
        return next((reason for pattern, reason in self.ignored if pattern.fullmatch(key)), None)

    def to_ours(self, key: str) -> tuple[str, ...]:
        """Rename one foreign key; nothing if no rule knows it."""
        return next((names for rule in self.rules if (names := rule.to_ours(key))), ())

    def to_theirs(self, key: str) -> str | None:
        """Rename one of our keys."""
        return next((name for rule in self.rules if (name := rule.to_theirs(key)) is not None), None)

    def take(self, key: str, tensor: Tensor) -> dict[str, Tensor]:
        """Make ours of one foreign tensor; nothing if no rule knows its key."""
        for rule in self.rules:
            if names := rule.to_ours(key):
                return dict(zip(names, rule.layout.to_ours(tensor), strict=True))
        return {}

    def give(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Tensor:
        """Make the foreign tensor again that ``take`` made tensors of these names of.

        Raises:
            KeyError: If one of them is not there.
        """
        rule = next((rule for rule in self.rules if rule.to_theirs(names[0]) is not None), None)
        return (rule.layout if rule else AS_IT_IS).to_theirs([tensors[name] for name in names])

    def convert(self, state: Mapping[str, Tensor]) -> Converted:
        """Rename a whole state dict.

        Raises:
            ModelError: If a key is neither mapped nor known to be unused.
        """
        result, unknown = Converted(), []
        for key, tensor in state.items():
            if (reason := self.reason_ignored(key)) is not None:
                result.ignored[key] = reason
            elif found := self.take(key, tensor):
                result.tensors |= found
            else:
                unknown.append(key)
        if unknown:
            shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
            raise ModelError(f"unknown keys in the checkpoint: {shown}; expected keys of an mPLUG model, check the file's origin")
        return result

    def restore(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our tensors back, in our order; the opposite of ``convert``.

        Raises:
            ModelError: If a name has no counterpart, or another that belongs to the same foreign tensor is not there.
        """
        state: dict[str, Tensor] = {}
        for name in tensors:
            theirs = self.to_theirs(name)
            if theirs is None:
                raise ModelError(f"{name} has no name in the original code; only mPLUG's own parts can be written back")
            if theirs in state:
                continue
            names = self.to_ours(theirs)
            if lacking := [one for one in names if one not in tensors]:
                raise ModelError(f"{theirs} is made of {', '.join(names)}; {', '.join(lacking)} is missing")
            state[theirs] = self.give(names, tensors)
        return state
