"""What one request, and all of them together, may ask of the service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from openmplug.config import Settings

_Count = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0)]

MIB = 1024 * 1024


class Limits(Settings):
    """Limits of the service; nearly all are options of ``openmplug serve``.

    Args:
        body_bytes: Of one request, counted while it is received.
        upload_bytes: Of all requests that are being received or decoded, together.
        pixels: Width x height of a picture or of a video's frames; read from the header.
        video_seconds: Longest video; read from the header, and held to it while reading.
        video_frames: Most frames of a video, likewise.
        text_characters: Longest text.
        texts: Texts of one request.
        candidates: Answers that one request may choose among.
        new_tokens: Largest ``max_length`` that a request may ask for.
        beams: Largest ``num_beams`` that a request may ask for.
        results: Most hits of a search.
        queue: Pictures that may wait for the model, a video counting as its frames; beyond it requests get 429.
        request_seconds: From the last byte of a request to its answer; beyond it, 504.
        header_seconds: From the first byte of a request to the end of its headers.
        body_seconds: For the whole body.
        silence_seconds: Between two pieces of a body.
        connections: Open at once.
        drain_seconds: For accepted requests after SIGTERM.
    """

    body_bytes: _Count = 32 * MIB
    upload_bytes: _Count = 256 * MIB
    pixels: _Count = 50_000_000
    video_seconds: _Seconds = 600.0
    video_frames: _Count = 36_000
    text_characters: _Count = 4_000
    texts: _Count = 64
    candidates: _Count = 256
    new_tokens: _Count = 64
    beams: _Count = 10
    results: _Count = 100
    queue: _Count = 256
    request_seconds: _Seconds = 30.0
    header_seconds: _Seconds = 10.0
    body_seconds: _Seconds = 60.0
    silence_seconds: _Seconds = 10.0
    connections: _Count = 1_000
    drain_seconds: _Seconds = 60.0
