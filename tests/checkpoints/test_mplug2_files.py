"""mPLUG-2's files: both kinds of patch kernel, any number of universal layers, every task, there and back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from checkpoints.originals_made import SECOND_CONFIG, SIZES, second_original_state, with_training, write_original
from checkpoints.test_foreign import same
from openmplug.checkpoints.convert import convert
from openmplug.checkpoints.foreign import Options, open_foreign
from openmplug.checkpoints.store import load_weights, read_config
from openmplug.checkpoints.verify import verify
from openmplug.errors import ModelError
from openmplug.models.families import build_network, saved_config
from tiny_models import tiny_model2

CAPTION = {"config": {"prompt": "", "beam_size": 3}}


def write(folder: Path, state: dict[str, Tensor], **extras: object) -> Path:
    return write_original(folder, state, description=SECOND_CONFIG, **extras)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stride", "universal", "half"), [(0, 1, False), (0, 2, True), (2, 1, False), (2, 2, False), (2, 3, True)])
def test_there_and_back_is_the_same_file(tmp_path: Path, stride: int, universal: int, half: bool) -> None:
    content = with_training(second_original_state(tmp_path / "made", temporal_stride=stride, universal_layers=universal))
    assert content["visual_encoder.visual.conv1.weight"].shape == (64, 3, 3 if stride else 1, 8, 8)
    if half:
        content = {key: value.half() if value.is_floating_point() else value for key, value in content.items()}
    source = write(tmp_path / "source", content)
    foreign, _ = convert(source, tmp_path / "ours")
    assert foreign is not None
    assert set(foreign.mapped) | set(foreign.unused) == set(content)
    assert not set(foreign.mapped) & set(foreign.unused)
    assert not foreign.new
    assert verify(tmp_path / "ours", source)["equal"] == len(content) - 2  # two are tied
    convert(tmp_path / "ours", tmp_path / "back.pth")
    assert same(content, torch.load(tmp_path / "back.pth", weights_only=True)["model"])


@pytest.mark.parametrize("stride", [0, 2])
def test_weights_arrive_where_they_belong(tmp_path: Path, stride: int) -> None:
    source = write(tmp_path / "source", second_original_state(tmp_path / "made", temporal_stride=stride))
    convert(source, tmp_path / "ours")
    content = read_config(tmp_path / "ours")
    model = build_network(saved_config(content), content["modules"])
    load_weights(tmp_path / "ours", model)
    made = tiny_model2(model.modules_built, temporal_stride=stride, **{**SIZES, "fusion_layers": 5})
    assert {key: value.tolist() for key, value in model.state_dict().items()} == {k: v.tolist() for k, v in made.state_dict().items()}
    assert content["architecture"] == "mplug2"


def test_a_stride_that_a_file_tells(tmp_path: Path) -> None:
    state = second_original_state(tmp_path / "made", temporal_stride=3)
    told = open_foreign(write(tmp_path / "told", state, config={"temporal_stride": 3}))
    assert (told.config.temporal_stride, told.notes) == (3, told.notes)  # type: ignore[attr-defined]
    silent = open_foreign(write(tmp_path / "silent", state))
    assert silent.config.temporal_stride == 2  # type: ignore[attr-defined]
    assert any("merged in time by 2" in note for note in silent.notes)
    given = open_foreign(tmp_path / "silent", Options(architecture={"temporal_stride": 4}))
    assert given.config.temporal_stride == 4  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"does not fit .*temporal_stride 0 instead of 4"):
        flat = second_original_state(tmp_path / "flat")
        open_foreign(write(tmp_path / "plain", flat), Options(architecture={"temporal_stride": 4}))


def test_the_task_is_told_from_the_file(tmp_path: Path) -> None:
    state = second_original_state(tmp_path / "made")
    captioner = open_foreign(write(tmp_path / "caption", state, **CAPTION))
    assert (captioner.task, captioner.modules) == ("caption", ("vision", "temporal", "universal", "decoder"))
    assert captioner.settings["num_beams"] == 3
    asker = open_foreign(write(tmp_path / "vqa", state, config={"beam_size": 3}))
    assert (asker.task, asker.modules) == ("vqa", ("vision", "temporal", "text", "universal", "fusion", "decoder"))
    # What the captioner leaves out is said, layer by layer: the text layers go, the universal ones among them stay.
    reasons = {key: captioner.unused.get(key) for key in state if key.endswith("attention.self.query.bias")}
    without_text = {key for key, reason in reasons.items() if reason == "the model was built without text"}
    assert without_text == {f"text_encoder.encoder.layer.{number}.attention.self.query.bias" for number in range(2)}


def test_a_prompt_is_for_training_alone(tmp_path: Path) -> None:
    state = second_original_state(tmp_path / "made")
    prompted = open_foreign(write(tmp_path / "source", state, config={"prompt": "a video of"}))
    assert prompted.settings == {"prompt": "a video of", "generate_from": "start"}


def test_a_size_of_the_other_family_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source", second_original_state(tmp_path / "made"))
    with pytest.raises(ModelError, match="does not fit mplug-base: it is an mPLUG-2 checkpoint"):
        open_foreign(source, Options(size="mplug-base"))


def test_a_lost_kernel_slice_is_named(tmp_path: Path) -> None:
    state = second_original_state(tmp_path / "made", temporal_stride=2)
    key = "visual_encoder.visual.conv1.weight"
    with pytest.raises(ModelError, match="are no square picture; the file was edited"):
        open_foreign(write(tmp_path / "source", {**state, key: state[key][:, :, :2]}))


def test_a_folder_trained_here_becomes_a_file(tmp_path: Path) -> None:
    state = second_original_state(tmp_path / "made", ("vision", "temporal", "universal", "decoder"), temporal_stride=2)
    assert {key.split(".")[3] for key in state if key.startswith("text_encoder.")} == {"2", "3", "4"}
    again, _ = convert(write(tmp_path / "source", state, **CAPTION), tmp_path / "ours")
    assert again is not None
    assert json.loads((tmp_path / "ours" / "origin.json").read_text())["keys"]["visual_encoder.visual.conv1.weight"] == {
        "model": ["vision.patches.weight", "temporal.outer_taps"],
        "shape": [64, 3, 3, 8, 8],
    }
