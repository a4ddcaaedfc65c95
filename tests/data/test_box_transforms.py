"""Boxes move with their pixels: a painted rectangle is found again where its box says, whatever was done to the picture."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from openmplug.batch import Coordinates, Item, Sample
from openmplug.data.box_transforms import BoxSettings, EvalBoxes, TrainBoxes, swap_sides, to_picture, to_square
from openmplug.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageSettings
from openmplug.errors import DataError

SIZE = 96
# Normalised so that black is 0, which is also what lies around a picture.
PLAIN = ImageSettings(size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), flip=0.5)


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size, "black")
    left, top, right, bottom = box
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill="white")
    return image


def found(pixels: torch.Tensor) -> list[float]:
    """Corners of what is brighter than half of the brightest, 0 to 1."""
    bright = pixels[0] > float(pixels[0].max()) / 2
    rows, columns = bright.any(dim=1).nonzero()[:, 0], bright.any(dim=0).nonzero()[:, 0]
    return [int(columns[0]) / SIZE, int(rows[0]) / SIZE, (int(columns[-1]) + 1) / SIZE, (int(rows[-1]) + 1) / SIZE]


def corners(box: Coordinates) -> list[float]:
    x, y, width, height = box
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def record(box: tuple[int, int, int, int], text: str = "the white thing") -> Sample:
    return Sample("7", "a.png", text, box=tuple(map(float, box)))  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(400, 100), (60, 90), (96, 96)])
def test_a_box_moves_with_its_pixels(fit: str, size: tuple[int, int]) -> None:
    box = (size[0] // 2, size[1] // 3, size[0] * 3 // 4, size[1] * 4 // 5)
    settings = BoxSettings.model_validate({"fit": fit})
    transforms = [EvalBoxes(PLAIN, settings), *[TrainBoxes(PLAIN, settings)] * 30]
    seen = set()
    for seed, transform in enumerate(transforms):
        item = transform(record(box), painted(size, box), random.Random(seed))
        assert item.pixels is not None and item.pixels.shape == (3, SIZE, SIZE)
        # Half a pixel of interpolation, and half a pixel that rounding the resized side may shift.
        assert found(item.pixels) == pytest.approx(corners(item.boxes[0]), abs=1.6 / SIZE)
        seen.add(tuple(found(item.pixels)))
    assert len(seen) > 15  # chance does something


def test_the_crop_keeps_the_centre_and_never_comes_with_words_of_place() -> None:
    box, size = (300, 200, 330, 260), (640, 480)
    crop = TrainBoxes(PLAIN, BoxSettings(crop=1.0, scales=1, jitter=0.0))
    whole = TrainBoxes(PLAIN, BoxSettings(crop=0.0, scales=1, jitter=0.0))
    widths = set()
    for seed in range(20):
        item = crop(record(box), painted(size, box), random.Random(seed))
        assert item.pixels is not None and found(item.pixels) == pytest.approx(corners(item.boxes[0]), abs=1.6 / SIZE)
        widths.add(round(item.boxes[0][2], 4))
        told = crop(record(box, "topmost thing"), painted(size, box), random.Random(seed))
        assert told.boxes[0][2] == pytest.approx(whole(record(box), painted(size, box), random.Random(seed)).boxes[0][2])
        assert crop(record(box, "a laptop"), painted(size, box), random.Random(seed)).boxes == item.boxes  # "top" is no word there
    assert len(widths) > 5 and min(widths) > 30 / 640


def test_a_crop_among_several_phrases_keeps_those_that_stay_true() -> None:
    boxes = {"red": (10, 20, 30, 40), "lime": (50, 60, 80, 90), "blue": (370, 10, 390, 30)}
    image = Image.new("RGB", (400, 100), "black")
    for colour, box in boxes.items():
        ImageDraw.Draw(image).rectangle(box, fill=colour)
    parts = (*(record(box, colour) for colour, box in boxes.items()), record(boxes["red"], "red on the left"))
    crop = TrainBoxes(PLAIN, BoxSettings(crop=1.0, scales=1, jitter=0.0, fit="stretch"))
    seen = set()
    for seed in range(40):
        item = crop(replace(parts[0], parts=parts), image, random.Random(seed))
        assert item.pixels is not None and len(item.boxes) == len(item.sample.parts)
        kept = tuple((part.text or "").split()[0] for part in item.sample.parts)
        for colour, (x, y, *_) in zip(kept, item.boxes, strict=True):
            assert int(item.pixels[:, int(y * SIZE), int(x * SIZE)].argmax()) == list(boxes).index(colour)
        seen.add(kept)
    assert {("blue",), ("red", "lime")} <= seen
    assert seen <= {("red",), ("lime",), ("blue",), ("red", "lime"), ("red", "lime", "blue", "red")}  # the last: no crop was found


def test_a_flip_swaps_the_words_of_all_parts() -> None:
    box = (10, 40, 30, 60)
    one, two = record(box, "thing left of the right cup"), record(box, "Leftmost bright thing")
    both = Sample("7", "a.png", one.text, box=one.box, parts=(one, two))
    always = TrainBoxes(PLAIN.model_copy(update={"flip": 1.0}), BoxSettings(scales=1, jitter=0.0, move=False))
    item = always(both, painted((96, 96), box), random.Random(0))
    assert [part.text for part in item.sample.parts] == ["thing right of the left cup", "rightmost bright thing"]
    assert item.sample.text == "thing right of the left cup"
    assert [corners(each) for each in item.boxes] == [pytest.approx([66 / 96, 40 / 96, 86 / 96, 60 / 96])] * 2
    assert swap_sides(swap_sides("upright man, right")) == "upright man, right"


def test_equal_generators_give_equal_items() -> None:
    box, transform = (10, 10, 30, 30), TrainBoxes(PLAIN, BoxSettings())
    one, two = (transform(record(box), painted((64, 48), box), random.Random("s/1/2")) for _ in range(2))
    assert one.pixels is not None and two.pixels is not None and torch.equal(one.pixels, two.pixels)
    assert (one.boxes, one.sample) == (two.boxes, two.sample)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_there_and_back_and_cut_at_the_borders(fit: str) -> None:
    box = (100.0, 20.0, 180.0, 70.0)
    item: Item = EvalBoxes(PLAIN, BoxSettings.model_validate({"fit": fit}))(record((100, 20, 180, 70)), Image.new("RGB", (400, 100)))
    assert item.placement is not None
    assert to_picture(item.boxes[0], item.placement, SIZE) == pytest.approx(box)
    assert to_square(box, item.placement, SIZE) == item.boxes[0]
    assert to_picture((0.5, 0.5, 4.0, 4.0), item.placement, SIZE) == (0.0, 0.0, 400.0, 100.0)


def test_evaluation_as_released_has_imagenets_statistics() -> None:
    white = Image.new("RGB", (8, 8), "white")
    pixels, _ = EvalBoxes(ImageSettings(size=8), BoxSettings(imagenet=True)).place(white)
    assert pixels[:, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])


def test_a_record_without_a_box_is_evaluated_and_not_learned() -> None:
    bare = Sample("9", "a.png", "a thing")
    assert EvalBoxes(PLAIN, BoxSettings())(bare, Image.new("RGB", (8, 8))).boxes == ()
    with pytest.raises(DataError, match=r"record '9' has no box; expected \[left, top, right, bottom\]"):
        TrainBoxes(PLAIN, BoxSettings())(bare, Image.new("RGB", (8, 8)), random.Random(0))
    with pytest.raises(DataError, match=r"nothing is inside its picture of 8 x 8 px"):
        TrainBoxes(PLAIN, BoxSettings())(record((10, 2, 12, 4)), Image.new("RGB", (8, 8)), random.Random(0))
