"""What a run reads: its vocabulary, and batches to learn from and to be measured on, from a recipe and its splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openmplug import distributed
from openmplug.batch import Sample
from openmplug.checkpoints.folder import VOCABULARY
from openmplug.data.checking import check_readable
from openmplug.data.clips import EvalClip, TrainClip, VideoSettings
from openmplug.data.epochs import EpochSampler
from openmplug.data.images import ImageSource
from openmplug.data.loading import BatchLoader, ImageTextDataset, build_loader
from openmplug.data.mixing import MixtureSampler
from openmplug.data.readers import Split
from openmplug.data.sources import MixedExamples, kind_of
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.data.transforms import EvalTransform, ImageSettings, TrainTransform
from openmplug.engine.models import find_model
from openmplug.engine.recipe import RunConfig
from openmplug.errors import DataError, UsageError
from openmplug.tasks import find_task
from openmplug.tasks.base import Task

FIRST_IMAGES = 8


def check_first_images(split: Split, on_error: str) -> None:
    """Open a split's first pictures before anything is built: a wrong folder shows at once, not after minutes.

    Raises:
        DataError: If one cannot be read; where unreadable pictures are to be skipped, if none of them can.
    """
    names = list(dict.fromkeys((name, sample.clip) for sample in split.samples for name in sample.pictures))[:FIRST_IMAGES]
    errors: list[DataError] = []
    for name, clip in names:
        try:
            check_readable(split.images, name, clip)
        except DataError as error:
            if on_error == "error":
                raise
            errors.append(error)
    if names and len(errors) == len(names):
        raise DataError(
            f"none of the first {len(names)} {'videos' if names[0][1] else 'pictures'} of split '{split.name}' can be read: {errors[0]}"
        )


def tokenizer_for(config: RunConfig, samples: Sequence[Sample]) -> Tokenizer:
    """Take the vocabulary of the recipe, of the weights to start from (and extend it), or of the training texts, in this order."""
    if config.tokenizer.vocab is not None:
        return Tokenizer.from_vocab_file(config.tokenizer.vocab.expanduser())
    start = Tokenizer.from_vocab_file(find_model(config.init_from[0]) / VOCABULARY) if config.init_from else None
    if start is not None and not config.tokenizer.extend:
        return start

    def texts() -> Iterator[str]:
        for sample in samples:
            if sample.text:
                yield sample.text
            yield from sample.targets

    own = find_task(config.task).own_words
    built = build_vocabulary(texts(), config.tokenizer.size, config.tokenizer.min_count, own)
    return Tokenizer.from_vocab(built if start is None else [*start.vocab, *(word for word in built if start.token_to_id(word) is None)])


def training_loader(
    config: RunConfig, task: Task, examples: Sequence[Sample] | MixedExamples, images: ImageSource
) -> tuple[EpochSampler | MixtureSampler, BatchLoader]:
    """Make this process's loader of training batches, and the sampler that tells it which examples.

    Raises:
        UsageError: If steps are to be mixed of what cannot be.
    """
    sampler = _training_sampler(config, examples)
    transforms = TrainTransform(config.image), TrainClip(config.video, config.image)
    together = task.transform(config.image, training=True)
    dataset = ImageTextDataset(examples, images, transforms[0], config.seed, config.data.on_error, clip=transforms[1], together=together)
    return sampler, build_loader(dataset, sampler, task.collator(training=True), config.data.workers)


def _training_sampler(config: RunConfig, examples: Sequence[Sample] | MixedExamples) -> EpochSampler | MixtureSampler:
    size, rank, processes = config.optim.batch_size_per_device, distributed.rank(), distributed.world_size()
    together = config.optim.accumulation if config.data.mixed_steps else 1
    if config.data.mixed_steps and (together == 1 or not config.data.sources):
        raise UsageError(
            "data.mixed_steps mixes the micro-batches of a step; give optim.accumulation above 1, and data.sources of several kinds"
        )
    if isinstance(examples, MixedExamples):
        return MixtureSampler(
            examples,
            size,
            seed=config.seed,
            rank=rank,
            world_size=processes,
            together=together,
            epoch_examples=config.data.epoch_examples,
        )
    # As the originals: a last batch that is not full is left out (contrastive learning needs full ones), unless it is the only one.
    kinds = [kind_of(sample) for sample in examples]
    full = len(examples) >= size * processes
    return EpochSampler(len(examples), size, seed=config.seed, shuffle=True, drop_last=full, groups=kinds, rank=rank, world_size=processes)


def evaluation_loader(
    config: RunConfig, task: Task, samples: Sequence[Sample], images: ImageSource, image: ImageSettings, video: VideoSettings
) -> BatchLoader:
    """Make a loader of all samples in order, with the given picture and video settings: a model's own, which may not be the recipe's."""
    size = config.run.evaluate_batch_size or config.optim.batch_size_per_device
    clip = EvalClip(video, image)
    together = task.transform(image, training=False)
    dataset = ImageTextDataset(samples, images, EvalTransform(image), config.seed, config.data.on_error, clip=clip, together=together)
    return build_loader(dataset, EpochSampler(len(samples), size, shuffle=False), task.collator(training=False), config.data.workers)
