"""The OpenAPI page, and requests made from it by a machine: none of them may bring an answer that is the service's own failure."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.conftest import Running

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import checks as schemathesis_checks  # noqa: E402

EXAMPLES = int(os.environ.get("OPENMPLUG_FUZZ", "6"))
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


CHECKS = [
    schemathesis_checks.not_a_server_error,
    schemathesis_checks.status_code_conformance,
    schemathesis_checks.content_type_conformance,
    schemathesis_checks.response_schema_conformance,
]


def probe(operation: Any, mode: str, url: str) -> set[int]:
    """Send requests of one kind to one path; returns the statuses that came back."""
    statuses = set()

    @settings(max_examples=EXAMPLES, **QUIET)
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def ask(case: Any) -> None:
        response = case.call(base_url=url)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    return statuses


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_from_the_schema_breaks_it(served: Running, mode: str) -> None:
    """Requests as the schema wants them, and as it forbids them."""
    api = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    seen = {}
    for found in api.get_all_operations():
        operation = found.ok()
        if mode == "POSITIVE" or operation.body:  # of a path that takes nothing, nothing wrong can be made
            seen[operation.path] = probe(operation, mode, served.url)
    assert seen.keys() >= {f"/v1/{name}" for name in ("caption", "answer", "match", "ground", "embed", "search")}
    assert all(seen.values())
    assert max(status for statuses in seen.values() for status in statuses) < 500


words = st.text(max_size=300) | st.sampled_from(["a red circle", " ", "\x00", "\u200b", "[MASK] [SEP]", "图", "a" * 3_000, "😀" * 200])
numbers = st.integers(-3, 80)


@settings(max_examples=8 * EXAMPLES, **QUIET)
@given(
    endpoint=st.sampled_from(["caption", "answer", "match", "ground", "embed"]),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "question": words,
            "phrase": words,
            "text": words | st.lists(words, max_size=4),
            "candidates": st.lists(words, max_size=4),
            "prompt": words,
            "num_beams": numbers,
            "min_length": numbers,
            "max_length": numbers,
        },
    ),
)
def test_no_words_and_settings_break_it(served: Running, picture: bytes, endpoint: str, fields: dict[str, Any]) -> None:
    """With a picture that can be read, so that requests get as far as the model."""
    known = {"caption": ("prompt", "num_beams", "min_length", "max_length"), "match": ("text",), "ground": ("phrase",), "embed": ("text",)}
    kept = known.get(endpoint, ("question", "candidates", "num_beams", "min_length", "max_length"))
    sent = {name: value for name, value in fields.items() if name in kept}
    if not (endpoint == "embed" and "text" in sent):
        sent["image"] = base64.b64encode(picture).decode()
    response = served.post(endpoint, json=sent)
    assert response.status_code < 500, (sent, response.text)
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"type", "message"}
        assert "\n" not in response.json()["error"]["message"]


@settings(max_examples=8 * EXAMPLES, **QUIET)
@given(data=st.data())
def test_no_damaged_file_breaks_it(served: Running, pictures: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(pictures)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    cut = data.draw(st.integers(0, len(content)))
    response = served.post("embed", files={data.draw(st.sampled_from(["image", "video"])): bytes(content[:cut] or b"x")})
    assert response.status_code in (200, 413, 422), response.text


def test_the_page_describes_every_endpoint(served: Running) -> None:
    document = served.client.get("/openapi.json").json()
    posts = {path for path, operations in document["paths"].items() if "post" in operations}
    assert posts == {f"/v1/{name}" for name in ("caption", "answer", "match", "ground", "embed", "search")}
    for path in posts:
        operation = document["paths"][path]["post"]
        contents = operation["requestBody"]["content"]
        assert set(contents) == {"application/json", "multipart/form-data"}
        files = [name for name, field in contents["multipart/form-data"]["schema"]["properties"].items() if field.get("format") == "binary"]
        assert "image" in files
        assert {"200", "400", "401", "413", "422", "429", "503", "504"} <= set(operation["responses"])
    assert served.client.get("/docs").status_code == 200


def test_the_examples_of_the_page_work(served: Running) -> None:
    document = served.client.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        for example in (
            operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {}).values()
        ):
            answer = served.client.post(path, json=example["value"])
            assert answer.status_code == (404 if path == "/v1/search" else 200), (path, answer.text)
            tried += 1
    assert tried >= 8
