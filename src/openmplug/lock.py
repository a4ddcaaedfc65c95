"""One process at a time: a lock file, held by whoever writes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openmplug.errors import UsageError, write_problem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(path: Path, what: str, otherwise: str) -> Iterator[None]:
    """Hold a lock file while the block runs, so that a second process keeps away.

    Args:
        path: The lock file; it is made and taken away again.
        what: What is worked on, for the message.
        otherwise: What to do instead of waiting, for the message.

    Raises:
        UsageError: If another process holds it.
        EnvironmentProblem: If the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise write_problem(error, path) from error
    with file:
        if fcntl is not None:
            try:
                # Not flock: workers would inherit that, and hold it for seconds after their parent was killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Other errors come from file systems without locks; there, two processes at once are the user's to avoid.
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise UsageError(f"another process is at work on {what} and holds '{path}'; wait for it, or {otherwise}") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
