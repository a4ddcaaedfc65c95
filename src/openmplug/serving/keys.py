"""API keys: read from a file or the environment, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from openmplug.errors import UsageError

VARIABLE = "OPENMPLUG_API_KEYS"
SHORTEST = 16


class Keys:
    """The keys that open the service; without any, it is open.

    Args:
        keys: The keys themselves.

    Example:
        >>> keys = Keys(["correct horse battery"])
        >>> keys.admit({"authorization": "Bearer correct horse battery"}), keys.admit({"x-api-key": "wrong"}), keys.admit({})
        (True, False, False)
        >>> Keys([]).admit({})
        True
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in dict.fromkeys(keys)]

    def __len__(self) -> int:
        return len(self._digests)

    def admit(self, headers: Mapping[str, str]) -> bool:
        """Say whether a request's headers (names in lower case) hold a key: ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``."""
        if not self._digests:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            given = headers.get("x-api-key", "")
        digest = _digest(given.strip())
        # All of them, whichever fits: the time says nothing about which, or how much of it was right.
        return bool(sum([hmac.compare_digest(digest, each) for each in self._digests])) and bool(given)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path | None, environment: Mapping[str, str]) -> Keys:
    """Read the keys: one a line, ``#`` begins a comment; or, separated by white space, from ``OPENMPLUG_API_KEYS``.

    Args:
        path: The file; None looks at the environment alone. Both together are allowed.
        environment: Variables of the process.

    Raises:
        UsageError: If the file cannot be read, file or variable holds no key, or a key is too short to be one or cannot be sent.
    """
    found = environment.get(VARIABLE, "").split()
    if VARIABLE in environment and not found:
        raise UsageError(f"{VARIABLE} is set and empty, which would open the service to everybody; put a key there or unset it")
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
            raise UsageError(f"cannot read the API keys '{path}': {reason}") from None
        listed = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not listed:
            raise UsageError(f"'{path}' holds no API key; write one a line, such as the output of: openssl rand -hex 24")
        found += listed
    if not all(key.isascii() and key.isprintable() for key in found):
        raise UsageError("an API key has characters that a header cannot carry, such as ü; make one of ASCII with: openssl rand -hex 24")
    if any(len(key) < SHORTEST for key in found):
        raise UsageError(f"an API key has fewer than {SHORTEST} characters; make one with: openssl rand -hex 24")
    return Keys(found)
