"""Random states and optimizer moments, there and back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.tiny_run import TinyTask
from openmplug.checkpoints.store import save_tensors, save_weights
from openmplug.engine.optim import OptimSettings, build_optimizer
from openmplug.engine.resume import (
    kept_random_state,
    load_optimizer_state,
    load_training_state,
    optimizer_state,
    random_state,
    save_training_state,
    set_random_state,
    training_tensors,
)
from openmplug.errors import ModelError


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        torch.rand(1).item(),
        torch.randn(1).item(),
    ]


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    draw()  # an odd number of normal draws: Python and numpy keep the second of a pair
    save_tensors(tmp_path / "state.safetensors", random_state())
    expected = [draw() for _ in range(3)]
    set_random_state(load_file(tmp_path / "state.safetensors"))
    assert [draw() for _ in range(3)] == expected


def test_a_block_can_draw_without_being_noticed() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError), kept_random_state():
        draw()
        _ = 1 / 0
    assert draw() == expected


def test_moments_are_kept_by_name_also_where_some_parameters_have_none() -> None:
    task = TinyTask()
    optimizer = build_optimizer(task.model, OptimSettings())
    task.model.decoder.weight.grad = torch.ones(2, 8)
    optimizer.step()
    state = {key: value.clone() for key, value in optimizer_state(optimizer).items()}
    assert sorted(state) == ["decoder.weight/exp_avg", "decoder.weight/exp_avg_sq", "decoder.weight/step"]
    other = build_optimizer(task.model, OptimSettings())
    load_optimizer_state(other, state)
    loaded = optimizer_state(other)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], value) for key, value in state.items())
    with pytest.raises(ModelError, match=r"does not fit the model at 'decoder.other'"):
        load_optimizer_state(other, {"decoder.other/exp_avg": torch.ones(1)})


def test_a_folder_holds_no_pickle(tmp_path: Path) -> None:
    task = TinyTask()
    optimizer = build_optimizer(task.model, OptimSettings())
    save_weights(tmp_path, task.model.state_dict(), {})
    save_training_state(tmp_path, training_tensors(task, optimizer), {"step": 3})
    assert {item.name for item in tmp_path.iterdir()} == {"model.safetensors", "config.json", "training.safetensors", "training.json"}
    other = TinyTask()
    assert load_training_state(tmp_path, other, build_optimizer(other.model, OptimSettings())) == {"step": 3}
    assert all(torch.equal(a, b) for a, b in zip(task.state_dict().values(), other.state_dict().values(), strict=True))
    (tmp_path / "training.safetensors").unlink()
    with pytest.raises(ModelError, match=r"training.safetensors' does not exist"):
        load_training_state(tmp_path, other, optimizer)
