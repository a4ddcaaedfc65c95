"""Ray Data as the engine: the same table as without it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inference.bulk.making import read_lines, table
from openmplug.errors import DataError, EnvironmentProblem
from openmplug.inference.bulk.inputs import open_inputs
from openmplug.inference.bulk.job import Job, check_options
from openmplug.inference.bulk.run import Tally, predict

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine, so that each test need not start one."""
    source = str(Path(__file__).parents[3] / "src")
    paths = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_same_table_and_goes_on(folders: Callable[..., Path], place: Path, tmp_path: Path) -> None:
    (place / "bad.png").write_text("bad")
    names = ["a.png", "b.png", "bad.png", "deep/c.png"] * 20
    rows = [{"image": name, "question": f"what is {'the small ' * (n % 4)}circle ?", "n": n} for n, name in enumerate(names)]
    inputs = open_inputs([str(table(place / "list.jsonl", *rows))], "question")
    here = Job("vqa", inputs, folders("vqa"), tmp_path / "here.jsonl", device="cpu", batch_size=2, workers=0, on_error="skip")
    there = replace(here, output=tmp_path / "there.jsonl", engine="ray", ray_workers=2)
    predict(here)

    def stop(tally: Tally) -> None:
        if tally.rows >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(there, stop)
    tally = predict(there)
    assert (tally.done, tally.failed, tally.resumed) == (60, 20, 32)
    assert read_lines(here.output) == read_lines(there.output)
    with pytest.raises(DataError, match=r"bad.png' is not a picture.*the 2 rows before it are kept"):
        predict(replace(there, on_error="error", restart=True))


@pytest.mark.usefixtures("cluster")
def test_an_error_in_an_actor_is_one_line(folders: Callable[..., Path], place: Path, tmp_path: Path) -> None:
    job = Job("caption", open_inputs([str(place)], None), folders("caption"), tmp_path / "a.jsonl", device="cuda:7", engine="ray")
    with pytest.raises(EnvironmentProblem, match="device 'cuda:7' is not available here"):
        predict(job)


def test_ray_is_there() -> None:
    check_options(Path("a.csv"), "error", None, "ray")
