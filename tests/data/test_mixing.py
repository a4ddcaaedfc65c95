"""Sources drawn with weights: what an epoch holds, in which order, for any number of processes, and read from where."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from data.shards_made import picture, write_shards, write_words
from openmplug.batch import Sample
from openmplug.data.loading import ImageTextDataset
from openmplug.data.mixing import MixtureSampler, PassOrder, PlaceOrder, shares
from openmplug.data.sources import Component, DrawCaptions, MixedExamples, kind_of
from openmplug.data.splits import DataSettings, read_training
from openmplug.errors import DataError, UsageError


def component(source: str, kind: str, weight: float, *sizes: int) -> Component:
    return Component(source, kind, weight, [Sample(f"{source}/{number}") for number in range(sum(sizes))], sizes)


def mixture() -> MixedExamples:
    return MixedExamples(
        [component("web", "picture", 3, 10, 20, 5, 25), component("own", "picture", 1, 30), component("text", "words", 2, 40)]
    )


def epoch(number: int, start: int = 0, **settings: int) -> list[list[tuple[int, int]]]:
    return list(MixtureSampler(mixture(), settings.pop("batch_size", 8), seed=3, epoch=number, start_batch=start, **settings))


def test_every_batch_is_full_and_of_one_kind_and_sources_come_by_weight() -> None:
    examples = mixture()
    batches = epoch(0)
    assert len(batches) == len(MixtureSampler(examples, 8)) == len(examples) // 8 == 16 and {len(batch) for batch in batches} == {8}
    sources = [[examples.components[0 if index < 60 else 1 if index < 90 else 2].source for _, index in batch] for batch in batches]
    assert all(set(batch) <= {"web", "own"} or set(batch) == {"text"} for batch in sources)
    # 11 of 16 batches are of pictures (3 + 1 of 6), of whose 88 places three quarters are web's
    assert Counter(name for batch in sources for name in batch) == {"web": 66, "own": 22, "text": 40}
    assert any(set(batch) == {"web", "own"} for batch in sources)


def test_a_source_is_passed_through_whole_before_it_begins_again_across_epochs() -> None:
    keys = [key for number in range(4) for batch in epoch(number) for key in batch]
    assert len(set(keys)) == len(keys)  # no example twice in one pass
    for low, high, size in ((0, 60, 60), (60, 90, 30), (90, 130, 40)):
        mine = [(passed, index) for passed, index in keys if low <= index < high]
        for passed in range(max(passed for passed, _ in mine)):
            assert {index for each, index in mine if each == passed} == set(range(low, high)) and size == high - low
    assert epoch(0) != epoch(1)


def test_order_follows_from_seed_epoch_and_position_for_any_number_of_processes() -> None:
    whole = epoch(2)
    assert epoch(2, start=5) == whole[5:]
    for processes in (2, 4):
        parts = [epoch(2, rank=rank, world_size=processes, batch_size=8 // processes) for rank in range(processes)]
        assert [[key for part in parts for key in part[number]] for number in range(len(whole))] == whole
    sampler = MixtureSampler(mixture(), 8, seed=3)
    sampler.set_epoch(2, start_batch=5)
    assert list(sampler) == whole[5:] and len(sampler) == len(whole) - 5
    assert list(MixtureSampler(mixture(), 8, seed=4)) != epoch(0)
    with pytest.raises(UsageError, match="batch size is 0; expected at least 1"):
        MixtureSampler(mixture(), 0)


def test_the_batches_of_a_step_have_the_kinds_by_their_weights() -> None:
    parts = [component("web", "picture", 2, 64), component("clips", "clip", 1, 32), component("text", "words", 1, 32)]
    sampler = MixtureSampler(MixedExamples(parts), 2, seed=5, together=4)
    kinds = ["picture" if batch[0][1] < 64 else "clip" if batch[0][1] < 96 else "words" for batch in sampler]
    steps = [kinds[first : first + 4] for first in range(0, len(kinds), 4)]
    assert len(kinds) == 64 and all(1 <= step.count("picture") <= 3 for step in steps)
    assert sum(Counter(step) == {"picture": 2, "clip": 1, "words": 1} for step in steps) >= 12  # of 16
    assert len({tuple(step) for step in steps}) > 4  # in no fixed order
    apart = MixtureSampler(MixedExamples(parts), 2, seed=5)
    drawn = ["picture" if batch[0][1] < 64 else "clip" if batch[0][1] < 96 else "words" for batch in apart]
    assert Counter(drawn) == Counter(kinds)
    assert sum(Counter(drawn[first : first + 4]) == {"picture": 2, "clip": 1, "words": 1} for first in range(0, 64, 4)) < 12


def test_a_small_weight_still_has_a_batch() -> None:
    sampler = MixtureSampler(MixedExamples([component("a", "picture", 1e6, 40), component("b", "words", 1e-6, 3)]), 4)
    assert sum(index >= 40 for batch in sampler for _, index in batch) == 4


def test_an_order_stays_within_windows_of_shards_and_shuffles_them() -> None:
    order = PassOrder([5, 7, 3, 9, 6, 4, 8], "seed", window=2)
    starts = [0, 5, 12, 15, 24, 30, 34, 42]

    def shard(index: int) -> int:
        return next(number for number in range(7) if starts[number] <= index < starts[number + 1])

    for passed in range(2):
        indices = [order[passed * 42 + position][1] for position in range(42)]
        assert sorted(indices) == list(range(42))
        shards = list(dict.fromkeys(map(shard, indices)))
        position = 0
        for first in range(0, 7, 2):  # windows follow each other, and in each the samples of its two shards are mixed
            count = sum([5, 7, 3, 9, 6, 4, 8][each] for each in shards[first : first + 2])
            inside = list(map(shard, indices[position : position + count]))
            assert set(inside) == set(shards[first : first + 2]) and (len(set(inside)) == 1 or inside != sorted(inside, key=inside.index))
            position += count
        assert len(order._opened) <= 2 and max(map(len, order._opened.values())) <= 17
    assert order[41] == order[41] and order[3] == PassOrder([5, 7, 3, 9, 6, 4, 8], "seed", window=2)[3]
    assert [order[position][1] for position in range(42)] != [order[42 + position][1] for position in range(42)]


def test_runs_stay_together_and_every_sample_comes_once() -> None:
    order = PassOrder([5, 7, 3, 9], "seed", window=2, run=4)
    indices = [order[position][1] for position in range(24)]
    assert sorted(indices) == list(range(24))
    runs = [range(*each) for each in ((0, 4), (4, 5), (5, 9), (9, 12), (12, 15), (15, 19), (19, 23), (23, 24))]
    firsts = [index for index in indices if any(index == run.start for run in runs)]
    assert indices == [index for first in firsts for index in next(run for run in runs if run.start == first)] != sorted(indices)


def test_places_are_shared_out_in_blocks_and_found_for_any_batch() -> None:
    whole = PlaceOrder(25, 6, [0.7, 0.2, 0.1])
    order = PlaceOrder(25, 6, [0.7, 0.2, 0.1], most=24)  # blocks of 4 batches, and one of 1
    assert order.counts == whole.counts == [105, 30, 15]
    taken = [0, 0, 0]
    for number in range(25):
        members, before = order.batch(number, "seed")
        assert before == taken and len(members) == 6
        taken = [count + members.count(member) for member, count in enumerate(taken)]
        if number % 4 == 3:  # each block has its share
            assert all(abs(count - 24 * (number + 1) // 4 * share) <= 2 for count, share in zip(taken, (0.7, 0.2, 0.1), strict=True))
    assert taken == order.counts
    assert [order.batch(number, "seed") for number in (13, 2, 24)] == [
        PlaceOrder(25, 6, [0.7, 0.2, 0.1], most=24).batch(number, "seed") for number in (13, 2, 24)
    ]
    assert order.batch(3, "seed")[0] != order.batch(3, "other")[0]


def test_an_epoch_has_as_many_examples_as_asked_for_and_passes_go_on() -> None:
    def keys(number: int) -> list[tuple[int, int]]:
        return [key for batch in MixtureSampler(mixture(), 8, seed=3, epoch=number, epoch_examples=50) for key in batch]

    assert [len(keys(number)) for number in range(3)] == [48, 48, 48]
    seen = [key for number in range(6) for key in keys(number)]
    assert len(set(seen)) == len(seen) and {index for passed, index in seen if passed == 0 and 60 <= index < 90} == set(range(60, 90))


def test_shares() -> None:
    assert shares(10, [3, 1]) == [8, 2] or shares(10, [3, 1]) == [7, 3]
    assert sum(shares(1001, [0.3, 0.5, 0.1])) == 1001


# ---------------------------------------------------------------------------------------------------------------- from files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "web")
    write_words(tmp_path / "words")
    own = tmp_path / "own"
    (own / "images").mkdir(parents=True)
    for number in range(5):
        (own / "images" / f"{number}.jpg").write_bytes(picture(number))
    rows = [{"image": f"{number}.jpg", "captions": [f"own {number} a", f"own {number} b"]} for number in range(5)]
    (own / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def settings(root: Path, **more: object) -> DataSettings:
    sources = {
        "web": {"reader": "shards", "root": root / "web", "train": ["{00000..00001}.tar", "00002.tar"], "weight": 2},
        "own": {"root": root / "own", "weight": 1},
        "words": {"reader": "shards", "root": root / "words", "train": ["."], "weight": 1},
    }
    return DataSettings.model_validate({"sources": sources, **more})


def one_each(samples: list[Sample]) -> list[Sample]:
    return [Sample(**{**{name: getattr(s, name) for name in s.__slots__}, "targets": (text,)}) for s in samples for text in s.targets]


def test_sources_are_read_as_one_and_keep_their_names_and_pictures_apart(root: Path) -> None:
    split = read_training(settings(root))
    assert split.mixture is not None and split.name == "web+own+words"
    assert [sample.id for sample in split.samples[:3]] == ["web/00000/000000000", "own/0.jpg", "words/00000/00000"]
    assert all(sample.image in split.images for sample in split.samples if sample.image is not None)
    examples = split.mixture.examples(one_each, DrawCaptions(), seed=0)  # type: ignore[arg-type]
    assert len(examples) == 12 + 10 + 11
    found = [examples.example((0, index)) for index in range(len(examples))]
    assert Counter((sample.id.partition("/")[0], kind_of(sample)) for sample in found) == {
        ("web", "picture"): 12,
        ("own", "picture"): 10,
        ("words", "words"): 11,
    }
    numbers = {sample.image: sample.image_index for sample in found if sample.image is not None}
    assert len(numbers) == len(set(numbers.values())) == 17
    assert {sample.targets for sample in found[12:22]} == {(f"own {number} {text}",) for number in range(5) for text in "ab"}


def test_captions_are_drawn_anew_in_each_pass() -> None:
    record = Sample("a", "a.jpg", None, ("x", "y", "z"), (), ("x", "y", "z"))
    drawn = {DrawCaptions()(record, random.Random(seed)).targets for seed in range(20)}
    assert drawn == {("x",), ("y",), ("z",)}
    both = DrawCaptions(2, parts=True)(record, random.Random(0))
    assert len(both.parts) == 2 and both.text == both.parts[0].text != both.parts[1].text
    assert DrawCaptions(1, parts=True)(record, random.Random(0)).parts == () and len(DrawCaptions(9)(record, random.Random(0)).targets) == 3
    words = Sample("b", text="words")
    assert DrawCaptions(2)(words, random.Random(0)) is words
    examples = MixedExamples([Component("s", "picture", 1, [record], (1,), DrawCaptions())])
    assert len({examples.example((passed, 0)).targets for passed in range(20)}) == 3
    assert examples.example((5, 0)) == examples.example((5, 0)) and examples.example((0, 0)).image == "s/a.jpg"


def test_what_cannot_be_read_is_a_failure_of_its_record(root: Path) -> None:
    split = read_training(settings(root))
    assert split.mixture is not None
    examples = split.mixture.examples(one_each, DrawCaptions(), seed=0)  # type: ignore[arg-type]
    dataset = ImageTextDataset(examples, split.images, lambda image, rng: image.size)  # type: ignore[arg-type, return-value]
    assert dataset[(0, 2)].pixels == (20, 20) and dataset[(0, 30)].sample.text is not None
    place = root / "web" / "00000.tar"
    data = bytearray(place.read_bytes())
    start = data.index(b"shard 0 picture 2", data.index(b"000000002.txt"))
    data[start] = 0xFF
    state = place.stat()
    place.write_bytes(bytes(data))
    assert place.stat().st_size == state.st_size
    item = dataset[(0, 2)]
    assert item.failure is not None and item.failure.id == "web/2" and "000000002.txt" in item.failure.reason and item.pixels is None


def test_wrong_mixtures_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="sources and further at once"):
        settings(root, further=[{"root": root}])
    with pytest.raises(ValueError, match="source 'a/b': expected a name of letters"):
        DataSettings.model_validate({"sources": {"a/b": {"root": root}}})
    with pytest.raises(ValueError, match="source 'a' has a weight and 'b' has none; give one to every source, or to none"):
        DataSettings.model_validate({"sources": {"a": {"root": root, "weight": 1}, "b": {"root": root}}})
    with pytest.raises(UsageError, match=r"epoch_examples is for shards and data\.sources; an epoch of other data is a pass through them"):
        read_training(DataSettings(root=root / "own", epoch_examples=9))
    split = read_training(settings(root))
    assert split.mixture is not None
    with pytest.raises(UsageError, match="source 'web' lies in shards, which hold captions and texts; this task learns from neither"):
        split.mixture.examples(one_each, None, seed=0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="source 'own' has 5 records and nothing to learn from"):
        split.mixture.examples(lambda samples: [], DrawCaptions(), seed=0)
    with pytest.raises(DataError, match=r"source 'x': data\.root .*nowhere does not exist"):
        read_training(DataSettings.model_validate({"sources": {"x": {"root": root / "nowhere"}}}))
    with pytest.raises(DataError, match=r"source 'x': no shards at .*zzz\.tar"):
        read_training(DataSettings.model_validate({"sources": {"x": {"reader": "shards", "root": root, "train": ["zzz.tar"]}}}))


def test_a_source_without_a_root_lies_in_the_roots_folder_and_null_leaves_it_out(root: Path) -> None:
    sources = {"web": {"reader": "shards", "train": ["web"]}, "words": {"reader": "shards", "train": ["words"]}, "own": None}
    split = read_training(DataSettings.model_validate({"root": root, "sources": sources}))
    assert split.name == "web+words" and len(split.samples) == 12 + 11


def test_shards_alone_are_a_mixture_of_one_and_a_limit_takes_the_first(root: Path) -> None:
    split = read_training(DataSettings(reader="shards", root=root / "web", train=["*.tar"]))
    assert split.mixture is not None and len(split.samples) == 12 and split.samples[0].id == "shards/00000/000000000"
    limited = read_training(DataSettings(reader="shards", root=root / "web", train=["*.tar"], limit=3))
    assert len(limited.samples) == 3
