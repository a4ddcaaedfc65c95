"""From a video to a clip: the frames chosen, the same change in all of them, the original's resizing."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from data.videos_made import numbered_frame
from openmplug.config import validate
from openmplug.data.clips import EvalClip, TrainClip, VideoSettings, resize_bicubic, resize_nearest, saved_video
from openmplug.data.frames import end_to_end_indices, indices_at, random_indices
from openmplug.data.transforms import EvalTransform, ImageSettings
from openmplug.data.video import ArrayVideo
from openmplug.errors import UsageError

IMAGE = ImageSettings(size=48)


def video(length: int = 30, width: int = 96, height: int = 64) -> ArrayVideo:
    return ArrayVideo(np.stack([numbered_frame(number, width, height) for number in range(length)]))


def noise(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


# ------------------------------------------------------------------------------------------------------------------- sampling


def test_random_frames_of_intervals_never_take_the_last_one() -> None:
    rng = random.Random(0)
    seen: list[Counter[int]] = [Counter() for _ in range(4)]
    for _ in range(2000):
        for place, index in zip(seen, random_indices(4, 20, rng), strict=True):
            place[index] += 1
    # Intervals 0-5, 5-10, ...: the last frame of each is never chosen, the others equally often.
    assert [sorted(place) for place in seen] == [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11, 12, 13], [15, 16, 17, 18]]
    assert all(400 < count < 600 for place in seen for count in place.values())


def test_intervals_of_one_frame_give_a_random_subset() -> None:
    rng = random.Random(0)
    found = [random_indices(4, 6, rng) for _ in range(300)]
    assert all(each == sorted(set(each)) and len(each) == 4 for each in found)
    assert {index for each in found for index in each} == set(range(6)) and len({tuple(each) for each in found}) == 15
    assert random_indices(4, 4, rng) == [0, 1, 2, 3]
    assert random_indices(5, 3, rng) == [0, 1, 2, 2, 2]
    assert random_indices(3, 1, rng) == [0, 0, 0]


def test_from_end_to_end() -> None:
    for frames in range(1, 9):
        for length in range(1, 40):
            chosen = end_to_end_indices(frames, length)
            assert len(chosen) == frames and chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] <= length - 1
            assert frames == 1 or (chosen[0] == 0 and chosen[-1] == length - 1)
            steps = {after - before for before, after in itertools.pairwise(chosen)}
            assert not steps or max(steps) - min(steps) <= 1
    assert end_to_end_indices(1, 9) == [4]


@pytest.mark.parametrize("choose", [end_to_end_indices, lambda n, length: random_indices(n, length, random.Random(0))])
def test_nothing_to_choose(choose: object) -> None:
    assert callable(choose)
    for frames, length in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="expected both to be at least 1"):
            choose(frames, length)


def test_frames_at_times() -> None:
    times = np.arange(90) * 1001 / 30000  # NTSC
    assert indices_at([number * 1001 / 30000 for number in range(90)], times) == list(range(90))
    assert indices_at([round(number * 1001 / 30000, 3) for number in range(90)], times) == list(range(90))
    assert indices_at([-1.0, 1e9], times) == [0, 89]


# ------------------------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(("height", "width", "size"), [(64, 96, 48), (144, 256, 224), (97, 33, 64), (240, 320, 224), (48, 48, 48)])
def test_nearest_is_that_of_the_original(height: int, width: int, size: int) -> None:
    frames = noise(2, height, width)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    expected = F.interpolate(tensor, size=(size, size)).long().permute(0, 2, 3, 1)
    assert np.array_equal(resize_nearest(frames, size), expected.numpy())


def test_bicubic_is_that_of_pictures() -> None:
    frames = noise(3, 50, 70)
    expected = [np.asarray(Image.fromarray(frame).resize((48, 48), Image.Resampling.BICUBIC)) for frame in frames]
    assert np.array_equal(resize_bicubic(frames, 48), expected)


def test_an_evaluated_clip_is_its_frames_as_pictures() -> None:
    clip = EvalClip(VideoSettings(frames=4, sampling="middle"), IMAGE)(video())
    picture = EvalTransform(IMAGE)
    expected = [picture(Image.fromarray(numbered_frame(number))) for number in (3, 10, 18, 25)]
    assert clip.shape == (4, 3, 48, 48) and clip.dtype == torch.float32
    assert torch.equal(clip, torch.stack(expected))


@pytest.mark.parametrize(
    ("sampling", "chosen"), [("middle", [3, 10, 18, 25]), ("uniform", [0, 7, 14, 21]), ("ends", [0, 10, 19, 29]), ("random", None)]
)
def test_the_sampling_that_was_asked_for(sampling: str, chosen: list[int] | None) -> None:
    clip = EvalClip(VideoSettings(frames=4, sampling=sampling, resize="nearest"), IMAGE)  # type: ignore[arg-type]
    frames = video()
    expected = random_indices(4, 30, random.Random(0)) if chosen is None else chosen
    whole = EvalClip(VideoSettings(frames=30, sampling="ends", resize="nearest"), IMAGE)(frames)
    assert torch.equal(clip(frames), whole[expected])


# ----------------------------------------------------------------------------------------------------------------- augmentation


def test_one_change_for_all_frames() -> None:
    still = ArrayVideo(np.repeat(noise(1, 64, 96), 12, axis=0))
    settings = VideoSettings(frames=6, randaugment_ops=3, randaugment_magnitude=9)
    transform = TrainClip(settings, IMAGE)
    outcomes = set()
    for seed in range(20):
        clip = transform(still, random.Random(seed))
        assert clip.shape == (6, 3, 48, 48)
        assert all(torch.equal(frame, clip[0]) for frame in clip)
        outcomes.add(round(float(clip.mean()), 6))
    assert len(outcomes) > 15  # and another one for another clip


def test_the_same_seed_gives_the_same_clip() -> None:
    transform = TrainClip(VideoSettings(frames=4), IMAGE)
    one, other = (transform(video(), random.Random("0/1/2")) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, transform(video(), random.Random("0/1/3")))


def test_a_flip_turns_every_frame() -> None:
    plain = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "randaugment_ops": 0, "frames": 3, "train_sampling": "ends"}
    square = ArrayVideo(noise(5, 48, 48))
    kept, turned = (TrainClip(VideoSettings(**plain, flip=flip), IMAGE)(square, random.Random(0)) for flip in (0.0, 1.0))
    assert torch.equal(kept, EvalClip(VideoSettings(frames=3, sampling="ends"), IMAGE)(square))
    assert torch.equal(turned, kept.flip(-1))


def test_settings() -> None:
    with pytest.raises(UsageError, match="frames"):
        validate(VideoSettings, {"frames": 0}, where="video")
    with pytest.raises(UsageError, match="crop_scale must be"):
        validate(VideoSettings, {"crop_scale": [0.9, 0.5]}, where="video")
    assert saved_video({"architecture": "mplug2"}).resize == "nearest"
    assert saved_video({"architecture": "mplug"}).sampling == "uniform"
    assert saved_video({"architecture": "mplug", "video": {"frames": 3}}) == VideoSettings(frames=3)
