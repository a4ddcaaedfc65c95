"""Official annotation files, and your own, as ``Sample``s: one function per format, chosen by name from ``READERS``.

A reader takes ``(root, split, columns)`` and never opens a picture. Every error names the file, the line or row, what was found
and what was expected.
"""

from __future__ import annotations

from openmplug.data.readers.actions import read_action_list, read_kinetics, read_ssv2
from openmplug.data.readers.boxes import read_refcoco, read_transvg
from openmplug.data.readers.captions import read_coco_captions, read_karpathy, read_nocaps
from openmplug.data.readers.labels import read_class_folders, read_snli_ve
from openmplug.data.readers.nlvr1 import read_nlvr1_grounding
from openmplug.data.readers.own import read_daquar, read_own
from openmplug.data.readers.question_sets import read_clevr, read_gqa, read_okvqa, read_textvqa, read_visual_genome, read_vizwiz
from openmplug.data.readers.questions import read_mplug_vqa, read_vqa_v2
from openmplug.data.readers.reasoning import read_nlvr1, read_nlvr2
from openmplug.data.readers.retrieval import read_mplug_retrieval
from openmplug.data.readers.shards import read_shards
from openmplug.data.readers.split import Reader, Split
from openmplug.data.readers.texts import read_glue, read_line_pairs, read_lines
from openmplug.data.readers.video_captions import read_mplug2_captions, read_msrvtt, read_msvd, read_vatex
from openmplug.data.readers.video_questions import read_msrvtt_qa, read_msvd_qa, read_tgif_frameqa, read_video_qa
from openmplug.data.readers.video_retrieval import read_clip_captions, read_didemo, read_lsmdc, read_msrvtt_retrieval
from openmplug.data.readers.web import read_conceptual_captions, read_folder_captions, read_sbu, read_visual_genome_regions

READERS: dict[str, Reader] = {
    "jsonl": read_own,
    "daquar": read_daquar,
    "vqa_v2": read_vqa_v2,
    "mplug_vqa": read_mplug_vqa,
    "clevr": read_clevr,
    "gqa": read_gqa,
    "okvqa": read_okvqa,
    "textvqa": read_textvqa,
    "vizwiz": read_vizwiz,
    "visual_genome": read_visual_genome,
    "coco_captions": read_coco_captions,
    "karpathy": read_karpathy,
    "nocaps": read_nocaps,
    "mplug_retrieval": read_mplug_retrieval,
    "msrvtt_qa": read_msrvtt_qa,
    "msvd_qa": read_msvd_qa,
    "tgif_frameqa": read_tgif_frameqa,
    "video_qa": read_video_qa,
    "msrvtt": read_msrvtt,
    "msvd": read_msvd,
    "vatex": read_vatex,
    "mplug2_captions": read_mplug2_captions,
    "msrvtt_retrieval": read_msrvtt_retrieval,
    "clip_captions": read_clip_captions,
    "didemo": read_didemo,
    "lsmdc": read_lsmdc,
    "kinetics": read_kinetics,
    "action_list": read_action_list,
    "ssv2": read_ssv2,
    "class_folders": read_class_folders,
    "snli_ve": read_snli_ve,
    "nlvr2": read_nlvr2,
    "nlvr1": read_nlvr1,
    "refcoco": read_refcoco,
    "transvg": read_transvg,
    "nlvr1_grounding": read_nlvr1_grounding,
    "glue": read_glue,
    "line_pairs": read_line_pairs,
    "lines": read_lines,
    "shards": read_shards,
    "folder_captions": read_folder_captions,
    "visual_genome_regions": read_visual_genome_regions,
    "sbu": read_sbu,
    "conceptual_captions": read_conceptual_captions,
}

__all__ = ["READERS", "Reader", "Split"]
