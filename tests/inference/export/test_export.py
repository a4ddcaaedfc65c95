"""Exported parts do what the model does, at sizes they were not taken at, also without openmplug."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.command import run
from inference.conftest import WORDS
from inference.whole_models import a_model
from openmplug.batch import Item, Sample
from openmplug.errors import EnvironmentProblem, ModelError, UsageError
from openmplug.inference.export import files
from openmplug.inference.export.front import export
from openmplug.inference.model import Model
from openmplug.tasks.captioning import CaptioningTask

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "onnx_captioner.py"
# Runs a script where neither of these can be imported.
BARE = """
import runpy, sys
sys.modules.update(openmplug=None, torch=None)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

PARTS = ["vision", "text", "fusion", "memory", "decoder"]


@pytest.fixture(scope="module")
def model() -> Model:
    return a_model(vision_layers=1, text_layers=1, fusion_layers=2)


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("onnx") / "model"
    return folder, export(model, folder, parts=PARTS)


def session(folder: Path, part: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(folder / f"{part}.onnx"))


def test_every_part_is_written_and_agrees(exported: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, report = exported
    assert [row["part"] for row in report] == PARTS
    assert all(0 < row["difference"] < 1e-4 or row["part"] == "memory" for row in report), report
    assert all(row["bytes"] == (folder / row["file"]).stat().st_size for row in report)
    told = json.loads((folder / "export.json").read_text())
    assert told["image"]["size"] == 16 and told["tokens"]["start"] != told["tokens"]["end"]
    assert (folder / "vocab.txt").is_file() and not list(folder.parent.glob(".*"))


def test_the_encoders_and_the_head_of_matching(model: Model, exported: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = exported
    pictures = [Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)) for number in range(4)]
    pixels = torch.stack([model.transform(picture) for picture in pictures])
    states, features = session(folder, "vision").run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(features, model.embed_images(pictures), atol=1e-5)
    words = " ".join(WORDS.split()[:4])
    tokens = model.tokenizer([words] * 4)
    text, said = session(folder, "text").run(None, {"ids": tokens.ids.numpy(), "mask": tokens.mask.numpy()})
    np.testing.assert_allclose(said[0], model.embed_texts([words])[0], atol=1e-5)
    fused = session(folder, "fusion").run(None, {"vision": states, "text": text, "mask": tokens.mask.numpy()})
    np.testing.assert_allclose(fused[2], [model.match(picture, words).probability for picture in pictures], atol=1e-4)


def test_the_decoder_goes_on_from_its_cache(model: Model, exported: tuple[Path, list[dict[str, Any]]]) -> None:
    """Token by token, and several at once, it gives the logits of the whole text."""
    folder, _ = exported
    states, ids = torch.randn(3, 11, 32), torch.randint(0, model.tokenizer.vocab_size, (3, 8))
    mask = torch.arange(11)[None] < torch.tensor([[11], [4], [7]])
    decoder = model.network.decoder
    with torch.no_grad():
        wanted = decoder(ids, torch.ones_like(ids, dtype=torch.bool), decoder.project_memory(states, mask)).numpy()
    memory = session(folder, "memory").run(None, {"states": states.numpy()})[0]
    step = session(folder, "decoder")
    past = np.zeros((2, 2, 3, 4, 0, 8), np.float32)
    for first, last in ((0, 3), (3, 4), (4, 5), (5, 8)):
        given = {"ids": ids[:, first:last].numpy(), "past": past, "memory": memory, "memory_mask": mask.numpy()}
        logits, past = step.run(None, given)
        np.testing.assert_allclose(logits, wanted[:, last - 1], atol=1e-4)
    assert past.shape == (2, 2, 3, 4, 8, 8)


@pytest.mark.parametrize(("instruction", "beams"), [("", 4), (f"{WORDS.split()[0]} {{kind}}", 3), ("", 1)])
def test_the_example_writes_what_the_model_writes(
    model: Model, exported: tuple[Path, list[dict[str, Any]]], instruction: str, beams: int, tmp_path: Path
) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
    folder = tmp_path / "model"
    folder.mkdir()
    for file in exported[0].iterdir():
        (folder / file.name).symlink_to(file)
    told = json.loads((folder / "export.json").read_text())
    asked = model.tokenizer([instruction.replace("{kind}", "image")]).ids[0].tolist() if instruction else []
    told["caption"] |= {"num_beams": beams, "min_length": 3, "max_length": 9, "instruction_ids": asked}
    (folder / "export.json").unlink()
    (folder / "export.json").write_text(json.dumps(told))
    paths = []
    for number, mode in enumerate(("RGB", "L", "RGBA")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 25, 4), np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels, "RGBA").convert(mode).save(paths[-1])
    ran = subprocess.run([sys.executable, "-c", BARE, EXAMPLE, folder, *paths], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    settings = {"num_beams": beams, "min_length": 3, "max_length": 9}
    task = model.task_for("caption", instruction=instruction or None, **settings)
    assert isinstance(task, CaptioningTask)
    batch = task.collator(training=False)([Item(Sample(path.name), model.visuals.read(path)) for path in paths])
    with model.computing():
        said = [text for text, _ in task.write(batch)]
    assert [line.partition(": ")[2] for line in ran.stdout.splitlines()] == said
    if not instruction:
        assert said == [one.text for one in model.caption(paths, **settings)]


@pytest.mark.slow  # a minute: the graphs of universal and temporal modules are large
@pytest.mark.parametrize("stride", [0, 2])
def test_clips_of_the_second_family(stride: int, tmp_path: Path) -> None:
    """Universal layers and temporal modules; the number of frames is fixed, that of clips is not."""
    model = a_model("mplug2", temporal_stride=stride)
    report = export(model, tmp_path / "model", parts=["clip", "text"] if stride else ["vision"])
    assert all(row["difference"] < 1e-4 for row in report)
    if stride:
        assert report[0]["inputs"]["pixels"] == ["batch", 5, 3, 16, 16]


def test_programs_of_torch(model: Model, tmp_path: Path) -> None:
    report = export(model, tmp_path / "model", "torch", ["text", "decoder"])
    assert [row["file"] for row in report] == ["text.pt2", "decoder.pt2"]
    tokens = model.tokenizer(["a", "b b b"])
    states, _ = torch.export.load(tmp_path / "model" / "text.pt2").module()(tokens.ids, tokens.mask)
    with torch.no_grad():
        torch.testing.assert_close(states, model.network.encode_text(tokens.ids, tokens.mask))


def test_bad_requests(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out"
    with pytest.raises(UsageError, match=r"has no part 'decode'; did you mean 'decoder'\? it has vision, clip, text"):
        export(model, place, parts=["decode"])
    with pytest.raises(UsageError, match="unknown format 'onxx'; expected onnx or torch"):
        export(model, place, "onxx")  # type: ignore[arg-type]
    tmp_path.joinpath("there").mkdir()
    with pytest.raises(UsageError, match=r"there' is there already; give a folder that is not"):
        export(model, tmp_path / "there")
    half = a_model()
    half.network.half()
    with pytest.raises(UsageError, match="only models in fp32 on the CPU are exported"):
        export(half, place)
    monkeypatch.setattr(files, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match=r"'text\.pt2' differs from the model by .*, more than 0; nothing was kept"):
        shifted(model, place, monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"need onnx, onnxscript, onnxruntime; install: pip install 'openmplug\[export\]'"):
        export(model, place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def shifted(model: Model, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export a part and let the model's weights change before the file is held against them."""
    write = files.write

    def and_change(part: Any, path: Path, form: files.Format) -> None:
        write(part, path, form)
        with torch.no_grad():
            next(part.module.parameters()).mul_(1.5)

    monkeypatch.setattr("openmplug.inference.export.front.write", and_change)
    export(model, place, "torch", ["text"])


def test_large_weights_go_into_a_file_of_their_own(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    report = export(model, tmp_path / "model", parts=["memory"])
    beside = [path for path in (tmp_path / "model").iterdir() if path.name.startswith("memory.onnx.")]
    assert len(beside) == 1 and report[0]["bytes"] > beside[0].stat().st_size > 1000


def test_the_command(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmplug.inference.loading.load", lambda path, **options: model)
    outcome = run("export", tmp_path / "saved", "--output", tmp_path / "out", "--format", "torch", "--part", "memory", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["parts"][0]["file"] == "memory.pt2" and (tmp_path / "out" / "memory.pt2").is_file()
    again = run("export", tmp_path / "saved", "--output", tmp_path / "out", "--part", "memory")
    assert "is there already" in again.error(2)
    assert "it has vision, clip, text, fusion, memory, decoder" in run(
        "export", tmp_path / "saved", "--output", tmp_path / "other", "--part", "encoder"
    ).error(2)
