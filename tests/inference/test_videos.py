"""Videos wherever pictures go: every kind of input, mixed lists, both families, the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.command import run
from data.videos_made import numbered_frame, write_frames, write_gif, write_video
from openmplug.data.clips import VideoSettings
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.data.transforms import ImageSettings
from openmplug.data.video import Video, open_video
from openmplug.engine.models import write_model
from openmplug.errors import DataError, UsageError
from openmplug.inference.loading import load
from openmplug.inference.model import Model
from openmplug.inference.visuals import by_kind, is_clip, read_visual
from openmplug.tasks import build_task

pytest.importorskip("av", reason="videos need PyAV: pip install 'openmplug[video]'")

Folders = dict[tuple[str, str], Path]
Files = dict[str, Path]
WORDS = "what which way does it go ? a red square moves left right how many"
COMMON = {
    **{"image_size": 32, "patch_size": 16, "vision_width": 32, "vision_layers": 2, "vision_heads": 2, "width": 32, "heads": 2},
    **{"intermediate": 64, "embed_dim": 16, "decoder_layers": 1, "fusion_layers": 1, "connected_layers": ()},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mplug": {"name": "mplug-tiny", "text_layers": 1, **COMMON},
    "mplug2": {"name": "mplug2-tiny", "text_layers": 2, "universal_layers": 1, "latents": 4, **COMMON},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "vqa": {"num_beams": 1, "max_length": 4},
    "caption": {"num_beams": 1, "min_length": 1, "max_length": 5},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders of untrained models by family and task, whose parameters make a difference."""
    folders = {}
    for family, sizes in FAMILIES.items():
        for task in ("vqa", "caption", "retrieval"):
            torch.manual_seed(1)
            tokenizer = Tokenizer.from_vocab(build_vocabulary([WORDS], min_count=1))
            built = build_task(task, sizes, tokenizer, SETTINGS.get(task, {}), clips=True)
            with torch.no_grad():
                for parameter in built.model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.25)
            folders[family, task] = tmp_path_factory.mktemp(f"{family}_{task}")
            write_model(folders[family, task], built, task, ImageSettings(size=32), video=VideoSettings(frames=4, sampling="ends"))
    return folders


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(numbered_frame(3)).save(folder / "picture.png")
    Image.fromarray(numbered_frame(3)).save(folder / "still.gif")
    return {
        "clip": write_video(folder / "clip.mp4", 12),
        "nameless": shutil.copy(folder / "clip.mp4", folder / "nameless"),
        "gif": write_gif(folder / "moving.gif", 6),
        "frames": write_frames(folder / "frames", 7),
        "picture": folder / "picture.png",
        "still": folder / "still.gif",
    }


def test_which_inputs_are_videos(files: Files) -> None:
    kinds = {name: is_clip(path) for name, path in files.items()}
    assert kinds == {"clip": True, "nameless": True, "gif": True, "frames": True, "picture": False, "still": False}
    assert {name: is_clip(path.read_bytes()) for name, path in files.items() if path.is_file()} == {
        name: kind for name, kind in kinds.items() if name != "frames"
    }
    array = np.zeros((5, 8, 9, 3), np.uint8)
    assert is_clip(array) and is_clip(torch.zeros(5, 3, 8, 9)) and not is_clip(array[0]) and not is_clip("none.jpg") and is_clip("none.mp4")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_input_gives_the_same_answer(models: Folders, files: Files, family: str) -> None:
    model = load(models[family, "caption"], device="cpu")
    with open_video(files["clip"], "clip") as video:
        frames = video.read(range(len(video)))
        expected = model.caption(str(files["clip"]))
        again: list[Any] = [
            files["clip"],
            files["nameless"],
            files["clip"].read_bytes(),
            frames,
            torch.from_numpy(frames).permute(0, 3, 1, 2),
        ]
        again += [torch.from_numpy(frames).permute(0, 3, 1, 2) / 255, video]
        for one in [*(model.caption(visual) for visual in again), *model.caption(again)]:
            assert one.text == expected.text and one.score == pytest.approx(expected.score, abs=1e-4)
    assert model.caption(files["gif"]).score != pytest.approx(expected.score, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_and_videos_mixed_are_as_one_by_one(models: Folders, files: Files, family: str) -> None:
    visuals = [files[name] for name in ("clip", "picture", "gif", "frames", "still", "clip")]
    questions = ["which way does it go ?", "how many ?", "a red square moves left how many ?", "what ?", "left ?", "right ?"]
    model = load(models[family, "vqa"], device="cpu", batch_size=5)
    singles = [model.answer(visual, question) for visual, question in zip(visuals, questions, strict=True)]
    for one, other in zip(model.answer(visuals, questions), singles, strict=True):
        assert one.text == other.text and one.score == pytest.approx(other.score, abs=1e-4)
    assert len({round(one.score, 5) for one in singles}) > 3
    matcher = load(models[family, "retrieval"], device="cpu")
    for one, picture in zip(matcher.match(visuals, "a red square"), visuals, strict=True):
        assert one.similarity == pytest.approx(matcher.match(picture, "a red square").similarity, abs=1e-5)
    vectors = matcher.embed_videos(visuals)
    assert vectors.shape == (6, 16) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for vector, picture, found in zip(vectors, visuals, matcher.match(visuals, "a red square"), strict=True):
        assert np.allclose(vector, matcher.embed_images(picture), atol=1e-5)
        assert float(vector @ matcher.embed_texts("a red square")) == pytest.approx(found.similarity, abs=1e-5)


def test_how_many_frames(models: Folders, files: Files) -> None:
    folder = models["mplug2", "caption"]
    four, twelve = load(folder, device="cpu"), load(folder, device="cpu", frames=12)
    assert (four.video.frames, twelve.video.frames, twelve.video.sampling) == (4, 12, "ends")
    assert four.caption(files["clip"]).score != twelve.caption(files["clip"]).score
    with pytest.raises(UsageError, match="frames is 0; expected at least 1"):
        load(folder, device="cpu", frames=0)


def test_what_cannot_be_read(models: Folders, files: Files, tmp_path: Path) -> None:
    model = load(models["mplug2", "caption"], device="cpu")
    (tmp_path / "bad.mp4").write_bytes(files["clip"].read_bytes()[:500])
    for visual, message in (
        (tmp_path / "bad.mp4", "video '.*bad.mp4' is not a video or damaged"),
        (tmp_path / "none.mp4", "video '.*none.mp4' does not exist"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"a video array must be uint8 of shape \(F, H, W, 3\)"),
        (torch.zeros(2, 4, 8, 8), r"a video tensor must be \(F, 3, H, W\)"),
        (torch.full((2, 3, 8, 8), 7.0), "a float video tensor must hold values from 0 to 1"),
    ):
        with pytest.raises(DataError, match=message):
            model.caption(visual)  # type: ignore[arg-type]


def test_batches_are_of_one_kind_and_hold_as_many_pixels() -> None:
    clips = [True, False, True, False, True]
    assert by_kind(clips, [3, 2, 1, 1, 2], batch_size=8, frames=4) == [[3, 1], [2, 4], [0]]
    assert by_kind(clips, [0] * 5, batch_size=2, frames=16) == [[1, 3], [0], [2], [4]]


def test_a_model_that_was_released_looks_at_videos_as_the_original_did(models: Folders) -> None:
    for family, resize, sampling in (("mplug", "bicubic", "uniform"), ("mplug2", "nearest", "middle")):
        model = load(models[family, "vqa"], device="cpu")
        content = {name: value for name, value in model.config.items() if name != "video"}
        bare = Model(model.network, model.tokenizer, content, model.device, model.precision)
        assert (bare.video.resize, bare.video.sampling) == (resize, sampling)


def test_real_clips_are_captioned_and_asked_about(models: Folders, data_root: Path) -> None:
    clips = sorted((data_root / "video_samples").glob("*.mp4"))
    captions = load(models["mplug2", "caption"], device="cpu").caption(clips)
    answers = load(models["mplug2", "vqa"], device="cpu").answer(clips, "what is it ?")
    assert len(captions) == len(answers) == 12
    assert all(one.score < 0 for one in (*captions, *answers)) and len({round(one.score, 5) for one in captions}) > 6


def test_the_command_takes_folders_and_tables_of_videos(models: Folders, files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "videos").mkdir(parents=True)
    for name, source in (("videos/a.mp4", "clip"), ("videos/b.gif", "gif"), ("videos/c.png", "picture")):
        (folder / name).write_bytes(files[source].read_bytes())
    (folder / "videos" / "d.mp4").write_bytes(b"no video")
    model = models["mplug2", "caption"]
    done = run(
        "predict", "caption", folder, "-m", model, "-o", tmp_path / "a.jsonl", "--on-error", "skip", "--workers", "1", "--frames", "3"
    )
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["a.mp4", "b.gif", "c.png", "d.mp4"]
    assert "is not a video" in rows[3]["error"] and all("error" not in row or not row["error"] for row in rows[:3])
    three = load(model, device="cpu", frames=3)
    for row in rows[:3]:
        assert row["score"] == pytest.approx(three.caption(row["image"]).score, abs=1e-4)
    table = folder / "list.jsonl"
    table.write_text("".join(json.dumps({"video": name, "nr": nr}) + "\n" for nr, name in enumerate(["a.mp4", "b.gif"])))
    done = run("predict", "caption", table, "-m", model, "-o", tmp_path / "b.jsonl", "--frames", "3")
    assert done.code == 0, done.err
    tabled = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["nr"] for row in tabled] == [0, 1]
    assert [row["score"] for row in tabled] == pytest.approx([row["score"] for row in rows[:2]], abs=1e-4)


def test_reading_leaves_the_callers_own_video_open(files: Files) -> None:
    with open_video(files["gif"], "gif") as video:
        assert read_visual(video) is video and isinstance(video, Video)
