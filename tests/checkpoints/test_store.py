"""Folders of weights: whole or untouched, strict, and every problem told in one line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from openmplug.checkpoints import store
from openmplug.checkpoints.atomic import atomic_folder, recover_folder, write_atomic
from openmplug.checkpoints.store import (
    check_keys,
    load_shared,
    load_weights,
    model_hash,
    read_config,
    read_shapes,
    save_weights,
)
from openmplug.errors import EnvironmentProblem, ModelError


class Net(nn.Module):
    def __init__(self, width: int = 3, parts: tuple[str, ...] = ("vision", "text")) -> None:
        super().__init__()
        for part in parts:
            self.add_module(part, nn.Linear(4, width))


def save(path: Path, net: nn.Module, **config: Any) -> None:
    with atomic_folder(path) as folder:
        save_weights(folder, net.state_dict(), {"architecture": "net", **config})


def leftovers(path: Path) -> list[str]:
    return [item.name for item in path.parent.iterdir() if item.name.startswith(".")]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    net, other = Net(), Net()
    save(tmp_path / "model", net, task="vqa")
    assert read_config(tmp_path / "model") == {"format": 1, "architecture": "net", "task": "vqa"}
    load_weights(tmp_path / "model", other)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert read_shapes(tmp_path / "model" / "model.safetensors")["vision.weight"] == (3, 4)
    assert len(model_hash(tmp_path / "model")) == 64
    assert leftovers(tmp_path / "model") == []


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "model", Net(), step=1)
    (tmp_path / "model" / "stale.txt").write_text("old")
    save(tmp_path / "model", Net(), step=2)
    assert read_config(tmp_path / "model")["step"] == 2
    assert not (tmp_path / "model" / "stale.txt").exists()


def test_tied_and_sliced_tensors_are_written_in_full(tmp_path: Path) -> None:
    table = torch.arange(12.0).view(4, 3)
    save_weights(tmp_path, {"a": table, "b": table, "row": table[1], "column": table[:, 1]}, {})
    found = load_file(tmp_path / "model.safetensors")
    assert torch.equal(found["b"], table) and torch.equal(found["row"], table[1]) and torch.equal(found["column"], table[:, 1])
    assert (tmp_path / "model.safetensors").stat().st_size < 1000


def test_an_error_in_the_block_keeps_the_old_folder(tmp_path: Path) -> None:
    save(tmp_path / "model", Net(), step=1)
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as folder:
        (folder / "half").write_text("x")
        _ = 1 / 0
    assert read_config(tmp_path / "model")["step"] == 1
    assert leftovers(tmp_path / "model") == []


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"writing": "half", "": "old"}, "old"),  # killed while writing
        ({"new": "new", "": "old"}, "new"),  # killed before the first rename of the swap
        ({"new": "new", "old": "old"}, "new"),  # killed between the two renames
        ({"": "new", "old": "old"}, "new"),  # killed before the old one was removed
        ({"old": "old"}, "old"),
        ({"writing": "half"}, None),
    ],
)
def test_a_crash_at_any_point_of_the_swap_is_recovered(tmp_path: Path, states: dict[str, str], expected: str | None) -> None:
    path = tmp_path / "model"
    for stage, content in states.items():
        folder = path if not stage else tmp_path / f".model.{stage}"
        folder.mkdir()
        (folder / "content").write_text(content)
    assert recover_folder(path) is (expected is not None)
    if expected is not None:
        assert (path / "content").read_text() == expected
    assert leftovers(path) == []


# ------------------------------------------------------------------------------------------------------------- strictness


def edit(path: Path, change: Any) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text.bias"), r"keys 1 missing \(text.bias\); likely cause: keys were removed from the file"),
        (lambda t: t.update(extra=torch.zeros(1)), r"keys 1 unexpected \(extra\)"),
        (
            lambda t: t.update({"text.weight": torch.zeros(5, 4)}),
            r"1 of another shape \(text.weight \(5, 4\) instead of \(3, 4\)\); likely cause: the file was edited",
        ),
        (
            lambda t: (t.pop("text.bias"), t.pop("text.weight"), t.pop("vision.bias")),
            r"3 missing \(text.bias, text.weight, vision.bias\)",
        ),
    ],
)
def test_keys_that_differ_stop_the_load_and_nothing_is_loaded(tmp_path: Path, change: Any, message: str) -> None:
    save(tmp_path / "model", Net())
    edit(tmp_path / "model", change)
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match=rf"does not fit the model, nothing was loaded: .*{message}") as caught:
        load_weights(tmp_path / "model", net)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("found", "expected", "cause"),
    [
        ({"vision.positions": [5, 4]}, {"vision.positions": [9, 4]}, "of another image size"),
        ({"text.embeddings.words.weight": [5, 4]}, {"text.embeddings.words.weight": [9, 4]}, "another vocabulary"),
        ({"vision.a": [1]}, {"vision.a": [1], "decoder.a": [1], "decoder.b": [1], "decoder.c": [1]}, "another task, without decoder"),
        ({"text.layers.0.a": [1], "text.layers.1.a": [1]}, {"text.layers.0.a": [2]}, "another model size"),
    ],
)
def test_the_likely_cause_is_named(found: dict[str, list[int]], expected: dict[str, list[int]], cause: str) -> None:
    with pytest.raises(ModelError, match=cause):
        check_keys(found, expected, "file")


def test_long_lists_of_keys_are_cut(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"9 missing \(part.0, part.1, part.2 and 6 more\)"):
        check_keys({}, {f"part.{number}": [1] for number in range(9)}, "file")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model", Net())
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        load_weights(tmp_path / "model", Net())


def test_a_missing_folder_file_or_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"it holds no config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 2}')
    with pytest.raises(ModelError, match="has format 2, this version reads 1"):
        read_config(tmp_path)
    with pytest.raises(ModelError, match=r"model.safetensors' does not exist"):
        load_weights(tmp_path, Net())


def test_shared_parts_are_loaded_and_the_others_listed(tmp_path: Path) -> None:
    source, target = Net(parts=("vision", "text")), Net(parts=("vision", "decoder"))
    save(tmp_path / "model", source)
    assert load_shared(tmp_path / "model", target) == ["decoder"]
    assert torch.equal(target.get_submodule("vision").weight, source.get_submodule("vision").weight)
    with pytest.raises(ModelError, match="has none of"):
        load_shared(tmp_path / "model", Net(parts=("other",)))
    with pytest.raises(ModelError, match="of another shape"):
        load_shared(tmp_path / "model", Net(width=5))


# -------------------------------------------------------------------------------------------------------------- full disk


def test_a_full_disk_keeps_the_last_good_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "model", Net(), step=1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(EnvironmentProblem, match=r"disk full while writing '.*model'; the old content is kept") as caught:
        save(tmp_path / "model", Net(), step=2)
    assert "\n" not in str(caught.value)
    assert read_config(tmp_path / "model")["step"] == 1
    load_weights(tmp_path / "model", Net())
    assert leftovers(tmp_path / "model") == []


def test_a_disk_that_fills_up_while_flushing_keeps_the_last_good_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "model", Net(), step=1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        save(tmp_path / "model", Net(), step=2)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        write_atomic(tmp_path / "model" / "config.json", "{}")
    assert read_config(tmp_path / "model")["step"] == 1
    assert leftovers(tmp_path / "model" / "x") == []


def test_other_write_errors_are_told_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"cannot write '.*': (Not a directory|File exists)"):
        save(tmp_path / "file" / "model", Net())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte, where the machine lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a tiny file system needs root on Linux")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    def fat() -> nn.Module:
        return nn.Linear(1, 50_000)  # 400 kB: one fits beside its successor, two do not

    save(tiny_disk / "model", fat(), step=1)
    save(tiny_disk / "model", fat(), step=2)
    (tiny_disk / "other").write_bytes(b"x" * 500_000)
    with pytest.raises(EnvironmentProblem, match="disk full while writing"):
        save(tiny_disk / "model", fat(), step=3)
    assert read_config(tiny_disk / "model")["step"] == 2
    load_weights(tiny_disk / "model", fat())
    assert leftovers(tiny_disk / "model") == []


def test_a_failed_atomic_text_keeps_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_atomic(path, json.dumps({"a": 1}))
    assert json.loads(path.read_text()) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]
