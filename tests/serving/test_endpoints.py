"""Every endpoint says what the model says, in JSON and as a form, alone and in a batch."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data.videos_made import write_video
from openmplug.data.transforms import ImageSettings
from openmplug.inference.model import Model
from serving.conftest import Running, running


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("av")
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 20).read_bytes()


@pytest.mark.parametrize("as_form", [True, False], ids=["form", "json"])
def test_caption(served: Running, model: Model, picture: bytes, as_form: bool) -> None:
    sent = {"files": {"image": ("a.png", picture)}} if as_form else {"json": {"image": b64(picture)}}
    answer = served.post("caption", **sent)
    expected = model.caption(picture)
    assert answer.status_code == 200
    assert answer.json()["text"] == expected.text
    assert answer.json()["score"] == pytest.approx(expected.score, abs=1e-4)


def test_caption_with_settings(served: Running, model: Model, picture: bytes) -> None:
    settings = {"num_beams": 3, "min_length": 2, "max_length": 5, "prompt": "the red"}
    expected = model.caption(picture, **settings).text
    assert served.post("caption", json={"image": b64(picture), **settings}).json()["text"] == expected
    assert served.post("caption", files={"image": picture}, data=settings).json()["text"] == expected
    assert expected != model.caption(picture).text


def test_data_url_is_base64(served: Running, model: Model, picture: bytes) -> None:
    answer = served.post("caption", json={"image": f"data:image/png;base64,{b64(picture)}"})
    assert answer.json()["text"] == model.caption(picture).text


def test_answer(served: Running, model: Model, picture: bytes) -> None:
    answer = served.post("answer", files={"image": picture}, data={"question": "what colour is it ?"}).json()
    assert answer["text"] == model.answer(picture, "what colour is it ?").text
    assert answer["candidates"] == []


def test_answer_among_candidates(served: Running, model: Model, picture: bytes) -> None:
    candidates = ["red", "green squares", "a circle"]
    expected = model.answer(picture, "what is this ?", candidates=candidates)
    sent = {"question": "what is this ?", "candidates": candidates}
    for answer in (
        served.post("answer", json={"image": b64(picture), **sent}).json(),
        served.post("answer", files={"image": picture}, data=sent).json(),
    ):
        assert answer["text"] == expected.text
        assert [one["text"] for one in answer["candidates"]] == [text for text, _ in expected.candidates]
        assert [one["probability"] for one in answer["candidates"]] == pytest.approx([share for _, share in expected.candidates], abs=1e-4)


def test_match_of_several_texts(served: Running, model: Model, picture: bytes) -> None:
    texts = ["a red circle", "how many green squares are there", "left of"]
    answer = served.post("match", files={"image": picture}, data={"text": texts}).json()
    expected = [model.match(picture, text) for text in texts]
    for found, one in zip(answer["matches"], expected, strict=True):
        assert found == pytest.approx(asdict(one), abs=1e-4)
    assert len({one.similarity for one in expected}) == 3
    assert len(served.post("match", json={"image": b64(picture), "text": "left of"}).json()["matches"]) == 1


def test_ground_in_the_pictures_own_pixels(served: Running, model: Model, pictures: list[bytes]) -> None:
    for picture in pictures[:3]:
        answer = served.post("ground", files={"image": picture}, data={"phrase": "the small red circle"}).json()
        expected = model.ground(picture, "the small red circle")
        assert answer["box"] == pytest.approx([expected.left, expected.top, expected.right, expected.bottom], abs=1e-3)
        assert answer["score"] == pytest.approx(expected.score, rel=1e-3)


def test_embed(served: Running, model: Model, picture: bytes) -> None:
    seen = served.post("embed", files={"image": picture}).json()["embeddings"]
    said = served.post("embed", json={"text": ["a red circle", "a green square"]}).json()["embeddings"]
    assert seen[0] == pytest.approx(model.embed_images(picture).tolist(), abs=1e-5)
    for found, expected in zip(said, model.embed_texts(["a red circle", "a green square"]).tolist(), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_video(served: Running, model: Model, clip: bytes) -> None:
    expected = model.caption(clip).text
    assert served.post("caption", files={"video": ("a.mp4", clip)}).json()["text"] == expected
    assert served.post("caption", json={"video": b64(clip)}).json()["text"] == expected
    answer = served.post("match", files={"video": clip}, data={"text": "a red circle"}).json()["matches"][0]
    assert answer == pytest.approx(asdict(model.match(clip, "a red circle")), abs=1e-4)


def test_requests_share_batches_and_answers_stay_the_same(run: Callable[..., Running], model: Model, pictures: list[bytes]) -> None:
    one = run(wait=0.05)
    questions = ["what colour is it ?", "how many green squares are there ?", "is the circle left of the square ?"]
    asked: list[tuple[str, dict[str, Any]]] = []
    for number in range(24):
        picture = pictures[number % 8]
        asked.append(("answer", {"files": {"image": picture}, "data": {"question": questions[number % 3]}}))
        asked.append(("caption", {"files": {"image": picture}, "data": {"max_length": 8}}))
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda ask: one.post(ask[0], **ask[1]).json()["text"], asked))
    captions = [model.caption(picture, max_length=8).text for picture in pictures]
    answers = {(place, text): model.answer(pictures[place], text).text for place in range(8) for text in questions}
    expected = [text for number in range(24) for text in (answers[number % 8, questions[number % 3]], captions[number % 8])]
    assert found == expected
    assert len(set(expected)) > 8
    sizes = one.service.metrics.batch_size
    batches, items = (sum(sum(counts) for counts in sizes.counts.values()), sum(sizes.sums.values()))
    assert items == 48
    assert batches < 24, "most requests went through the model alone"


def test_a_batch_of_one_at_a_time_where_asked(run: Callable[..., Running], pictures: list[bytes]) -> None:
    one = run(max_batch=1)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda picture: one.post("caption", files={"image": picture}), pictures))
    assert one.service.metrics.batch_size.counts[("caption",)][0] == 8


def test_model_says_what_is_served(served: Running) -> None:
    facts = served.client.get("/v1/model").json()
    assert facts["endpoints"] == ["caption", "answer", "match", "ground", "embed"]
    assert "--index" in facts["refused"]["search"]
    assert facts["limits"]["queue"] == 256


def test_search_without_an_index(served: Running) -> None:
    answer = served.post("search", json={"text": "a red circle"})
    assert answer.status_code == 404
    assert "--index DIR" in answer.json()["error"]["message"]


def test_search(folder: Path, model: Model, pictures: list[bytes], tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    from openmplug.inference.search.index import Index

    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(picture)
    index, _ = Index.build(tmp_path / "index", [tmp_path / "pictures"], model, workers=0)
    with running(folder, index=tmp_path / "index") as one:
        assert "search" in one.client.get("/v1/model").json()["endpoints"]
        hits = one.post("search", json={"text": "a red circle", "k": 3}).json()["hits"]
        expected = index.search("a red circle", k=3)
        assert [hit["name"] for hit in hits] == [hit.name for hit in expected]
        assert [hit["similarity"] for hit in hits] == pytest.approx([hit.similarity for hit in expected], abs=1e-4)
        assert str(tmp_path) not in json.dumps(hits), "where files lie is nobody's business"
        again = one.post("search", json={"text": "a red circle", "k": 2, "rerank": 4, "thumbnails": True}).json()["hits"]
        assert [hit["name"] for hit in again] == [hit.name for hit in index.search("a red circle", k=2, rerank=4)]
        assert base64.b64decode(again[0]["thumbnail"]).startswith(b"\xff\xd8")
        alike = one.post("search", files={"image": pictures[5]}, data={"k": 1}).json()["hits"][0]
        assert (alike["name"], alike["similarity"]) == ("5.png", pytest.approx(1, abs=1e-3))
        only = one.post("search", json={"text": "a red circle", "where": "path = '2.png'"}).json()["hits"]
        assert [hit["name"] for hit in only] == ["2.png"]
        for wrong, message in (
            ({"text": "a", "where": "nothing of the kind !!"}, ""),
            ({"image": b64(pictures[0]), "rerank": 3}, "reads words"),
            ({"text": " "}, "empty"),
        ):
            answer = one.post("search", json=wrong)
            assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True), answer.text


def test_an_index_of_another_model_is_refused(folder: Path, model: Model, picture: bytes, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    from openmplug.errors import ModelError

    (tmp_path / "a.png").write_bytes(picture)
    from openmplug.inference.search.index import Index

    Index.build(tmp_path / "index", [tmp_path / "a.png"], model, workers=0)
    manifest = next(path for path in (tmp_path / "index").iterdir() if path.suffix == ".json")
    manifest.write_text(manifest.read_text().replace(json.loads(manifest.read_text())["model_hash"], "0" * 64))
    with running(folder, index=tmp_path / "index", wait_ready=False) as one:
        while not one.result:
            time.sleep(0.02)
    assert isinstance(one.result[0], ModelError)


def test_a_model_of_one_task_refuses_the_others(folder: Path, tmp_path: Path, picture: bytes) -> None:
    shutil.copytree(folder, tmp_path / "caption")
    content = json.loads((tmp_path / "caption" / "config.json").read_text())
    content.update(task="caption", settings={}, image=ImageSettings(size=16).model_dump(mode="json"))
    (tmp_path / "caption" / "config.json").write_text(json.dumps(content))
    with running(tmp_path / "caption") as one:
        assert one.client.get("/v1/model").json()["endpoints"] == ["caption"]
        refused = one.post("answer", files={"image": picture}, data={"question": "what ?"})
        assert refused.status_code == 404
        assert "trained for task 'caption' and cannot answer questions" in refused.json()["error"]["message"]


def test_the_small_model_says_that_it_finds_no_boxes(picture: bytes) -> None:
    """It was trained without the words that boxes are written with: known before anybody asks, and refused, not failed."""
    with running("small") as one:
        assert one.client.get("/v1/model").json()["endpoints"] == ["caption", "answer", "match", "embed"]
        refused = one.post("ground", files={"image": picture}, data={"phrase": "the red circle"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_served")
        assert "cannot do this: the vocabulary has no [unused339]" in refused.json()["error"]["message"]


def test_states(served: Running) -> None:
    assert served.client.get("/healthz").json() == {"status": "ok"}
    assert served.client.get("/readyz").json() == {"status": "ready"}


def test_request_id_comes_back(served: Running) -> None:
    assert served.client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    drawn = served.client.get("/healthz", headers={"x-request-id": "no spaces!"}).headers["x-request-id"]
    assert len(drawn) == 16
