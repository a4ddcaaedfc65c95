"""Which filters of a search strangers may send: conditions over columns, and nothing that may take the machine."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`")
_CALLED = re.compile(r"(\w+)\s*\(")
_BEFORE_BRACKETS = frozenset({"and", "or", "not", "in", "like", "ilike", "between", "is", "when", "then", "else", "case", "any"})
_FUNCTIONS = frozenset({"lower", "upper", "length", "starts_with", "ends_with", "contains", "cast", "date", "timestamp", "abs", "round"})


def check_filter(where: str) -> str:
    """Refuse a filter that calls what may take a machine's memory: ``repeat(path, 1000000000)`` is an expression like any other.

    Args:
        where: A condition in SQL.

    Returns:
        The same.

    Raises:
        ValueError: If it holds a comment, an escape, or a function that is not on the list.

    Example:
        >>> check_filter("lower(caption) LIKE '%a cup (red)%'")
        "lower(caption) LIKE '%a cup (red)%'"
        >>> check_filter("path = repeat(path, 1000000000)")
        Traceback (most recent call last):
            ...
        ValueError: repeat(...) is not allowed in a filter here; allowed: abs, cast, ...
    """
    plain = _QUOTED.sub(lambda quoted: "0" if quoted[0][0] == "'" else "column", where)
    if "--" in plain or "/*" in plain or "\\" in where or "$" in where:  # each may hide what is text and what is not
        raise ValueError("comments, backslashes and $ are not allowed in a filter here")
    for name in _CALLED.findall(plain):
        if name.lower() not in _BEFORE_BRACKETS | _FUNCTIONS:
            raise ValueError(f"{name[:40]}(...) is not allowed in a filter here; allowed: {', '.join(sorted(_FUNCTIONS))}")
    return where
