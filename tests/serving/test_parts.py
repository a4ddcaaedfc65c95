"""Forms, keys, metrics, logs: the small parts, without a service."""

from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmplug.data.video import Animation, VideoLimits
from openmplug.errors import TooLarge, UsageError
from openmplug.serving.decoding import count_scans
from openmplug.serving.forms import parse, read_form
from openmplug.serving.keys import Keys, read_keys
from openmplug.serving.logs import JsonFormatter
from openmplug.serving.metrics import Counter, Histogram, Metrics
from openmplug.serving.refusals import Refusal
from openmplug.serving.schemas import REQUESTS, CaptionRequest, EmbedRequest, MatchRequest
from serving.hostile import growing_gif, many_frames_gif, many_scans

TYPE = "multipart/form-data; boundary=XX"


def form(*parts: tuple[str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    return b"".join(b"--XX\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), content) for head, content in parts) + end


def refused(kind: type, content_type: str, body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(kind, content_type, body)
    assert 400 <= caught.value.status < 500
    assert "\n" not in caught.value.message
    return caught.value


def test_form_with_a_file_and_repeated_texts() -> None:
    body = form(('name="image"; filename="x"', b"\r\n--X\x00\r"), ('name="text"', b"a red cup"), ('name="text"', "grün".encode()))
    request = parse(MatchRequest, TYPE, body)
    assert request.image == b"\r\n--X\x00\r"
    assert request.text == ["a red cup", "grün"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(('name="image"', b"x"), end=b""), "breaks off before its last boundary"),
        (form(('name="image"', b"x"))[:-30], "breaks off before its last boundary"),
        (b"nothing of the kind", "the form is broken"),
        (b"", "breaks off"),
        (form(("filename=x", b"x")), "no name"),
        (form(('name="image"', b"x"), ('name="image"', b"y")), "field 'image' occurs twice"),
        (form(('name="prompt"', b"\xff\xfe")), "field 'prompt' is not UTF-8"),
        (form(*[('name="prompt"', b"")] * 600), "more than 512 parts"),
    ],
)
def test_broken_forms(body: bytes, message: str) -> None:
    assert message in refused(CaptionRequest, TYPE, body).message


def test_form_without_a_boundary() -> None:
    assert "names no boundary" in refused(CaptionRequest, "multipart/form-data", b"x").message


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"\xff", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"[" + b"1," * 30_000 + b"1]", 400, "more than 20,000 commas"),
        (b"[]", 422, "object"),
        (b"{}", 422, "exactly one of image, video"),
        (b'{"image": "a?b"}', 422, "field 'image': is not base64"),
        ('{"image": "gr\u00fcn"}'.encode(), 422, "field 'image': is not base64"),
        (b'{"image": ""}', 422, "field 'image'"),
        (b'{"image": 7}', 422, "field 'image'"),
        (b'{"image": "aaaa", "video": "aaaa"}', 422, "exactly one of"),
        (b'{"image": "aaaa", "num_beans": 3}', 422, "unknown field 'num_beans'; did you mean 'num_beams'?"),
        (b'{"image": "aaaa", "num_beams": 1e400}', 422, "field 'num_beams'"),
        (b'{"image": "aaaa", "num_beams": NaN}', 422, "field 'num_beams'"),
        (b'{"image": "aaaa", "num_beams": -Infinity}', 422, "field 'num_beams'"),
        (b'{"image": "aaaa", "prompt": "\\ud800"}', 400, "the body is not JSON"),
    ],
)
def test_wrong_json(body: bytes, status: int, message: str) -> None:
    found = refused(CaptionRequest, "application/json", body)
    assert (found.status, message in found.message) == (status, True), found.message


def test_a_million_wrong_values_are_few_errors() -> None:
    body = json.dumps({"text": [1] * 19_000}).encode()
    assert len(refused(EmbedRequest, "application/json", body).message) < 500


@pytest.mark.parametrize(
    ("where", "allowed"),
    [
        ("kind = 'video' AND (year > 3 OR year IN (1, 2))", True),
        ("path LIKE '%repeat(a%' AND lower(caption) = 'it''s (x)'", True),
        ("length(repeat(path, 1000000000)) > 1", False),
        ('"repeat"(path, 3) = 1', False),
        ("repeat/**/(path, 3) = 1", False),
        ("repeat --\n(path, 3) = 1", False),
        ("path = E'\\'' || repeat(path, 9) || ''", False),
        ("path = $$'$$ || repeat(path, 9) || $$'$$", False),
    ],
)
def test_filters_call_nothing_that_takes_the_machine(where: str, allowed: bool) -> None:
    body = json.dumps({"text": "a", "where": where}).encode()
    if allowed:
        assert parse(REQUESTS["search"], "application/json", body).where == where
    else:
        assert "field 'where'" in refused(REQUESTS["search"], "application/json", body).message


def test_scans_of_a_jpeg_are_counted_where_they_are() -> None:
    whole = many_scans(0)
    scans = count_scans(whole, 100)
    assert 5 <= scans <= 15
    assert count_scans(many_scans(7), 100) == scans + 7
    assert count_scans(many_scans(500), 100) == 101
    looks = b"\xff\xe5" + (2 + 900).to_bytes(2, "big") + b"\xff\xda\x00" * 300  # inside a segment
    assert count_scans(whole[:2] + looks + whole[2:] + b"\xff\xda" * 300, 100) == scans
    assert count_scans(b"\xff\xd8\xff", 100) == 0


@pytest.mark.parametrize(("width", "height"), [(2_000, 2_000), (20_000, 20_000), (65_000, 1)])
def test_an_animation_cannot_grow_beyond_its_limits(width: int, height: int) -> None:
    with Animation(growing_gif(width, height), "gif", VideoLimits(pixels=1_000_000, side=60_000)) as animation:
        assert animation.read([0]).shape == (1, 8, 8, 3)
        with pytest.raises(TooLarge, match="too"):
            animation.read([1])


def test_counting_frames_takes_a_limited_time() -> None:
    begun = time.monotonic()
    with pytest.raises(TooLarge, match=r"takes longer than 0\.2 seconds"):
        Animation(many_frames_gif(400_000), "gif", VideoLimits(work_seconds=0.2))
    assert time.monotonic() - begun < 5


def test_other_content_types() -> None:
    assert refused(CaptionRequest, "text/plain", b"x").status == 415
    assert refused(CaptionRequest, "", b"x").status == 415


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(REQUESTS)), st.sampled_from(["application/json", TYPE, "multipart/form-data; boundary=", "a/b"]), st.binary())
def test_any_bytes_are_refused_or_read(endpoint: str, content_type: str, body: bytes) -> None:
    try:
        parse(REQUESTS[endpoint], content_type, body)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text("abcdefgh", min_size=1), st.binary()), max_size=5))
def test_forms_come_back_as_they_were_sent(parts: list[tuple[str, bytes]]) -> None:
    boundary = "0123456789abcdefXYZ"
    pieces = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n" for name, content in parts
    ]
    found = read_form(f"multipart/form-data; boundary={boundary}", b"".join(pieces) + f"--{boundary}--\r\n".encode())
    assert [(name, content) for name, _, content in found] == parts


# --------------------------------------------------------------------------------------------------------------------- keys


def test_keys_from_file_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\n  key-of-the-first-client  \n")
    keys = read_keys(path, {"OPENMPLUG_API_KEYS": "key-of-the-second-client key-of-the-third-client"})
    assert len(keys) == 3
    for name in ("first", "second", "third"):
        assert keys.admit({"x-api-key": f"key-of-the-{name}-client"})
        assert keys.admit({"authorization": f"bearer key-of-the-{name}-client"})
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Bearer "}, {"authorization": "Basic key-of-the-first-client"}):
        assert not keys.admit(headers)
    assert not keys.admit({"x-api-key": "key-of-the-first-clien"})
    assert not keys.admit({"x-api-key": "\udcff"})


@pytest.mark.parametrize(
    ("content", "environment", "message"),
    [
        ("# nothing\n", {}, "holds no API key"),
        ("short\n", {}, "fewer than 16 characters"),
        (None, {}, "cannot read the API keys"),
        ("a-key-of-enough-length", {"OPENMPLUG_API_KEYS": " "}, "set and empty"),
        ("schlüssel-der-ersten-kundin", {}, "characters that a header cannot carry"),
    ],
)
def test_keys_that_are_none(tmp_path: Path, content: str | None, environment: dict[str, str], message: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_keys(path, environment)


def test_a_mark_at_the_beginning_of_the_file_is_no_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfkey-of-the-first-client\r\n")
    assert read_keys(tmp_path / "keys", {}).admit({"x-api-key": "key-of-the-first-client"})


def test_without_keys_everybody_is_admitted() -> None:
    assert read_keys(None, {}).admit({})
    assert not Keys(["a" * 16]).admit({"x-api-key": ""})


# ------------------------------------------------------------------------------------------------------------ metrics, logs


def test_histogram_counts_into_the_right_buckets() -> None:
    histogram = Histogram("h", "Help.", (1, 2, 4), ("endpoint",))
    for value in (1, 1.5, 2, 4, 5):
        histogram.observe(value, "caption")
    assert list(histogram.lines()) == [
        "# HELP h Help.",
        "# TYPE h histogram",
        'h_bucket{endpoint="caption",le="1"} 1',
        'h_bucket{endpoint="caption",le="2"} 3',
        'h_bucket{endpoint="caption",le="4"} 4',
        'h_bucket{endpoint="caption",le="+Inf"} 5',
        'h_sum{endpoint="caption"} 13.5',
        'h_count{endpoint="caption"} 5',
    ]


def test_counter_without_labels_begins_at_zero() -> None:
    assert list(Counter("c_total", "Help.").lines())[-1] == "c_total 0"


def test_metrics_are_text_that_prometheus_reads() -> None:
    metrics = Metrics([("a_gauge", "Help.", lambda: 2.5)])
    metrics.requests.add(1, "caption", "200")
    text = metrics.text()
    assert text.endswith("\n")
    assert "a_gauge 2.5\n" in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "a name is announced once"
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0


def test_logs_hold_nothing_of_what_was_sent() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    other = logging.getLogger("some.library")
    other.addHandler(handler)
    try:
        raise ValueError("the secret question")
    except ValueError:
        other.warning("failed on %s", "secret.png", exc_info=True)
    line = json.loads(stream.getvalue())
    assert "secret" not in stream.getvalue()
    assert line["error"] == "ValueError"
    assert line["trace"][0].startswith("test_parts.py:")
