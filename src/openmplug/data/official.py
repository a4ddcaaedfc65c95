"""What the official files of a benchmark are called and how much is in them, as its authors say.

Only numbers that the authors' page or paper states are here; where versions of a file differ, or a number could not be checked, there is
none. ``openmplug data check`` holds a download against them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OfficialSplit:
    """One split of a benchmark.

    Args:
        records: How many records the reader makes of it; several where several versions are in use; empty = not known.
        pictures: How many different pictures or videos they are about; None = not known.
        stem: What stands for ``{}`` in the names of files; "" is the split's own name.
        files: Names of its own, in the place of the benchmark's.
    """

    records: tuple[int, ...] = ()
    pictures: int | None = None
    stem: str = ""
    files: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The official files of a benchmark.

    Args:
        name: How a recipe's ``paper.benchmark`` begins.
        reader: That reads them.
        unit: What a record is.
        source: Who states the numbers.
        files: Annotation files below ``data.root``; ``{}`` is the split's stem, ``|`` parts names of which one
            is enough, ``*`` is anything.
        splits: By name.
    """

    name: str
    reader: str
    unit: str
    source: str
    files: tuple[str, ...]
    splits: Mapping[str, OfficialSplit] = field(default_factory=dict)

    def split(self, name: str) -> OfficialSplit | None:
        """Return a split by its name, with or without a year behind it."""
        return self.splits.get(name) or self.splits.get(re.sub(r"20\d\d$", "", name))

    def files_of(self, name: str) -> list[tuple[str, ...]]:
        """Return, for each annotation file of a split, the names of which one is enough."""
        known = self.split(name) or OfficialSplit()
        stem = known.stem or name
        return [tuple(one.replace("{}", stem) for one in each.split("|")) for each in (self.files if known.files is None else known.files)]


def find_benchmark(reader: str, name: str) -> Benchmark | None:
    """Return the benchmark that a recipe's reader and ``paper.benchmark`` mean, or None where nothing official is known."""
    return next((one for one in BENCHMARKS if one.reader == reader and name.startswith(one.name)), None)


def _counts(**splits: int | tuple[int, int]) -> dict[str, OfficialSplit]:
    """Return splits of so many records, or so many records about so many pictures."""
    made = {}
    for name, count in splits.items():
        records, pictures = count if isinstance(count, tuple) else (count, None)
        made[name.replace("_", "-") if name == "test_dev" else name] = OfficialSplit((records,), pictures)
    return made


_VQA = ("v2_OpenEnded_mscoco_{}_questions.json",)
_MSRVTT_DATA = "videodatainfo_2017.json|MSRVTT_data.json|annotations/videodatainfo_2017.json|annotations/MSRVTT_data.json"
_MSRVTT_BOTH = f"train_val_videodatainfo.json|annotations/train_val_videodatainfo.json|{_MSRVTT_DATA}"
_MSRVTT_TEST = f"test_videodatainfo.json|annotations/test_videodatainfo.json|{_MSRVTT_DATA}"
_KARPATHY = "Karpathy and Fei-Fei, arXiv:1412.2306"
_GIGAWORD = "{}.src.txt|{}.article.txt|{}.src|{}.article.filter.txt|{}/{}.src.txt|{}/{}.article.txt|{}/{}.article.filter.txt"


def _images(*counts: int) -> dict[str, OfficialSplit]:
    """Return train, val and test of one record a picture."""
    return {name: OfficialSplit((count,), count) for name, count in zip(("train", "val", "test"), counts, strict=True)}


def _refcoco(name: str, partition: str, **splits: tuple[int, int]) -> Benchmark:
    files = (f"refs({partition}).p", "instances.json")
    return Benchmark(name, "refcoco", "phrases", "github.com/lichengunc/refer", files, _counts(**splits))


def _glue(folder: str, **splits: tuple[int, ...]) -> Benchmark:
    task = {"CoLA": "cola", "SST-2": "sst2", "MRPC": "mrpc", "STS-B": "stsb", "QQP": "qqp", "MNLI": "mnli", "QNLI": "qnli", "RTE": "rte"}[
        folder
    ]
    microsoft = {"train": "msr_paraphrase_train.txt", "dev": "msr_paraphrase_test.txt"} if folder == "MRPC" else {}
    made = {}
    for part, counts in splits.items():
        names = [f"{part}.tsv", *([microsoft[part]] if part in microsoft else [])]
        made[f"{task}/{part}"] = OfficialSplit(
            counts, files=("|".join(f"{place}{name}" for name in names for place in (f"{folder}/", "")),)
        )
    return Benchmark(f"GLUE {folder}", "glue", "rows", "gluebenchmark.com, the files themselves", (), made)


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "VQA v2",
        "vqa_v2",
        "questions",
        "visualqa.org/download.html",
        (*_VQA, "v2_mscoco_{}_annotations.json"),
        {
            "train": OfficialSplit((443_757,), 82_783, "train2014"),
            "val": OfficialSplit((214_354,), 40_504, "val2014"),
            "test": OfficialSplit((447_793,), 81_434, "test2015", _VQA),
            "test-dev": OfficialSplit((107_394,), None, "test-dev2015", _VQA),
        },
    ),
    Benchmark("VQA v2", "mplug_vqa", "questions", "not stated: the lists of mPLUG's release", ("{}.json|vqa_{}.json",)),
    Benchmark(
        "OK-VQA",
        "okvqa",
        "questions",
        "okvqa.allenai.org",
        ("OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json"),
        {"train": OfficialSplit((9_009,), None, "train2014"), "val": OfficialSplit((5_046,), None, "val2014")},
    ),
    Benchmark(
        "CLEVR",
        "clevr",
        "questions",
        "Johnson et al., arXiv:1612.06890; cs.stanford.edu/people/jcjohns/clevr, v1.0",
        ("questions/CLEVR_{}_questions.json|CLEVR_{}_questions.json",),
        _counts(train=(699_989, 70_000), val=(149_991, 15_000), test=(149_988, 15_000)),
    ),
    Benchmark(
        "GQA",
        "gqa",
        "questions",
        "cs.stanford.edu/people/dorarad/gqa, version 1.2",
        ("{}_questions.json|questions/{}_questions.json",),
        {
            "train_balanced": OfficialSplit((943_000,)),
            "val_balanced": OfficialSplit((132_062,)),
            "testdev_balanced": OfficialSplit((12_578,), 398),
            "test_balanced": OfficialSplit((95_336,)),
        },
    ),
    Benchmark(
        "TextVQA",
        "textvqa",
        "questions",
        "textvqa.org/dataset, version 0.5.1",
        ("TextVQA_0.5.1_{}.json|TextVQA_0.5_{}.json",),
        _counts(train=(34_602, 21_953), val=(5_000, 3_166), test=(5_734, 3_289)),
    ),
    Benchmark(
        "VizWiz",
        "vizwiz",
        "questions",
        "vizwiz.org, visual question answering",
        ("Annotations/{}.json|{}.json",),
        _counts(train=(20_523, 20_523), val=(4_319, 4_319), test=(8_000, 8_000)),
    ),
    Benchmark(
        "SNLI-VE",
        "snli_ve",
        "pairs",
        "github.com/necla-ml/SNLI-VE",
        ("snli_ve_{}.jsonl",),
        _counts(train=(529_527, 29_783), dev=(17_858, 1_000), test=(17_901, 1_000)),
    ),
    Benchmark(
        "NLVR2",
        "nlvr2",
        "sentences about pairs",
        "github.com/lil-lab/nlvr, nlvr2",
        ("data/{}.json|{}.json|data/{}.jsonl|{}.jsonl",),
        _counts(train=86_373, dev=6_982, test1=6_967, test2=6_970),
    ),
    _refcoco("RefCOCO+", "unc", train=(120_191, 16_992), val=(10_758, 1_500), testA=(5_726, 750), testB=(4_889, 750)),
    _refcoco("RefCOCOg", "umd", train=(80_512, 21_899), val=(4_896, 1_300), test=(9_602, 2_600)),
    _refcoco("RefCOCO", "unc", train=(120_624, 16_994), val=(10_834, 1_500), testA=(5_657, 750), testB=(5_095, 750)),
    Benchmark("COCO captions", "karpathy", "pictures", _KARPATHY, ("dataset_coco.json|dataset*.json",), _images(113_287, 5_000, 5_000)),
    Benchmark("Flickr30k", "karpathy", "pictures", _KARPATHY, ("dataset_flickr30k.json|dataset*.json",), _images(29_000, 1_014, 1_000)),
    Benchmark("COCO retrieval", "mplug_retrieval", "pictures", _KARPATHY, ("coco_{}.json|{}.json",), _images(113_287, 5_000, 5_000)),
    Benchmark("Flickr30k", "mplug_retrieval", "pictures", _KARPATHY, ("flickr30k_{}.json|{}.json",), _images(29_000, 1_014, 1_000)),
    Benchmark(
        "NoCaps",
        "nocaps",
        "pictures",
        "nocaps.org",
        ("nocaps_{}.json|annotations/nocaps_{}.json",),
        {"val": OfficialSplit((4_500,), 4_500, "val_4500_captions"), "test": OfficialSplit((10_600,), 10_600, "test_image_info")},
    ),
    Benchmark(
        "easy-VQA",
        "jsonl",
        "questions",
        "github.com/vzhou842/easy-VQA: its training pictures 0 to 3,499 and 3,500 to 3,999",
        ("{}.jsonl",),
        _counts(train=(33_742, 3_500), dev=(4_833, 500)),
    ),
    Benchmark(
        "Flickr8k", "jsonl", "pictures", "Hodosh et al., JAIR 2013", ("{}.jsonl",), _counts(train=(6_000, 6_000), dev=(1_000, 1_000))
    ),
    Benchmark(
        "MSRVTT-QA",
        "msrvtt_qa",
        "questions",
        "Xu et al., ACM Multimedia 2017",
        ("{}_qa.json|{}.json",),
        _counts(train=(158_581, 6_513), val=(12_278, 497), test=(72_821, 2_990)),
    ),
    Benchmark(
        "MSVD-QA",
        "msvd_qa",
        "questions",
        "Xu et al., ACM Multimedia 2017",
        ("{}_qa.json|{}.json",),
        _counts(train=(30_933, 1_200), val=(6_415, 250), test=(13_157, 520)),
    ),
    Benchmark(
        "TGIF-FrameQA",
        "tgif_frameqa",
        "questions",
        "Jang et al., arXiv:1704.04497",
        ("{}_frameqa_question.csv|dataset/{}_frameqa_question.csv",),
        {"train": OfficialSplit((39_392,), None, "Train"), "test": OfficialSplit((13_691,), None, "Test")},
    ),
    Benchmark(
        "MSR-VTT captions",
        "msrvtt",
        "videos",
        "Xu et al., MSR-VTT (CVPR 2016)",
        (_MSRVTT_BOTH,),
        {
            "train": OfficialSplit((6_513,), 6_513),
            "val": OfficialSplit((497,), 497),
            "validate": OfficialSplit((497,), 497),
            "test": OfficialSplit((2_990,), 2_990, files=(_MSRVTT_TEST,)),
        },
    ),
    Benchmark(
        "MSR-VTT retrieval",
        "msrvtt_retrieval",
        "videos",
        "github.com/ArrowLuo/CLIP4Clip",
        (),
        {
            "train-9k": OfficialSplit((9_000,), 9_000, files=("MSRVTT_train.9k.csv", _MSRVTT_BOTH)),
            "train-7k": OfficialSplit((7_010,), 7_010, files=("MSRVTT_train.7k.csv", _MSRVTT_BOTH)),
            "test-1ka": OfficialSplit((1_000,), 1_000, files=("MSRVTT_JSFUSION_test.csv",)),
        },
    ),
    Benchmark(
        "MSVD captions",
        "msvd",
        "videos",
        "Venugopalan et al., arXiv:1412.4729",
        ("{}.json|msvd_{}.json|AllVideoDescriptions.txt", "{}.json|msvd_{}.json|{}_list.txt"),
        _images(1_200, 100, 670),
    ),
    Benchmark(
        "VATEX",
        "vatex",
        "videos",
        "eric-xw.github.io/vatex-website",
        ("vatex_{}*.json",),
        {
            "train": OfficialSplit((25_991,), 25_991, "training"),
            "val": OfficialSplit((3_000,), 3_000, "validation"),
            "test": OfficialSplit((6_000,), 6_000, "public_test_english"),
        },
    ),
    Benchmark(
        "DiDeMo",
        "didemo",
        "videos",
        "github.com/LisaAnne/LocalizingMoments",
        ("{}_data.json|{}.json",),
        _images(8_395, 1_065, 1_004),
    ),
    Benchmark(
        "LSMDC",
        "lsmdc",
        "clips",
        "Rohrbach et al., arXiv:1605.03705; the challenge of 2016",
        (),
        {
            "train": OfficialSplit(files=("LSMDC16_annos_training.csv",)),
            "val": OfficialSplit((7_408,), 7_408, files=("LSMDC16_annos_val.csv",)),
            "test": OfficialSplit((1_000,), 1_000, files=("LSMDC16_challenge_1000_publictect.csv|LSMDC16_challenge_1000_publictest.csv",)),
        },
    ),
    Benchmark(
        "Kinetics", "kinetics", "clips", "not stated: the lists lose clips over time", ("{}.csv|annotations/{}.csv|kinetics_{}.csv",)
    ),
    Benchmark(
        "Something-Something v2",
        "ssv2",
        "clips",
        "Goyal et al., arXiv:1706.04261, version 2",
        ("something-something-v2-{}.json|labels/{}.json", "something-something-v2-labels.json|labels/labels.json"),
        {
            "train": OfficialSplit((168_913,), 168_913),
            "val": OfficialSplit((24_777,), 24_777, "validation"),
            "test": OfficialSplit((27_157,), 27_157),
        },
    ),
    Benchmark(
        "ImageNet-1k",
        "class_folders",
        "pictures",
        "image-net.org, ILSVRC 2012",
        (),
        _counts(train=(1_281_167, 1_281_167), val=(50_000, 50_000)),
    ),
    Benchmark(
        "Gigaword",
        "line_pairs",
        "texts",
        "Rush et al., arXiv:1509.00685, the release of harvardnlp",
        (_GIGAWORD, _GIGAWORD.replace("src", "tgt").replace("article", "title")),
        _counts(train=3_803_957, dev=189_651, test=1_951),
    ),
    _glue("CoLA", train=(8_551,), dev=(1_043,), test=(1_063,)),
    _glue("SST-2", train=(67_349,), dev=(872,), test=(1_821,)),
    _glue("MRPC", train=(3_668, 4_076), dev=(408, 1_725), test=(1_725,)),  # GLUE's own cut, or Microsoft's two files
    _glue("STS-B", train=(5_749,), dev=(1_500,), test=(1_379,)),
    _glue("QQP", train=(), dev=()),  # versions differ by some rows
    _glue("MNLI", train=(392_702,), dev_matched=(9_815,), dev_mismatched=(9_832,)),
    _glue("QNLI", train=(104_743,), dev=(5_463,)),
    _glue("RTE", train=(2_490,), dev=(277,), test=(3_000,)),
)
