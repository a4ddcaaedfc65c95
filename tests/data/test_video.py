"""Which frames a video has, and that every way to them gives the same pixels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.videos_made import numbers_in, write_video
from openmplug.data.video import open_video
from openmplug.data.video_file import VideoFile

av = pytest.importorskip("av", reason="videos need PyAV: pip install 'openmplug[video]'")

LENGTH = 60
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"g": "12"}},
    "h264_one_key.mp4": {"options": {"g": "1000", "x264-params": "scenecut=0"}},
    "h264_open_gop.mp4": {"options": {"g": "12", "x264-params": "open-gop=1:bframes=3"}},
    "h264.mkv": {"options": {"g": "12"}},
    "h264.avi": {"options": {"g": "12"}},  # no presentation times
    "h264.ts": {"options": {"g": "12"}},
    "h264.h264": {"options": {"g": "12"}},  # a bare stream
    "h264_fragments.mp4": {"options": {"g": "12"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264_odd.mp4": {"size": (97, 65), "pixels": "yuv444p"},
    "h264_10bit.mp4": {"pixels": "yuv420p10le"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b:v": "2M"}},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"bf": "2", "b:v": "2M"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "b:v": "2M"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "8", "b:v": "1M"}},
    "sound.mp4": {"sound": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def made(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else write_video(path, LENGTH, **KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_the_one_asked_for(folder: Path, name: str) -> None:
    path = made(folder, name)
    with open_video(path, name) as video:
        assert len(video) == LENGTH
        assert numbers_in(video.read(range(LENGTH))) == list(range(LENGTH))
        assert numbers_in(video.read([41, 3, 3, 59, 0])) == [41, 3, 3, 59, 0]


@pytest.mark.parametrize("name", KINDS)
def test_every_way_to_a_frame_gives_the_pixels_of_plain_decoding(folder: Path, name: str) -> None:
    path = made(folder, name)
    check_every_way(path)


def check_every_way(path: Path) -> None:
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    rng = random.Random(path.name)
    chosen = [sorted(rng.sample(range(len(plain)), min(len(plain), count))) for count in (1, 2, 5, len(plain))]
    for place in (path, path.read_bytes()):
        for jump_frames in (None, 0, 12):
            for threads in (1, 2):
                with VideoFile(place, path.name, jump_frames, threads) as video:
                    assert len(video) == len(plain)
                    for indices in chosen:
                        assert np.array_equal(video.read(indices), [plain[index] for index in indices]), (jump_frames, threads, indices)
