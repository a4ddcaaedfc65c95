"""The Python client says what the model says, waits when it is told to, and names what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openmplug.errors import DataError, EnvironmentProblem, UsageError
from openmplug.inference.model import Model
from openmplug.serving.client import Client, ServiceError
from serving.conftest import Running


@pytest.fixture
def client(served: Running) -> Client:
    return Client(served.url)


def test_it_says_what_the_model_says(client: Client, model: Model, picture: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(picture)
    with client:
        caption = client.caption(path, max_length=9, num_beams=2)
        assert caption.text == model.caption(picture, max_length=9, num_beams=2).text
        answer = client.answer(str(path), "what colour ?", candidates=["red", "green"])
        expected = model.answer(picture, "what colour ?", candidates=["red", "green"])
        assert (answer.text, [text for text, _ in answer.candidates]) == (expected.text, [text for text, _ in expected.candidates])
        assert client.answer(picture, "what colour ?").text == model.answer(picture, "what colour ?").text
        assert client.match(picture, "red").similarity == pytest.approx(model.match(picture, "red").similarity, abs=1e-5)
        assert len(client.match(picture, ["red", "green", "left"])) == 3
        assert client.ground(picture, "the circle").left == pytest.approx(model.ground(picture, "the circle").left, abs=1e-3)
        assert client.embed_image(picture) == pytest.approx(model.embed_images(picture).tolist(), abs=1e-5)
        assert client.embed_texts(["red", "green"])[1] == pytest.approx(model.embed_texts("green").tolist(), abs=1e-5)
        assert client.model()["endpoints"][0] == "caption"


def test_refusals_are_errors_with_a_kind(client: Client, picture: bytes) -> None:
    with pytest.raises(ServiceError, match=r"no picture; expected JPEG.* \(422 unreadable\)") as refused:
        client.caption(b"no picture")
    assert (refused.value.status, refused.value.kind) == (422, "unreadable")
    with pytest.raises(ServiceError, match="--index DIR"):
        client.search("a red cup")
    assert client.caption(picture).text, "the connection is good for the next"


def test_it_waits_when_told_to(served: Running, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    answers = iter([(429, {"Retry-After": "7"}, b"{}"), (503, {}, b""), (200, {}, b'{"text": "a", "score": null}')])
    client = Client(served.url, retries=2)
    monkeypatch.setattr(client, "_exchange", lambda *_: next(answers))
    assert client.caption(picture).score == float("-inf")
    assert pauses == [7.0, 1.0]


def test_a_connection_closed_meanwhile_is_opened_again(client: Client, picture: bytes) -> None:
    first = client.caption(picture)
    assert client._connection.sock is not None
    client._connection.sock.shutdown(2)
    assert client.caption(picture) == first


def test_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the address of a service"):
        Client("localhost:8000")
    with pytest.raises(DataError, match=r"none\.png' cannot be read: No such file"):
        Client("http://127.0.0.1:9").caption(tmp_path / "none.png")
    with pytest.raises(EnvironmentProblem, match="cannot be reached"):
        Client("http://127.0.0.1:9").caption(b"x")


def test_it_needs_nothing_but_python() -> None:
    code = (
        "import sys, openmplug.serving.client; print([name for name in ('torch', 'fastapi', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2] / "src")
    assert done.stdout.strip() == "[]"
