"""ModelScope's pipelines as benchmark scripts call them: the call sites of ELLA, DSG and TIFA, with the import changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from checkpoints.originals_made import original_state, write_original
from openmplug.checkpoints.folder import file_hash
from openmplug.errors import EnvironmentProblem, ModelError, UsageError
from openmplug.inference.compat import OutputKeys, Tasks
from openmplug.inference.compat import modelscope_pipeline as pipeline
from openmplug.inference.judge.session import weights_hash
from openmplug.inference.loading import load

Folders = Callable[..., Path]


class Judge:
    """As in ``compute_dpg_bench.py`` of ELLA; DSG and TIFA have the same without the device."""

    def __init__(self, ckpt: str, device: str = "gpu") -> None:
        self.pipeline_vqa = pipeline(Tasks.visual_question_answering, model=ckpt, device=device)

    def vqa(self, image: object, question: str) -> str:
        input_vqa = {"image": image, "question": question}
        result = self.pipeline_vqa(input_vqa)
        return result["text"]


def test_the_benchmarks_own_call(folders: Folders, pictures: list[Path]) -> None:
    judge, ours = Judge(str(folders("vqa")), device="cpu"), load(folders("vqa"), device="cpu")
    for path in pictures:
        expected = ours.answer(path, "what colour is the small red circle ?").text
        image = Image.open(path)
        # A path as TIFA gives it, a picture as DSG does, a crop of one as ELLA does.
        for given in (str(path), image.convert("RGB"), image.crop((0, 0, *image.size)), np.asarray(image)):
            assert judge.vqa(given, "what colour is the small red circle ?") == expected


def test_tasks_by_their_names() -> None:
    # The values of modelscope.utils.constant.Tasks and modelscope.outputs.OutputKeys.
    assert Tasks.visual_question_answering == "visual-question-answering"
    assert (Tasks.image_captioning, Tasks.image_text_retrieval) == ("image-captioning", "image-text-retrieval")
    assert (OutputKeys.TEXT, OutputKeys.CAPTION, OutputKeys.SCORES) == ("text", "caption", "scores")


def test_lists_and_other_forms_of_a_question(folders: Folders, pictures: list[Path]) -> None:
    answer = pipeline("visual-question-answering", model=folders("vqa"), device="cpu")
    one = answer({"image": pictures[0], "question": "how many ?"})
    assert answer({"image": pictures[0], "text": "how many ?"}) == one
    assert answer((pictures[0], "how many ?")) == one
    assert answer([{"image": path, "question": "how many ?"} for path in pictures[:3]], batch_size=2)[0] == one
    assert len(answer([{"image": path, "question": "how many ?"} for path in pictures[:3]])) == 3
    assert answer([]) == []
    assert set(one) == {"text"}


def test_captions(folders: Folders, pictures: list[Path]) -> None:
    caption = pipeline(Tasks.image_captioning, model=str(folders("caption")), device="cpu", model_revision="v1.0.1")
    expected = {OutputKeys.CAPTION: load(folders("caption"), device="cpu").caption(pictures[0]).text}
    assert caption(str(pictures[0])) == caption({"image": Image.open(pictures[0])}) == expected
    assert caption([str(path) for path in pictures])[0] == expected


def test_matches(folders: Folders, pictures: list[Path]) -> None:
    # A model that is loaded already is taken as it is.
    loaded = load(folders("retrieval"), device="cpu")
    scores = pipeline(Tasks.image_text_retrieval, model=loaded)({"image": pictures[0], "question": "a red circle"})["scores"]
    probability = loaded.match(pictures[0], "a red circle").probability
    # No match first, as in the model's own two classes; call sites read scores[1].
    assert scores == [pytest.approx(1 - probability), pytest.approx(probability)]


def test_a_folder_of_modelscope(pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "damo"
    state = original_state(("vision", "text", "fusion", "decoder"), tmp_path / "made")
    write_original(folder, {f"model.{key}": value for key, value in state.items()}, "pytorch_model.bin")
    (folder / "configuration.json").write_text(json.dumps({"task": "visual-question-answering", "model": {"type": "mplug"}}))
    (folder / "config.yaml").write_text("beam_size: 5\nmin_length: 1\nmax_length: 4\nimage_res: 16\n")
    judge = Judge(str(folder), device="cpu")
    assert judge.pipeline_vqa.model.task_for("vqa").settings.num_beams == 5
    assert isinstance(judge.vqa(str(pictures[0]), "a b c"), str)
    # The judge of the benchmarks takes the same folder, and knows it by its file.
    assert weights_hash(folder) == file_hash(folder / "pytorch_model.bin")


def test_the_cache_of_modelscope(folders: Folders, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    name = "damo/mplug_visual-question-answering_coco_large_en"
    with pytest.raises(ModelError, match=r"neither a folder nor in ModelScope's cache .* openmplug downloads nothing"):
        pipeline(Tasks.visual_question_answering, model=name)
    (tmp_path / "hub" / "models" / "damo").mkdir(parents=True)
    (tmp_path / "hub" / "models" / name).symlink_to(folders("vqa"))
    assert "text" in pipeline(Tasks.visual_question_answering, model=name, device="cpu")({"image": pictures[0], "text": "what ?"})


def test_wrong_calls(folders: Folders, pictures: list[Path]) -> None:
    with pytest.raises(UsageError, match="unknown task 'visual-question-answer'; did you mean 'visual-question-answering'"):
        pipeline("visual-question-answer", model=folders("vqa"))
    with pytest.raises(UsageError, match="argument 'preprocessor' of ModelScope's pipeline is not supported"):
        pipeline(Tasks.visual_question_answering, model=folders("vqa"), preprocessor=object())
    answer = pipeline(Tasks.visual_question_answering, model=folders("vqa"), device="cpu")
    with pytest.raises(UsageError, match="needs 'image'; found question"):
        answer({"question": "what ?"})
    for given in ({"image": pictures[0]}, pictures[0]):
        with pytest.raises(UsageError, match="needs 'question' or 'text' beside 'image'"):
            answer(given)
    with pytest.raises(UsageError, match="batch_size must be at least 1"):
        answer([], batch_size=0)
    with pytest.raises(UsageError, match="trained for task 'vqa' and cannot write captions"):
        pipeline(Tasks.image_captioning, model=folders("vqa"), device="cpu")(pictures[0])
    with pytest.raises(UsageError, match="trained without matching and has no scores"):
        unmatched = folders("retrieval", matching_weight=0, k_test=0)
        pipeline(Tasks.image_text_retrieval, model=unmatched, device="cpu")({"image": pictures[0], "text": "a circle"})


@pytest.mark.parametrize(("device", "error"), [("gpu:99", EnvironmentProblem), ("tpu", UsageError)])
def test_devices(folders: Folders, device: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        pipeline(Tasks.visual_question_answering, model=folders("vqa"), device=device)
