"""``kill -9`` at two points: the next run goes on, and every file is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import openmplug
from openmplug.errors import UsageError
from openmplug.inference.model import Model
from openmplug.inference.search.index import Index

# One process that forks a builder at a time, as to import torch takes longer than all the rest; it never touches LanceDB itself.
_TWO_KILLED_BUILDS = """
import os, signal, sys, time
from openmplug.inference.search import building
from openmplug.inference.search.index import Index

building.COMMIT_ROWS = 4
for reports in (2, 3):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        report = lambda tally: os.write(writing, b".")
        Index.build(sys.argv[1], [sys.argv[2]], sys.argv[3], workers=1, device="cpu", batch_size=2, report=report)
        os._exit(0)
    for _ in range(reports):
        os.read(reading, 1)
    time.sleep(0.02)  # on into the next transaction
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_two_kills_leave_every_file_once(matcher: Model, tmp_path: Path) -> None:
    folder, path = tmp_path / "archive", tmp_path / "index"
    folder.mkdir()
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    arguments = [sys.executable, "-c", _TWO_KILLED_BUILDS, str(path), str(folder), str(matcher.source)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(openmplug.__file__).parents[1])}
    run = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert run.stdout.split() == [str(int(signal.SIGKILL))] * 2, run.stderr
    left = len(Index.open(path, matcher))
    assert 20 <= left < 60  # two transactions of four, then three
    index, tally = Index.build(path, [folder], matcher, workers=0)
    assert (tally.resumed, tally.added, len(index)) == (left, 60 - left, 60)
    found = [hit.name for hit in index.search_vector(np.eye(1, 16, dtype=np.float32)[0], 100)]
    assert sorted(found) == [f"{number:03}.png" for number in range(60)]


@pytest.mark.skipif(os.name == "nt", reason="no such locks")
def test_a_second_writer_is_refused(matcher: Model, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    index, _ = Index.build(tmp_path / "index", [tmp_path / "a.png"], matcher, workers=0)
    code = "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(index.path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(UsageError, match="another process is at work on index"):
        index.delete(["a.png"])
    other.communicate()
    assert index.delete(["a.png"]) == 1
