"""Where the model looks, through the front door: words, maps, places in the picture, drawings, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.command import run
from inference.whole_models import a_model
from openmplug.errors import DataError, UsageError
from openmplug.inference.explain.drawing import heat
from openmplug.inference.explain.explanation import Explanation, Peak
from openmplug.inference.loading import load
from openmplug.models import quantize as quantizing
from openmplug.models.packing import PackedLinear
from openmplug.models.quantize import quantize
from tiny_models import only_callable

Folders = Callable[..., Path]
QUESTION = "what colour is the small red circle ?"


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def close(one: Explanation, other: Explanation) -> bool:
    same = (one.kind, one.text, one.output, one.words, one.written, one.size, one.frames)
    return (
        same == (other.kind, other.text, other.output, other.words, other.written, other.size, other.frames)
        and one.score == pytest.approx(other.score, abs=1e-4)
        and np.allclose(one.maps, other.maps, atol=1e-5, rtol=1e-3)
        and np.allclose(one.whole, other.whole, atol=1e-5, rtol=1e-3)
    )


# -------------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("family", ["mplug", "mplug2"])
def test_a_match_an_answer_and_a_caption_of_a_picture_and_a_clip(family: str) -> None:
    model = a_model(family, **({"temporal_stride": 2} if family == "mplug2" else {}))
    for visual, grid, size in (
        (noise(24, 60, 3), (2, 2), (60, 24)),
        (noise(9, 20, 30, 3), (3 if family == "mplug2" else 5, 2, 2), (30, 20)),
    ):
        match = model.explain(visual, "a small red circle")
        assert match.kind == "match" and match.words == ("a", "small", "red", "circle") and match.written == 0
        assert match.score == pytest.approx(model.match(visual, "a small red circle").probability, abs=1e-5)
        answer = model.explain(visual, QUESTION, task="vqa", target="green squares")
        assert answer.words == (*QUESTION.split(), "green", "squares") and answer.written == 2 and answer.output == "green squares"
        caption = model.explain(visual, target="A green square", task="caption")
        assert caption.text == "" and caption.written == len(caption.words) == 3
        for one in (match, answer, caption):
            assert one.maps.shape == (len(one.words), *grid) and one.maps.dtype == np.float32
            assert one.whole.shape == grid and one.size == size
            assert one.maps.min() >= 0 and one.maps.max() > 0
            assert len(one.pictures) == (len(one.frames) or 1)
            assert all(0 <= share <= 1 for share in one.strengths) and max(one.strengths) == 1
            assert all(peak is None or (0 < peak.x < size[0] and 0 < peak.y < size[1]) for peak in (one.peak, *one.peaks))
    assert match.frames == ((0, 3, 7) if family == "mplug2" else (0, 1, 3, 5, 7))
    assert match.peak is not None and match.peak.frame in match.frames


def test_the_models_own_words_are_explained_where_none_are_given(folders: Folders, pictures: list[Path]) -> None:
    vqa, captioner = load(folders("vqa"), device="cpu"), load(folders("caption"), device="cpu")
    found, own = vqa.explain(pictures[0], QUESTION), vqa.answer(pictures[0], QUESTION)
    assert found.output == own.text
    assert captioner.explain(pictures[0]).output == captioner.caption(pictures[0]).text
    again = vqa.explain(pictures[0], QUESTION, target="red")
    probability = dict(vqa.answer(pictures[0], QUESTION, candidates=["red", "green"]).candidates)
    other = vqa.explain(pictures[0], QUESTION, target="green")
    # Candidates are ranked by the same log probabilities, the first token counted twice.
    assert (again.score > other.score) == (probability["red"] > probability["green"])
    assert not np.allclose(again.maps[-1], other.maps[-1])


def test_the_score_is_the_log_probability(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"), device="cpu")
    caption = captioner.caption(pictures[0], num_beams=1)
    found = captioner.explain(pictures[0], target=caption.text)
    tokens = len(captioner.tokenizer.encode(caption.text + "[SEP]")) - 1
    if tokens <= 6:  # what the search did not cut off
        assert found.score == pytest.approx(caption.score * ((5 + tokens) / 6) ** 0.6, abs=1e-3)


def test_many_are_as_one_by_one_and_in_order() -> None:
    model = a_model("mplug2")
    visuals = [noise(20, 30, 3), noise(7, 16, 16, 3, seed=1), noise(30, 20, 3, seed=2), noise(16, 16, 3, seed=3), noise(5, 9, 9, 3, seed=4)]
    texts = ["a circle", "a small red circle left of a circle", "squares", "how many green squares are there", "above"]
    together = model.explain(visuals, texts)
    assert all(close(one, model.explain(visual, text)) for one, visual, text in zip(together, visuals, texts, strict=True))
    written = model.explain(visuals, texts, task="vqa", target=["red", "a green circle", "squares", "red", "above"])
    for one, visual, text in zip(written, visuals, texts, strict=True):
        assert close(one, model.explain(visual, text, task="vqa", target=one.output))
    assert not np.allclose(together[0].whole, together[2].whole)
    assert model.explain([], []) == []


def test_only_words_that_are_read_have_maps(folders: Folders, pictures: list[Path]) -> None:
    matcher = load(folders("retrieval"), device="cpu")
    long = " ".join(["circle"] * 60)
    assert matcher.explain(pictures[0], long).words == ("circle",) * 29  # 30 tokens, [CLS] among them
    pieces = matcher.explain(pictures[0], "A circle, colourpicture!")
    assert pieces.words == ("a", "circle", "colourpicture")
    assert len(matcher.tokenizer.encode("colourpicture")) > 2


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_pictures_of_any_mode(mode: str) -> None:
    picture = Image.fromarray(noise(12, 18, 3)).convert(mode)
    found = a_model().explain(picture, "a red circle")
    assert found.size == (18, 12) and found.draw().mode == "RGB"


def test_a_large_picture_is_kept_small_but_its_peak_is_in_its_own_pixels() -> None:
    found = a_model().explain(noise(30, 4000, 3), "a red circle")
    assert found.size == (4000, 30) and max(found.pictures[0].size) <= 1024
    assert found.peak is not None and found.peak.x in (1000.0, 3000.0) and found.peak.y in (7.5, 22.5)


# ------------------------------------------------------------------------------------------------------------------- machinery


def test_nothing_is_left_behind(folders: Folders, pictures: list[Path]) -> None:
    vqa = load(folders("vqa"), device="cpu")
    before = vqa.answer(pictures[0], QUESTION)
    grads = [parameter.requires_grad for parameter in vqa.network.parameters()]
    vqa.explain(pictures[0], QUESTION)
    assert vqa.answer(pictures[0], QUESTION) == before
    assert [parameter.requires_grad for parameter in vqa.network.parameters()] == grads
    assert all(parameter.grad is None for parameter in vqa.network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vqa.network.modules())


def test_packed_weights_stay_packed() -> None:
    model = a_model(width=704, intermediate=768, heads=4)  # wide enough to be packed
    held = [value for module in model.network.modules() for value in vars(module).values() if isinstance(value, PackedLinear)]
    model.caption(noise(8, 8, 3), max_length=3, min_length=1)
    packed = [each._copy for each in held]
    if not any(packed):
        pytest.skip("this machine packs no weights")
    model.explain(noise(8, 8, 3), target="a red circle", task="caption")
    assert all(each._copy is copy for each, copy in zip(held, packed, strict=True))


def test_adapted_and_quantised_layers_are_only_called(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(16, 16, 3)
    expected = [
        a_model("mplug2").explain(picture, *about, **more) for about, more in ((("a red circle",), {}), ((), {"target": "a circle"}))
    ]
    adapted, quantised = a_model("mplug2"), a_model("mplug2")
    for part in ("vision", "text", "universal", "fusion", "decoder"):
        only_callable(getattr(adapted.network, part))
    monkeypatch.setattr(quantizing, "_recipe", lambda bits, device: lambda layer: layer.requires_grad_(False))
    quantize(quantised.network, "int8")
    for model in (adapted, quantised):
        assert close(model.explain(picture, "a red circle"), expected[0])
        assert close(model.explain(picture, target="a circle"), expected[1])


def test_half_precision_looks_at_the_same_places() -> None:
    from openmplug.models.precision import cast_for_inference

    full, half = a_model(width=64, intermediate=96), a_model(width=64, intermediate=96)
    cast_for_inference(half.network)
    half.precision = "bf16"
    picture = noise(16, 16, 3)
    for about in ({"texts": "a small red circle"}, {"texts": QUESTION, "task": "vqa", "target": "red"}):
        one, other = full.explain(picture, **about), half.explain(picture, **about)
        assert np.corrcoef(one.maps.ravel(), other.maps.ravel())[0, 1] > 0.9


# ------------------------------------------------------------------------------------------------------------------- refusals


def test_what_is_refused(folders: Folders, pictures: list[Path]) -> None:
    picture = pictures[0]
    matcher, captioner, vqa = (load(folders(name), device="cpu") for name in ("retrieval", "caption", "vqa"))
    with pytest.raises(UsageError, match="a text is needed: the sentence that is matched"):
        matcher.explain(picture)
    with pytest.raises(UsageError, match="a text is needed"):
        vqa.explain(picture, " ")
    with pytest.raises(UsageError, match="a captioner is asked nothing; leave the text out"):
        captioner.explain(picture, "a circle")
    with pytest.raises(UsageError, match="matching writes nothing; leave the target out"):
        matcher.explain(picture, "a circle", target="a")
    with pytest.raises(UsageError, match="the target is empty"):
        captioner.explain(picture, target=" ")
    with pytest.raises(UsageError, match="2 targets for 1 inputs"):
        captioner.explain(picture, target=["a", "a"])
    with pytest.raises(UsageError, match="trained for task 'caption' and cannot match"):
        captioner.explain(picture, "a", task="retrieval")
    with pytest.raises(UsageError, match="task 'grounding' cannot be explained; matching, answers and captions can"):
        vqa.explain(picture, "a", task="grounding")
    with pytest.raises(UsageError, match="the fusion has layers 0 to 1; got 7"):
        vqa.explain(picture, "a circle", layer=7)
    with pytest.raises(UsageError, match="the decoder has layers 0 to 0; got 1"):
        captioner.explain(picture, decoder_layer=1)
    with pytest.raises(UsageError, match="fusion layer 1 is the last: matching reads"):
        matcher.explain(picture, "a circle", layer=1)
    with pytest.raises(UsageError, match="writes about the picture alone, without fusion"):
        captioner.explain(picture, layer=0)
    with pytest.raises(UsageError, match="the target has 102 tokens, the model positions for 65; shorten it"):
        captioner.explain(picture, target="circle " * 100)
    with pytest.raises(UsageError, match="trained without matching"):
        load(folders("retrieval", matching_weight=0, k_test=0), device="cpu").explain(picture, "a circle")
    with pytest.raises(DataError, match="does not exist"):
        matcher.explain("nothing.png", "a circle")


# -------------------------------------------------------------------------------------------------------------------- drawing


def one_hot(width: int, height: int, row: int, column: int) -> Explanation:
    whole = np.zeros((4, 4), np.float32)
    whole[row, column] = 2.0
    picture = Image.new("RGB", (width, height), (90, 90, 90))
    return Explanation("match", "a", "", 0.5, ("a",), 0, whole[None], whole, (width, height), (), (picture,))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (400, 100), (30, 300), (997, 3)])
@pytest.mark.parametrize(("row", "column"), [(0, 3), (2, 1)])
def test_the_heat_lies_where_the_patch_is(width: int, height: int, row: int, column: int) -> None:
    """The model sees a picture squashed to a square, so each patch is a part of the picture of the picture's own ratio."""
    found = one_hot(width, height, row, column)
    assert found.peak == Peak((column + 0.5) * width / 4, (row + 0.5) * height / 4)
    drawn = np.asarray(heat(found.pictures[0], found.whole / 2), np.float32).sum(axis=2)
    y, x = np.unravel_index(int(drawn.argmax()), drawn.shape)
    assert abs(x + 0.5 - found.peak.x) <= max(width / 8, 1) and abs(y + 0.5 - found.peak.y) <= max(height / 8, 1)


def test_a_map_of_zeros_has_no_peak_and_can_be_drawn() -> None:
    found = one_hot(40, 30, 0, 0)
    empty = Explanation("caption", "", "", 0.0, (), 0, np.zeros((0, 4, 4), np.float32), found.whole * 0, (40, 30), (), found.pictures)
    assert empty.peak is None and empty.peaks == () and empty.strengths == ()
    assert empty.draw().size[0] > 2 * 40
    assert empty.document()["peak"] is None


def test_frames_are_columns_and_words_are_rows() -> None:
    model = a_model()
    found = model.explain(noise(6, 24, 32, 3), "a red circle")
    (width, height), tile = found.draw().size, (round(128 * (4 / 3) ** 0.5), round(128 * (3 / 4) ** 0.5))
    assert width == 8 + 5 * (tile[0] + 8)
    assert height == 8 + 5 * (tile[1] + 22 + 8)  # the frames, the sentence, three words
    longer = model.explain(noise(6, 24, 32, 3), "a red circle left of a circle")
    assert longer.draw().size[0] == width and longer.draw().size[1] > height


# --------------------------------------------------------------------------------------------------------------- command line


def test_the_command_draws_a_picture(folders: Folders, pictures: list[Path], tmp_path: Path) -> None:
    png = tmp_path / "new" / "a.png"
    outcome = run("explain", pictures[0], "--model", folders("vqa"), "--text", QUESTION, "-o", png, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "answer: " in outcome.out and "circle" in outcome.out and " px" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert str(png) in outcome.err
    with Image.open(png) as drawn:
        assert drawn.format == "PNG" and drawn.width > 400
    several = run("explain", *pictures[:2], "--model", folders("caption"), "-o", tmp_path / "maps", "--json", "--device", "cpu")
    documents = json.loads(several.out)
    assert [one["picture"] for one in documents] == [str(tmp_path / "maps" / f"{path.stem}.png") for path in pictures[:2]]
    assert all(Path(one["picture"]).is_file() and np.array(one["whole"]).shape == (2, 2) for one in documents)
    assert all(word["written"] for word in documents[0]["words"])


def test_the_command_refuses(folders: Folders, pictures: list[Path], tmp_path: Path) -> None:
    arguments = ("explain", pictures[0], "--model", folders("retrieval"), "--device", "cpu", "-o")
    assert "does not end in .png" in run(*arguments, tmp_path / "a.jpg", "-t", "a").error(2)
    assert "is one file, and there are 2 inputs" in run(*arguments, tmp_path / "a.png", pictures[1], "-t", "a").error(2)
    assert "a text is needed" in run(*arguments, tmp_path / "a.png").error(2)
    assert "unknown task 'match'" in run(*arguments, tmp_path / "a.png", "--task", "match").error(2)
    assert not list(tmp_path.iterdir())
