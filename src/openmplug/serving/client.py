"""A client of the service that needs nothing but Python: ``Client(url).caption("a.jpg")`` says what ``Model.caption`` says.

Importing it imports neither torch nor the HTTP server.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, overload
from urllib.parse import urlsplit
from uuid import uuid4

from openmplug.errors import DataError, EnvironmentProblem, OpenmplugError, UsageError
from openmplug.inference.results import Answer, Box, Caption, Match

File: TypeAlias = "str | Path | bytes"
"""A picture or a video: its path or its content."""

_RETRIED = frozenset({429, 503})
_LONGEST_PAUSE_SECONDS = 30.0


class ServiceError(OpenmplugError):
    """The service refused a request.

    Args:
        status: HTTP status.
        kind: The error's type, such as ``queue_full``.
        message: One line.
        retry_after: Seconds after which the service wants to be asked again; None where it said nothing.
    """

    def __init__(self, status: int, kind: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{message} ({status} {kind})")
        self.status = status
        self.kind = kind
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Found:
    """A hit of a search: see ``openmplug.inference.search``; the thumbnail is a JPEG where it was asked for."""

    name: str
    score: float
    similarity: float
    matching: float | None
    start_seconds: float | None
    end_seconds: float | None
    caption: str | None
    metadata: Mapping[str, Any]
    thumbnail: bytes


class Client:
    """Asks a service. One connection is kept open; use one client a thread.

    Args:
        url: The service's address, such as ``http://127.0.0.1:8000``.
        api_key: If the service wants one.
        timeout_seconds: For a connection, and for an answer.
        retries: How often a request is sent again that was refused because the service was full or not ready.
        check_certificate: False trusts any certificate of an ``https`` service.
    """

    def __init__(
        self, url: str, api_key: str | None = None, timeout_seconds: float = 60.0, retries: int = 3, check_certificate: bool = True
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"'{url}' is not the address of a service; expected something like http://127.0.0.1:8000")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise UsageError("the API key has characters that a header cannot carry; is there a line break in it?")
        self.url = url.rstrip("/")
        self.retries = retries
        self._base = parts.path.rstrip("/")
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
        if parts.scheme == "https":
            context = ssl.create_default_context() if check_certificate else ssl._create_unverified_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_seconds, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # ------------------------------------------------------------------------------------------------------------ questions

    def caption(
        self,
        image: File | None = None,
        *,
        video: File | None = None,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
    ) -> Caption:
        """Describe a picture or a video; arguments as of ``Model.caption``.

        Raises:
            ServiceError: If the service refuses.
            DataError: If the file cannot be read.
            EnvironmentProblem: If the service cannot be reached.
        """
        settings = {"num_beams": num_beams, "min_length": min_length, "max_length": max_length, "prompt": prompt}
        found = self._ask("caption", image, video, settings)
        return Caption(found["text"], _score(found))

    def answer(
        self,
        image: File | None = None,
        question: str = "",
        *,
        video: File | None = None,
        candidates: Sequence[str] | None = None,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> Answer:
        """Answer a question about a picture or a video; arguments as of ``Model.answer``, errors as ``caption``."""
        settings = {"num_beams": num_beams, "min_length": min_length, "max_length": max_length, "candidates": candidates}
        found = self._ask("answer", image, video, {"question": question, **settings})
        ranked = tuple((one["text"], one["probability"]) for one in found["candidates"])
        return Answer(found["text"], _score(found), ranked)

    @overload
    def match(self, image: File | None = None, text: str = "", *, video: File | None = None) -> Match: ...
    @overload
    def match(self, image: File | None = None, text: Sequence[str] = (), *, video: File | None = None) -> list[Match]: ...
    def match(self, image: File | None = None, text: str | Sequence[str] = "", *, video: File | None = None) -> Match | list[Match]:
        """Say how well a text, or each of several, fits a picture or a video; errors as ``caption``."""
        found = [Match(one["probability"], one["similarity"]) for one in self._ask("match", image, video, {"text": text})["matches"]]
        return found[0] if isinstance(text, str) else found

    def ground(self, image: File, phrase: str) -> Box:
        """Find what a phrase names, in the picture's own pixels; errors as ``caption``."""
        found = self._ask("ground", image, None, {"phrase": phrase})
        left, top, right, bottom = found["box"]
        return Box(left, top, right, bottom, found["score"])

    def embed_image(self, image: File | None = None, *, video: File | None = None) -> list[float]:
        """Turn a picture or a video into a vector of length 1; errors as ``caption``."""
        vector: list[float] = self._ask("embed", image, video, {})["embeddings"][0]
        return vector

    def embed_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Turn texts into vectors of length 1; errors as ``caption``."""
        vectors: list[list[float]] = self._ask("embed", None, None, {"text": list(texts)})["embeddings"]
        return vectors

    def search(
        self,
        text: str | None = None,
        *,
        image: File | None = None,
        k: int = 10,
        where: str | None = None,
        rerank: int = 0,
        thumbnails: bool = False,
    ) -> list[Found]:
        """Search the service's index by words or by a picture; arguments as of ``Index.search``, errors as ``caption``."""
        settings = {"text": text, "k": k, "where": where, "rerank": rerank, "thumbnails": thumbnails}
        return [Found(**{**hit, "thumbnail": _bytes(hit["thumbnail"])}) for hit in self._ask("search", image, None, settings)["hits"]]

    def model(self) -> dict[str, Any]:
        """Return what is served: task, endpoints, limits; errors as ``caption``."""
        return self._send("GET", "/v1/model", b"", None)

    # ----------------------------------------------------------------------------------------------------------------- HTTP

    def _ask(self, endpoint: str, image: File | None, video: File | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        files = {name: _content(file) for name, file in (("image", image), ("video", video)) if file is not None}
        given = {name: value for name, value in fields.items() if value is not None}
        path = f"/v1/{endpoint}"
        if not files:
            return self._send("POST", path, json.dumps(given).encode(), "application/json")
        boundary = uuid4().hex
        return self._send("POST", path, _form(boundary, files, given), f"multipart/form-data; boundary={boundary}")

    def _send(self, method: str, path: str, body: bytes, content_type: str | None) -> dict[str, Any]:
        headers = {**self._headers, **({"Content-Type": content_type} if content_type else {})}
        for attempt in range(self.retries + 1):
            status, answered, content = self._exchange(method, path, body, headers)
            if status == 200:
                found: dict[str, Any] = json.loads(content)
                return found
            error = _error(status, answered, content)
            if status not in _RETRIED or attempt == self.retries:
                raise error
            time.sleep(min(error.retry_after or 1.0, _LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send and receive; once more where the connection, kept open since the last request, has been closed meanwhile."""
        kept = self._connection.sock is not None
        try:
            try:
                return self._exchange_once(method, path, body, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()
                if not kept:
                    raise
                return self._exchange_once(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise EnvironmentProblem(f"the service at {self.url} cannot be reached: {reason}; is it running there?") from None

    def _exchange_once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
        self._connection.request(method, self._base + path, body or None, dict(headers))
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


def _content(file: File) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {error.strerror}") from None


def _form(boundary: str, files: Mapping[str, bytes], fields: Mapping[str, Any]) -> bytes:
    pieces = []
    for name, value in fields.items():
        for one in [value] if isinstance(value, str | int | float) else value:
            pieces.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{one}\r\n'.encode())
    for name, content in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        pieces += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", content, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])


def _error(status: int, headers: http.client.HTTPMessage, content: bytes) -> ServiceError:
    try:
        told = json.loads(content)["error"]
        kind, message = str(told["type"]), str(told["message"])
    except (ValueError, KeyError, TypeError):  # not the service itself: a proxy before it
        kind, message = "unknown", f"no answer of an openmplug service: {content[:100]!r}"
    after = headers.get("Retry-After", "")
    return ServiceError(status, kind, message, float(after) if after.isdigit() else None)


def _score(found: Mapping[str, Any]) -> float:
    return float("-inf") if found["score"] is None else float(found["score"])


def _bytes(text: str | None) -> bytes:
    from base64 import b64decode

    return b64decode(text) if text else b""
