"""The log, its curves, and what people see."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openmplug.engine.tracking import Display, JsonLines, Tracker, draw_curves, read_lines
from openmplug.errors import EnvironmentProblem


def test_lines_are_on_disk_at_once_and_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = JsonLines(path)
    lines.write({"step": 1})
    assert read_lines(path) == [{"step": 1}]
    size = lines.size()
    lines.write({"step": 2, "text": "größer"})
    lines.close()
    JsonLines(path, size).close()
    assert read_lines(path) == [{"step": 1}]
    path.write_text(path.read_text() + '{"step": 2')
    assert read_lines(path) == [{"step": 1}]
    assert read_lines(tmp_path / "nothing.jsonl") == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    lines = JsonLines(Path("/dev/full"))
    with pytest.raises(EnvironmentProblem, match="disk full while writing '/dev/full'"):
        lines.write({"step": 1})
    lines.close()
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        JsonLines(tmp_path / "no/such/folder.jsonl")


def fill(folder: Path) -> None:
    tracker = Tracker(folder, Display(quiet=True))
    for step in range(1, 101):
        loss = 4 / step**0.5
        lr = 1e-4 * (1 - step / 100)
        parts = {"loss": loss, "loss_itc": loss / 3, "loss_itm": loss / 1.5}
        tracker.log("train", step, {"epoch": step / 10, **parts, "lr": lr, "vision_lr": lr / 10})
        if step % 10 == 0:
            tracker.log("validation", step, {"epoch": step // 10, "txt_r1": 2.0 * step**0.5, "img_r1": 1.5 * step**0.5})
    tracker.close()


def test_curves_are_drawn_from_the_log(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    fill(tmp_path)
    path = draw_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    with Image.open(path) as picture:
        assert picture.width > 1200 and picture.height > 300
        assert len(set(picture.convert("RGB").resize((200, 60)).get_flattened_data())) > 20
    assert not (tmp_path / ".curves.png").exists()


def test_curves_without_validation_and_with_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(tmp_path, Display(quiet=True))
    tracker.log("train", 1, {"loss": 1.0, "loss_only": 1.0, "lr": 1e-3})
    tracker.close()
    path = draw_curves(tmp_path)
    assert path is not None
    before = path.read_bytes()

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        draw_curves(tmp_path)
    assert path.read_bytes() == before


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fill(tmp_path)
    events = loading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "validation/txt_r1"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/loss")) == 100


def test_plain_lines_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    tracker = Tracker(tmp_path, display)
    with display.bar("train", 10) as advance:
        advance(1, note="unseen")
        tracker.log("train", 3, {"loss": 0.123456, "lr": 2e-5})
    tracker.close()
    display.close()
    out, error = capsys.readouterr()
    assert out == "" and error == "train step 3  loss 0.1235  lr 2e-05\n"
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "train", "step": 3, "loss": 0.123456, "lr": 2e-05}
    assert not (tmp_path / "failures.jsonl").exists()


def test_a_terminal_gets_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    display = Display()
    assert display.is_bar
    tracker = Tracker(tmp_path, display)
    with display.bar("train", 10, done=3) as advance, display.bar("validate", 5) as second:
        advance(2, note="loss 1.5")
        second(5)
        tracker.log("train", 3, {"loss": 0.5})
        tracker.log("validation", 3, {"accuracy": 0.75})
    tracker.close()
    display.close()
    error = capsys.readouterr().err
    assert "train" in error and "5/10" in error and "loss 1.5" in error and "accuracy 0.75" in error
    assert "train step 3" not in error


def test_a_quiet_display_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=True)
    display.say("hello")
    with display.bar("train", 3) as advance:
        advance(3)
    display.close()
    assert capsys.readouterr() == ("", "")
