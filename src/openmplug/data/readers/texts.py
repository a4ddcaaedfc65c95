"""Words without pictures in their official files: GLUE's tables, Gigaword's two line files, plain lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from openmplug.batch import Sample
from openmplug.config import did_you_mean
from openmplug.data.images import FolderImages
from openmplug.data.readers.files import find_file, read_text
from openmplug.data.readers.split import Split
from openmplug.data.text import sentence_pair
from openmplug.errors import DataError, UsageError


class _Table(NamedTuple):
    """A GLUE task: its folder, its columns by name, and other names of its files."""

    folder: str
    texts: tuple[str, ...]
    label: str
    files: Mapping[str, str] = {}
    columns: tuple[str, ...] = ()  # of a file without a header


_GLUE = {
    "cola": _Table("CoLA", ("sentence",), "label", columns=("source", "label", "mark", "sentence")),
    "sst2": _Table("SST-2", ("sentence",), "label"),
    "mrpc": _Table(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt", "dev": "msr_paraphrase_test.txt"},
    ),
    "stsb": _Table("STS-B", ("sentence1", "sentence2"), "score"),
    "qqp": _Table("QQP", ("question1", "question2"), "is_duplicate"),
    "mnli": _Table("MNLI", ("sentence1", "sentence2"), "gold_label"),
    "qnli": _Table("QNLI", ("question", "sentence"), "label"),
    "rte": _Table("RTE", ("sentence1", "sentence2"), "label"),
}


def read_glue(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read a table of GLUE as downloaded.

    Args:
        root: Holds ``CoLA/``, ``SST-2/``, ``MRPC/``, ``STS-B/``, ``QQP/``, ``MNLI/``, ``QNLI/``, ``RTE/`` (or is one of them) with
            ``train.tsv``, ``dev.tsv`` (MNLI ``dev_matched.tsv``, ``dev_mismatched.tsv``) and ``test.tsv``; of MRPC also Microsoft's
            own ``msr_paraphrase_train.txt`` and ``msr_paraphrase_test.txt``.
        split: Task and file, such as ``cola/train`` or ``mnli/dev_matched``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per row, its number from 0 as id; a pair's sentences are joined by ``[SEP]``. Test files have no labels.

    Raises:
        UsageError: If ``split`` names no task of GLUE.
        DataError: If the file is missing, has other columns, or a row has another number of cells.
    """
    task, _, part = split.partition("/")
    table = _GLUE.get(task)
    if table is None or not part:
        hint = did_you_mean(task, _GLUE) if table is None else ""
        raise UsageError(f"split '{split}' of reader glue{hint}: expected TASK/FILE, such as cola/train; tasks are {', '.join(_GLUE)}")
    folder = root / table.folder if (root / table.folder).is_dir() else root
    names = (f"{part}.tsv", *((table.files[part],) if part in table.files else ()))
    samples: list[Sample] = []
    for where, row in _rows(find_file(folder, names, f"GLUE {table.folder} split '{part}'"), table):
        missing = next((name for name in table.texts if not row.get(name)), None)
        if missing is not None:
            raise DataError(f"{where}: no '{missing}'; found {', '.join(row)}")
        texts = [row[name] for name in table.texts]
        label = row.get(table.label)
        labels = () if label is None else (label,)
        text = texts[0] if len(texts) == 1 else sentence_pair(*texts)
        samples.append(Sample(str(len(samples)), None, text, labels, (1.0,) * len(labels), labels))
    return Split(split, samples, FolderImages(folder))


def _rows(path: Path, table: _Table) -> Iterator[tuple[str, dict[str, str]]]:
    # Cells are never quoted: a quotation mark is a letter like any other. Not splitlines(): cells hold U+2028 and the like.
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    header = tuple(lines[0].split("\t"))
    known = {*table.texts, table.label}
    begin = 1
    if not known & set(header):
        if not table.columns or len(header) != len(table.columns):
            raise DataError(f"{path} line 1: found {', '.join(header)[:80]!r}, expected a header with {', '.join(sorted(known))}")
        header, begin = table.columns, 0
    empty = True
    for number, line in enumerate(lines[begin:], start=begin + 1):
        if not line:
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise DataError(f"{path} line {number}: {len(cells)} cells, expected {len(header)}, parted by tabs; correct or remove the line")
        empty = False
        yield f"{path} line {number}", dict(zip(header, cells, strict=True))
    if empty:
        raise DataError(f"{path} has no records; expected one line for each")


_LINE_FILES = ("{split}.src.txt", "{split}.tgt.txt"), ("{split}.article.txt", "{split}.title.txt"), ("{split}.src", "{split}.tgt")
_FILTERED = ("{split}.article.filter.txt", "{split}.title.filter.txt")  # the validation set of the harvardnlp release


def read_line_pairs(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read texts and their summaries from two files of as many lines: Gigaword.

    Args:
        root: Holds ``{split}.src.txt`` and ``{split}.tgt.txt``, or ``{split}.article.txt`` and ``{split}.title.txt`` (also
            ``.filter.txt``), or ``{split}.src`` and ``{split}.tgt``; itself or in a folder ``{split}``.
        split: Stem of the files.
        columns: Not used; the format is fixed.

    Returns:
        One sample per line, its number from 0 as id. Lines empty on either side are left out, as in all uses of these files.

    Raises:
        DataError: If the files are missing or differ in length.
    """
    patterns = [*_LINE_FILES, _FILTERED]
    folder = root / split if (root / split).is_dir() else root
    source = find_file(folder, [first.format(split=split) for first, _ in patterns], f"texts of split '{split}'")
    target = next(folder / second.format(split=split) for first, second in patterns if first.format(split=split) == source.name)
    texts, summaries = (_lines(find_file(folder, (path.name,), f"the other file of split '{split}'")) for path in (source, target))
    if len(texts) != len(summaries):
        raise DataError(f"{source} has {len(texts):,} lines and {target} {len(summaries):,}; expected as many, line by line")
    samples = [
        Sample(str(number), None, text, (summary,), (1.0,), (summary,))
        for number, (text, summary) in enumerate(zip(texts, summaries, strict=True))
        if text and summary
    ]
    if not samples:
        raise DataError(f"{source} and {target} have no line with words on both sides")
    return Split(split, samples, FolderImages(folder))


def read_lines(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read ``{split}.txt``, one text per line, for learning from words alone; empty lines are left out.

    Raises:
        DataError: If the file is missing or has no words.
    """
    path = find_file(root, (f"{split}.txt",), f"texts of split '{split}'")
    samples = [Sample(str(number), None, text) for number, text in enumerate(_lines(path)) if text]
    if not samples:
        raise DataError(f"{path} has no words; expected one text per line")
    return Split(split, samples, FolderImages(root))


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines
