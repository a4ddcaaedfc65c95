"""Hostile and unlucky clients: each gets one clear line, and nobody else notices."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from data.videos_made import write_video
from openmplug.inference.model import Model
from openmplug.serving.refusals import Refusal
from serving.conftest import Running, running, until
from serving.hostile import bomb, everything, longer, many_frames_gif, many_scans, more_frames, talk

STRICT = {
    "body_bytes": 300_000,
    "upload_bytes": 600_000,
    "pixels": 1_000_000,
    "video_seconds": 5.0,
    "video_frames": 60,
    "text_characters": 100,
    "texts": 3,
    "candidates": 4,
    "new_tokens": 30,
    "beams": 3,
    "header_seconds": 0.6,
    "body_seconds": 1.5,
    "silence_seconds": 0.6,
}


@pytest.fixture(scope="module")
def strict(folder: Path) -> Iterator[Running]:
    with running(folder, **STRICT) as one:
        yield one


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("av")
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 20).read_bytes()


def error_of(answer: bytes) -> tuple[int, str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    return int(head.split()[1]), error["type"], error["message"]


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", *lines, "", ""]).encode()


# ---------------------------------------------------------------------------------------------------------------- contents


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (bomb(), 413, "too many pixels"),
        (bomb(1001, 1000), 413, "too many pixels: 1,001 x 1,000, expected at most 1,000,000"),
        (bomb(10, 10), 422, "damaged"),
        (bomb(70_000, 1), 413, "too long: 70,000 x 1, expected at most 65,535 each way"),
        (many_scans(), 413, "a JPEG of more than 100 scans"),
        (many_scans(3), 200, ""),
        (b"no picture at all", 422, "no picture; expected JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "no picture"),
        (b"\x89PNG\r\n\x1a\n", 422, "image 'image'"),
    ],
)
def test_wrong_pictures(strict: Running, content: bytes, status: int, message: str) -> None:
    answer = strict.post("caption", files={"image": content})
    assert (answer.status_code, message in answer.text) == (status, True), answer.text


def test_a_cut_picture(strict: Running, picture: bytes) -> None:
    answer = strict.post("caption", files={"image": picture[: len(picture) // 2]})
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "unreadable")


def test_wrong_videos(strict: Running, clip: bytes, picture: bytes) -> None:
    for content, status, message in (
        (longer(clip), 413, "too long: 36,000 seconds, expected at most 5"),
        (more_frames(clip), 413, "too many frames"),
        (clip[: len(clip) // 2], 422, "video 'video'"),
        (picture, 422, "does not move; send it as 'image'"),
        (many_frames_gif(100), 413, "too many frames: 100"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 422, "no video"),
    ):
        answer = strict.post("caption", files={"video": content})
        assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text
    answer = strict.post("caption", files={"image": clip})
    assert "send a video as 'video'" in answer.json()["error"]["message"]


def test_too_many_words(strict: Running, picture: bytes) -> None:
    for endpoint, data, status, message in (
        ("match", {"text": ["a"] * 4}, 413, "4 texts; expected at most 3"),
        ("match", {"text": "a" * 101}, 413, "a text of 101 characters"),
        ("caption", {"prompt": "a" * 101}, 413, "a text of 101 characters"),
        ("answer", {"question": "what ?", "candidates": list("abcde")}, 413, "5 candidates"),
        ("caption", {"num_beams": 4}, 422, "num_beams is 4; this service allows at most 3"),
        ("caption", {"max_length": 31}, 422, "max_length is 31"),
        ("caption", {"min_length": 9, "max_length": 8}, 400, "min_length 9 is above max_length 8"),
        ("caption", {"prompt": "what colour is " * 6}, 200, ""),
        ("answer", {"question": "what ?", "candidates": [" ", "b"]}, 400, "candidates must be"),
    ):
        answer = strict.post(endpoint, files={"image": picture}, data=data)
        assert (answer.status_code, message in answer.text) == (status, True), answer.text


# -------------------------------------------------------------------------------------------------------------------- bytes


def test_a_declared_gigabyte_is_refused_before_it_comes(strict: Running) -> None:
    begun = time.monotonic()
    status, kind, message = error_of(talk(strict.address, head("/v1/caption", "Content-Length: 1073741824")))
    assert (status, kind) == (413, "too_large")
    assert "1,073,741,824 bytes; expected at most 300,000" in message
    assert time.monotonic() - begun < 10


def test_an_endless_chunked_body_is_refused_at_the_limit(strict: Running) -> None:
    with socket.create_connection(strict.address, timeout=20) as connection:
        connection.sendall(head("/v1/caption", "Transfer-Encoding: chunked"))
        sent = 0
        try:
            for _ in range(2_000):
                connection.sendall(b"%x\r\n%s\r\n" % (65_536, b"x" * 65_536))
                sent += 65_536
        except OSError:
            pass
        try:
            answer = everything(connection)
        except OSError:
            answer = b""
    assert sent < 60_000_000
    assert not answer or error_of(answer)[:2] == (413, "too_large")
    assert strict.service.uploads.held == 0


def test_a_moderately_large_body_learns_why(strict: Running) -> None:
    answer = strict.post("caption", content=b"x" * 2_000_000, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def test_bodies_share_their_memory_and_the_slow_make_room(run: Callable[..., Running], picture: bytes) -> None:
    one = run(upload_bytes=100_000, body_bytes=90_000)
    with socket.create_connection(one.address, timeout=20) as slow, socket.create_connection(one.address, timeout=20) as later:
        slow.sendall(head("/v1/caption", "Content-Length: 89000") + b"x" * 80_000)
        until(lambda: one.service.uploads.held == 80_000)
        assert one.post("caption", files={"image": picture}).status_code == 200
        later.sendall(head("/v1/caption", "Content-Length: 89000") + b"x" * 70_000)
        assert error_of(everything(slow))[:2] == (429, "uploads_full")
        until(lambda: one.service.uploads.held == 70_000)
        assert one.post("caption", files={"image": picture}).status_code == 200
    until(lambda: one.service.uploads.held == 0)


def test_bodies_that_are_complete_are_not_given_up(run: Callable[..., Running]) -> None:
    uploads = run(upload_bytes=100_000).service.uploads
    with uploads.holding() as complete, uploads.holding() as new:
        complete.add(90_000)
        with pytest.raises(Refusal, match="too many bytes are being received"):
            new.add(20_000)
    assert uploads.held == 0


def test_nobody_is_given_up_for_nothing(run: Callable[..., Running]) -> None:
    """Where complete bodies hold the room, those that arrive keep theirs; alone, one may be larger than the limit."""
    uploads = run(upload_bytes=100_000).service.uploads
    with uploads.holding() as complete, uploads.holding() as waiting, uploads.holding() as slow, uploads.holding() as new:
        complete.add(70_000)
        for one in (waiting, slow, new):
            uploads.arriving[one] = None
        slow.add(20_000)
        with pytest.raises(Refusal, match="too many bytes are being received"):
            new.add(40_000)
        assert (slow.given_up, uploads.held) == (False, 90_000)
        new.add(30_000)
        assert (waiting.given_up, slow.given_up, uploads.held) == (False, True, 100_000)
        uploads.arriving.clear()
    assert uploads.held == 0
    with uploads.holding() as alone:
        alone.add(90_000)
        alone.add(90_000)


def test_a_compressed_body_is_not_unpacked(served: Running) -> None:
    packed = gzip.compress(bytes(10_000_000))
    answer = served.post("caption", content=packed, headers={"content-type": "application/json", "content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (415, "unsupported_media_type")


def test_what_follows_a_body_in_chunks_is_not_collected(served: Running) -> None:
    """Headers behind the last chunk, or one chunk size without end: the connection is cut, nothing grows."""
    for endless in (b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 150_000, b"2;" + b"x" * 900_000):
        with socket.create_connection(served.address, timeout=20) as connection, suppress(OSError):
            connection.sendall(head("/v1/caption", "Transfer-Encoding: chunked") + endless)
            everything(connection)
    few = b"2\r\n{}\r\n0\r\nX-Request-ID: late\r\nConnection: close\r\n\r\n"
    with socket.create_connection(served.address, timeout=20) as connection:
        connection.sendall(head("/v1/caption", "Transfer-Encoding: chunked") + few)
        answer = connection.recv(5_000)
    assert b"422" in answer.split(b"\r\n")[0]
    assert b"late" not in answer


# --------------------------------------------------------------------------------------------------------------------- time


def test_slow_and_silent_clients_are_sent_away(strict: Running, picture: bytes) -> None:
    with socket.create_connection(strict.address, timeout=20) as silent, socket.create_connection(strict.address, timeout=20) as slow:
        slow.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: ")
        stalled = socket.create_connection(strict.address, timeout=20)
        stalled.sendall(head("/v1/caption", "Content-Length: 1000") + b"{")
        assert strict.post("caption", files={"image": picture}).status_code == 200, "others are served meanwhile"
        assert error_of(everything(silent))[:2] == (408, "too_slow")
        assert error_of(everything(slow))[:2] == (408, "too_slow")
        status, kind, message = error_of(everything(stalled))
        assert (status, kind, "1 bytes in time" in message) == (408, "too_slow", True)
        stalled.close()


def test_who_reads_no_answer_is_sent_away(strict: Running) -> None:
    """Answers that nobody takes pile up in nobody's memory, and their connection ends."""
    before = strict.service.connections()
    with socket.create_connection(strict.address, timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with suppress(OSError):
            connection.settimeout(5)
            for _ in range(1_000):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n" * 20)
        until(lambda: strict.service.connections() <= before)
    assert strict.service.in_progress == 0


def test_a_body_that_drips_ends_with_its_time(strict: Running) -> None:
    with socket.create_connection(strict.address, timeout=20) as connection:
        connection.sendall(head("/v1/caption", "Content-Length: 1000"))
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 15:
                connection.sendall(b" ")
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() - begun < 14


def test_headers_without_end(strict: Running) -> None:
    status, kind, _ = error_of(talk(strict.address, b"POST /v1/caption HTTP/1.1\r\nX: " + b"a" * 70_000))
    assert (status, kind) == (431, "headers_too_large")


def test_what_is_no_http(strict: Running) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"nonsense\r\n\r\n"):
        assert error_of(talk(strict.address, data))[:2] == (400, "invalid_http")


def test_another_protocol_is_not_offered_and_not_needed(served: Running) -> None:
    """What curl --http2 asks is answered in HTTP/1.1, as if it had not asked; with a body it is told."""
    lines = b"Host: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    assert b"200 OK" in talk(served.address, b"GET /healthz HTTP/1.1\r\n" + lines + b"\r\n")
    body = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    assert b"send it without Upgrade" in talk(served.address, b"POST /v1/caption HTTP/1.1\r\n" + lines + body)
    assert b"400" in talk(served.address, b"CONNECT a:80 HTTP/1.1\r\nHost: h\r\n\r\n")


def test_several_requests_in_one_breath(strict: Running) -> None:
    answers = talk(
        strict.address, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" * 2 + b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    assert answers.count(b'{"status":"ok"}') == 3


def test_too_many_connections(run: Callable[..., Running]) -> None:
    """Of connections that ask for nothing the oldest makes room; where all are busy, the newcomer is told."""
    one = run(connections=5)
    one.client.close()  # it keeps one open, too
    silent = [socket.create_connection(one.address, timeout=20) for _ in range(5)]
    until(lambda: one.service.connections() == 5)
    assert b"200 OK" in talk(one.address, b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert error_of(everything(silent[0]))[:2] == (408, "too_slow")
    for connection in silent[1:]:
        connection.sendall(head("/v1/caption", "Content-Length: 1000") + b"{")
    silent.append(socket.create_connection(one.address, timeout=20))
    silent[-1].sendall(head("/v1/caption", "Content-Length: 1000") + b"{")
    until(lambda: one.service.in_progress == 5)
    refused = socket.create_connection(one.address, timeout=20)
    assert error_of(refused.recv(1000))[:2] == (503, "too_many_connections")
    for connection in (*silent, refused):
        connection.close()


# --------------------------------------------------------------------------------------------------------------- everything


def test_everybody_else_is_served_while_they_try(strict: Running, model: Model, clip: bytes, pictures: list[bytes]) -> None:
    """All of them at once, and in between requests whose answers are the right ones."""
    hanging = [socket.create_connection(strict.address, timeout=20) for _ in range(10)]
    for number, connection in enumerate(hanging):
        connection.sendall(
            [b"", b"POST /v1", head("/v1/caption", "Content-Length: 1000"), head("/v1/caption", "Content-Length: 1073741824")][number % 4]
        )
    for picture in pictures[:3]:
        assert strict.post("caption", files={"image": bomb()}).status_code == 413
        assert strict.post("caption", files={"video": longer(clip)}).status_code == 413
        assert (
            strict.post("caption", content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data; boundary=x"}).status_code == 400
        )
        assert strict.post("caption", files={"image": picture}).json()["text"] == model.caption(picture).text
    for connection in hanging:
        connection.close()


# --------------------------------------------------------------------------------------------------------------------- keys


def test_keys(run: Callable[..., Running], picture: bytes) -> None:
    one = run(keys=("the-first-key-of-all", "the-second-key-of-all"))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "the-first-key-of-al"}):
        answer = one.client.build_request("POST", "/v1/caption", files={"image": picture})
        del answer.headers["authorization"]
        answer.headers.update(headers)
        refused = one.client.send(answer)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert one.client.get("/metrics", headers={"authorization": ""}).status_code == 401
    assert one.client.get("/nothing", headers={"authorization": ""}).status_code == 401
    assert one.client.get("/healthz", headers={"authorization": ""}).status_code == 200
    assert one.post("caption", files={"image": picture}, headers={"authorization": "Bearer the-second-key-of-all"}).status_code == 200
    assert (
        one.post("caption", files={"image": picture}, headers={"authorization": "", "x-api-key": "the-first-key-of-all"}).status_code == 200
    )


def test_addresses_are_off_unless_asked_for(served: Running, run: Callable[..., Running]) -> None:
    refused = served.post("caption", json={"image_url": "http://example.com/a.png"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "urls_not_allowed")
    inner = run(urls=True).post("caption", json={"image_url": "http://127.0.0.1/a.png"})
    assert (inner.status_code, inner.json()["error"]["type"]) == (400, "url_refused")
