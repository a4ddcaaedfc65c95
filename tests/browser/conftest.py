"""The page in a real browser: one server for all tests, a Chromium, and a record of every request and connection.

``make test-browser`` runs these. OPENMPLUG_CHROMIUM names the browser's program. OPENMPLUG_PAGE_MODELS (folders, separated as in PATH) take
the place of the tiny untrained models, and OPENMPLUG_PICTURES is the folder that pictures of the page go to: ``make pictures`` sets both.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from browser.serving import DESK, FLAGS, LOCAL, WAIT, Outgoing, Served, Visit

# Without them there is nothing to test: neither is among the packages of the other tests.
collect_ignore_glob = [] if find_spec("gradio") and find_spec("playwright") else ["test_*.py"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    named = os.environ.get("OPENMPLUG_CHROMIUM")
    found = named or next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium here; install it (Debian: apt-get install chromium) or name it in OPENMPLUG_CHROMIUM")
    return found


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the page in this process."""
    from openmplug.serving.page.running import page_open, require_gradio

    require_gradio()
    from openmplug.data.shapes import write_shapes
    from openmplug.inference.search.index import Index
    from openmplug.serving.page.archive import open_index
    from openmplug.serving.page.shelf import fill
    from openmplug.serving.page.uploads import UploadLimits
    from serving.page.models_made import make_model

    root = tmp_path_factory.mktemp("page")
    given = [Path(path) for path in os.environ.get("OPENMPLUG_PAGE_MODELS", "").split(os.pathsep) if path]
    shelf = fill(given or [make_model(root / name, seed) for seed, name in enumerate(("small", "other"))], device="cpu")
    write_shapes(root / "shapes", 8, 24)
    pictures = root / "archive"
    shutil.unpack_archive(root / "shapes" / "caption" / "dev_images.zip", pictures)
    matcher = next(one for one in shelf if "retrieval" in one.verbs)
    Index.build(root / "index", [pictures], matcher.model, workers=0)
    index = open_index(root / "index", shelf)
    assert index.model is matcher.model
    outgoing = Outgoing()
    sys.addaudithook(outgoing)
    outgoing.watching = True
    with page_open(shelf, index, limits=UploadLimits(megabytes=2)) as address:
        yield Served(address, shelf, index, pictures, outgoing)
    outgoing.watching = False


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Visit]:
    """Open the page as somebody new; afterwards, check that nothing left this machine and no script failed."""
    contexts, requests, faults = [], [], []

    def open_page(size: dict[str, int] = DESK, *, dark: bool = False) -> Any:
        phone = size["width"] < 500
        context = browser.new_context(
            viewport=size, color_scheme="dark" if dark else "light", is_mobile=phone, has_touch=phone, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda socket: requests.append(socket.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(served.address)
        page.locator("#upload").wait_for()
        page.locator("#examples button").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not contexts or len(requests) > 10  # a test that was skipped has opened nothing
    assert [url for url in requests if not LOCAL.match(url)] == []
    assert served.outgoing.found == []
    assert faults == []


@pytest.fixture(scope="session")
def picture_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Keep a picture of the page."""
    folder = Path(os.environ.get("OPENMPLUG_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)

    def shoot(page: Any, name: str) -> Path:
        from PIL import Image

        path = folder / f"{name}.png"
        page.evaluate("document.activeElement?.blur()")
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)  # what fades has faded
        page.screenshot(path=path, full_page=True)
        with Image.open(path) as image:
            # Few colours make a small file; by median cut, since an octree takes the page's light greys for white.
            image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size < 150_000
        return path

    return shoot
