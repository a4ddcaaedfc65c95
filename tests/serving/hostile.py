"""What hostile clients send, for tests and the benchmark."""

from __future__ import annotations

import io
import socket
import struct
import zlib

from PIL import Image


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """Make a PNG of a few bytes whose header claims so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def many_scans(scans: int = 2_000) -> bytes:
    """Make a progressive JPEG that goes over its picture so many times, a few bytes each."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 40)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def growing_gif(width: int, height: int) -> bytes:
    """Make a GIF of 8 x 8 pixels whose second frame is as large as is said."""

    def frame(width: int, height: int) -> bytes:
        return b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"

    screen = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    return screen + frame(1, 1) + frame(width, height) + b"\x3b"


def many_frames_gif(frames: int) -> bytes:
    """Make a GIF of so many frames, of 15 bytes each."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    return screen + (b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00") * frames + b"\x3b"


def longer(video: bytes, seconds: int = 36_000) -> bytes:
    """Change the header of an mp4 so that it claims to last so long."""
    changed = bytearray(video)
    film = changed.find(b"mvhd") + 4
    whole = seconds * struct.unpack(">I", changed[film + 12 : film + 16])[0]
    changed[film + 16 : film + 20] = struct.pack(">I", whole)
    edits = changed.find(b"elst") + 4  # what of the track is shown
    changed[edits + 8 : edits + 12] = struct.pack(">I", whole)
    track = changed.find(b"mdhd") + 4
    whole = seconds * struct.unpack(">I", changed[track + 12 : track + 16])[0]
    changed[track + 16 : track + 20] = struct.pack(">I", whole)
    times = changed.find(b"stts") + 4
    frames = struct.unpack(">I", changed[times + 8 : times + 12])[0]
    changed[times + 12 : times + 16] = struct.pack(">I", whole // frames)
    return bytes(changed)


def more_frames(video: bytes, frames: int = 900_000) -> bytes:
    """Change the header of an mp4 so that it claims to hold so many frames."""
    changed = bytearray(video)
    sizes, times = changed.find(b"stsz") + 4, changed.find(b"stts") + 4
    changed[sizes + 4 : sizes + 12] = struct.pack(">II", 1, frames)
    changed[times + 8 : times + 12] = struct.pack(">I", frames)
    chunks = changed.find(b"stsc") + 4
    changed[chunks + 12 : chunks + 16] = struct.pack(">I", frames)
    return bytes(changed)


def talk(address: tuple[str, int], data: bytes, timeout: float = 20.0) -> bytes:
    """Send bytes as they are and return all that comes until the other side closes."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(data)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        received += b""
    return received
