"""``openmplug demo`` as a process of its own: started, asked, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.page.models_made import make_model

pytestmark = pytest.mark.browser
SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", task="vqa")


def start(tmp_path: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "openmplug", "demo", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_leaves_nothing_behind(tmp_path: Path, model: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "--model", model, "--device", "cpu")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Open in a browser: http://127.0.0.1:"), process.communicate(timeout=10)
        address = line.split()[-1]
        with urllib.request.urlopen(address, timeout=60) as answer:
            policy = answer.headers["content-security-policy"]
            page = answer.read().decode()
        assert "default-src 'self'" in policy and "http" not in policy
        assert "openmplug" in page
        assert list((tmp_path / "tmp").iterdir()) != []  # uploads and examples
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in out + err and "The page is closed" in err
        assert [one.name for one in (tmp_path / "tmp").iterdir() if one.name.startswith("openmplug")] == []
    finally:
        process.kill()


def test_a_port_that_is_taken_is_said_in_a_line(tmp_path: Path, model: Path, taken: int) -> None:
    began = time.monotonic()
    process = start(tmp_path, "--model", model, "--device", "cpu", "--port", str(taken))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 5, (out, err)
    assert err.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1:{taken}") and "--port" in err
    assert "Traceback" not in err and time.monotonic() - began < 300
