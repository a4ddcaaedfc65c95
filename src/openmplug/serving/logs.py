"""One JSON object a line, and nothing of what people send: no texts, no names of files, no addresses."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Any, TextIO

logger = logging.getLogger("openmplug.serving")


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object.

    Of an exception only its class and the places in the code are written: its message may hold what a client sent. For the same reason
    other libraries' records are written without their arguments.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower()}
        if record.name == logger.name:
            line["event"] = record.getMessage()
            line.update(getattr(record, "fields", {}))
        else:
            line.update(event="library", library=record.name, message=str(record.msg))
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])[-12:]
            line["trace"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False)


def log(event: str, level: int = logging.INFO, exc_info: Any = None, **fields: Any) -> None:
    """Write an event with its fields; those that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, event, exc_info=exc_info, extra={"fields": given})


def start_logging(level: str, stream: TextIO | None = None) -> None:
    """Send our events and the warnings of the HTTP server to a stream, stdout by default.

    Args:
        level: ``info``, ``warning`` or ``error``.
        stream: Where to.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter())
    for name, least in ((logger.name, level), ("uvicorn", "warning"), ("asyncio", "warning")):
        one = logging.getLogger(name)
        one.handlers[:] = [handler]
        one.propagate = False
        one.setLevel(max(getattr(logging, level.upper()), getattr(logging, least.upper())))
