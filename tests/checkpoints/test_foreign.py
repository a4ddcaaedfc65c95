"""Checkpoints of other origins: what they are taken for, that they come back bit for bit, and what is refused."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from checkpoints.originals_made import VOCABULARY, original_state, with_training, write_original
from openmplug.checkpoints.convert import convert, words_of
from openmplug.checkpoints.folder import KEEP
from openmplug.checkpoints.foreign import Options, open_foreign
from openmplug.checkpoints.store import load_weights, read_config
from openmplug.checkpoints.verify import verify
from openmplug.errors import ModelError, UsageError
from openmplug.inference.loading import load
from openmplug.models.mplug import MPLUG, MPLUGConfig
from tiny_models import tiny_model

VQA = ("vision", "text", "fusion", "decoder")
RETRIEVAL = ("vision", "text", "fusion", "contrastive", "matching")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return original_state(folder=tmp_path_factory.mktemp("made"))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[key].dtype == other[key].dtype and one[key].shape == other[key].shape and torch.equal(one[key], other[key]) for key in one
    )


# ------------------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("wrapper", ["model", "module"])
def test_there_and_back_is_the_same_file(tmp_path: Path, state: dict[str, Tensor], wrapper: str, half: bool) -> None:
    content = with_training(state)
    if half:
        content = {key: value.half() if value.is_floating_point() else value for key, value in content.items()}
    source = write_original(tmp_path / "source", content, wrapper=wrapper)
    foreign, _ = convert(source, tmp_path / "ours")
    assert foreign is not None
    assert set(foreign.mapped) | set(foreign.unused) == set(content)
    assert not set(foreign.mapped) & set(foreign.unused)
    assert not foreign.new
    convert(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert same(content, back[wrapper])
    assert back["epoch"] == 3
    assert verify(tmp_path / "ours", source)["equal"] == len(content) - 2  # two are tied


@pytest.mark.parametrize("keep", KEEP)
def test_what_is_kept(tmp_path: Path, state: dict[str, Tensor], keep: str) -> None:
    source = write_original(tmp_path / "source", with_training(state))
    _, report = convert(source, tmp_path / "ours", keep=keep)
    _, back = convert(tmp_path / "ours", tmp_path / "back.pth")
    kept = set(torch.load(tmp_path / "back.pth", weights_only=True)["model"])
    assert set(state) - kept == (set(back["dropped"]) & set(state))
    assert ("queue_ptr" in kept) == (keep == "all")
    assert ("visual_encoder.visual.proj" in kept) == (keep != "none")
    assert (report["kept"] > 0) == (keep != "none")


def test_weights_arrive_where_they_belong(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", state)
    convert(source, tmp_path / "ours")
    config = read_config(tmp_path / "ours")
    model = MPLUG(MPLUGConfig(**config["model"]), config["modules"])
    load_weights(tmp_path / "ours", model)
    made = tiny_model(connected_layers=(2,), vision_width=64, vision_heads=1, vocab_size=len(VOCABULARY))
    assert {key: value.tolist() for key, value in model.state_dict().items()} == {k: v.tolist() for k, v in made.state_dict().items()}
    assert (model.config.heads, model.config.connected_layers, model.config.image_size) == (4, (2,), 16)


def test_pretraining_names_and_wrapped_names(tmp_path: Path, state: dict[str, Tensor]) -> None:
    renamed = {}
    for key, value in state.items():
        name = key.replace("text_encoder.", "text_encoder.bert.").replace("fusion_encoder.", "fusion_encoder.fusion.")
        renamed[f"module.{name}"] = value
    source = write_original(tmp_path / "source", renamed)
    plain = open_foreign(write_original(tmp_path / "plain", state))
    foreign = open_foreign(source)
    assert {key: value.tolist() for key, value in foreign.tensors.items()} == {k: v.tolist() for k, v in plain.tensors.items()}
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back.pth")
    assert same(renamed, torch.load(tmp_path / "back.pth", weights_only=True)["model"])


def test_the_final_name_wins_over_the_pretraining_one(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "fusion_encoder.encoder.layer.2.output.dense.bias"
    both = {key.replace("encoder.encoder", "encoder.bert.encoder"): state[key] + 5, **state}
    foreign = open_foreign(write_original(tmp_path / "source", both))
    assert torch.equal(foreign.tensors["fusion.layers.0.block.feed_forward.contract.bias"], state[key])


# ------------------------------------------------------------------------------------------------------------------ origins


@pytest.mark.parametrize(
    ("modules", "wrapper", "extras", "task"),
    [
        (VQA, "module", {}, "vqa"),
        (VQA, "model", {"config": {"prompt": "", "beam_size": 3}}, "caption"),
        (RETRIEVAL, "model", {}, "retrieval"),
        (VQA, "model", {}, None),
    ],
)
def test_the_task_is_told_from_the_file(
    tmp_path: Path, modules: tuple[str, ...], wrapper: str, extras: dict[str, object], task: str | None
) -> None:
    state = original_state(modules, tmp_path / "made")
    foreign = open_foreign(write_original(tmp_path / "source", state, wrapper=wrapper, **extras))
    assert foreign.task == task
    if task == "caption":
        assert (foreign.modules, foreign.settings) == (("vision", "decoder"), {"num_beams": 3, "prompt": ""})


def test_a_modelscope_folder(tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in original_state(VQA, tmp_path / "made").items()}
    folder = tmp_path / "modelscope"
    write_original(folder, state, "pytorch_model.bin")
    (folder / "configuration.json").write_text(json.dumps({"task": "visual-question-answering", "model": {"type": "mplug"}}))
    (folder / "config.yaml").write_text("beam_size: 3\nmin_length: 1\nmax_length: 4\nimage_res: 16\n")
    model = load(folder, device="cpu")
    assert (model.name, model.config["settings"]) == ("vqa", {"num_beams": 3, "min_length": 1, "max_length": 4})
    (folder / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"lacks vocab\.txt; it should hold .*: download it whole"):
        load(folder)


def test_a_deepspeed_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deepspeed"
    write_original(folder / "global_step9", original_state(VQA, tmp_path / "made"), "mp_rank_00_model_states.pt", "module", global_steps=9)
    for name in ("config_bert.json", "vocab.txt"):
        (folder / "global_step9" / name).rename(folder / name)
    (folder / "latest").write_text("global_step9\n")
    foreign = open_foreign(folder)
    assert (foreign.origin, foreign.task) == ("deepspeed", "vqa")


def test_another_picture_size(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", state)
    foreign = open_foreign(source, Options(image_size=32))
    assert foreign.config.image_size == 32
    assert foreign.tensors["vision.positions"].shape == (17, 64)
    assert any("resized from 16 to 32" in note for note in foreign.notes)
    with pytest.raises(ModelError, match="image size 30 is not a multiple of the patch size 8"):
        open_foreign(source, Options(image_size=30))


def test_what_no_shape_tells_is_asked_for(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", state)
    (tmp_path / "source" / "config_bert.json").unlink()
    with pytest.raises(
        ModelError, match=r"no shape tells heads, fusion_layers, connected_layers.*give heads=12 fusion_layers=6 connected_layers=\[3\]"
    ):
        open_foreign(source)
    foreign = open_foreign(source, Options(architecture={"heads": 2, "fusion_layers": 3, "connected_layers": (2,)}))
    assert foreign.config.heads == 2


def test_the_saved_configuration_of_a_trained_folder_is_not_foreign(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", state)
    convert(source, tmp_path / "ours")
    with pytest.raises(UsageError, match="is a folder of ours already"):
        convert(tmp_path / "ours", tmp_path / "again")
    with pytest.raises(UsageError, match="name a folder as --output"):
        convert(source, tmp_path / "again.pth")
    with pytest.raises(ModelError, match=r"nowhere' does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "back.pth")


# ------------------------------------------------------------------------------------------------------------------- faults


class Evil:
    """What a pickle can do: call anything."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch /tmp/openmplug-test-was-run",)


def test_a_pickle_that_would_run_code(tmp_path: Path, state: dict[str, Tensor]) -> None:
    Path("/tmp/openmplug-test-was-run").unlink(missing_ok=True)
    source = write_original(tmp_path / "source", state, config=Evil())
    with pytest.raises(ModelError, match="would have to run code to be read") as caught:
        open_foreign(source)
    assert "system" in str(caught.value)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    with pytest.raises(ModelError):
        open_foreign(tmp_path / "bare.pth")
    assert not Path("/tmp/openmplug-test-was-run").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, state: dict[str, Tensor], share: float) -> None:
    source = write_original(tmp_path / "source", state)
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"cut off|damaged"):
        open_foreign(source)


def edited(state: dict[str, Tensor], key: str, fault: str) -> dict[str, Tensor]:
    changed = dict(state)
    if fault == "removed":
        del changed[key]
    elif fault == "renamed":
        changed[key + "_old"] = changed.pop(key)
    elif fault == "reshaped":
        changed[key] = changed[key][..., None].expand(*changed[key].shape, 2).clone()
    elif fault == "fp64":
        changed[key] = changed[key].double()
    return changed


KEYS = [
    "visual_encoder.visual.class_embedding",
    "visual_encoder.visual.conv1.weight",
    "visual_encoder.visual.positional_embedding",
    "visual_encoder.visual.transformer.resblocks.1.mlp.c_fc.weight",
    "text_encoder.embeddings.word_embeddings.weight",
    "text_encoder.embeddings.position_embeddings.weight",
    "text_encoder.encoder.layer.1.intermediate.dense.weight",
    "fusion_encoder.encoder.layer.3.crossattention.self.key.weight",
    "text_decoder.bert.encoder.layer.0.attention.self.query.bias",
    "text_decoder.cls.predictions.bias",
    "itm_head.weight",
    "vision_proj.weight",
    "visn_fc.weight",
    "temp",
]


@pytest.mark.parametrize("fault", ["removed", "renamed", "reshaped", "fp64"])
@pytest.mark.parametrize("key", KEYS)
def test_one_tensor_that_is_not_right(tmp_path: Path, state: dict[str, Tensor], key: str, fault: str) -> None:
    assert key in state
    source = write_original(tmp_path / "source", edited(state, key, fault))
    with pytest.raises(ModelError) as caught:
        open_foreign(source, Options(task=None))
    message = str(caught.value)
    assert "\n" not in message
    if fault == "fp64":
        assert f"{key} is float64; expected float32, float16 or bfloat16" in message
    elif fault == "renamed" and key not in ("visual_encoder.visual.class_embedding", "temp"):
        assert f"{key}_old" in message or key.rpartition(".")[2] in message


def test_a_part_may_be_missing_where_it_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "text_decoder.bert.encoder.layer.0.crossattention.self.key.bias"
    source = write_original(tmp_path / "source", edited(state, key, "removed"))
    with pytest.raises(ModelError, match="1 missing"):
        open_foreign(source)
    foreign = open_foreign(source, Options(allow_missing=(key,)))
    assert foreign.new == ["decoder.layers.0.cross_attention.attention.key.bias"]
    convert(source, tmp_path / "ours", Options(allow_missing=("decoder",)))
    assert "random" in (tmp_path / "ours" / "README.md").read_text()
    verify(tmp_path / "ours")


def test_unknown_keys_are_left_out_only_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", {**state, "extra_head.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"1 unexpected \(extra_head\.weight\)"):
        open_foreign(source)
    assert open_foreign(source, Options(ignore=("extra_head.*",))).unused["extra_head.weight"].startswith("unknown")


def test_an_untied_output_layer(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "text_decoder.cls.predictions.decoder.weight"
    with pytest.raises(ModelError, match=r"is tied to .* but differs from it here"):
        open_foreign(write_original(tmp_path / "source", {**state, key: state[key] + 1}))


def test_a_kernel_of_mplug2_without_what_belongs_to_it(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "visual_encoder.visual.conv1.weight"
    with pytest.raises(ModelError, match=r"missing \(.*text_encoder\.encoder\.layer\.\d\.(crossattention|latents)"):
        open_foreign(write_original(tmp_path / "source", {**state, key: state[key][:, :, None]}))


def test_words_are_needed_and_must_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", state)
    (tmp_path / "source" / "vocab.txt").rename(tmp_path / "vocab.txt")
    foreign = open_foreign(source)
    with pytest.raises(ModelError, match=r"comes without vocab\.txt.*give --vocab FILE"):
        words_of(foreign)
    assert words_of(foreign, tmp_path / "vocab.txt").vocab_size == len(VOCABULARY)  # type: ignore[union-attr]
    (tmp_path / "other.txt").write_text("\n".join([*VOCABULARY, "q"]) + "\n")
    with pytest.raises(ModelError, match="has 121 words, the model 120"):
        words_of(foreign, tmp_path / "other.txt")


def test_verify_sees_changed_and_broken_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    source = write_original(tmp_path / "source", state)
    convert(source, tmp_path / "ours")
    other = write_original(tmp_path / "other", {**state, "temp": state["temp"] * 2})
    with pytest.raises(ModelError, match="temp differs from what"):
        verify(tmp_path / "ours", other)
    path = tmp_path / "ours" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="SHA-256 differs"):
        verify(tmp_path / "ours")
    broken = write_original(tmp_path / "nan", {**state, "temp": torch.tensor(torch.nan)})
    with pytest.raises(ModelError, match="infinities or NaN"):
        verify(broken)


def test_berts_words_without_a_network(tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_original(tmp_path / "source", state)
    (tmp_path / "source" / "vocab.txt").unlink()

    def no_network(*_: object) -> None:
        raise OSError("name not known")

    monkeypatch.setattr("openmplug.checkpoints.hub.getaddrinfo", no_network)
    monkeypatch.setattr("openmplug.checkpoints.hub.getproxies", dict)
    monkeypatch.setattr("openmplug.checkpoints.convert.VOCABULARY_SIZE", len(VOCABULARY))
    began = time.monotonic()
    # Where the machine has BERT's words in its cache they are found, and do not fit this model.
    with pytest.raises(ModelError, match=r"put it beside the file \(of bert-base-uncased\)|has 30,522 words, the model 120"):
        words_of(open_foreign(source))
    assert time.monotonic() - began < 20  # the library alone tries for half a minute
