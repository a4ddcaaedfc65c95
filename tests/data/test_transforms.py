"""Pictures to tensors: geometry, normalisation, and chance that follows from one generator."""

from __future__ import annotations

import io
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import ValidationError

from openmplug.data.crops import resize_fast
from openmplug.data.images import decode_image
from openmplug.data.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    OPERATIONS,
    EvalTransform,
    ImageSettings,
    RandAugment,
    TrainTransform,
    crop_box,
    smoothed,
)
from openmplug.errors import DataError


@pytest.fixture
def photo() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC)


def test_evaluation_is_bicubic_square_and_normalised_to_the_last_bit(photo: Image.Image) -> None:
    pixels = torch.from_numpy(np.array(photo.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1).float()
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    result = EvalTransform(ImageSettings(size=32))(photo, random.Random(0))
    assert result.shape == (3, 32, 32) and result.dtype == torch.float32 and result.is_contiguous()
    assert torch.equal(result, (pixels / 255 - mean) / std)


def test_training_is_a_function_of_the_generator(photo: Image.Image) -> None:
    transform = TrainTransform(ImageSettings(size=24))
    again = pickle.loads(pickle.dumps(transform))
    first = [transform(photo, random.Random(seed)) for seed in range(8)]
    assert all(torch.equal(one, again(photo, random.Random(seed))) for seed, one in enumerate(first))
    assert all(one.shape == (3, 24, 24) for one in first)
    assert not any(torch.equal(first[0], other) for other in first[1:])


def test_training_leaves_global_random_states_alone(photo: Image.Image) -> None:
    before = (random.getstate(), torch.get_rng_state(), str(np.random.get_state()))
    for seed in range(10):
        TrainTransform(ImageSettings(size=16))(photo, random.Random(seed))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert str(np.random.get_state()) == before[2]


def test_training_without_chance_equals_evaluation(photo: Image.Image) -> None:
    settings = ImageSettings(size=40, crop_scale=(1.0, 1.0), crop_ratio=(120 / 90, 120 / 90), flip=0.0, randaugment_ops=0)
    assert torch.equal(TrainTransform(settings)(photo, random.Random(3)), EvalTransform(settings)(photo, random.Random(3)))
    flipped = TrainTransform(settings.model_copy(update={"flip": 1.0}))(photo, random.Random(3))
    assert torch.allclose(flipped.flip(2), EvalTransform(settings)(photo), atol=0.05)


def test_grayscale_takes_the_colours_of_the_given_part_of_the_pictures(photo: Image.Image) -> None:
    settings = ImageSettings(size=40, randaugment_ops=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), grayscale=0.3)
    grey = 0
    for seed in range(300):
        pixels = TrainTransform(settings)(photo, random.Random(seed))
        grey += bool((pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all())
    assert 60 < grey < 120
    without = settings.model_copy(update={"grayscale": 0.0})
    assert not any(torch.equal(*TrainTransform(without)(photo, random.Random(seed))[:2]) for seed in range(20))


@pytest.mark.parametrize("size", [(160, 120), (50, 200), (7, 7)])
def test_crops_keep_to_their_ranges(size: tuple[int, int]) -> None:
    rng = random.Random(0)
    for _ in range(300):
        left, top, right, bottom = crop_box(size, (0.5, 1.0), (3 / 4, 4 / 3), rng)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        if min(size) > 20:  # rounding to whole pixels stretches small crops
            assert 0.72 < (right - left) / (bottom - top) < 1.4


def test_crop_that_never_fits_is_the_largest_centred_one() -> None:
    assert crop_box((100, 10), (1.0, 1.0), (1.0, 1.0), random.Random(0)) == (45, 0, 55, 10)
    assert crop_box((10, 100), (1.0, 1.0), (1.0, 1.0), random.Random(0)) == (0, 45, 10, 55)


def test_operations_keep_size_and_mode(photo: Image.Image) -> None:
    for name, operation in OPERATIONS.items():
        for sign in (-1.0, 1.0):
            result = operation(photo, 0.7, sign)
            assert result.size == photo.size and result.mode == "RGB", name


def test_operations_do_what_their_names_say() -> None:
    pixels = np.zeros((21, 21, 3), np.uint8)
    pixels[10, 10] = 200
    dot = Image.fromarray(pixels)

    def brightest(image: Image.Image) -> tuple[int, int]:
        values = np.asarray(image).copy()
        values[values == 128] = 0  # the fill
        row, column = np.unravel_index(values[:, :, 0].argmax(), (21, 21))
        return int(row), int(column)

    assert brightest(OPERATIONS["TranslateX"](dot, 0.7, 1.0)) == (10, 3)
    assert brightest(OPERATIONS["TranslateY"](dot, 0.7, -1.0)) == (17, 10)
    assert OPERATIONS["TranslateX"](dot, 0.7, 1.0).getpixel((20, 0)) == (128, 128, 128)
    assert OPERATIONS["Rotate"](dot, 0.7, 1.0).getpixel((0, 0)) == (128, 128, 128)
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    assert OPERATIONS["Brightness"](grey, 0.7, 1.0).getpixel((0, 0)) == (136, 136, 136)  # 0.1 + 1.8 * 0.7 = 1.36
    assert OPERATIONS["Identity"](dot, 0.7, 1.0) is dot


def test_brightness_and_translation_equal_their_plain_forms(photo: Image.Image) -> None:
    plain = np.asarray(ImageEnhance.Brightness(photo).enhance(1.36)).astype(int)
    assert np.abs(np.asarray(OPERATIONS["Brightness"](photo, 0.7, 1.0)).astype(int) - plain).max() <= 1
    shifted = np.asarray(OPERATIONS["TranslateX"](photo, 0.7, 1.0))
    assert np.array_equal(shifted[:, :-7], np.asarray(photo)[:, 7:])
    shifted = np.asarray(OPERATIONS["TranslateX"](photo, 0.75, 1.0)).astype(int)  # 7.5 px: between two pixels
    between = (np.asarray(photo).astype(int)[:, 7:-1] + np.asarray(photo).astype(int)[:, 8:]) / 2
    assert np.abs(shifted[:, : between.shape[1]] - between).max() <= 1


@pytest.mark.parametrize("size", [(64, 48), (3, 3), (2, 7), (1, 1)])
@pytest.mark.parametrize("level", [0.0, 0.7, 1.0])
def test_sharpness_equals_pillows_to_the_last_bit(size: tuple[int, int], level: float) -> None:
    generator = np.random.default_rng(size[0])
    for high in (256, 2):  # the second has pixels of 0 and 255 only, whose sums reach both ends
        image = Image.fromarray((generator.integers(0, high, (*size[::-1], 3)) * (255 // (high - 1))).astype(np.uint8))
        assert np.array_equal(np.asarray(smoothed(image)), np.asarray(image.filter(ImageFilter.SMOOTH)))
        ours = OPERATIONS["Sharpness"](image, level, 1.0)
        assert np.array_equal(np.asarray(ours), np.asarray(ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * level)))


def test_colour_operations_can_be_left_out() -> None:
    colours = {"AutoContrast", "Equalize", "Brightness"}
    assert set(RandAugment(2, 7).names) - set(RandAugment(2, 7, colour_ops=False).names) == colours


@pytest.mark.parametrize("wrong", [{"crop_scale": (0.9, 0.5)}, {"crop_scale": (0.0, 1.0)}, {"flip": 1.5}, {"size": 0}, {"std": (0, 1, 1)}])
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ImageSettings(**wrong)


# ------------------------------------------------------------------------------------------------------------------------- fast


def jpeg(image: Image.Image, turned: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turned
    image.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def scene(width: int, height: int) -> Image.Image:
    """Draw red that grows to the right, green that grows downward, blue that is everywhere the same."""
    across, down = np.linspace(0, 255, width)[None, :], np.linspace(0, 255, height)[:, None]
    return Image.fromarray(np.stack(np.broadcast_arrays(across, down, 99.0), axis=2).astype(np.uint8))


def test_reading_bytes_is_decoding_and_transforming(photo: Image.Image) -> None:
    data = jpeg(photo)
    transform = TrainTransform(ImageSettings(size=24))
    for seed in range(4):
        assert torch.equal(transform.read(data, "x", random.Random(seed)), transform(decode_image(data, "x"), random.Random(seed)))


def test_fast_differs_in_last_bits_where_nothing_is_reduced(photo: Image.Image) -> None:
    settings = ImageSettings(size=60, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), randaugment_ops=0)
    plain, fast = TrainTransform(settings), TrainTransform(settings.model_copy(update={"fast": True}))
    for seed in range(20):  # no crop of 120 x 90 is twice the square
        difference = 255 * (plain.read(jpeg(photo), "x", random.Random(seed)) - fast.read(jpeg(photo), "x", random.Random(seed))).abs()
        assert difference.max() < 2.5 and (difference > 0.5).float().mean() < 0.02
        assert torch.equal(fast(photo, random.Random(seed)), fast(photo, random.Random(seed)))


@pytest.mark.parametrize("turned", range(1, 9))
def test_fast_reduces_large_pictures_and_cuts_the_same_whichever_way_they_lie(turned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ImageSettings(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), randaugment_ops=0)
    plain, fast = TrainTransform(settings), TrainTransform(settings.model_copy(update={"fast": True}))
    data, sizes, draft = jpeg(scene(321, 211), turned), [], JpegImageFile.draft

    def noted(image: JpegImageFile, mode: str | None, size: tuple[int, int] | None) -> object:
        result = draft(image, mode, size)
        sizes.append(image.size)
        return result

    monkeypatch.setattr(JpegImageFile, "draft", noted)
    for seed in range(6):
        difference = 255 * (plain.read(data, "x", random.Random(seed)) - fast.read(data, "x", random.Random(seed))).abs()
        # A crop is rounded to pixels of what is decoded, half of a pixel of the square at most: that is 4 of 255 over 32 px.
        assert difference.mean() < 3 and difference.max() < 8
    assert sizes and set(sizes) <= {(161, 106), (81, 53), (41, 27)}


def test_fast_reads_what_no_decoder_reduces_and_says_what_is_damaged(photo: Image.Image) -> None:
    fast = TrainTransform(ImageSettings(size=8, fast=True))
    buffer = io.BytesIO()
    photo.convert("RGBA").save(buffer, "PNG")
    assert fast.read(buffer.getvalue(), "x", random.Random(0)).shape == (3, 8, 8)
    with pytest.raises(DataError, match="image 'x' is truncated or damaged"):
        fast.read(jpeg(scene(321, 211))[:-2000], "x", random.Random(0))


def test_clips_are_resized_fast_too() -> None:
    frames = np.stack([np.asarray(scene(90, 60)), np.asarray(scene(90, 60).transpose(Image.Transpose.FLIP_TOP_BOTTOM))])
    for view in (frames, frames[:, :, ::-1], frames[:, 5:50, 3:80]):
        view.flags.writeable = False
        plain = np.stack(
            [np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC)) for frame in np.ascontiguousarray(view)]
        )
        assert np.abs(resize_fast(view, 32).astype(int) - plain).max() <= 2
    assert resize_fast(frames[:, :32, :32], 32).shape == (2, 32, 32, 3)
