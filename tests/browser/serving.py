"""What the browser's tests share: how Chromium is started, and what is kept of a page that is being served."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The first lets it run as root; the others keep it from asking its maker's hosts for anything, which would be taken for the page's doing.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
WAIT = 120_000  # ms: a page on a machine that does other things
LOCAL = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost)(:\d+)?/|data:|blob:|about:")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1200, "height": 860}


@dataclass
class Outgoing:
    """Addresses outside this machine that this process has reached for while ``watching``."""

    watching: bool = False
    found: list[str] = field(default_factory=list)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "socket.connect" and isinstance(given[1], tuple) and given[1][0] not in ("127.0.0.1", "::1", "localhost"):
            self.found.append(f"connect {given[1]}")
        if event == "socket.getaddrinfo" and given[0] not in (None, "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
            self.found.append(f"look up {given[0]!r}")


@dataclass(frozen=True)
class Served:
    """The page: its address, its models, its index, the pictures in it, and what the server's process reached for."""

    address: str
    shelf: list[Any]
    index: Any
    archive: Path
    outgoing: Outgoing


Visit = Callable[..., Any]
"""Opens the page as somebody new: size of the window, and whether they like it dark."""
