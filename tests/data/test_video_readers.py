"""Official files of the video benchmarks, ten records each in their own layout, and the one line each broken one gives."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from openmplug.data.readers import READERS, Split
from openmplug.data.readers.video_questions import read_answers
from openmplug.errors import DataError
from video_fixtures import WRITERS, write_json, write_lines


def read(reader: str, root: Path, split: str) -> Split:
    return READERS[reader](root, split, {})


def names(split: Split) -> list[str | None]:
    return [sample.image for sample in split.samples]


@pytest.mark.parametrize("reader", sorted(WRITERS))
def test_every_fixture_is_read_whole(reader: str, tmp_path: Path) -> None:
    splits = WRITERS[reader](tmp_path)
    for name, expected in splits.items():
        split = read(reader, tmp_path, name)
        assert len(split.samples) == expected, name
        assert all(sample.clip and sample.targets and sample.image in split.images for sample in split.samples)
        assert len({sample.id for sample in split.samples}) == expected
        numbers = {sample.image: sample.image_index for sample in split.samples}
        assert sorted(numbers.values()) == list(range(len(numbers)))


@pytest.mark.parametrize("reader", sorted(WRITERS))
def test_a_missing_file_is_named(reader: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found in .*: expected .*; found no \.jsonl, \.csv, \.json or \.txt file"):
        read(reader, tmp_path, "test-1ka" if reader == "msrvtt_retrieval" else "train")
    with pytest.raises(DataError, match=r"does not exist; set data\.root"):
        read(reader, tmp_path / "nowhere", "test-1ka" if reader == "msrvtt_retrieval" else "train")


# ------------------------------------------------------------------------------------------------------------- questions


def test_msrvtt_qa(tmp_path: Path) -> None:
    WRITERS["msrvtt_qa"](tmp_path)
    first = read("msrvtt_qa", tmp_path, "train").samples[0]
    assert (first.id, first.image, first.text, first.targets) == ("158581", "TrainValVideo/video6513.mp4", "who is painting?", ("man",))
    assert first.weights == (1.0,) and first.references == ("man",) and first.extra == {"question_id": 158581, "video_id": 6513}


def test_msvd_qa_finds_videos_by_number_or_by_their_youtube_names(tmp_path: Path) -> None:
    WRITERS["msvd_qa"](tmp_path)
    assert read("msvd_qa", tmp_path, "train").samples[0].image == "-4wsuPCjDBc_5_15.avi"
    (tmp_path / "youtube_mapping.txt").unlink()
    assert read("msvd_qa", tmp_path, "train").samples[0].image == "vid1.mp4"  # not there; data check says so
    (tmp_path / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15\n")
    with pytest.raises(DataError, match=r"youtube_mapping\.txt line 1: 1 words, expected two: the YouTube name and the number"):
        read("msvd_qa", tmp_path, "train")


def test_tgif_frame_questions(tmp_path: Path) -> None:
    WRITERS["tgif_frameqa"](tmp_path)
    second = read("tgif_frameqa", tmp_path, "test").samples[1]
    assert (second.id, second.image, second.targets) == ("FRAMEQA2", "tumblr_b_250.gif", ("two",))
    assert second.text == 'how many "men" are there ?' and second.extra == {"vid_id": "FRAMEQA2", "type": "1"}


def test_tgif_frame_questions_of_the_authors_own_file(data_root: Path, tmp_path: Path) -> None:
    rows = (data_root / "format_samples" / "tgif_qa_frameqa10.tsv").read_text(encoding="utf-8")
    (tmp_path / "Test_frameqa_question.csv").write_text(rows, encoding="utf-8")
    samples = read("tgif_frameqa", tmp_path, "test").samples
    assert len(samples) == 10 and samples[0].image == "tumblr_no73q2fm0I1uuf348o1_250.gif"
    assert (samples[0].id, samples[0].text) == ("FRAMEQA1159", "what is being placed in the white ice cream cone ?")
    assert samples[0].targets == ("cookie",)


def test_lists_of_the_released_scripts(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", *(json.dumps(row) for row in ({"video_id": "video7010", "question": "who?", "answer": "man"},)))
    (sample,) = read("video_qa", tmp_path, "test").samples
    assert (sample.id, sample.image, sample.extra) == ("0", "video7010.mp4", {"question_id": 0, "video_id": "video7010"})
    write_lines(tmp_path / "blind.jsonl", '{"clip_name": "a", "question": "who?"}')
    assert read("video_qa", tmp_path, "blind").samples[0].targets == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "who?", "answer": "man"}, r"train_qa\.json record 1: no 'video_id'; found answer, question"),
        ({"video_id": 1, "answer": "man"}, r"train_qa\.json record 1: no 'question'; found answer, video_id"),
        ({"video_id": 1, "question": 5, "answer": "man"}, r"train_qa\.json record 1: 'question' must be a text, got 5"),
        ({"video_id": 1, "question": "who?", "answer": ["a"]}, r"train_qa\.json record 1: 'answer' must be one text, got \['a'\]"),
    ],
)
def test_broken_questions(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "train_qa.json", [row])
    with pytest.raises(DataError, match=message):
        read("msrvtt_qa", tmp_path, "train")


def test_candidate_answers(tmp_path: Path) -> None:
    write_json(tmp_path / "train_ans2label.json", {"man": 0, "cook": 1, "2": 2})
    write_json(tmp_path / "list.json", ["man", "cook", "man"])
    write_lines(tmp_path / "list.jsonl", '{"answer": "a man"}', '{"answer": "cook"}')
    write_lines(tmp_path / "list.txt", "a man", "", "cook")
    assert read_answers(tmp_path / "train_ans2label.json") == ("man", "cook", "2")
    assert read_answers(tmp_path / "list.json") == ("man", "cook")
    assert read_answers(tmp_path / "list.jsonl") == read_answers(tmp_path / "list.txt") == ("a man", "cook")
    write_json(tmp_path / "none.json", [])
    with pytest.raises(DataError, match=r"none\.json holds no answer; expected a list of texts"):
        read_answers(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"list of answers .*nowhere\.json does not exist; give a \.json, \.jsonl or \.txt file"):
        read_answers(tmp_path / "nowhere.json")
    write_json(tmp_path / "text.json", "man")
    with pytest.raises(DataError, match=r"text\.json: expected a list or an object at the top level, got str"):
        read_answers(tmp_path / "text.json")
    write_json(tmp_path / "deep.json", [["man"]])
    with pytest.raises(DataError, match=r"deep\.json record 1: an answer must be a text, got \['man'\]"):
        read_answers(tmp_path / "deep.json")


# -------------------------------------------------------------------------------------------------------------- captions


def test_msrvtt(tmp_path: Path) -> None:
    WRITERS["msrvtt"](tmp_path)
    first, *_ = read("msrvtt", tmp_path, "test").samples
    assert (first.id, first.image, first.targets) == ("video7010", "video7010.mp4", ("a man sings", "a singer on a stage"))
    assert first.references == first.targets and first.extra == {"video_id": "video7010"}
    assert names(read("msrvtt", tmp_path, "validate")) == names(read("msrvtt", tmp_path, "val"))
    with pytest.raises(DataError, match="has no video of split 'dev'; its splits are train, validate"):
        read("msrvtt", tmp_path, "dev")


def test_msrvtt_in_one_file(tmp_path: Path) -> None:
    videos = [{"video_id": f"video{n}", "split": split} for n, split in enumerate(("train", "test"))]
    write_json(tmp_path / "MSRVTT_data.json", {"videos": videos, "sentences": [{"video_id": "video1", "caption": "a dog", "sen_id": 0}]})
    assert read("msrvtt", tmp_path, "test").samples[0].targets == ("a dog",)
    with pytest.raises(DataError, match="video 'video0' of split 'train' has no sentence; the lists of videos and sentences must belong"):
        read("msrvtt", tmp_path, "train")


def test_msvd_from_its_corpus_and_from_a_list(tmp_path: Path) -> None:
    WRITERS["msvd"](tmp_path)
    first = read("msvd", tmp_path, "train").samples[0]
    assert (first.id, first.image, first.targets) == (
        "-4wsuPCjDBc_5_15",
        "-4wsuPCjDBc_5_15.avi",
        ("a squirrel eats", "a squirrel is eating"),
    )
    write_lines(tmp_path / "AllVideoDescriptions.txt", "-4wsuPCjDBc_5_15")
    with pytest.raises(DataError, match=r"AllVideoDescriptions\.txt line 1: one word, expected a video's name and a sentence"):
        read("msvd", tmp_path, "train")


def test_msvd_of_the_authors_own_sentences(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes((data_root / "format_samples" / "msvd_captions20.json").read_bytes())
    samples = read("msvd", tmp_path, "train").samples
    assert len(samples) == 20 and samples[0].id == "IBgsLmDcL78_80_84.avi" == samples[0].image
    assert samples[0].references[0] == "A man slicing butter into a bowl." and len(samples[0].references) == 20


def test_vatex_in_english_and_its_private_test(tmp_path: Path) -> None:
    WRITERS["vatex"](tmp_path)
    assert read("vatex", tmp_path, "val").samples[0].targets == ("A man cooks.", "Somebody is cooking.")
    write_json(tmp_path / "vatex_private_test_without_annotations.json", [{"videoID": "x_000000_000010"}])
    (silent,) = read("vatex", tmp_path, "private_test").samples
    assert silent.targets == () and silent.image == "x_000000_000010.mp4"


def test_caption_lists_of_the_released_mplug2_scripts(tmp_path: Path) -> None:
    WRITERS["mplug2_captions"](tmp_path)
    assert read("mplug2_captions", tmp_path, "train").samples[0].targets == ("a man sings", "a man on a stage")
    assert read("mplug2_captions", tmp_path, "test").samples[0].references == ("a dog", "a puppy")
    write_lines(tmp_path / "bad.jsonl", '{"video_id": "video1", "golden_captions": 7}')
    with pytest.raises(DataError, match=r"bad\.jsonl line 1: 'golden_captions' must be a text or a list of texts, got 7"):
        read("mplug2_captions", tmp_path, "bad")
    write_lines(tmp_path / "empty.jsonl", '{"video_id": "video1", "caption": " "}')
    with pytest.raises(DataError, match=r"empty\.jsonl line 1: a caption must be a text, got ' '"):
        read("mplug2_captions", tmp_path, "empty")


# ------------------------------------------------------------------------------------------------------------- retrieval


def test_msrvtt_retrieval(tmp_path: Path) -> None:
    WRITERS["msrvtt_retrieval"](tmp_path)
    train, test = read("msrvtt_retrieval", tmp_path, "train-9k").samples[0], read("msrvtt_retrieval", tmp_path, "test-1ka").samples[0]
    assert (train.image, train.targets) == ("video0.mp4", ("a car 0", "a car again 0"))
    assert (test.id, test.targets) == ("video9770", ("a person, connecting something",))
    with pytest.raises(DataError, match="MSR-VTT retrieval has no split 'test'; expected train-9k, train-7k or test-1ka"):
        read("msrvtt_retrieval", tmp_path, "test")


def test_didemo_makes_paragraphs(tmp_path: Path) -> None:
    WRITERS["didemo"](tmp_path)
    first = read("didemo", tmp_path, "train").samples[0]
    assert first.targets == ("a dog runs. The dog stops.",) and first.image == "11@N00_1_aa.mp4"  # the list says .avi


def test_lsmdc(tmp_path: Path) -> None:
    WRITERS["lsmdc"](tmp_path)
    first = read("lsmdc", tmp_path, "train").samples[0]
    assert first.image == "0001_Film/0001_Film_00.00.51.926-00.00.54.129.avi" and first.targets == ('Someone says "hello, you".',)
    write_lines(tmp_path / "LSMDC16_annos_val.csv", "name\t1\t2")
    with pytest.raises(DataError, match=r"LSMDC16_annos_val\.csv line 1: 3 cells, expected six separated by tabs"):
        read("lsmdc", tmp_path, "val")
    with pytest.raises(DataError, match="LSMDC has no split 'dev'; expected train, val, test"):
        read("lsmdc", tmp_path, "dev")


# --------------------------------------------------------------------------------------------------------------- actions


def test_kinetics(tmp_path: Path) -> None:
    WRITERS["kinetics"](tmp_path)
    first = read("kinetics", tmp_path, "train").samples[0]
    assert (first.id, first.image, first.targets) == (
        "---QUuC4vJs_000084_000094",
        "testifying/---QUuC4vJs_000084_000094.mp4",
        ("testifying",),
    )
    write_lines(tmp_path / "test.csv", "youtube_id,time_start,time_end,split", "a,1,11,test")
    assert read("kinetics", tmp_path, "test").samples[0].targets == ()
    write_lines(tmp_path / "val.csv", "label,youtube_id,time_start,time_end,split", "x,a,soon,11,test")
    with pytest.raises(DataError, match=r"val\.csv line 2: 'time_start' must be a number of seconds, got 'soon'"):
        read("kinetics", tmp_path, "val")


def test_lists_of_paths_and_labels(tmp_path: Path) -> None:
    WRITERS["action_list"](tmp_path)
    assert read("action_list", tmp_path, "train").samples[1].targets == ("arm wrestling",)
    write_lines(tmp_path / "val.txt", "clip 0.mp4 7")
    with pytest.raises(DataError, match=r"val\.txt line 1: label '7' has no line in classes\.txt, which has 2 classes, counted from 0"):
        read("action_list", tmp_path, "val")
    (tmp_path / "classes.txt").unlink()
    (sample,) = read("action_list", tmp_path, "val").samples
    assert (sample.image, sample.targets) == ("clip 0.mp4", ("7",))
    write_lines(tmp_path / "val.txt", "clip0.mp4")
    with pytest.raises(DataError, match=r"val\.txt line 1: 'clip0\.mp4', expected a path and a label, separated by a tab, a comma or a"):
        read("action_list", tmp_path, "val")


def test_something_something(tmp_path: Path) -> None:
    WRITERS["ssv2"](tmp_path)
    first = read("ssv2", tmp_path, "val").samples[0]
    assert (first.id, first.image, first.targets) == ("78687", "78687.webm", ("Holding something next to something",))
    assert first.extra == {"label": "holding potato next to vicks vaporub bottle"}
    write_json(tmp_path / "something-something-v2-train.json", [{"id": "1", "template": "Flying [something]", "label": "x"}])
    with pytest.raises(
        DataError, match=r"train\.json record 1: 'Flying something' is none of the 1 classes of something-something-v2-labels"
    ):
        read("ssv2", tmp_path, "train")


# ----------------------------------------------------------------------------------------------------------- video files


def test_a_video_is_found_with_any_suffix_in_any_folder_in_an_archive_or_as_frames(tmp_path: Path) -> None:
    write_json(tmp_path / "train_qa.json", [{"video_id": n, "question": "who?", "answer": "man", "id": n} for n in range(4)])
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "video0.WEBM").touch()
    (tmp_path / "video1.mkv").touch()
    (tmp_path / "frames" / "video2").mkdir(parents=True)
    (tmp_path / "frames" / "video2" / "0001.jpg").touch()
    assert names(read("msrvtt_qa", tmp_path, "train")) == ["deep/er/video0.WEBM", "video1.mkv", "frames/video2", "video3.mp4"]
    with zipfile.ZipFile(tmp_path / "video.zip", "w") as archive:
        archive.writestr("x/video3.gif", b"GIF89a")
    split = read("msrvtt_qa", tmp_path, "train")
    assert names(split)[3] == "video3.gif" and "video3.gif" in split.images
