"""What a task starts from: another task's weights, another family's, a head for other classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from openmplug.checkpoints.store import save_weights
from openmplug.engine.models import _load_parts, new_task
from openmplug.engine.recipe import check_recipe
from openmplug.engine.tracking import Display
from openmplug.errors import ModelError
from openmplug.models.families import architecture_of
from openmplug.models.fusion import CoAttentionLayer
from openmplug.models.mplug2 import MPLUG2
from openmplug.models.network import Network
from openmplug.models.video import encode_clips
from tiny_models import tiny_model, tiny_model2
from tiny_tasks import tokenizer

VOCABULARY = tokenizer().vocab_size


class Holder:
    """All that ``_load_parts`` asks of a task."""

    def __init__(self, model: Network) -> None:
        self.model = model


class Lines(Display):
    """Keeps what would be shown."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str, *args: Any, **kwargs: Any) -> None:
        self.lines.append(text)


def saved(folder: Path, model: Network) -> Path:
    folder.mkdir()
    config = {
        "architecture": architecture_of(model.config),
        "model": model.config.model_dump(mode="json"),
        "modules": list(model.modules_built),
    }
    save_weights(folder, model.state_dict(), config)
    tokenizer().save(folder)
    return folder


def load(model: Network, *folders: Path) -> tuple[dict[Path, list[str]], list[str], list[str]]:
    display = Lines()
    loaded, missing = _load_parts(Holder(model), folders, tokenizer(), display)  # type: ignore[arg-type]
    return loaded, missing, display.lines


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_one_task_s_weights_open_for_another(tmp_path: Path) -> None:
    captioner = tiny_model2(("vision", "temporal", "universal", "decoder"), vocab_size=VOCABULARY)
    folder = saved(tmp_path / "caption", captioner)
    asker = tiny_model2(("vision", "temporal", "text", "universal", "fusion", "decoder"), seed=1, vocab_size=VOCABULARY)
    loaded, missing, _ = load(asker, folder)
    assert (loaded[folder], missing) == (["decoder", "temporal", "universal", "vision"], ["fusion", "text"])
    assert all(same(getattr(asker, part), getattr(captioner, part)) for part in loaded[folder])
    classifier = tiny_model2(("vision", "universal", "classification"), seed=1, classes=4, vocab_size=VOCABULARY)
    assert load(classifier, folder)[1] == ["classification"]


def test_a_head_for_other_classes_is_new_and_named(tmp_path: Path) -> None:
    modules = ("text", "universal", "classification")
    folder = saved(tmp_path / "classes", tiny_model2(modules, classes=3, vocab_size=VOCABULARY))
    model = tiny_model2(modules, seed=1, classes=5, vocab_size=VOCABULARY)
    before = model.classification.linear.weight.clone()
    _, missing, lines = load(model, folder)
    assert missing == ["classification"]
    assert lines[-1] == f"classification of '{folder}': of another size, left out"
    assert torch.equal(model.classification.linear.weight, before)
    assert load(tiny_model2(modules, seed=1, classes=3, vocab_size=VOCABULARY), folder)[1] == []


@torch.no_grad()
@pytest.mark.parametrize("stride", [0, 2])
def test_mplug_s_tower_starts_the_video_model(tmp_path: Path, stride: int) -> None:
    first = tiny_model(vocab_size=VOCABULARY)
    folder = saved(tmp_path / "mplug", first)
    modules = ("vision", "temporal", "text", "universal", "decoder")
    model = tiny_model2(modules, seed=1, text_layers=6, vocab_size=VOCABULARY, temporal_stride=stride)
    model.temporal.reset_parameters()  # as a new one has them; the tiny models are drawn anew
    loaded, missing, lines = load(model, folder)
    # mPLUG's text encoder has fewer layers than this one's; its decoder has as many.
    assert (loaded[folder], missing) == (["decoder", "vision"], ["temporal", "text", "universal"])
    assert lines == [f"decoder, vision: from '{folder}'", f"text of '{folder}': of another size, left out"]
    clips = torch.randn(2, 5, 3, 16, 16)
    seen = clips[:, ::stride] if stride else clips
    frames = first.vision(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    found = encode_clips(model.vision, model.temporal, clips)
    torch.testing.assert_close(found[:, 1:], frames[:, :, 1:].flatten(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("start", ["usual", "mimetic"])
def test_the_start_is_for_towers_without_weights(tmp_path: Path, start: str) -> None:
    fields = tiny_model2(("vision",), vocab_size=VOCABULARY).config.model_dump(exclude={"vocab_size", "classes"})
    tree = {"task": "caption", "model": fields, "settings": {"max_length": 8, "min_length": 1}, "start": start}
    words = tokenizer()
    fresh, usual = (new_task(check_recipe(each), words, Lines(), clips=True)[0].model for each in (tree, {**tree, "start": "usual"}))
    changed = {name.split(".")[0] for name, value in fresh.state_dict().items() if not torch.equal(value, usual.state_dict()[name])}
    assert changed == ({"vision", "temporal"} if start == "mimetic" else set())
    tower = saved(tmp_path / "tower", tiny_model2(("vision",), seed=3, vocab_size=VOCABULARY))
    started = new_task(check_recipe({**tree, "init_from": tower}), words, Lines(), clips=True)[0].model
    assert isinstance(started, MPLUG2)
    assert all(layer.before.expand.weight.abs().max() == 0 for layer in started.temporal.layers)


@pytest.mark.parametrize("start", ["usual", "mimetic"])
def test_text_and_fusion_begin_as_a_loaded_decoder(tmp_path: Path, start: str) -> None:
    captioner = tiny_model2(("vision", "universal", "decoder"), seed=3, vocab_size=VOCABULARY)
    folder = saved(tmp_path / "captioner", captioner)
    fields = captioner.config.model_dump(exclude={"vocab_size", "classes"})
    tree = {"task": "vqa", "model": fields, "settings": {"max_length": 4}, "start": start, "init_from": folder}
    model = new_task(check_recipe(tree), tokenizer(), Lines())[0].model
    attending = [layer.block for layer in model.fusion.layers if isinstance(layer, CoAttentionLayer)]
    pairs = [*zip(attending, captioner.decoder.layers, strict=False), (model.text.embeddings, captioner.decoder.embeddings)]
    assert len(pairs) > 1
    for ours, theirs in pairs:
        equal = [torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items()]
        assert all(equal) if start == "mimetic" else not all(equal)
    assert all(torch.equal(value, captioner.state_dict()[f"vision.{name}"]) for name, value in model.vision.state_dict().items())


def test_a_folder_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mplug", tiny_model(("vision",), vision_width=64, vision_heads=1))
    with pytest.raises(ModelError, match="has none of temporal, universal, vision in the model's sizes"):
        load(tiny_model2(("vision", "temporal", "universal"), vocab_size=VOCABULARY), folder)


def test_a_part_of_the_same_family_has_to_fit(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", tiny_model2(("vision", "universal"), vocab_size=VOCABULARY))
    with pytest.raises(ModelError, match=r"universal\.latents"):
        load(tiny_model2(("vision", "universal"), latents=9, vocab_size=VOCABULARY), folder)
