"""Official annotation files, and your own, as ``Sample``s: one function per format, chosen by name from ``READERS``.

A reader takes ``(root, split, columns)`` and never opens a picture. Every error names the file, the line or row, what was found
and what was expected.
"""

from __future__ import annotations

from openmplug.data.readers.captions import read_coco_captions, read_karpathy
from openmplug.data.readers.labels import read_class_folders
from openmplug.data.readers.own import read_daquar, read_own
from openmplug.data.readers.questions import read_mplug_vqa, read_vqa_v2
from openmplug.data.readers.retrieval import read_mplug_retrieval
from openmplug.data.readers.split import Reader, Split
from openmplug.data.readers.texts import read_glue, read_line_pairs, read_lines

READERS: dict[str, Reader] = {
    "jsonl": read_own,
    "daquar": read_daquar,
    "vqa_v2": read_vqa_v2,
    "mplug_vqa": read_mplug_vqa,
    "coco_captions": read_coco_captions,
    "karpathy": read_karpathy,
    "mplug_retrieval": read_mplug_retrieval,
    "class_folders": read_class_folders,
    "glue": read_glue,
    "line_pairs": read_line_pairs,
    "lines": read_lines,
}

__all__ = ["READERS", "Reader", "Split"]
