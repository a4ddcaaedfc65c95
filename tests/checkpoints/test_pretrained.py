"""CLIP and BERT as mPLUG's start: the converted part computes what the library's own model computes."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from checkpoints.originals_made import VOCABULARY
from openmplug.checkpoints.convert import convert
from openmplug.checkpoints.foreign import Options, open_foreign
from openmplug.checkpoints.pretrained import bert_to_original
from openmplug.checkpoints.store import load_shared, read_config
from openmplug.checkpoints.torch_files import read_torch_file
from openmplug.errors import ModelError
from openmplug.models.families import build_network, saved_config
from openmplug.models.mplug import MPLUG, MPLUGConfig
from openmplug.models.mplug2 import MPLUG2
from openmplug.models.video import encode_clips
from tiny_models import randomise, tiny_config, tiny_config2

transformers = pytest.importorskip("transformers")

BERT = {"heads": 4, "text_layers": 2, "fusion_layers": 2, "connected_layers": (1,), "decoder_layers": 3}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    config = transformers.CLIPConfig(vision_config={**vision, "hidden_act": "quick_gelu"}, text_config=text, projection_dim=8)
    folder = tmp_path_factory.mktemp("clip")
    randomise(transformers.CLIPModel(config), std=0.1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
    )
    folder = tmp_path_factory.mktemp("bert")
    randomise(transformers.BertForPreTraining(config), std=0.2).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def test_clip_computes_the_same(clip_folder: Path, tmp_path: Path) -> None:
    convert(clip_folder, tmp_path / "ours")
    config = read_config(tmp_path / "ours")
    assert (config["modules"], config["task"]) == (["vision"], None)
    ours = MPLUG(MPLUGConfig(**config["model"]), config["modules"]).eval()
    assert load_shared(tmp_path / "ours", ours) == []
    theirs = transformers.CLIPModel.from_pretrained(clip_folder).vision_model.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.post_layernorm(theirs(images).last_hidden_state)
        assert torch.allclose(ours.encode_images(images), expected, atol=1e-4)


def test_clip_starts_a_model_of_another_picture_size(clip_folder: Path, tmp_path: Path) -> None:
    convert(clip_folder, tmp_path / "ours")
    model = MPLUG(tiny_config(image_size=16, vision_width=64, vision_heads=1))
    missing = load_shared(tmp_path / "ours", model)
    assert missing == ["contrastive", "decoder", "fusion", "matching", "text", "vision_projection"]
    assert model.vision.positions.shape == (5, 64)


@torch.no_grad()
@pytest.mark.parametrize("stride", [0, 2])
def test_clip_starts_a_model_of_clips(clip_folder: Path, tmp_path: Path, stride: int) -> None:
    """Kernel inflation: before it has learned anything, the video tower sees each frame as CLIP does."""
    convert(clip_folder, tmp_path / "ours")
    model = MPLUG2(
        tiny_config2(image_size=32, vision_width=64, vision_heads=1, temporal_stride=stride), ("vision", "temporal", "universal")
    ).eval()
    assert load_shared(tmp_path / "ours", model) == ["temporal", "universal", "vision_projection"]
    theirs = transformers.CLIPModel.from_pretrained(clip_folder).vision_model.eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    seen = clips[:, ::stride] if stride else clips
    expected = theirs.post_layernorm(theirs(seen.flatten(0, 1)).last_hidden_state)[:, 1:].unflatten(0, seen.shape[:2])
    found = encode_clips(model.vision, model.temporal, clips)
    assert torch.allclose(found[:, 1:], expected.flatten(1, 2), atol=1e-4)


@torch.no_grad()
def test_bert_s_last_layers_become_the_universal_ones(bert_folder: Path, tmp_path: Path) -> None:
    sizes = {**BERT, "width": 32, "intermediate": 48, "text_layers": 3, "universal_layers": 2, "latents": 5, "connected_layers": ()}
    foreign, _ = convert(bert_folder, tmp_path / "ours", Options(size="mplug2-base", architecture=sizes))
    assert foreign is not None
    others = {name for name in foreign.new if "cross_attention" not in name}
    assert others == {"universal.latents", "universal.norm.weight", "universal.norm.bias"}
    config = read_config(tmp_path / "ours")
    ours = build_network(saved_config(config), config["modules"]).eval()
    assert load_shared(tmp_path / "ours", ours) == []
    theirs = transformers.BertModel.from_pretrained(bert_folder).eval()
    ids = torch.tensor([[101, 105, 106, 107], [101, 108, 109, 110]])
    expected = theirs(ids).last_hidden_state
    assert torch.allclose(ours.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)), expected, atol=1e-5)


def test_bert_computes_the_same(bert_folder: Path, tmp_path: Path) -> None:
    options = Options(architecture=BERT)
    foreign, _ = convert(bert_folder, tmp_path / "ours", options)
    assert foreign is not None
    assert all("cross_attention" in name for name in foreign.new)
    assert len(foreign.new) == 10 * (1 + 3)  # a co-attention layer (the other is connected) and three layers of the decoder
    config = read_config(tmp_path / "ours")
    ours = MPLUG(MPLUGConfig(**config["model"]), config["modules"]).eval()
    assert load_shared(tmp_path / "ours", ours) == []
    theirs = transformers.BertModel.from_pretrained(bert_folder).eval()
    ids = torch.tensor([[101, 105, 106, 107], [101, 108, 109, 110]])
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True).hidden_states
        assert torch.allclose(ours.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)), expected[2], atol=1e-5)
        connected = ours.fusion.layers[1].block
        assert torch.allclose(connected(expected[2], None), expected[3], atol=1e-5)


def test_bert_needs_enough_layers(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="BERT has 3 layers, text_layers is 6"):
        open_foreign(bert_folder, Options(size="mplug-base"))


def test_old_names_of_bert() -> None:
    found = bert_to_original({"bert.embeddings.LayerNorm.gamma": torch.ones(2), "bert.encoder.layer.0.x": torch.ones(1)}, 1, 1, 1)
    assert set(found) == {
        "text_encoder.embeddings.LayerNorm.weight",
        "text_decoder.bert.embeddings.LayerNorm.weight",
        "text_encoder.encoder.layer.0.x",
        "fusion_encoder.encoder.layer.0.x",
        "text_decoder.bert.encoder.layer.0.x",
    }


# -------------------------------------------------------------------------------------------------- OpenAI's scripted archive


class Tower(nn.Module):
    """Modules in modules, as CLIP's archive has them, with half precision beside full."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(8))
        self.conv1 = nn.Conv2d(3, 8, 4, bias=False).half()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        self.register_buffer("steps", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x + self.class_embedding)


class Clip(nn.Module):
    """The whole: a tower and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Tower()
        self.logit_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x) * self.logit_scale


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Clip()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated; the files are still around
        torch.jit.script(model).save(str(tmp_path / "clip.pt"))
    return tmp_path / "clip.pt", model.state_dict()


def test_a_scripted_archive_is_read_without_its_code(archive: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = archive
    found = read_torch_file(path).tensors
    assert found.keys() == state.keys()
    assert all(found[key].dtype == state[key].dtype and torch.equal(found[key], state[key]) for key in state)


def test_a_scripted_archive_that_calls_something(archive: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, _ = archive
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(evil, "w") as new:
        for entry in old.infolist():
            content = (
                b"cos\nsystem\n(S'touch /tmp/openmplug-test-was-run'\ntR." if entry.filename.endswith("/data.pkl") else old.read(entry)
            )
            new.writestr(entry, content)
    with pytest.raises(ModelError, match=r"evil\.pt' would have to run code to be read \((os|posix)\.system\), so it was not"):
        read_torch_file(evil)
    assert not Path("/tmp/openmplug-test-was-run").exists()


def test_a_cut_scripted_archive(archive: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    data = archive[0].read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cut off"):
        read_torch_file(tmp_path / "cut.pt")
    (tmp_path / "other.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ModelError):
        read_torch_file(tmp_path / "other.pt")
