"""Frame indices: the originals' own, and what must hold for any video."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmplug.data.frames import middle_indices, uniform_indices


def test_indices_equal_the_originals(golden_root):
    extras = json.loads((golden_root / "extras" / "mplug2_extras.json").read_text(encoding="utf-8"))
    for case in extras["frame_indices_middle"]:
        assert middle_indices(case["num_frames"], case["vlen"]) == case["idx"]
    for case in extras["mplug_uniform_indices"]:
        assert uniform_indices(case["num_frm"], case["vlen"], literal=True) == case["idx"]


@given(st.integers(1, 64), st.integers(1, 2000))
def test_literal_uniform_indices_are_those_of_arange(num_frames, length):
    literal = uniform_indices(num_frames, length, literal=True)
    assert literal == np.arange(0, length, length / num_frames, dtype=int).tolist()
    assert literal[:num_frames] == uniform_indices(num_frames, length)


def test_rounding_gives_the_original_one_frame_too_many():
    assert uniform_indices(7, 17) == [0, 2, 4, 6, 8, 10, 12]
    assert uniform_indices(7, 17, literal=True) == [0, 2, 4, 6, 8, 10, 12, 14]


@given(st.integers(1, 64), st.integers(1, 2000))
def test_indices_are_in_order_inside_the_video_and_as_many_as_asked(num_frames, length):
    for chosen in (uniform_indices(num_frames, length), middle_indices(num_frames, length)):
        assert len(chosen) == num_frames
        assert chosen == sorted(chosen)
        assert chosen[0] >= 0 and chosen[-1] < length


@pytest.mark.parametrize("choose", [uniform_indices, middle_indices])
@pytest.mark.parametrize(("num_frames", "length"), [(0, 5), (5, 0)])
def test_nothing_to_choose_is_refused(choose, num_frames, length):
    with pytest.raises(ValueError, match=f"num_frames is {num_frames} and length is {length}; expected both to be at least 1"):
        choose(num_frames, length)
