"""The body of a request as named values, from JSON or from a form with files (``multipart/form-data``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from openmplug.config import did_you_mean
from openmplug.serving.refusals import Refusal, invalid
from openmplug.serving.schemas import Request

R = TypeVar("R", bound=Request)

JSON = "application/json"
FORM = "multipart/form-data"
_MOST_PARTS = 512
_MOST_COMMAS = 20_000  # a body of commas would be millions of values; base64 has none
_SHOWN = 200  # characters of what a client sent that are sent back to it


def parse(kind: type[R], content_type: str, body: bytes | bytearray) -> R:
    """Read a body and check it.

    Args:
        kind: What is expected.
        content_type: The header.
        body: All of it.

    Raises:
        Refusal: 415 if it is neither JSON nor a form, 400 if it is broken, 422 if it is not what is expected.
    """
    name = content_type.partition(";")[0].strip().lower()
    try:
        if name == JSON or name.endswith("+json"):
            if body.count(b",") > _MOST_COMMAS:
                raise invalid(f"the body holds more than {_MOST_COMMAS:,} commas; expected one request, its files as base64")
            return kind.model_validate_json(body)
        if name == FORM:
            return kind.model_validate(_fitted(kind, read_form(content_type, body)))
    except ValidationError as error:
        raise _explain(kind, error) from None
    given = f"'{name[:_SHOWN]}'" if name else "none"
    raise Refusal(415, "unsupported_media_type", f"content type {given}; expected {JSON} (files as base64) or {FORM}")


class _Parts:
    """Collects what the parser finds: per part its headers and the pieces of its content."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bool, bytes]] = []
        self.whole = False
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._pieces: list[bytes] = []

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._pieces.append(data[start:end]),
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.found) >= _MOST_PARTS:
            raise invalid(f"the form has more than {_MOST_PARTS} parts")
        self._headers = {}
        self._pieces = []

    def _header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _part_end(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise invalid("a part of the form has no name; expected Content-Disposition: form-data; name=...")
        name = options[b"name"].decode("utf-8", "replace")
        self.found.append((name, b"filename" in options, b"".join(self._pieces)))

    def _end(self) -> None:
        self.whole = True


def read_form(content_type: str, body: bytes | bytearray) -> list[tuple[str, bool, bytes]]:
    """Take a form apart.

    Returns:
        Of each part its name, whether it is a file, and its content.

    Raises:
        Refusal: If it is broken or has no end.
    """
    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise invalid("the form's Content-Type names no boundary; let your HTTP library write that header")
        parts = _Parts()
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(bytes(body))
    except (FormParserError, UnicodeError) as error:
        raise invalid(f"the form is broken: {error}") from None
    if not parts.whole:
        raise invalid("the form breaks off before its last boundary; send it again")
    return parts.found


def _fitted(kind: type[Request], parts: list[tuple[str, bool, bytes]]) -> Mapping[str, Any]:
    """Make of a form what the JSON of it would be: text as text, repeated fields as lists where lists are expected."""
    values: dict[str, Any] = {}
    for name, _, content in parts:
        value: Any = content
        if name not in kind.files:
            try:
                value = content.decode("utf-8")
            except UnicodeDecodeError:
                raise invalid(f"field '{name[:_SHOWN]}' is not UTF-8 text") from None
        if name not in values:
            values[name] = value
        elif name in ("text", "candidates") and name in kind.model_fields:
            earlier = values[name]
            values[name] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
        else:
            raise invalid(f"field '{name[:_SHOWN]}' occurs twice in the form")
    return values


def _explain(kind: type[Request], error: ValidationError) -> Refusal:
    """Say in one line what is wrong, without repeating what was sent."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return invalid(f"the body is not JSON: {details[0]['msg'].removeprefix('Invalid JSON: ')}")
    lines = []
    for detail in details[:3]:
        place = ".".join(str(part) for part in detail["loc"])[:_SHOWN]
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            hint = did_you_mean(place, kind.model_fields) or f"; known: {', '.join(kind.model_fields)}"
            lines.append(f"unknown field '{place}'{hint}")
        elif detail["type"] == "missing":
            lines.append(f"field '{place}' is missing")
        elif place:
            lines.append(f"field '{place}': {message[:1].lower()}{message[1:]}")
        else:
            lines.append(message)
    more = f" (and {len(details) - 3} more)" if len(details) > 3 else ""
    return Refusal(422, "invalid_request", "; ".join(lines) + more)
