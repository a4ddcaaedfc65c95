"""Where a split's pictures lie (tar, zip or folder) and how their bytes become pixels.

An ``ImageSource`` is cheap to pickle and safe in forked or threaded workers: archives are indexed in one pass and every read
names its own offset, so no file position is shared.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from openmplug.errors import DataError, TooLarge

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .webm .mkv .mpg .mpeg .ts .flv .wmv .ogv .3gp .gif".split()  # .gif is a picture's, too
)
MAX_PIXELS = 178_956_970  # twice PIL's warning limit, the size at which PIL itself refuses a picture

# EXIF orientation (tag 0x0112) -> what turns the stored pixels upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)
# What PIL's decoders raise on damaged data.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def decode_image(
    data: bytes,
    name: str,
    max_pixels: int = MAX_PIXELS,
    prepare: Callable[[Image.Image], None] | None = None,
    max_side: float = float("inf"),
) -> Image.Image:
    """Decode one picture to upright RGB.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is cut to its upper 8 bits, and of an animation the
    first frame is taken.

    Args:
        data: The bytes of the file.
        name: What to call the picture in an error.
        max_pixels: Largest width x height; it is read from the header, before anything is decoded. PIL's own limit
            (178,956,970) holds above it.
        prepare: Called with the picture before its pixels are decoded; it may ask for fewer of them (``crops.decode_crop``).
        max_side: Longest width or height: to resize a line of millions of pixels takes gigabytes, however thin it is.

    Returns:
        An RGB picture, fully loaded.

    Raises:
        DataError: If the data is empty, no picture, cut short or damaged.
        TooLarge: If it is larger than ``max_pixels`` or longer than ``max_side``.
    """
    if not data:
        raise DataError(f"image '{name}' is empty (0 bytes); replace the file or remove its record")
    try:
        image: Image.Image = Image.open(BytesIO(data))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"image '{name}' has too many pixels ({error}); resize it first") from None
    except UnidentifiedImageError:
        start = data[:12].decode("ascii", "replace").replace("\n", " ")
        raise DataError(
            f"image '{name}' is not a picture ({len(data):,} bytes that start with {start!r}); expected JPEG, PNG, ..."
        ) from None
    except DECODER_ERRORS as error:
        raise DataError(f"image '{name}' has a damaged header ({one_line(error)})") from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"image '{name}' has too many pixels: {width:,} x {height:,}, expected at most {max_pixels:,}; resize it first")
    if max(width, height) > max_side:
        raise TooLarge(f"image '{name}' is too long: {width:,} x {height:,}, expected at most {max_side:,} each way; cut it")
    try:
        if prepare is not None:
            prepare(image)
        image.load()
        return to_rgb(_turn_upright(image))
    except DECODER_ERRORS as error:
        raise DataError(f"image '{name}' is truncated or damaged ({one_line(error)}); get the file again or remove its record") from None


def one_line(error: BaseException) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _turning(image: Image.Image) -> Image.Transpose | None:
    orientation = None
    with contextlib.suppress(*DECODER_ERRORS):  # a broken EXIF block says nothing about the pixels
        orientation = image.getexif().get(_ORIENTATION_TAG)
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _turn_upright(image: Image.Image) -> Image.Image:
    method = _turning(image)
    return image if method is None else image.transpose(method)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height that a picture has once it stands upright, px; nothing is decoded."""
    width, height = image.size
    return (height, width) if _turning(image) in _ON_ITS_SIDE else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture of any mode to RGB: transparency on white, 16-bit grey cut to its upper 8 bits."""
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


class ImageSource(ABC):
    """The pictures of one split, by name.

    Attributes:
        description: Where they lie, for error messages.
    """

    description: str

    @abstractmethod
    def names(self) -> list[str]:
        """List the pictures' names, sorted."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return one picture's bytes.

        Raises:
            DataError: If there is no such picture or it cannot be read.
        """

    @abstractmethod
    def __contains__(self, name: object) -> bool:
        """Say whether there is a picture of that name; nothing is opened."""

    def locate(self, name: str) -> Path | None:
        """Return where a picture or video lies as a file of its own, or as a folder of frames; None inside an archive."""
        return None

    def members(self, name: str) -> list[str]:
        """Return the pictures of a folder of frames that lies in an archive; empty where ``name`` is none."""
        return []

    def open(self, name: str) -> Image.Image:
        """Decode one picture to RGB; see ``decode_image`` for the errors."""
        return decode_image(self.read(name), name)


class FolderImages(ImageSource):
    """Pictures in a folder; a name is a path relative to it (or an absolute path)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.description = f"folder {self.root}"

    def names(self) -> list[str]:
        """List every file below the folder that has a picture's or a video's suffix."""
        suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES
        found = (path for path in self.root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def read(self, name: str) -> bytes:
        """Return one file's bytes."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise DataError(f"image '{name}' not found in {self.description}; put it there or correct the record's image column") from None
        except OSError as error:
            raise DataError(f"image '{name}' in {self.description} cannot be read: {error.strerror or error}") from None

    def locate(self, name: str) -> Path:
        """Return the file's path."""
        return self.root / name

    def __contains__(self, name: object) -> bool:
        """Say whether the file, or the folder of frames, is there."""
        return isinstance(name, str) and name != "" and ((self.root / name).is_file() or (name != "." and (self.root / name).is_dir()))


class Member(NamedTuple):
    """Where one picture lies in an archive: byte offset, stored size, and whether it is deflated (zip only)."""

    offset: int
    size: int
    deflated: bool = False


class ArchiveImages(ImageSource):
    """Pictures in one archive, indexed once and then read at their offsets.

    A name is a member's path. Where all members share one leading folder (``tar cf train_images.tar train_images``), a name
    without that folder is found too.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.index = self._build_index()
        self.description = f"{self.path} ({len(self.index):,} pictures)"
        self._check_whole()
        tops = {name.partition("/")[0] + "/" if "/" in name else "" for name in self.index}
        self.top = tops.pop() if len(tops) == 1 else ""
        self._folders: dict[str, list[str]] | None = None  # of frames; listed when one is asked for
        self._file: int | None = None
        self._process = 0

    @abstractmethod
    def _build_index(self) -> dict[str, Member]: ...

    def _check_whole(self) -> None:
        size = self.path.stat().st_size
        for name, member in self.index.items():
            if member.offset + member.size > size:
                raise DataError(f"{self.path} is cut short: '{name}' ends after the file's {size:,} bytes; copy the archive again")

    def names(self) -> list[str]:
        """List the members, without the leading folder that all share."""
        return sorted(name[len(self.top) :] for name in self.index)

    def _member(self, name: str) -> Member | None:
        return self.index.get(name) or self.index.get(self.top + name)

    def members(self, name: str) -> list[str]:
        """Return the pictures of a folder of frames."""
        if self._folders is None:
            self._folders = {}
            for each in self.index:
                folder, slash, _ = each.rpartition("/")
                if slash and Path(each).suffix.lower() in PICTURE_SUFFIXES:
                    self._folders.setdefault(folder, []).append(each)
        return self._folders.get(name) or self._folders.get(self.top + name) or []

    def __contains__(self, name: object) -> bool:
        """Say whether the archive has the member, or a folder of frames of that name."""
        return isinstance(name, str) and (self._member(name) is not None or (name != "" and bool(self.members(name))))

    def read(self, name: str) -> bytes:
        """Return one member's bytes."""
        member = self._member(name)
        if member is None:
            example = f", such as '{next(iter(self.index))}'" if self.index else ""
            raise DataError(f"image '{name}' not found in {self.description}{example}; add it or correct the record's image column")
        try:
            return self._read_member(member)
        except (OSError, zlib.error) as error:
            raise DataError(f"image '{name}' in {self.path} cannot be read: {one_line(error)}") from None

    def _read_member(self, member: Member) -> bytes:
        return self._read_at(member.offset, member.size)

    def _read_at(self, offset: int, size: int) -> bytes:
        if not hasattr(os, "pread"):  # Windows
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        if self._file is None or self._process != os.getpid():  # opened on first use, anew in each process
            self._file, self._process = os.open(self.path, os.O_RDONLY), os.getpid()
        return os.pread(self._file, size, offset)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: a file number means nothing in another process."""
        return {**self.__dict__, "_file": None, "_process": 0}

    def __del__(self) -> None:
        """Close the file, if this process opened it."""
        if getattr(self, "_file", None) is not None and self._process == os.getpid():
            os.close(self._file)  # type: ignore[arg-type]


class TarImages(ArchiveImages):
    """Pictures in an uncompressed tar file."""

    def _build_index(self) -> dict[str, Member]:
        try:
            with tarfile.open(self.path, mode="r:") as archive:
                return {entry.name.removeprefix("./"): Member(entry.offset_data, entry.size) for entry in archive if entry.isreg()}
        except (tarfile.TarError, EOFError, OSError) as error:
            message = f"{self.path} is not an uncompressed tar file ({one_line(error)}); unpack it and pack it again with: tar cf"
            raise DataError(message) from None


class ZipImages(ArchiveImages):
    """Pictures in a zip file, stored or deflated."""

    def _build_index(self) -> dict[str, Member]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.path} is not a zip file ({one_line(error)}); copy the archive again") from None
        index = {}
        for entry in entries:
            if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"'{entry.filename}' in {self.path} is encrypted or packed by a rare method; pack again with: zip -0")
            index[entry.filename] = Member(entry.header_offset, entry.compress_size, entry.compress_type == zipfile.ZIP_DEFLATED)
        return index

    def _read_member(self, member: Member) -> bytes:
        # The central directory gives the local header's place only; that header's name and extra field may differ in length.
        header = self._read_at(member.offset, 30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise OSError("its local header is damaged")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        data = self._read_at(member.offset + 30 + name_length + extra_length, member.size)
        return zlib.decompress(data, -15) if member.deflated else data


def open_images(root: Path, split: str, folder: str | None = None, clips: bool = False) -> ImageSource:
    """Find the pictures of a split.

    Tried in this order: ``{split}_images`` as ``.tar``, ``.zip`` or folder; ``images`` likewise; ``root`` itself as a folder. For videos
    ``{split}_videos`` and ``videos`` come first.

    Args:
        root: Folder of the data set.
        split: Name of the split, the stem of its files.
        folder: Look for this name (``.tar``, ``.zip`` or folder; or a path that ends so) instead of the standard ones.
        clips: The records are about videos.

    Returns:
        The source; archives are indexed here, once.

    Raises:
        DataError: If ``root`` or the named ``folder`` is missing, or the archive is compressed or damaged.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; set data.root to the folder that holds the data set")
    standard = [f"{split}_videos", "videos"] * clips + [f"{split}_images", "images"]
    for stem in [folder] if folder is not None else standard:
        place = root / stem
        if place.is_dir():
            return FolderImages(place)
        if place.is_file():
            return ZipImages(place) if place.suffix == ".zip" else TarImages(place)
        for suffix, kind in ((".tar", TarImages), (".zip", ZipImages)):
            archive = place.with_name(place.name + suffix)
            if archive.is_file():
                return kind(archive)
        for suffix in (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"):
            packed = place.with_name(place.name + suffix)
            if packed.is_file():
                raise DataError(f"{packed} is compressed, so single pictures cannot be read from it; unpack it into {place}/")
    if folder is not None:
        raise DataError(f"no pictures at {root / folder}: expected that folder, {folder}.tar or {folder}.zip")
    return FolderImages(root)
