"""Which frames a video has, and that every way to them gives the same pixels."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.videos_made import numbers_in, write_frames, write_gif, write_sound, write_video
from openmplug.data.images import open_images
from openmplug.data.readers.joined import JoinedImages
from openmplug.data.video import open_clip, open_video
from openmplug.data.video_file import VideoFile
from openmplug.errors import DataError

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


@pytest.mark.parametrize("number", range(12))
def test_real_clips_decode_alike_by_every_way(data_root: Path, number: int) -> None:
    check_every_way(sorted((data_root / "video_samples").glob("*.mp4"))[number])


def test_real_clips_are_as_long_as_they_are_said_to_be(data_root: Path) -> None:
    for line in (data_root / "video_samples" / "videos.jsonl").read_text().splitlines():
        record = json.loads(line)
        with open_video(data_root / "video_samples" / record["video"], record["video"]) as video:
            assert len(video) == record["frames"]
            assert video.read([0]).shape == (1, record["height"], record["width"], 3)


def test_real_clips_decode_as_torchcodec_decodes_them(data_root: Path) -> None:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:  # it is found, and fails where FFmpeg's libraries are not
        pytest.skip(f"torchcodec does not load: {str(error).strip().splitlines()[0]}")
    for path in sorted((data_root / "video_samples").glob("*.mp4")):
        decoder = VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact")
        with open_video(path, path.name) as video:
            assert len(video) == len(decoder)
            indices = list(range(0, len(video), 5))
            assert np.array_equal(video.read(indices), decoder.get_frames_at(indices).data.numpy())


def test_jumps_where_they_save_decoding(folder: Path) -> None:
    often = VideoFile(made(folder, "h264.mp4"), "often", jump_frames=6)
    assert often._legs([1, 2, 30, 31, 59], 6) == [(None, [1, 2]), (24, [30, 31]), (48, [59])]
    assert often._legs([1, 13, 25], 12) == [(None, [1, 13, 25])]  # close together: decoding on is quicker
    once = VideoFile(made(folder, "h264_one_key.mp4"), "once", jump_frames=6)
    assert once._legs([1, 30, 59], 6) == [(None, [1, 30, 59])]


def test_leading_frames_of_an_open_group_are_decoded_from_the_key_frame_before(folder: Path) -> None:
    video = VideoFile(made(folder, "h264_open_gop.mp4"), "open", jump_frames=0)
    table = video._table
    leading = [n for n in range(LENGTH) if any(table.places[n] > table.places[key] and n < key for key in table.keys)]
    assert leading, "the encoder made no open group"
    for number in leading:
        start = table.start(number)
        assert start <= number and table.places[start] <= table.places[number]
        assert numbers_in(video.read([number])) == [number]


def test_frames_by_time(folder: Path) -> None:
    with open_video(made(folder, "h264.mp4"), "a") as video:
        assert video.times()[:3] == pytest.approx([0, 0.04, 0.08])
        assert numbers_in(video.read_at([0.0, 1.0, 1.039, 1.0399999, 99.0])) == [0, 25, 25, 26, 59]


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [0, 4, 8, 100, 104, 300, 301, 302, 400, 1000]
    for name in ("a.mp4", "a.mkv"):
        with open_video(write_video(tmp_path / name, 10, times=times), name) as video:
            assert len(video) == 10 and video.times() == pytest.approx([time / 100 for time in times], abs=2e-3)
            assert numbers_in(video.read(range(10))) == list(range(10))
            assert numbers_in(video.read_at([0.5, 2.9, 3.005, 9.0])) == [2, 4, 5, 8]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied(tmp_path: Path, rotation: int, turns: int) -> None:
    path = write_video(tmp_path / "a.mp4", 4, rotation=rotation)
    with av.open(str(path)) as container:
        stored = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert numbers_in(stored) == [0, 1, 2, 3]
    turned = open_video(path, "a").read(range(4))
    assert np.array_equal(turned, np.rot90(stored, turns, axes=(1, 2)))  # counter-clockwise


def test_one_frame(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.webm", "a.avi"):
        path = write_video(tmp_path / name, 1, codec={"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264"))
        with open_video(path, name) as video:
            assert len(video) == 1 and numbers_in(video.read([0, 0])) == [0, 0]


def test_no_such_frame(folder: Path) -> None:
    with open_video(made(folder, "h264.mp4"), "a.mp4") as video:
        for wrong in ([60], [-1], []):
            with pytest.raises(DataError, match=r"video 'a\.mp4' has frames 0 to 59; asked for"):
                video.read(wrong)


# ------------------------------------------------------------------------------------------------------- animations and folders


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations(tmp_path: Path, name: str) -> None:
    path = write_gif(tmp_path / name, 9, **({"lossless": True} if name == "a.webp" else {}))
    for place in (path, path.read_bytes()):
        with open_video(place, name) as video:
            assert len(video) == 9
            assert numbers_in(video.read(range(9))) == list(range(9))
            assert numbers_in(video.read([8, 2, 2])) == [8, 2, 2]
            assert video.times() == pytest.approx(np.arange(9) / 10)
            assert numbers_in(video.read_at([0.35])) == [3]


def test_transparency_of_animations_is_white(tmp_path: Path) -> None:
    clear = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("RGBA", (8, 8), (255, 0, 0, 255))]
    clear[0].save(tmp_path / "a.webp", save_all=True, append_images=clear[1:], lossless=True)
    with open_video(tmp_path / "a.webp", "a") as video:
        assert video.read([0, 1])[:, 0, 0].tolist() == [[255, 255, 255], [255, 0, 0]]


def test_a_folder_of_frames(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", 12)
    with open_video(folder, "clip") as video:  # frame10 comes after frame9
        assert len(video) == 12 and numbers_in(video.read([0, 9, 10, 11])) == [0, 9, 10, 11]
    Image.new("RGB", (10, 10)).save(folder / "frame12.png")
    with open_video(folder, "clip") as video, pytest.raises(DataError, match=r"frame 'frame12.png' is 10 x 10, others are 96 x 64"):
        video.read([0, 12])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="video 'none' is a folder without pictures"):
        open_video(tmp_path / "none", "none")


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "a.jpg")
    with open_video(tmp_path / "a.jpg", "a") as video:
        assert len(video) == 1 and video.read([0]).shape == (1, 6, 8, 3)


def test_videos_in_archives_and_folders(tmp_path: Path) -> None:
    inside = tmp_path / "videos"
    write_video(inside.with_name("a.mp4"), 6)
    inside.mkdir()
    (tmp_path / "a.mp4").rename(inside / "a.mp4")
    write_frames(inside / "clip", 11)
    with tarfile.open(tmp_path / "tarred_videos.tar", "w") as archive:
        archive.add(inside, "tarred_videos")
    with zipfile.ZipFile(tmp_path / "zipped_videos.zip", "w") as packed:
        for path in sorted(inside.rglob("*.*")):
            packed.write(path, path.relative_to(inside).as_posix())
    sources = {split: open_images(tmp_path, split, clips=True) for split in ("tarred", "zipped", "plain")}
    assert [type(source).__name__ for source in sources.values()] == ["TarImages", "ZipImages", "FolderImages"]
    joined = JoinedImages(sources)
    for split in sources:
        for name, length in (("a.mp4", 6), ("clip", 11)):
            assert f"{split}/{name}" in joined
            with open_clip(joined, f"{split}/{name}") as video:
                assert numbers_in(video.read(range(length))) == list(range(length)) and len(video) == length
        assert f"{split}/other" not in joined and f"{split}/" not in joined
        with pytest.raises(DataError, match="other"):
            open_clip(joined, f"{split}/other")


# ------------------------------------------------------------------------------------------------------------------------ damage


def refused(place: Path | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        open_video(place, "clip")
    assert "\n" not in str(caught.value)


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is not a video " * 99)
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "text.mp4", "video 'clip' is not a video or damaged at its head")
    refused(tmp_path / "empty.mp4", r"video 'clip' is empty \(0 bytes\)")
    refused(tmp_path / "none.mp4", "video 'clip' does not exist")
    refused(b"\x00" * 4096, "video 'clip' is not a video or damaged")
    refused(write_sound(tmp_path / "sound.mp4"), "video 'clip' has no moving pictures, only audio")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "neither a file nor a folder")
    refused(b"GIF89a", "video 'clip'")
    with pytest.raises(DataError):  # a playlist is not followed
        open_video(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "clip")


def test_no_frame_at_all(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.avi"):
        with av.open(str(tmp_path / name), "w") as output:
            stream = output.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            output.start_encoding()
        refused(tmp_path / name, "video 'clip' (holds no frame|is not a video|has no moving)")


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv"])
@pytest.mark.parametrize("threads", [1, 2])
def test_damage_reaches_to_the_next_key_frame_and_no_further(folder: Path, name: str, threads: int) -> None:
    path = made(folder, name)
    with VideoFile(path, name) as video:
        plain, keys = video.read(range(LENGTH)), video._table.keys.tolist()
    assert keys == [0, 12, 24, 36, 48]
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    at = data.index(packets[30])  # in the group of frames 24 to 35
    damaged = data[:at] + b"\xff" * 16 + data[at + 16 :]
    right, wrong = [], []
    for number in range(LENGTH):
        with VideoFile(damaged, "clip", threads=threads) as video:
            try:
                assert np.array_equal(video.read([number])[0], plain[number])
                right.append(number)
            except DataError as error:
                assert str(error) == f"video 'clip' is damaged: frame {number} of 60 cannot be decoded; get the file again"
                wrong.append(number)
    assert wrong and set(wrong) <= set(range(24, 36)) and 24 in right
    with VideoFile(damaged, "clip") as video:
        rest = [number for number in range(LENGTH) if number not in wrong]
        assert np.array_equal(video.read(rest), plain[rest])


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "vp9.webm", "h264.mkv", "mpeg2.mpg"])
def test_nothing_but_frames_or_one_line_comes_of_random_damage(folder: Path, name: str) -> None:
    # A decoder does not notice every changed byte, so the pixels are not compared.
    data, rng = made(folder, name).read_bytes(), random.Random(name)
    for _ in range(20):
        damaged = bytearray(data)
        at = rng.randrange(len(data))
        damaged[at : at + 60] = rng.randbytes(60)
        try:
            with open_video(bytes(damaged), "clip") as video:
                assert video.read(range(0, len(video), 7)).dtype == np.uint8
        except DataError as error:
            assert "\n" not in str(error) and "video 'clip'" in str(error)


@pytest.mark.parametrize("name", ["h264.mp4", "h264_fragments.mp4", "mpeg4.avi", "vp9.webm", "h264.mkv", "h264.ts", "mpeg2.mpg"])
def test_a_file_that_is_cut_short(folder: Path, name: str) -> None:
    path = made(folder, name)
    data = path.read_bytes()
    with open_video(path, name) as video:
        plain = list(video.read(range(LENGTH)))
    for part in (0.02, 0.3, 0.5, 0.77, 0.99):
        cut = data[: int(len(data) * part)]
        try:
            with open_video(cut, "clip") as video:
                assert isinstance(video, VideoFile) and len(video) <= LENGTH
                last = int(video._table.places.argmax())  # it may be cut itself
                whole = [number for number in range(len(video)) if number != last]
                if whole:
                    found = video.read(whole)
                    shown = numbers_in(found)
                    assert shown == sorted(set(shown))
                    assert all(np.array_equal(one, plain[number]) for one, number in zip(found, shown, strict=True))
        except DataError as error:
            assert "\n" not in str(error)


def test_an_index_that_promises_more_than_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, container_options={"movflags": "faststart"}, options={"g": "12"})
    data = path.read_bytes()
    refused(data[: len(data) * 2 // 3], r"video 'clip' is cut short: \d+ of its 60 frames are there")


# ----------------------------------------------------------------------------------------------------------------------- endurance


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_does_not_grow_over_many_decodes(folder: Path) -> None:
    good, bad = made(folder, "h264.mp4"), made(folder, "h264.mp4").read_bytes()[:3000]

    def decode(times: int) -> None:
        for number in range(times):
            with open_video(good, "good") as video:
                video.read([5, 30, 55])
            if number % 4 == 0:
                with pytest.raises(DataError):
                    open_video(bad, "bad")

    decode(200)
    before = resident_mib()
    decode(2000)
    assert resident_mib() - before < 16


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    size, sampled = (320, 240), 8
    lengths = {name: write_video(tmp_path / f"{name}.mp4", count, size=size) for name, count in (("short", 60), ("long", 3000))}
    program = (
        "import sys; from pathlib import Path; from openmplug.data.video import open_video; import resource\n"
        "video = open_video(Path(sys.argv[1]), 'clip'); n = len(video)\n"
        f"video.read([i * (n - 1) // {sampled - 1} for i in range({sampled})]); video.close()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    peak = {
        name: float(subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True).stdout)
        for name, path in lengths.items()
    }
    assert peak["long"] - peak["short"] < 16  # the frames themselves would be 659 MiB
