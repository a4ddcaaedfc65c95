"""Shards as img2dataset writes them, with pictures of noise."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def image_files(shard: int, count: int) -> list[tuple[str, bytes]]:
    """Samples as img2dataset's: a picture, its caption, and what is known of it."""
    files = []
    for number in range(count):
        key, caption = f"{shard:05d}{number:04d}", f"shard {shard} picture {number}"
        facts = {"caption": caption, "url": f"http://x/{key}", "key": key, "status": "success", "alt": f"alt {number}"}
        files += [(f"{key}.jpg", picture(100 * shard + number)), (f"{key}.json", json.dumps(facts).encode())]
        files.append((f"{key}.txt", caption.encode()))
    return files


def write_shards(root: Path, counts: Sequence[int] = (4, 3, 5)) -> Path:
    for shard, count in enumerate(counts):
        write_tar(root / f"{shard:05d}.tar", image_files(shard, count))
    return root


def write_words(root: Path, counts: Sequence[int] = (6, 5)) -> Path:
    for shard, count in enumerate(counts):
        texts = [(f"{shard:02d}{number:03d}.txt", f"words {number} of shard {shard}\n".encode()) for number in range(count)]
        write_tar(root / f"{shard:05d}.tar", texts)
    return root
