"""Files by their address, for services that allow it: never from the service's own network.

A name is resolved here, every address it has is checked, and the connection is made to the checked address itself; so neither a name
that means something else at the second look-up nor a redirect leads inside. Environment variables that name a proxy are not looked at.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from openmplug.serving.refusals import Refusal, too_large

MOST_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE = 64 * 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Say whether an address belongs to the public internet, an IPv4 address inside an IPv6 one included.

    Example:
        >>> [is_public(ipaddress.ip_address(one)) for one in ("93.184.216.34", "127.0.0.1", "10.1.2.3", "169.254.169.254")]
        [True, False, False, False]
        >>> [is_public(ipaddress.ip_address(one)) for one in ("::1", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")]
        [False, False, False, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local)


@dataclass(frozen=True)
class Fetcher:
    """Gets files from the public internet.

    Args:
        most_bytes: Of one file.
        timeout_seconds: For all of it, redirects included.
    """

    most_bytes: int
    timeout_seconds: float

    def allowed(self, address: Address) -> bool:
        """Say whether an address may be connected to."""
        return is_public(address)

    def fetch(self, url: str) -> bytes:
        """Get a file.

        Args:
            url: Its address, ``http`` or ``https``.

        Raises:
            Refusal: 400 if the address is none or may not be used, 413 if the file is too large, 422 if it cannot be had.
        """
        end = time.monotonic() + self.timeout_seconds
        for _ in range(MOST_REDIRECTS + 1):
            connection, target = self._connect(url, end)
            # A time-out of the socket is one of each read: a server that sends a byte now and then would never meet it.
            cut = threading.Timer(max(0.0, end - time.monotonic()), _cut, (connection,))
            cut.start()
            try:
                connection.request("GET", target, headers={"User-Agent": "openmplug", "Accept-Encoding": "identity", "Accept": "*/*"})
                answer = connection.getresponse()
                if answer.status in _REDIRECTS:
                    url = urljoin(url, answer.getheader("Location") or "")
                    continue
                if answer.status != 200:
                    raise _unfetched(f"its server answered {answer.status}")
                return self._read(answer, end)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _unfetched(type(error).__name__) from None
            finally:
                cut.cancel()
                connection.close()
        raise _unfetched(f"it redirects more than {MOST_REDIRECTS} times")

    def _connect(self, url: str, end: float) -> tuple[http.client.HTTPConnection, str]:
        """Check an address and connect to it; returns the connection and what to ask for."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _refused("it cannot be read as an address") from None
        if parts.scheme not in ("http", "https") or not host:
            raise _refused("expected http://... or https://...")
        if parts.username is not None or parts.password is not None:
            raise _refused("it holds a user name or password")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or not target.isprintable() or " " in target:
            raise _refused("it holds characters that an address must encode with %")
        port = port or (443 if parts.scheme == "https" else 80)
        place = self._resolve(host, port)
        left = end - time.monotonic()
        if left <= 0:
            raise _unfetched("it takes too long")
        try:
            plain = socket.create_connection(place, timeout=left)
        except OSError as error:
            raise _unfetched(type(error).__name__) from None
        connection = http.client.HTTPConnection(host, port, timeout=left)
        connection.sock = plain
        if parts.scheme == "https":
            try:
                # The certificate must be the name's, though we connected to the number.
                connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            except (OSError, ValueError) as error:
                plain.close()
                raise _unfetched(type(error).__name__) from None
            connection.default_port = 443  # or the Host header would name the port
        return connection, target

    def _resolve(self, host: str, port: int) -> tuple[str, int]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):  # ValueError: UnicodeError, or a zero byte in the name
            raise _unfetched("its name is not known") from None
        places = [str(one[4][0]) for one in found]
        # One inner address among several is enough to refuse: which one would be connected to is chance.
        if not places or not all(self.allowed(ipaddress.ip_address(place.partition("%")[0])) for place in places):
            raise _refused("it is not on the public internet")
        return places[0], port

    def _read(self, answer: http.client.HTTPResponse, end: float) -> bytes:
        declared = answer.getheader("Content-Length") or ""
        if declared.isdigit() and int(declared) > self.most_bytes:
            raise too_large(f"the file at the address has {int(declared):,} bytes; expected at most {self.most_bytes:,}")
        content = bytearray()
        while piece := answer.read1(_PIECE):
            content += piece
            if len(content) > self.most_bytes:
                raise too_large(f"the file at the address has more than {self.most_bytes:,} bytes; send a smaller one")
        if time.monotonic() > end:
            raise _unfetched("it takes too long")  # and what came of it may not be all
        if declared.isdigit() and len(content) != int(declared):
            raise _unfetched(f"it breaks off after {len(content):,} bytes")
        return bytes(content)


def _cut(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it may have ended by itself
        connection.sock.shutdown(socket.SHUT_RDWR)


def _refused(why: str) -> Refusal:
    return Refusal(400, "url_refused", f"the address is refused: {why}")


def _unfetched(why: str) -> Refusal:
    return Refusal(422, "url_failed", f"the file at the address could not be fetched: {why}")
