"""What the examples in docstrings may use without making it: a folder of an untrained model that does everything, and a picture."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# The page's own modules cannot be imported without the [demo] extra, which `make test-browser` installs.
collect_ignore_glob = [] if find_spec("gradio") else ["src/openmplug/serving/page/*"]

_WITH_MODEL = (
    "openmplug.inference.model",
    "openmplug.inference.loading",
    "openmplug.inference.pipelines",
    "openmplug.inference.search.index",
)


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights and a picture beside it, ``picture.png``."""
    import torch
    from PIL import Image

    from openmplug.checkpoints.store import save_weights
    from openmplug.data.tokenizer import Tokenizer
    from openmplug.data.transforms import ImageSettings
    from openmplug.models.families import build_network, named_config

    torch.manual_seed(0)
    boxes = [f"[unused{number}]" for number in range(339, 677)]
    tokenizer = Tokenizer.from_vocab(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"what colour is the red cup ? a picture of left".split(), *boxes]
    )
    model = build_network(named_config("mplug-tiny", vocab_size=tokenizer.vocab_size))
    folder = tmp_path_factory.mktemp("example")
    config: dict[str, Any] = {"architecture": "mplug", "model": model.config.model_dump(mode="json"), "modules": list(model.modules_built)}
    save_weights(
        folder, model.state_dict(), {**config, "task": None, "settings": {}, "image": ImageSettings(size=64).model_dump(mode="json")}
    )
    tokenizer.save(folder)
    Image.new("RGB", (60, 40), "red").save(folder / "picture.png")
    return folder


@pytest.fixture(autouse=True)
def names_in_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    """Give the front door's examples their ``folder`` and ``picture``."""
    if isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith(_WITH_MODEL):
        folder = request.getfixturevalue("example_folder")
        doctest_namespace.update(folder=folder, picture=folder / "picture.png", index_folder=tmp_path / "index")
