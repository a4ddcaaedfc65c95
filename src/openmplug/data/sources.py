"""Training data from several sources: their records, those in shards made when they are asked for, and the examples of all as one row.

The order in which they are drawn is ``openmplug.data.mixing``'s.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

from openmplug.batch import Sample
from openmplug.data.images import ImageSource
from openmplug.data.remote import RUN
from openmplug.data.shards import ShardSamples
from openmplug.errors import DataError, UsageError

LOOKED_AT = 1000
"""Records of a source in shards that are looked at before training, spread over all of it; of remote ones, each a request, a few."""

_LOOKED_AT_REMOTE = 32


class Draw(Protocol):
    """Makes an example of a record when it is asked for."""

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Return what is learned from the record this time."""
        ...


@dataclass(frozen=True)
class DrawCaptions:
    """Draws the captions of a picture that are learned this time; words alone are learned as they are.

    Args:
        count: How many; fewer where there are not so many.
        parts: Make a record of each, learned together (``Sample.parts``), in the place of one with several targets.
    """

    count: int = 1
    parts: bool = False

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Return the record with the captions drawn."""
        if sample.image is None or not sample.targets:
            return sample
        chosen = tuple(rng.sample(sample.targets, min(self.count, len(sample.targets))))
        if not self.parts:
            return replace(sample, targets=chosen)
        if self.count == 1:
            return replace(sample, text=chosen[0])
        return replace(sample, text=chosen[0], parts=tuple(replace(sample, text=caption) for caption in chosen))


@dataclass(frozen=True)
class Component:
    """Examples of one source and one kind.

    Args:
        source: The source's name.
        kind: "picture", "clip", "words", "picture question" or "clip question".
        weight: How often its examples are drawn, all of them together, against other components.
        examples: What is drawn from.
        sizes: How many follow each other in each shard; one number where they do not lie in shards.
        draw: Makes an example of a record in ``examples``; None where they are examples already.
        first: Number of its first picture: equal numbers are equal pictures, across all sources.
        run: How many examples that follow each other stay together in the order: more than 1 where each read is a request.
    """

    source: str
    kind: str
    weight: float
    examples: Sequence[Sample]
    sizes: tuple[int, ...]
    draw: Draw | None = None
    first: int = 0
    run: int = 1


class MixedExamples:
    """The examples of all components, one behind the other; those in shards are made when they are asked for.

    Args:
        components: At least one.
        seed: Of the captions that are drawn.

    Attributes:
        starts: The index of each component's first example.
    """

    def __init__(self, components: Sequence[Component], seed: int = 0) -> None:
        self.components = list(components)
        self.seed = seed
        self._ends = list(accumulate(len(component.examples) for component in self.components))
        self.starts = [0, *self._ends[:-1]]

    def __len__(self) -> int:
        return self._ends[-1]

    def example(self, key: tuple[int, int]) -> Sample:
        """Return the example of a key (pass through the source, index).

        Raises:
            DataError: If its words cannot be read.
        """
        passed, index = key
        number = bisect_right(self._ends, index)
        component = self.components[number]
        sample = component.examples[index - self.starts[number]]
        if component.draw is None:
            return sample
        named = named_by(sample, component.source, component.first)
        return component.draw(named, random.Random(f"caption/{self.seed}/{passed}/{index}"))

    def place(self, index: int) -> Sample:
        """Return what is known of an example whose words cannot be read: its source, and its number there as its id."""
        number = bisect_right(self._ends, index)
        source = self.components[number].source
        return Sample(f"{source}/{index - self.starts[number]}", source=source)


@dataclass(frozen=True)
class Source:
    """One source as it was read.

    Args:
        name: Stands before the ids of its records and the names of its pictures.
        samples: Its records; those in shards are made when they are asked for.
        images: Its pictures and videos.
        weight: See ``Component``; None = as many as it has examples.
    """

    name: str
    samples: Sequence[Sample]
    images: ImageSource
    weight: float | None = None


class Mixture:
    """Several sources to train on together.

    Args:
        sources: At least one, of different names.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        pictures = [_pictures(source.samples) for source in self.sources]
        self._firsts = [0, *accumulate(pictures)][:-1]

    def looked_at(self) -> list[Sample]:
        """Return records to check, and to learn words from: of each source the first, then all in memory and some of those in shards.

        Raises:
            DataError: If none of a source's can be read.
        """
        found = [_look(source, first) for source, first in zip(self.sources, self._firsts, strict=True)]
        return [samples[0] for samples in found] + [sample for samples in found for sample in samples[1:]]

    def examples(self, make: Callable[[Sequence[Sample]], list[Sample]], draw: Draw | None, seed: int) -> MixedExamples:
        """Make the examples of a task.

        Args:
            make: Examples of the records that are in memory.
            draw: Makes an example of a record in a shard; None where the task cannot.
            seed: Of what is drawn.

        Raises:
            UsageError: If there are shards, and the task cannot learn from them.
            DataError: If a source has nothing to learn from.
        """
        pairs = list(zip(self.sources, self._firsts, strict=True))
        held = [(source, first) for source, first in pairs if not isinstance(source.samples, ShardSamples)]
        made: dict[str, dict[str, list[Sample]]] = {source.name: {} for source, _ in held}
        records = [named_by(sample, source.name, first) for source, first in held for sample in source.samples]
        for example in make(records) if records else ():
            made[example.source].setdefault(kind_of(example), []).append(example)
        components = []
        for source, first in pairs:
            samples = source.samples
            if isinstance(samples, ShardSamples):
                if draw is None:
                    raise UsageError(f"source '{source.name}' lies in shards, which hold captions and texts; this task learns from neither")
                weight = source.weight or float(len(samples))
                shards, run = samples.shards, RUN if samples.shards.remote else 1
                components.append(Component(source.name, shards.kind, weight, samples, tuple(shards.sizes), draw, first, run))
                continue
            kinds = made[source.name]
            count = sum(map(len, kinds.values()))
            if not count:
                rows = f"{len(samples):,} records and nothing to learn from; its rows hold no caption or answer"
                raise DataError(f"source '{source.name}' has {rows}")
            for kind, examples in kinds.items():
                weight = len(examples) if source.weight is None else source.weight * len(examples) / count
                components.append(Component(source.name, kind, weight, examples, (len(examples),)))
        return MixedExamples(components, seed)


def kind_of(sample: Sample) -> str:
    """Return what a record is: "clip", "words" or "picture", or a "question" about a clip or picture; a batch holds one kind."""
    if sample.image is None:
        return "words"
    about = "clip" if sample.clip else "picture"
    return f"{about} question" if asks(sample) else about


def asks(sample: Sample) -> bool:
    """Say whether a record asks something about its picture: its text is not one of what is to be written about it."""
    return sample.image is not None and bool(sample.text and sample.targets) and sample.text not in sample.targets


def named_by(sample: Sample, source: str, first: int) -> Sample:
    """Put a source's name before a record's id and pictures and keep it; count its pictures from ``first`` on."""
    return replace(
        sample,
        id=f"{source}/{sample.id}",
        image=None if sample.image is None else f"{source}/{sample.image}",
        further_images=tuple(f"{source}/{name}" for name in sample.further_images),
        image_index=sample.image_index + first if sample.image_index >= 0 else -1,
        source=source,
    )


def _pictures(samples: Sequence[Sample]) -> int:
    if isinstance(samples, ShardSamples):
        return len(samples)
    return 1 + max((sample.image_index for sample in samples), default=-1)


def _look(source: Source, first: int) -> list[Sample]:
    samples = source.samples
    if not isinstance(samples, ShardSamples):
        return [named_by(sample, source.name, first) for sample in samples]
    most = min(len(samples), _LOOKED_AT_REMOTE if samples.shards.remote else LOOKED_AT)
    found, errors = [], []
    for number in range(most):
        try:
            found.append(named_by(samples[number * len(samples) // most], source.name, first))
        except DataError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found
