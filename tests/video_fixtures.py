"""About ten records of every video benchmark in its official layout, with empty files in the place of the videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEN = range(10)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def msrvtt_qa(root: Path) -> dict[str, int]:
    rows = [{"answer": "man", "category_id": 14, "id": 158581 + n, "question": "who is painting?", "video_id": 6513 + n // 2} for n in TEN]
    for split in ("train", "val", "test"):
        write_json(root / f"{split}_qa.json", rows)
    touch(root / "TrainValVideo", *(f"video{6513 + n}.mp4" for n in range(5)))
    return {"train": 10, "val": 10, "test": 10}


def msvd_qa(root: Path) -> dict[str, int]:
    rows = [{"id": n, "video_id": 1 + n % 2, "question": "what is eating?", "answer": "squirrel"} for n in TEN]
    for split in ("train", "test"):
        write_json(root / f"{split}_qa.json", rows)
    write_lines(root / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1", "-7KMZQEsJW4_205_208 vid2")
    touch(root / "YouTubeClips", "-4wsuPCjDBc_5_15.avi", "-7KMZQEsJW4_205_208.avi")
    return {"train": 10, "test": 10}


def tgif_frameqa(root: Path) -> dict[str, int]:
    header = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription"
    rows = [
        "tumblr_a_250\twhat is the dog waving ?\ttail\t0\tFRAMEQA1\t5\ta dog waves .",
        'tumblr_b_250\thow many "men" are there ?\ttwo\t1\tFRAMEQA2\t6\ttwo "men" .',
    ]
    rows += [f"tumblr_a_250\twhat is the color of shirt {n} ?\tred\t2\tFRAMEQA{n}\t7\ta shirt ." for n in range(3, 11)]
    for split in ("Train", "Test"):
        write_lines(root / f"{split}_frameqa_question.csv", header, *rows)
    touch(root / "gifs", "tumblr_a_250.gif", "tumblr_b_250.gif")
    return {"train": 10, "test": 10}


def video_qa(root: Path) -> dict[str, int]:
    rows = [{"video_id": f"video{n // 2}", "question": "who sings?", "answer": "man", "answer_type": "who"} for n in TEN]
    for split in ("train", "test"):
        write_lines(root / f"{split}.jsonl", *map(json.dumps, rows))
    touch(root / "videos", *(f"video{n}.mp4" for n in range(5)))
    return {"train": 10, "test": 10}


def msrvtt(root: Path) -> dict[str, int]:
    def videos(first: int, split: str) -> list[dict[str, Any]]:
        return [
            {
                "category": 9,
                "url": "https://www.youtube.com/watch?v=x",
                "video_id": f"video{n}",
                "start time": 1.0,
                "end time": 9.0,
                "split": split,
                "id": n,
            }
            for n in range(first, first + 10)
        ]

    def sentences(first: int, count: int) -> list[dict[str, Any]]:
        texts = ("a man sings", "a singer on a stage")
        return [{"caption": text, "video_id": f"video{n}", "sen_id": n} for n in range(first, first + count) for text in texts]

    both = {"info": {}, "videos": videos(0, "train") + videos(10, "validate"), "sentences": sentences(0, 20)}
    write_json(root / "train_val_videodatainfo.json", both)
    write_json(root / "test_videodatainfo.json", {"info": {}, "videos": videos(7010, "test"), "sentences": sentences(7010, 10)})
    touch(root / "TrainValVideo", *(f"video{n}.mp4" for n in range(20)))
    touch(root / "TestVideo", *(f"video{n}.mp4" for n in range(7010, 7020)))
    return {"train": 10, "val": 10, "test": 10}


def msvd(root: Path) -> dict[str, int]:
    names = ["-4wsuPCjDBc_5_15", *(f"video_name_{n}_9" for n in range(9))]
    sentences = [f"{name} a squirrel {verb}" for name in names for verb in ("eats", "is eating")]
    write_lines(root / "AllVideoDescriptions.txt", "# MSR Video Description Corpus", "", *sentences)
    for split in ("train", "test"):
        write_lines(root / f"{split}_list.txt", *names)
    touch(root / "YouTubeClips", *(f"{name}.avi" for name in names))
    return {"train": 10, "test": 10}


def vatex(root: Path) -> dict[str, int]:
    rows = [{"videoID": f"x{n}_000122_000132", "enCap": ["A man cooks.", "Somebody is cooking."], "chCap": ["?"]} for n in TEN]
    for stem in ("training_v1.0", "validation_v1.0", "public_test_english_v1.1"):
        write_json(root / f"vatex_{stem}.json", rows)
    touch(root / "videos", *(f"x{n}_000122_000132.mp4" for n in TEN))
    return {"train": 10, "val": 10, "test": 10}


def mplug2_captions(root: Path) -> dict[str, int]:
    rows = [{"video_id": f"video{n}", "caption": text} for n in TEN for text in ("a man sings", "a man on a stage")]
    write_lines(root / "train.jsonl", *map(json.dumps, rows))
    write_lines(root / "test.jsonl", *(json.dumps({"video_id": f"video{n}", "golden_captions": ["a dog", "a puppy"]}) for n in TEN))
    touch(root / "videos", *(f"video{n}.mp4" for n in TEN))
    return {"train": 10, "test": 10}


def msrvtt_retrieval(root: Path) -> dict[str, int]:
    sentences = [{"caption": f"{text} {n}", "video_id": f"video{n}", "sen_id": n} for n in TEN for text in ("a car", "a car again")]
    write_json(root / "MSRVTT_data.json", {"videos": [{"video_id": f"video{n}", "split": "train"} for n in TEN], "sentences": sentences})
    for size in (9, 7):
        write_lines(root / f"MSRVTT_train.{size}k.csv", "video_id", *(f"video{n}" for n in TEN))
    rows = [f'ret{n},msr{n},video{9770 + n},"a person, connecting something"' for n in TEN]
    write_lines(root / "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence", *rows)
    touch(root / "MSRVTT_Videos", *(f"video{n}.mp4" for n in TEN), *(f"video{9770 + n}.mp4" for n in TEN))
    return {"train-9k": 10, "train-7k": 10, "test-1ka": 10}


def clip_captions(root: Path) -> dict[str, int]:
    for split in ("train", "test"):
        write_lines(root / f"{split}.jsonl", *(json.dumps({"clip_name": f"video{n}", "caption": f"a car {n}"}) for n in TEN))
    touch(root / "videos", *(f"video{n}.mp4" for n in TEN))
    return {"train": 10, "test": 10}


def didemo(root: Path) -> dict[str, int]:
    texts = ("a dog runs", "The dog stops.")
    rows = [
        {"annotation_id": 2 * n + m, "video": f"{n + 11}@N00_{n + 1}_aa.avi", "description": text, "times": [[0, 0]], "num_segments": 6}
        for n in TEN
        for m, text in enumerate(texts)
    ]
    for split in ("train", "val", "test"):
        write_json(root / f"{split}_data.json", rows)
    touch(root / "videos", *(f"{n + 11}@N00_{n + 1}_aa.mp4" for n in TEN))
    return {"train": 10, "val": 10, "test": 10}


def lsmdc(root: Path) -> dict[str, int]:
    names = ["0001_Film_00.00.51.926-00.00.54.129", *(f"0001_Film_00.01.0{n}.100-00.01.0{n}.900" for n in range(9))]
    rows = [f'{name}\t00.00.51.926\t00.00.54.129\t00.00.51.815\t00.00.54.024\tSomeone says "hello, you".' for name in names]
    for stem in ("annos_training", "annos_val", "challenge_1000_publictect"):
        write_lines(root / f"LSMDC16_{stem}.csv", *rows)
    touch(root / "0001_Film", *(f"{name}.avi" for name in names))
    return {"train": 10, "val": 10, "test": 10}


def kinetics(root: Path) -> dict[str, int]:
    rows = ["testifying,---QUuC4vJs,84,94,train", *(f'"eating, fast",id{n},{n},{n + 10},train' for n in range(9))]
    for split in ("train", "val"):
        write_lines(root / f"{split}.csv", "label,youtube_id,time_start,time_end,split", *rows)
        touch(root / split, "testifying/---QUuC4vJs_000084_000094.mp4", *(f"eating, fast/id{n}_{n:06d}_{n + 10:06d}.mp4" for n in range(9)))
    return {"train": 10, "val": 10}


def action_list(root: Path) -> dict[str, int]:
    write_lines(root / "classes.txt", "abseiling", "arm wrestling")
    for split in ("train", "val"):
        write_lines(root / f"{split}.txt", *(f"clip {n}.mp4 {n % 2}" for n in TEN))
    touch(root / "videos", *(f"clip {n}.mp4" for n in TEN))
    return {"train": 10, "val": 10}


def ssv2(root: Path) -> dict[str, int]:
    row = {"label": "holding potato next to vicks vaporub bottle", "template": "Holding [something] next to [something]"}
    rows = [{"id": str(78687 + n), **row, "placeholders": ["potato", "vicks vaporub bottle"]} for n in TEN]
    for split in ("train", "validation"):
        write_json(root / f"something-something-v2-{split}.json", rows)
    write_json(root / "something-something-v2-labels.json", {"Holding something next to something": "0"})
    touch(root / "20bn-something-something-v2", *(f"{78687 + n}.webm" for n in TEN))
    return {"train": 10, "val": 10}


WRITERS: dict[str, Callable[[Path], dict[str, int]]] = {
    write.__name__: write
    for write in (
        msrvtt_qa, msvd_qa, tgif_frameqa, video_qa, msrvtt, msvd, vatex, mplug2_captions, msrvtt_retrieval, clip_captions, didemo, lsmdc,
        kinetics, action_list, ssv2,
    )
}  # fmt: skip
"""Name of a reader -> what writes its files into a folder; it returns how many samples each split has."""
