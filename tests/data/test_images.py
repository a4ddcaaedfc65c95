"""Where pictures lie, and every way in which one can be unusable."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmplug.data.images import FolderImages, ImageSource, TarImages, ZipImages, decode_image, open_images
from openmplug.errors import DataError


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(colour: tuple[int, int, int] = (200, 30, 90), size: tuple[int, int] = (12, 8)) -> Image.Image:
    return Image.new("RGB", size, colour)


PICTURES = {"a.png": encode(picture((255, 0, 0))), "b.png": encode(picture((0, 255, 0))), "sub/c.png": encode(picture((0, 0, 255)))}


def write_tar(path: Path, prefix: str = "") -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in PICTURES.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_zip(path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("sub/", "")
        for name, data in PICTURES.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path) -> Path:
    for name, data in PICTURES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "notes.txt").write_text("not a picture")
    return path


def sources(folder: Path) -> list[ImageSource]:
    return [
        TarImages(write_tar(folder / "a.tar")),
        TarImages(write_tar(folder / "b.tar", prefix="./dev_images/")),
        ZipImages(write_zip(folder / "a.zip")),
        ZipImages(write_zip(folder / "b.zip", zipfile.ZIP_DEFLATED)),
        FolderImages(write_folder(folder / "pictures")),
    ]


def test_every_source_lists_and_reads_the_same_pictures(tmp_path: Path) -> None:
    for source in sources(tmp_path):
        assert source.names() == sorted(PICTURES)
        assert all(source.read(name) == data for name, data in PICTURES.items())
        assert source.open("b.png").getpixel((0, 0)) == (0, 255, 0)
        assert "a.png" in source and "missing.png" not in source and None not in source


def test_sources_survive_pickling_forking_and_threads(tmp_path: Path) -> None:
    for source in sources(tmp_path):
        source.read("a.png")  # the file is open before the copy is made
        assert pickle.loads(pickle.dumps(source)).read("b.png") == PICTURES["b.png"]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(source.read, list(PICTURES) * 20)) == list(PICTURES.values()) * 20
        child = os.fork()
        if child == 0:
            os._exit(0 if all(source.read(name) == data for name, data in PICTURES.items()) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert source.read("a.png") == PICTURES["a.png"]


@pytest.mark.parametrize("index", range(5))
def test_missing_picture_names_it_and_the_place(tmp_path: Path, index: int) -> None:
    with pytest.raises(DataError, match=r"image 'x\.png' not found in .*(a\.tar|b\.tar|a\.zip|b\.zip|pictures)"):
        sources(tmp_path)[index].read("x.png")


def test_truncated_jpeg_is_refused() -> None:
    data = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(DataError, match=r"image 'cut\.jpg' is truncated or damaged \(image file is truncated"):
        decode_image(data[: len(data) // 2], "cut.jpg")


@pytest.mark.parametrize("size", [4, 20, 30, 45])
def test_png_cut_anywhere_gives_one_line(size: int) -> None:
    with pytest.raises(DataError, match=r"image 'cut\.png' (is not a picture|has a damaged header|is truncated)"):
        decode_image(PICTURES["a.png"][:size], "cut.png")


def test_text_file_called_jpg_is_refused() -> None:
    with pytest.raises(DataError, match=r"image 'note\.jpg' is not a picture \(11 bytes that start with 'hello world'\)"):
        decode_image(b"hello world", "note.jpg")


def test_empty_file_is_refused() -> None:
    with pytest.raises(DataError, match=r"image 'none\.jpg' is empty \(0 bytes\)"):
        decode_image(b"", "none.jpg")


def huge_png(width: int, height: int) -> bytes:
    """A valid PNG without ever holding its pixels: rows of zeros compress to almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)  # 1 bit per pixel
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_huge_picture_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("the picture was decoded")

    data = huge_png(20_000, 20_000)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(DataError, match=r"image 'huge\.png' has too many pixels \(Image size \(400000000 pixels\)"):
        decode_image(data, "huge.png")
    with pytest.raises(DataError, match=r"too many pixels: 100 x 50, expected at most 4,999"):
        decode_image(huge_png(100, 50), "big.png", max_pixels=4_999)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode_image(encode(clear), "rgba").getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(encode(clear.convert("LA")), "la").getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode_image(encode(palette), "p").getpixel((0, 0)) == (10, 20, 30)
    assert decode_image(encode(palette, transparency=1), "p").getpixel((0, 0)) == (255, 255, 255)


def test_other_modes_become_rgb() -> None:
    grey16 = Image.fromarray(np.full((4, 4), 0x8040, np.uint16))
    assert decode_image(encode(grey16), "16 bit").getpixel((0, 0)) == (0x80, 0x80, 0x80)
    assert decode_image(encode(Image.new("L", (4, 4), 77)), "grey").getpixel((0, 0)) == (77, 77, 77)
    assert decode_image(encode(Image.new("1", (4, 4), 1)), "1 bit").getpixel((0, 0)) == (255, 255, 255)
    cmyk = decode_image(encode(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG"), "cmyk")
    assert cmyk.mode == "RGB" and np.asarray(cmyk).min() > 250


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    back = {5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270", 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM"}
    stored = upright.transpose(Image.Transpose[back[orientation]]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode_image(encode(stored, exif=exif), "turned")), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encode(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    assert decode_image(data, "exif").size == (12, 8)


def test_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "dev_images.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"dev_images\.tar\.gz is compressed.*unpack it into .*dev_images/"):
        open_images(tmp_path, "dev")
    (tmp_path / "dev_images.tar.gz").rename(tmp_path / "dev_images.tar")
    with pytest.raises(DataError, match=r"dev_images\.tar is not an uncompressed tar file"):
        open_images(tmp_path, "dev")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:600])
    with pytest.raises(DataError, match=r"a\.tar is (cut short|not an uncompressed tar)"):
        TarImages(tmp_path / "a.tar")
    whole = write_zip(tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"a\.zip is not a zip file"):
        ZipImages(tmp_path / "a.zip")
    write_zip(tmp_path / "c.zip", zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match=r"'a\.png' in .*c\.zip is encrypted or packed by a rare method"):
        ZipImages(tmp_path / "c.zip")


def test_open_images_order(tmp_path: Path) -> None:
    assert isinstance(open_images(tmp_path, "dev"), FolderImages)
    write_folder(tmp_path / "images")
    assert open_images(tmp_path, "dev").names() == sorted(PICTURES)
    write_zip(tmp_path / "dev_images.zip")
    assert isinstance(open_images(tmp_path, "dev"), ZipImages)
    write_tar(tmp_path / "dev_images.tar")
    assert isinstance(open_images(tmp_path, "dev"), TarImages)
    assert isinstance(open_images(tmp_path, "train"), FolderImages)
    assert isinstance(open_images(tmp_path, "train", folder="dev_images.zip"), ZipImages)
    with pytest.raises(DataError, match=r"no pictures at .*val2014: expected that folder, val2014\.tar or val2014\.zip"):
        open_images(tmp_path, "dev", folder="val2014")
    with pytest.raises(DataError, match=r"data folder .*nowhere does not exist; set data\.root"):
        open_images(tmp_path / "nowhere", "dev")
