"""The front door: every kind of input, one or many, the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

import openmplug
from checkpoints.originals_made import original_state, write_original
from openmplug.checkpoints.convert import convert
from openmplug.checkpoints.store import save_weights
from openmplug.data.box_transforms import BoxSettings, EvalBoxes, to_picture
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.errors import DataError, ModelError, UsageError
from openmplug.inference.loading import load
from openmplug.inference.pictures import read_image
from openmplug.inference.results import Answer, Caption, Match
from tiny_models import tiny_model

Folders = Callable[..., Path]
QUESTIONS = [
    "what colour is the circle ?",
    "how many ?",
    "how many small green squares are there in this picture ?",
    "what is above ?",
    "a ?",
]


def close(one: Any, other: Any) -> bool:
    if isinstance(one, Match):
        return one.probability == pytest.approx(other.probability, abs=1e-5) and one.similarity == pytest.approx(other.similarity, abs=1e-5)
    return one.text == other.text and one.score == pytest.approx(other.score, abs=1e-4)


def test_many_are_as_one_by_one_and_in_order(folders: Folders, pictures: list[Path]) -> None:
    vqa = load(folders("vqa"), device="cpu", batch_size=2)
    answers = vqa.answer(pictures, QUESTIONS)
    singles = [vqa.answer(picture, question) for picture, question in zip(pictures, QUESTIONS, strict=True)]
    assert all(isinstance(single, Answer) for single in singles)
    assert all(close(one, other) for one, other in zip(answers, singles, strict=True))
    assert len({(answer.text, round(answer.score, 4)) for answer in singles}) > 1

    captioner = load(folders("caption"), device="cpu", batch_size=3)
    captions = captioner.caption(pictures)
    assert all(close(one, captioner.caption(picture)) for one, picture in zip(captions, pictures, strict=True))
    assert isinstance(captioner.caption(pictures[0]), Caption)

    matcher = load(folders("retrieval"), device="cpu", batch_size=2)
    matches = matcher.match(pictures, QUESTIONS)
    singles = [matcher.match(picture, text) for picture, text in zip(pictures, QUESTIONS, strict=True)]
    assert all(close(one, other) for one, other in zip(matches, singles, strict=True))
    assert all(0 <= match.probability <= 1 and -1.001 <= match.similarity <= 1.001 for match in singles)


def test_one_picture_with_many_texts_and_the_other_way_round(folders: Folders, pictures: list[Path]) -> None:
    matcher = load(folders("retrieval"), device="cpu")
    many = matcher.match(pictures[0], QUESTIONS)
    assert all(close(one, matcher.match(pictures[0], text)) for one, text in zip(many, QUESTIONS, strict=True))
    assert len(matcher.match(pictures, "a circle")) == 5
    assert matcher.match([], []) == []
    assert matcher.match([pictures[0]], ["a"]) == matcher.match(pictures[:1], "a")
    with pytest.raises(UsageError, match="2 images and 3 texts; give as many of one as of the other"):
        matcher.match(pictures[:2], QUESTIONS[:3])


def test_every_kind_of_input_gives_the_same(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"), device="cpu")
    path = pictures[0]
    image = Image.open(path)
    kinds = [str(path), path.read_bytes(), image, np.asarray(image)]
    expected = captioner.caption(path)
    assert all(captioner.caption(kind) == expected for kind in kinds)


def test_pictures_in_memory_are_treated_as_files(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    turned = Image.new("RGB", (6, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image, more in (("clear", clear, {}), ("deep", deep, {}), ("turned", turned, {"exif": exif})):
        path = tmp_path / f"{name}.png"
        image.save(path, **more)
        from_file, from_memory = read_image(path), read_image(Image.open(path))
        assert from_file.size == from_memory.size
        assert np.array_equal(np.asarray(from_file), np.asarray(from_memory)), name
    assert read_image(np.zeros((4, 5), np.uint8)).size == (5, 4)
    assert read_image(np.zeros((4, 5, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("none.png", "image 'none.png' does not exist"),
        (".", "image '.' cannot be read: Is a directory"),
        (b"", "image 'bytes' is empty"),
        (b"hello", "is not a picture"),
        (np.zeros((4, 4)), r"an image array must be uint8 of shape .*; got float64 \(4, 4\)"),
        (np.zeros((4, 4, 2), np.uint8), r"got uint8 \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "an image array must be uint8"),
        (7, "an image must be a path, bytes, a PIL image, an array or a tensor; got int"),
    ],
)
def test_what_is_no_picture(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(image)


def test_a_model_does_what_it_was_trained_for(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"))
    with pytest.raises(UsageError, match="trained for task 'caption' and cannot answer questions; that needs one trained for 'vqa'"):
        captioner.answer(pictures[0], "what?")
    with pytest.raises(UsageError, match="cannot match pictures and texts"):
        captioner.match(pictures[0], "what?")
    with pytest.raises(UsageError, match="cannot write captions"):
        load(folders("vqa")).caption(pictures[0])


def test_a_run_folder_means_its_best_checkpoint(folders: Folders, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").symlink_to(folders("caption"))
    assert load(tmp_path).caption(pictures[0]) == load(folders("caption")).caption(pictures[0])
    assert openmplug.load is load


def test_bf16_is_near_fp32(folders: Folders, pictures: list[Path]) -> None:
    exact, rough = (load(folders("retrieval"), device="cpu", dtype=dtype).match(pictures, QUESTIONS) for dtype in ("fp32", "bf16"))
    assert all(one.similarity == pytest.approx(other.similarity, abs=0.05) for one, other in zip(exact, rough, strict=True))


def test_batch_size_must_be_positive(folders: Folders) -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        load(folders("caption"), batch_size=0)


# ------------------------------------------------------------------------------------------------------------------- calls


def test_candidates_are_ranked_with_probabilities(folders: Folders, pictures: list[Path]) -> None:
    vqa = load(folders("vqa"), device="cpu", batch_size=2)
    candidates = ["red", "green squares", "two small circles", "red"]
    answers = vqa.answer(pictures, QUESTIONS, candidates=candidates)
    for answer, picture, question in zip(answers, pictures, QUESTIONS, strict=True):
        assert {text for text, _ in answer.candidates} == set(candidates)
        shares = [share for _, share in answer.candidates]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert shares == sorted(shares, reverse=True)
        assert (answer.text, answer.score) == answer.candidates[0]
        single = vqa.answer(picture, question, candidates=candidates)
        assert [text for text, _ in single.candidates] == [text for text, _ in answer.candidates]
    assert vqa.answer(pictures[0], QUESTIONS[0]).candidates == ()
    with pytest.raises(UsageError, match="candidates must be at least one text"):
        vqa.answer(pictures[0], QUESTIONS[0], candidates=[])


def test_settings_of_one_call(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"), device="cpu")
    usual = captioner.caption(pictures[0])
    longer = captioner.caption(pictures[0], min_length=8, max_length=8, num_beams=1)
    assert len(captioner.tokenizer.encode(longer.text)) >= len(captioner.tokenizer.encode(usual.text))
    assert captioner.caption(pictures[0]) == usual
    with pytest.raises(UsageError, match="min_length 9 is above max_length 6"):
        captioner.caption(pictures[0], min_length=9)


def test_embeddings_are_what_match_compares(folders: Folders, pictures: list[Path]) -> None:
    matcher = load(folders("retrieval"), device="cpu")
    images, texts = matcher.embed_images(pictures, batch_size=2), matcher.embed_texts(QUESTIONS, batch_size=2)
    assert images.shape == (5, 16)
    assert texts.shape == (5, 16)
    assert images.dtype == texts.dtype == np.float32
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    similarities = [match.similarity for match in matcher.match(pictures, QUESTIONS)]
    assert np.allclose((images * texts).sum(axis=1), similarities, atol=1e-5)
    assert np.allclose(matcher.embed_images(pictures[3]), images[3], atol=1e-5)
    assert np.allclose(matcher.embed_texts(QUESTIONS[2]), texts[2], atol=1e-5)
    assert matcher.embed_texts([]).shape == matcher.embed_images([]).shape == (0, 16)


def test_tensors_are_pictures_too(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"), device="cpu")
    pixels = torch.from_numpy(np.array(Image.open(pictures[0]))).permute(2, 0, 1)
    expected = captioner.caption(pictures[0])
    assert captioner.caption(pixels) == expected
    assert captioner.caption(pixels.float() / 255) == expected
    with pytest.raises(DataError, match="must hold values from 0 to 1, not normalised ones"):
        captioner.caption(pixels.float() - 100)
    with pytest.raises(DataError, match=r"an image tensor must be \(3, H, W\)"):
        captioner.caption(pixels[0])


# ---------------------------------------------------------------------------------------------------------------- grounding


def test_boxes_are_in_the_pictures_own_pixels(pictures: list[Path], tmp_path: Path) -> None:
    words = [
        "[PAD]",
        *(f"[unused{i}]" for i in range(99)),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(f"[unused{i}]" for i in range(99, 700)),
        "cup",
    ]
    model = tiny_model(("vision", "text", "fusion", "decoder"), vocab_size=len(words))
    config = {
        "architecture": "mplug",
        "model": model.config.model_dump(mode="json"),
        "modules": list(model.modules_built),
        "task": "grounding",
        "settings": {},
        "image": ImageSettings(size=16).model_dump(mode="json"),
    }
    save_weights(tmp_path, model.state_dict(), config)
    Tokenizer.from_vocab(words).save(tmp_path)
    grounder = load(tmp_path, device="cpu", batch_size=2)
    boxes = grounder.ground(pictures, "cup")
    assert len(boxes) == 5
    for box, picture in zip(boxes, pictures, strict=True):
        assert 0 <= box.left <= box.right <= 40
        assert 0 <= box.top <= box.bottom <= 24
        assert 0 < box.score <= 1
        single = grounder.ground(picture, "cup")
        assert (single.left, single.bottom) == pytest.approx((box.left, box.bottom), abs=1e-4)
    with pytest.raises(UsageError, match="trained for task 'grounding' and cannot write captions"):
        grounder.caption(pictures[0])


@pytest.mark.parametrize(("width", "height"), [(40, 24), (24, 40), (16, 16), (7, 300), (333, 5)])
def test_the_letterbox_and_its_way_back(width: int, height: int) -> None:
    pixels, way = EvalBoxes(ImageSettings(size=16), BoxSettings()).place(Image.new("RGB", (width, height), "white"))
    assert pixels.shape == (3, 16, 16)
    inside = pixels[0] != 0
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    assert (left, top) == (way.left, way.top)
    assert max(right - left, bottom - top) == 16
    square = ((left + right) / 32, (top + bottom) / 32, (right - left) / 16, (bottom - top) / 16)
    found = to_picture(square, way, 16)
    pixel = 1 / way.scale_x  # of the small picture, in the large one's
    assert found == pytest.approx([0, 0, width, height], abs=pixel)


# ------------------------------------------------------------------------------------------------------------------ loading


def test_one_released_file_does_whatever_its_parts_allow(tmp_path: Path, pictures: list[Path]) -> None:
    source = write_original(tmp_path / "source", original_state(folder=tmp_path / "made"))
    model = load(source, device="cpu")
    assert model.name is None
    assert isinstance(model.caption(pictures[0], max_length=5, min_length=1), Caption)
    assert isinstance(model.answer(pictures[0], "a b", max_length=4), Answer)
    assert isinstance(model.match(pictures[0], "a b"), Match)
    with pytest.raises(ModelError, match=r"has no \[unused339\] and 337 words"):
        model.ground(pictures[0], "a")
    convert(source, tmp_path / "ours")
    again = load(tmp_path / "ours", device="cpu")
    assert again.answer(pictures[0], "a b", max_length=4) == model.answer(pictures[0], "a b", max_length=4)
    only = load(source, device="cpu", task="caption")
    assert only.network.modules_built == ("vision", "decoder")
    with pytest.raises(UsageError, match="cannot answer questions"):
        only.answer(pictures[0], "a")


def test_names_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'mplug-base' is a size without weights; give weights=FILE"):
        load("mplug-base")
    with pytest.raises(ModelError, match="'mplug-bse' is neither a path nor a size; did you mean 'mplug-base'"):
        load("mplug-bse")
    with pytest.raises(UsageError, match="weights= belongs to a named size"):
        load("mplug-bas", weights=tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nothing")


def test_the_size_must_be_the_weights(tmp_path: Path) -> None:
    source = write_original(tmp_path / "source", original_state(folder=tmp_path / "made"))
    with pytest.raises(ModelError, match=r"does not fit mplug-base: it has .*vision_width 64 instead of 768"):
        load("mplug-base", weights=source)


def test_another_task_only_when_asked_for(folders: Folders, pictures: list[Path]) -> None:
    vqa = load(folders("vqa"), device="cpu")
    with pytest.raises(UsageError, match=r"cannot write captions.*load\(…, task='caption'\) tries this one all the same"):
        vqa.caption(pictures[0])
    assert isinstance(load(folders("vqa"), device="cpu", task="caption").caption(pictures[0]), Caption)


def test_the_hub_folder_is_the_same_model(folders: Folders, pictures: list[Path], tmp_path: Path) -> None:
    vqa = load(folders("vqa"), device="cpu")
    vqa.save_pretrained(tmp_path / "hub")
    again = openmplug.Model.from_pretrained(tmp_path / "hub", device="cpu")
    assert again.answer(pictures[0], QUESTIONS[0]) == vqa.answer(pictures[0], QUESTIONS[0])
    assert isinstance(again, huggingface_hub.PyTorchModelHubMixin)


def test_pipelines_by_name(folders: Folders, pictures: list[Path]) -> None:
    answer = openmplug.pipeline("visual-question-answering", folders("vqa"), device="cpu")
    assert answer(pictures[0], QUESTIONS[0]) == answer.model.answer(pictures[0], QUESTIONS[0])
    assert openmplug.pipeline("vqa", answer.model)(pictures[0], QUESTIONS[0], candidates=["a"]).text == "a"
    with pytest.raises(UsageError, match="cannot write captions"):
        openmplug.pipeline("caption", answer.model)
    with pytest.raises(UsageError, match=r"unknown task 'captoin'; did you mean 'caption'"):
        openmplug.pipeline("captoin", answer.model)
    with pytest.raises(UsageError, match="loaded already takes no more options"):
        openmplug.pipeline("vqa", answer.model, device="cpu")
