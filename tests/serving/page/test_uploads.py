from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.videos_made import numbers_in, write_gif, write_video
from openmplug.data.video import ArrayVideo
from openmplug.errors import DataError, TooLarge
from openmplug.serving.page.shelf import Shelved
from openmplug.serving.page.uploads import Upload, UploadLimits, read_upload

LIMITS = UploadLimits()


def test_a_picture_is_read_upright_and_whole(shelf: list[Shelved], picture: Path) -> None:
    upload = read_upload(str(picture), shelf[0].model, LIMITS)
    assert (upload.name, upload.size, upload.frames) == ("photo.png", (80, 60), 0)
    assert upload.pictures()[0].getpixel((25, 25)) == (215, 40, 40)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_of_a_clip_the_frames_are_read_that_the_model_looks_at(shelf: list[Shelved], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_gif(path, 40) if suffix == ".gif" else write_video(path, 40)
    upload = read_upload(str(path), shelf[0].model, LIMITS)
    assert isinstance(upload.visual, ArrayVideo)
    assert numbers_in(np.stack([np.asarray(one) for one in upload.pictures()])) == [0, 5, 10, 15, 20, 25, 30, 35]  # mPLUG's own choice
    assert upload.frames == 40 and upload.seconds > 1


def test_the_frames_that_were_read_say_what_the_file_says(shelf: list[Shelved], tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 40)
    model = shelf[0].model
    upload = read_upload(str(path), model, LIMITS)
    assert model.match(upload.visual, "a red circle") == model.match(path, "a red circle")
    assert model.caption(upload.visual) == model.caption(path)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.png", b"these are notes, no picture", r"image 'notes\.png' is not a picture"),
        ("empty.jpg", b"", r"'empty\.jpg' is empty \(0 bytes\)"),
        ("table.csv", b"a,b\n1,2\n", r"'table\.csv' is not a picture"),
        ("bomb.png", bomb(60_000), r"'bomb\.png' has too many pixels"),
        ("large.png", bomb(8_000), r"'large\.png' has too many pixels: 8,000 x 8,000, expected at most 50,000,000"),
        ("clip.mp4", b"\x00\x00\x00\x18ftypmp42" + b"\0" * 100, r"video 'clip\.mp4'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name_alone(
    shelf: list[Shelved], tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_upload(str(tmp_path / name), shelf[0].model, LIMITS)
    assert str(tmp_path) not in str(caught.value)  # where the server keeps it is nobody's business
    assert "\n" not in str(caught.value)


def test_limits_of_bytes_and_seconds(shelf: list[Shelved], tmp_path: Path, picture: Path) -> None:
    with pytest.raises(DataError, match="there is no picture yet; choose one"):
        read_upload(None, shelf[0].model, LIMITS)
    with pytest.raises(DataError, match=r"'photo\.png' has 0\.0 MB; at most 0 are taken"):
        read_upload(str(picture), shelf[0].model, replace(LIMITS, megabytes=0))
    with pytest.raises(DataError, match=r"'gone\.png' is no longer here: .* choose it again"):
        read_upload(str(tmp_path / "gone.png"), shelf[0].model, LIMITS)
    clip = write_video(tmp_path / "clip.mp4", 60)
    with pytest.raises(DataError, match=r"'clip\.mp4' is too long: 2 seconds, expected at most 1"):
        read_upload(str(clip), shelf[0].model, replace(LIMITS, video_seconds=1))
    write_gif(tmp_path / "slow.gif", 30)
    with pytest.raises(TooLarge, match=r"'slow\.gif' takes longer than 0 seconds to decode"):
        read_upload(str(tmp_path / "slow.gif"), shelf[0].model, replace(LIMITS, video_work_seconds=0.0))
    with pytest.raises(TooLarge, match=r"'slow\.gif' has too many pixels: 96 x 64, expected at most 100"):
        read_upload(str(tmp_path / "slow.gif"), shelf[0].model, replace(LIMITS, pixels=100))


def test_an_upload_of_one_frame_is_a_picture(shelf: list[Shelved], tmp_path: Path) -> None:
    write_gif(tmp_path / "still.gif", 1)
    upload = read_upload(str(tmp_path / "still.gif"), shelf[0].model, LIMITS)
    assert isinstance(upload, Upload) and isinstance(upload.visual, Image.Image)
