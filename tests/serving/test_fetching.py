"""Addresses: what may be connected to, redirects, sizes, times; against servers of this machine that only the test allows."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from openmplug.serving.fetching import Address, Fetcher
from openmplug.serving.refusals import Refusal


class LocalFetcher(Fetcher):
    """Allows 127.0.0.1 and nothing else that is not public."""

    def allowed(self, address: Address) -> bool:
        return str(address) == "127.0.0.1" or super().allowed(address)


class Handler(http.server.BaseHTTPRequestHandler):
    hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Handler.hosts.append(self.headers["Host"])
        path = self.path.partition("?")[0]
        if path == "/inside":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.2/secret")
            self.end_headers()
        elif path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif path == "/there":
            self.send_response(301)
            self.send_header("Location", "/file?x=1")
            self.end_headers()
        elif path == "/file":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"content")
        elif path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", "1000000000")
            self.end_headers()
        elif path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"content")
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 1000)
            except OSError:
                return
        elif path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            try:
                for _ in range(100):
                    self.wfile.write(b"X")
                    self.wfile.flush()
                    time.sleep(0.1)
            except OSError:
                return
        else:
            self.send_error(404)

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def refused(fetcher: Fetcher, url: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        fetcher.fetch(url)
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0.0.0.0/",
        "http://localhost/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[64:ff9b::a00:1]/",
        "https://127.0.0.1/",
    ],
)
def test_inner_addresses(url: str) -> None:
    found = refused(Fetcher(1000, 5), url)
    assert found.kind in ("url_refused", "url_failed"), "an unresolvable form of the address is refused as well"
    assert "public internet" in found.message or found.kind == "url_failed"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "expected http"),
        ("ftp://example.com/a", "expected http"),
        ("gopher://127.0.0.1/", "expected http"),
        ("no address", "expected http"),
        ("http://", "expected http"),
        ("http://user:word@example.com/", "user name or password"),
        ("http://example.com:99999/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
        ("http://127.0.0.1/a b", "must encode"),
        ("http://127.0.0.1/\r\nX: y", ""),
    ],
)
def test_what_is_no_address(url: str, message: str) -> None:
    found = refused(LocalFetcher(1000, 5), url)
    assert (400 <= found.status < 500) and message in found.message


def test_a_name_with_an_inner_address_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert refused(Fetcher(1000, 5), "http://example.com/").kind == "url_refused"


def test_the_checked_address_is_the_one_connected_to(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another address at the second look-up gains nothing: there is no second look-up."""
    port = int(server.rpartition(":")[2])
    answers = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]])
    real = socket.getaddrinfo

    def lookup(host: str, *rest: Any, **more: Any) -> Any:
        return next(answers) if host == "example.com" else real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert LocalFetcher(1000, 5).fetch(f"http://example.com:{port}/file") == b"content"
    assert Handler.hosts[-1] == f"example.com:{port}"


def test_a_redirect_is_followed_and_checked(server: str) -> None:
    assert LocalFetcher(1000, 5).fetch(f"{server}/there") == b"content"
    assert refused(LocalFetcher(1000, 5), f"{server}/inside").kind == "url_refused"
    assert "redirects more than 3 times" in refused(LocalFetcher(1000, 5), f"{server}/loop").message


def test_sizes(server: str) -> None:
    declared = refused(LocalFetcher(1000, 5), f"{server}/large")
    assert (declared.status, "1,000,000,000 bytes" in declared.message) == (413, True)
    assert refused(LocalFetcher(10_000, 5), f"{server}/endless").status == 413


def test_a_server_that_drips_is_left_in_time(server: str) -> None:
    begun = time.monotonic()
    assert refused(LocalFetcher(1000, 0.5), f"{server}/drip").kind == "url_failed"
    assert time.monotonic() - begun < 5


def test_what_is_not_there(server: str) -> None:
    assert "answered 404" in refused(LocalFetcher(1000, 5), f"{server}/nothing").message
    assert "breaks off after 7 bytes" in refused(LocalFetcher(1000, 5), f"{server}/short").message
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    assert refused(LocalFetcher(1000, 5), f"http://127.0.0.1:{free.getsockname()[1]}/").kind == "url_failed"
    free.close()
