"""Folders of classes, GLUE's tables, pairs of line files, plain lines, and labels in one's own files."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from openmplug.data.readers import READERS, Split
from openmplug.data.splits import DataSettings, read_training
from openmplug.errors import DataError, UsageError


def read(reader: str, root: Path, split: str, columns: dict[str, str | None] | None = None) -> Split:
    return READERS[reader](root, split, columns or {})


def png(colour: tuple[int, int, int] = (200, 10, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return root


# --------------------------------------------------------------------------------------------------------------- class folders


def test_class_folders(tmp_path: Path) -> None:
    split = read("class_folders", class_folders(tmp_path, "train/dog/2.png", "train/cat/1.png", "train/cat/notes.jpg.txt"), "train")
    assert [(one.id, one.image, one.targets, one.references) for one in split.samples] == [
        ("cat/1.png", "cat/1.png", ("cat",), ("cat",)),
        ("dog/2.png", "dog/2.png", ("dog",), ("dog",)),
    ]
    assert split.images.open("cat/1.png").size == (8, 8)


@pytest.mark.parametrize("top", ["", "val/"])
def test_an_archive_of_class_folders(tmp_path: Path, top: str) -> None:
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        for name in ("b/1.png", "a/1.png"):
            archive.writestr(top + name, png())
    split = read("class_folders", tmp_path, "val")
    assert [(one.id, one.targets) for one in split.samples] == [("a/1.png", ("a",)), ("b/1.png", ("b",))]
    assert split.images.open("b/1.png").mode == "RGB"


def test_imagenets_synsets_have_names(tmp_path: Path) -> None:
    root = class_folders(tmp_path, "val/n02012849/a.JPEG", "val/n03126707/b.JPEG", "val/n01440764/c.JPEG")
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n")
    samples = read("class_folders", root, "val").samples
    assert [one.targets[0] for one in samples] == ["tench", "crane (n02012849)", "crane (n03126707)"]
    assert samples[0].extra == {"folder": "n01440764"}


def test_folders_without_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"picture '1\.png' in folder .* lies in no class; expected train/CLASS/1\.png"):
        read("class_folders", class_folders(tmp_path, "train/1.png"), "train")
    (tmp_path / "dev").mkdir()
    with pytest.raises(DataError, match=r"no pictures in folder .*; expected dev/CLASS/PICTURE\.jpg"):
        read("class_folders", tmp_path, "dev")
    with pytest.raises(DataError, match=r"no pictures at .*test: expected that folder, test\.tar or test\.zip; found dev, train"):
        read("class_folders", tmp_path, "test")


def test_cifar10(data_root: Path) -> None:
    split = read("class_folders", data_root / "cifar10", "dev")
    assert Counter(one.targets[0] for one in split.samples) == dict.fromkeys(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"), 200
    )
    assert split.images.open(split.samples[0].image or "").size == (32, 32)


# ------------------------------------------------------------------------------------------------------------------------ GLUE

# Task, file, its official header, a row in its layout (cells parted by |), and the text and label that are meant.
TABLES = {
    "cola/train": ("CoLA/train.tsv", "", "gj04|0|*|They drank the pub dry.", "They drank the pub dry.", "0"),
    "sst2/dev": ("SST-2/dev.tsv", "sentence|label", '"quoted" words |1', '"quoted" words ', "1"),
    "mrpc/train": (
        "MRPC/msr_paraphrase_train.txt",
        "Quality|#1 ID|#2 ID|#1 String|#2 String",
        '1|7|8|A "b|C',
        'A "b [SEP] C',
        "1",
    ),
    "stsb/dev": (
        "STS-B/dev.tsv",
        "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
        "0|main-captions|MSRvid|2012test|0000|none|none|A man.|A woman.|2.600",
        "A man. [SEP] A woman.",
        "2.600",
    ),
    "qqp/train": ("QQP/train.tsv", "id|qid1|qid2|question1|question2|is_duplicate", "1|2|3|Why?|Who?|0", "Why? [SEP] Who?", "0"),
    "mnli/dev_matched": (
        "MNLI/dev_matched.tsv",
        "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse|sentence1|sentence2|"
        "label1|label2|label3|label4|label5|gold_label",
        "0|1|1n|slate|( a )|( b )|(A)|(B)|So it is.|It is.|neutral|||||entailment",
        "So it is. [SEP] It is.",
        "entailment",
    ),
    "qnli/train": (
        "QNLI/train.tsv",
        "index|question|sentence|label",
        "0|When?|Then.|not_entailment",
        "When? [SEP] Then.",
        "not_entailment",
    ),
    "rte/train": ("RTE/train.tsv", "index|sentence1|sentence2|label", "0|Rain.|Sun.|entailment", "Rain. [SEP] Sun.", "entailment"),
}


@pytest.mark.parametrize("split", TABLES)
def test_glue_as_downloaded(tmp_path: Path, split: str) -> None:
    name, header, row, text, label = TABLES[split]
    (tmp_path / name).parent.mkdir()
    lines = [line.replace("|", "\t") for line in (header, row, row) if line]
    (tmp_path / name).write_text("\n".join(lines) + "\r\n", encoding="utf-8")
    samples = read("glue", tmp_path, split).samples
    assert [(one.id, one.image, one.text, one.targets, one.references) for one in samples] == [
        (str(number), None, text, (label,), (label,)) for number in range(2)
    ]
    assert read("glue", (tmp_path / name).parent, split).samples == samples


def test_glue_test_files_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA" / "test.tsv").write_text("index\tsentence\n0\tBill whistled.\n")
    assert read("glue", tmp_path, "cola/test").samples[0].targets == ()


def test_glue_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"split 'colla/train' of reader glue; did you mean 'cola'.*: expected TASK/FILE"):
        read("glue", tmp_path, "colla/train")
    with pytest.raises(UsageError, match="expected TASK/FILE, such as cola/train"):
        read("glue", tmp_path, "cola")
    (tmp_path / "RTE").mkdir()
    with pytest.raises(DataError, match=r"GLUE RTE split 'train' not found in .*: expected train\.tsv"):
        read("glue", tmp_path, "rte/train")
    path = tmp_path / "RTE" / "train.tsv"
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match=r"train\.tsv line 1: found 'a, b', expected a header with label, sentence1, sentence2"):
        read("glue", tmp_path, "rte/train")
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tx\n1\ta\tb\n")
    with pytest.raises(DataError, match=r"train\.tsv line 3: 3 cells, expected 4, parted by tabs"):
        read("glue", tmp_path, "rte/train")
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\t\tb\tx\n")
    with pytest.raises(DataError, match=r"train\.tsv line 2: no 'sentence1'"):
        read("glue", tmp_path, "rte/train")
    path.write_text("index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(DataError, match=r"train\.tsv has no records"):
        read("glue", tmp_path, "rte/train")


def test_several_tasks_joined(tmp_path: Path) -> None:
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text(f"sentence\tlabel\n{part} words\t1\n")
    joined = read_training(DataSettings(reader="glue", root=tmp_path, train=["sst2/train", "sst2/dev"]))
    assert [(one.id, one.text) for one in joined.samples] == [("sst2/train/0", "train words"), ("sst2/dev/0", "dev words")]


# ----------------------------------------------------------------------------------------------------------------- line files


@pytest.mark.parametrize(
    "names", [("train.src.txt", "train.tgt.txt"), ("train/train.article.txt", "train/train.title.txt"), ("train.src", "train.tgt")]
)
def test_gigaword(tmp_path: Path, names: tuple[str, str]) -> None:
    (tmp_path / names[0]).parent.mkdir(exist_ok=True)
    (tmp_path / names[0]).write_text("police arrested five protesters\n\nshares fell # percent\n")
    (tmp_path / names[1]).write_text("five held\nlost\nshares fall\n")
    samples = read("line_pairs", tmp_path, "train").samples
    assert [(one.id, one.text, one.targets, one.references) for one in samples] == [
        ("0", "police arrested five protesters", ("five held",), ("five held",)),
        ("2", "shares fell # percent", ("shares fall",), ("shares fall",)),
    ]


def test_gigawords_filtered_validation_files(tmp_path: Path) -> None:
    (tmp_path / "valid.article.filter.txt").write_text("a b c\n")
    with pytest.raises(DataError, match=r"the other file of split 'valid' not found in .*: expected valid\.title\.filter\.txt"):
        read("line_pairs", tmp_path, "valid")
    (tmp_path / "valid.title.filter.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"valid\.article\.filter\.txt has 1 lines and .*valid\.title\.filter\.txt 2; expected as many"):
        read("line_pairs", tmp_path, "valid")
    (tmp_path / "valid.title.filter.txt").write_text("a\n")
    assert read("line_pairs", tmp_path, "valid").samples[0].targets == ("a",)


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one line\n\n another \n")
    assert [(one.id, one.text, one.targets) for one in read("lines", tmp_path, "train").samples] == [
        ("0", "one line", ()),
        ("2", "another", ()),
    ]
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"empty\.txt has no words; expected one text per line"):
        read("lines", tmp_path, "empty")


# -------------------------------------------------------------------------------------------------------------- your own files


def own(root: Path, *rows: dict[str, object]) -> Path:
    (root / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def test_labels_of_ones_own(tmp_path: Path) -> None:
    (first,) = read("jsonl", own(tmp_path, {"image": "a.jpg", "label": 3, "source": "x"}), "dev").samples
    assert (first.image, first.text, first.targets, first.extra) == ("a.jpg", None, ("3",), {"label": 3, "source": "x"})
    (first,) = read("jsonl", own(tmp_path, {"text": "good", "label": True}), "dev").samples
    assert (first.image, first.image_index, first.text, first.targets) == (None, -1, "good", ("true",))
    (first,) = read("jsonl", own(tmp_path, {"text": "good", "text2": "bad", "label": 1}), "dev").samples
    assert first.text == "good [SEP] bad"
    (first,) = read("jsonl", own(tmp_path, {"video": "a.mp4", "label": "jump"}), "dev").samples
    assert (first.image, first.clip, first.text, first.targets) == ("a.mp4", True, None, ("jump",))
    renamed = {"text": "a", "text2": "b", "label": "score"}
    (first,) = read("jsonl", own(tmp_path, {"a": "x", "b": "y", "score": 2.5}), "dev", dict(renamed)).samples
    assert (first.text, first.references, first.extra) == ("x [SEP] y", ("2.5",), {"score": 2.5})


def test_labels_may_be_declared_absent(tmp_path: Path) -> None:
    root = own(tmp_path, {"text": "good"})
    assert read("jsonl", root, "dev", {"label": None}).samples[0].targets == ()
    with pytest.raises(DataError, match=r"dev\.jsonl line 1: no 'label'; found text"):
        read("jsonl", root, "dev")
    with pytest.raises(DataError, match=r"line 1: no 'text' or 'image' or 'video'; found label"):
        read("jsonl", own(tmp_path, {"label": "1"}), "dev")


def test_summaries_of_ones_own(tmp_path: Path) -> None:
    (first,) = read("jsonl", own(tmp_path, {"text": "a long story", "summary": "story", "label": "x"}), "dev").samples
    assert (first.image, first.text, first.targets, first.extra) == (None, "a long story", ("story",), {"label": "x"})


def test_glue_in_jsonl(data_root: Path) -> None:
    columns: dict[str, str | None] = {"text": "sentence1", "text2": "sentence2", "label": "score"}
    split = read("jsonl", data_root / "glue", "stsb_valid", columns)
    assert len(split.samples) == 624 and all(0 <= float(one.targets[0]) <= 5 for one in split.samples)
    assert Counter(one.targets[0] for one in read("jsonl", data_root / "glue", "cola_valid", {"text": "sentence"}).samples).keys() == {
        "0",
        "1",
    }
