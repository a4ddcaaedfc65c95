"""The models that the page's tests ask, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openmplug.serving.page.calls import Calls
from openmplug.serving.page.shelf import Shelved, fill
from openmplug.serving.page.uploads import UploadLimits
from openmplug.serving.page.worker import ModelWorker
from serving.page.models_made import make_model


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> list[Shelved]:
    """Two models that can do everything."""
    root = tmp_path_factory.mktemp("page-models")
    return fill([make_model(root / name, seed) for seed, name in enumerate(("one", "two"))], device="cpu")


@pytest.fixture
def calls(shelf: list[Shelved]) -> Iterator[Calls]:
    worker = ModelWorker(batch_size=4)
    yield Calls(shelf, worker, UploadLimits())
    worker.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of a red thing on white, 80 x 60."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill=(215, 40, 40))
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
