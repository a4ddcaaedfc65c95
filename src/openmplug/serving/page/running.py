"""Opening the page: one process, one folder of uploads that goes with it, and a browser that may load nothing from elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openmplug.errors import EnvironmentProblem
from openmplug.inference.search.index import Index
from openmplug.serving.page.archive import Archive
from openmplug.serving.page.calls import Calls
from openmplug.serving.page.examples import draw_examples
from openmplug.serving.page.shelf import Shelved
from openmplug.serving.page.uploads import UploadLimits
from openmplug.serving.page.worker import ModelWorker

# Whatever a model's card or a bug in a dependency might ask for: the browser loads what this server gives, and nothing else.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; frame-ancestors 'self';"
    " form-action 'self'; base-uri 'self'"
)
WAITING = 200


class Headers:
    """ASGI middleware that says in every answer what the page may load, and that it is nobody else's business.

    Args:
        app: What answers.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""

        async def sending(event: Any) -> None:
            if event["type"] == "http.response.start":
                ours = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
                event = {**event, "headers": [*event.get("headers", ()), *((k.encode(), v.encode()) for k, v in ours.items())]}
            await send(event)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


@contextmanager
def _uploads_in(folder: Path) -> Iterator[None]:
    """Let Gradio keep uploads in a folder; it looks where when the page is built."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


def require_gradio() -> None:
    """Check that Gradio is there, and tell it to keep quiet; call this before anything else imports it.

    Raises:
        EnvironmentProblem: If it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise EnvironmentProblem(f"the page needs gradio ({error}); install it: pip install 'openmplug[demo]'") from error
    if int(gradio.__version__.split(".")[0]) < 6:
        raise EnvironmentProblem(f"the page needs gradio 6, and {gradio.__version__} is here; update it: pip install 'openmplug[demo]'")


@contextmanager
def page_open(
    shelf: Sequence[Shelved],
    index: Index | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: UploadLimits | None = None,
) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        shelf: The models.
        index: What can be searched, with its model.
        host: Address to listen on.
        port: Port to listen on; None takes the first free one from 7860 on.
        limits: What the page takes.

    Yields:
        The page's address.

    Raises:
        EnvironmentProblem: If Gradio is missing, or the address cannot be listened on.
    """
    require_gradio()
    from fastapi.middleware import Middleware

    limits = limits or UploadLimits()
    worker = ModelWorker(max(one.model.batch_size for one in shelf), WAITING)
    with tempfile.TemporaryDirectory(prefix="openmplug-page-") as folder, _uploads_in(Path(folder) / "uploads"):
        from openmplug.serving.page.layout import build_page
        from openmplug.serving.page.style import CSS, theme

        calls = Calls(shelf, worker, limits)
        page = build_page(calls, draw_examples(Path(folder)), None if index is None else Archive(index, calls))
        page.queue(max_size=WAITING, default_concurrency_limit=32, api_open=False)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                inbrowser=False,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                max_file_size=f"{limits.megabytes}mb",
                theme=theme(),
                css=CSS,
                app_kwargs={"middleware": [Middleware(Headers)], "docs_url": None, "redoc_url": None},
            )
        except OSError as error:
            where = f"{host}:{port}" if port else host
            raise EnvironmentProblem(f"cannot listen on {where} ({error.strerror or error}); give another with --port or --host") from error
        try:
            yield address
        finally:
            page.close()
            worker.close()
