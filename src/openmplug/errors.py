"""The errors a user can cause. Each carries the exit code its kind gives the command line.

A message is one line: what came, what was expected, what to do.
"""

from __future__ import annotations

import errno
from pathlib import Path


class OpenmplugError(Exception):
    """Base of every error that is reported as one line without a trace.

    ``told`` means that another process of the same run reports it.
    """

    exit_code = 1
    told = False


class UsageError(OpenmplugError, ValueError):
    """A wrong command, recipe, setting or argument (exit code 2)."""

    exit_code = 2


class DataError(OpenmplugError, ValueError):
    """A data set, row, image or video that cannot be used (exit code 3)."""

    exit_code = 3


class TooLarge(DataError):
    """A picture or video beyond what it may be: more pixels, frames or seconds than allowed."""


class ModelError(OpenmplugError, ValueError):
    """A checkpoint or model that cannot be used, or a loss that is not finite (exit code 4)."""

    exit_code = 4


class EnvironmentProblem(OpenmplugError, RuntimeError):
    """This machine cannot do it: disk full, out of memory, a part not installed (exit code 5)."""

    exit_code = 5


def write_problem(error: BaseException, path: Path) -> EnvironmentProblem:
    """Say in one line why ``path`` could not be written."""
    text = " ".join(str(error).split())
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "os error 28" in text:
        return EnvironmentProblem(f"disk full while writing '{path}'; the old content is kept; free some space, or choose another --output")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else text
    return EnvironmentProblem(f"cannot write '{path}': {reason}; the old content is kept")
