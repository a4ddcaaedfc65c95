"""TIFA v1.0 from pictures or answers to scores; the authors' sample gives the authors' figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.judging import photo, script
from openmplug.errors import DataError, EnvironmentProblem, ModelError, UsageError
from openmplug.inference.judge import asking, embedder, tifa
from openmplug.inference.judge.asking import Question, Reply, answer_about
from openmplug.inference.judge.embedder import SentenceEmbedder, local_embedder
from openmplug.inference.judge.session import JudgeOptions
from openmplug.inference.judge.tifa import choose_way, judge_tifa
from openmplug.inference.loading import load

Folders = Callable[..., Path]

QUESTIONS = [
    ("a", "is it red?", ["yes", "no"], "yes", "color"),
    ("b", "how many?", ["1", "2"], "2", "counting"),
    ("a", "what is it?", ["circle", "square"], "square", "object"),  # about the first picture again
]


def record(caption: str, question: str, choices: list[str], answer: str, kind: str) -> dict[str, Any]:
    return {"id": caption, "caption": "x", "question": question, "choices": choices, "answer": answer, "element_type": kind}


@pytest.fixture
def bench(folders: Folders, tmp_path: Path) -> tuple[Path, Path, JudgeOptions]:
    (tmp_path / "pictures").mkdir()
    for seed, caption in enumerate("ab"):
        photo(seed).save(tmp_path / "pictures" / f"{caption}.png")
    images = tmp_path / "images.json"
    images.write_text(json.dumps({"a": "pictures/a.png", "b": "pictures/b.png", "unused": "nowhere.png"}))
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([record(*each) for each in QUESTIONS]))
    return questions, images, JudgeOptions(folders("vqa"), tmp_path / "out", device="cpu", batch_size=4)


def test_the_sample_gives_its_authors_figures(data_root: Path) -> None:
    folder = data_root / "judge" / "tifa_sample"
    result = folder / "sample_evaluation_result.json"
    report, rows = judge_tifa(folder / "sample_question_answers.json", answers=result)
    expected = json.loads(result.read_text())
    for name in ("tifa_average", "tifa_stdev", "accuracy_by_type", "caption_scores"):
        assert report[name] == pytest.approx(expected[name])
    assert sum(row["score"] for row in rows) == 16
    assert report["counts"] == {"items": 2, "questions": 19}


def test_the_sample_s_pictures_are_found(data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "judge" / "tifa_sample"
    options = JudgeOptions(tmp_path, tmp_path / "out")
    report, _ = judge_tifa(
        folder / "sample_question_answers.json", folder / "sample_imgs.json", options=options, choose="rank", dry_run=True
    )
    assert report["counts"] == {"items": 2, "questions": 19, "pictures": 2}
    report, _ = judge_tifa(folder / "sample_question_answers.json", folder, options=options, choose="rank", dry_run=True)
    assert report["counts"]["pictures"] == 2


def test_a_judge_s_answers_by_hand(
    bench: tuple[Path, Path, JudgeOptions], encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    questions, images, options = bench
    said = {
        photo(0).tobytes(): {"is it red?": "yes", "what is it?": "a circle"},
        photo(1).tobytes(): {"how many?": "2"},
    }
    monkeypatch.setattr(asking, "answer_about", script(said))
    monkeypatch.setattr(SentenceEmbedder, "nearest", lambda self, answer, choices: {"a circle": "circle"}[answer])
    report, rows = judge_tifa(questions, images, options=options, choose="embed", embedder=encoder)
    assert (report["tifa_average"], report["choose"], report["free_answers_that_were_no_choice"]) == (0.75, "embed", 1)
    assert report["accuracy_by_type"] == {"color": 1.0, "counting": 1.0, "object": 0.0}
    # In the order of the questions' file, though the pictures are asked about one after the other.
    assert [(row["id"], row["question"], row["answer"], row["chosen"], row["score"]) for row in rows] == [
        ("a", "is it red?", "yes", "yes", 1),
        ("b", "how many?", "2", "2", 1),
        ("a", "what is it?", "a circle", "circle", 0),
    ]


def test_the_model_ranks_the_choices(bench: tuple[Path, Path, JudgeOptions], folders: Folders) -> None:
    questions, images, options = bench
    report, rows = judge_tifa(questions, images, options=options, choose="rank")
    assert (report["choose"], report["embedder"]) == ("rank", None)
    judge = load(folders("vqa"), device="cpu")
    for row, (caption, question, choices, *_) in zip(rows, QUESTIONS, strict=True):
        ((reply,),) = answer_about(judge, [photo("ab".index(caption))], [[Question(question, choices=tuple(choices))]])
        assert isinstance(reply, Reply)
        assert (row["answer"], row["chosen"]) == (reply.text, reply.chosen)
        assert row["chosen"] in choices


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained sentence encoder in the format of transformers."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "circle", "square"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_embeddings_are_means_over_a_text_s_own_tokens(encoder: Path) -> None:
    sentences = SentenceEmbedder(encoder)
    together, alone = sentences.embed(["red", "a green circle a square"]), sentences.embed(["red"])
    assert together.norm(dim=1).tolist() == pytest.approx([1, 1])
    assert together[0].tolist() == pytest.approx(alone[0].tolist(), abs=1e-6)  # padding counts for nothing
    assert sentences.nearest("a red circle", ["green", "a red circle", "square"]) == "a red circle"


def test_what_is_no_encoder(tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"is not a sentence encoder: it holds no config\.json"):
        SentenceEmbedder(tmp_path)
    shutil.copy(folders("vqa") / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelError, match="cannot be read as a sentence encoder"):
        SentenceEmbedder(tmp_path)
    monkeypatch.setattr(embedder, "find_spec", lambda name: None)
    assert local_embedder() is None
    with pytest.raises(EnvironmentProblem, match=r"pip install 'openmplug\[judge\]'"):
        SentenceEmbedder(tmp_path)


def test_the_encoder_in_the_cache_is_found(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        embedder, "try_to_load_from_cache", lambda name, file: str(encoder / file) if file.endswith("safetensors") else None
    )
    assert local_embedder() == encoder


def test_how_a_free_answer_becomes_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_way("rank", None) == ("rank", None)
    assert choose_way(None, tmp_path) == ("embed", tmp_path)
    for folder, way in ((None, "rank"), (tmp_path, "embed")):
        monkeypatch.setattr(tifa, "local_embedder", lambda folder=folder: folder)
        assert choose_way(None, None) == (way, folder)
    monkeypatch.setattr(tifa, "local_embedder", lambda: None)
    for choose, given, message in (
        ("embed", None, "give its folder with --embedder, or use --choose rank"),
        ("rank", tmp_path, "uses no sentence encoder"),
        ("guess", None, "unknown --choose 'guess'; one of embed, rank"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_way(choose, given)


def test_a_missing_picture_names_its_caption(bench: tuple[Path, Path, JudgeOptions]) -> None:
    questions, images, options = bench
    (images.parent / "pictures" / "b.png").unlink()
    with pytest.raises(DataError, match=r"the picture of caption 'b', '.*b\.png', does not exist"):
        judge_tifa(questions, images, options=options, choose="rank")
    images.write_text('{"a": "pictures/a.png", "B": "x.png"}')
    with pytest.raises(DataError, match="no picture for caption 'b' in"):
        judge_tifa(questions, images, options=options, choose="rank")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"element_type": None}, "record 1: no 'element_type'; found columns .*, expected id, question, choices, answer, element_type"),
        ({"choices": []}, "record 1: 'choices' is \\[\\]; expected a list of texts"),
        ({"choices": "yes, no"}, "record 1: 'choices' is 'yes, no'"),
    ],
)
def test_wrong_questions(bench: tuple[Path, Path, JudgeOptions], change: dict[str, Any], message: str) -> None:
    questions, images, options = bench
    questions.write_text(json.dumps([{**record(*QUESTIONS[0]), **change}]))
    with pytest.raises(DataError, match=message):
        judge_tifa(questions, images, options=options, choose="rank")


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (None, "no 'question_details'; found columns tifa_average"),
        ({"a": {"who?": {"multiple_choice_vqa": "x"}}}, "caption 'a', question 'who\\?': answer to an unknown question"),
        ({"a": {"is it red?": {"multiple_choice_vqa": "yes"}}}, "no answer to question 'how many\\?' of caption 'b'"),
        ({"a": {"is it red?": {"free_form_vqa": "yes"}}}, "no 'multiple_choice_vqa'; found columns free_form_vqa"),
    ],
)
def test_wrong_answers(bench: tuple[Path, Path, JudgeOptions], tmp_path: Path, details: Any, message: str) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"tifa_average": 1} if details is None else {"question_details": details}))
    with pytest.raises(DataError, match=message):
        judge_tifa(bench[0], answers=result)
