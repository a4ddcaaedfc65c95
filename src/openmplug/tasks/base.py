"""The Task contract: everything the engine needs to know about what is being learned.

A task is a module that owns the model, its momentum twin and its queues. The engine sees one entry point for training
(``task(batch)``) and one for evaluation (``task.evaluate(batches)``), so wrappers that hook ``forward`` always fire.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from openmplug.batch import Batch, Item, Losses, Prediction, Sample
from openmplug.config import Settings
from openmplug.data.loading import SampleTransform
from openmplug.data.sources import Draw
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.models.network import Network
from openmplug.tasks.marks import Marks, Shown, exact_marks, show

Collator = Callable[[list[Item]], Batch]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands when a micro-batch begins.

    Args:
        step: Optimizer steps finished so far.
        epoch: Number of the current epoch, from 0.
        fraction: Part of the current epoch that is done, 0 <= fraction < 1.
    """

    step: int = 0
    epoch: int = 0
    fraction: float = 0.0


class Task(nn.Module, ABC):
    """What a task means: the modules it needs, its losses, its predictions and its scores.

    Class attributes:
        Settings: Typed settings of the task, the ``settings:`` section of a recipe.
        model_modules: Parts of the model the task needs; nothing else is built. See ``needed_modules``.
        metric: The score that chooses the best checkpoint; higher is better. Where the settings choose it, the task sets its own.
        own_words: Words the vocabulary needs besides those of the texts.
        learns_targets: A record has something to learn only in its ``targets``; False where its text is enough.

    With ``training=False`` no momentum twin and no queue are built; both are training state, not weights.
    """

    Settings: ClassVar[type[Settings]]
    model_modules: ClassVar[tuple[str, ...]]
    metric: str
    own_words: ClassVar[tuple[str, ...]] = ()
    learns_targets: ClassVar[bool] = True

    def __init__(self, model: Network, tokenizer: Tokenizer, settings: Any, training: bool = False) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings

    @classmethod
    def needed_modules(cls, settings: Any) -> tuple[str, ...]:
        """Name the parts of the model that the task needs under these settings."""
        return cls.model_modules

    @classmethod
    def model_sizes(cls, settings: Any) -> dict[str, Any]:
        """Return fields of the model's configuration that follow from the settings, such as the number of classes."""
        return {}

    @classmethod
    def prepared(cls, settings: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
        """Complete settings with what only the training records know, such as the classes; they are saved with the weights."""
        return dict(settings)

    def examples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Turn a split's records into training examples; by default each record is one."""
        return list(samples)

    def draw(self) -> Draw | None:
        """Return how an example is made of a record in a shard each time it is seen; None where captions and texts teach nothing here.

        It runs in the loader's workers, so it is small and picklable, and knows one record at a time, unlike ``examples``.
        """
        return None

    def transform(self, image: ImageSettings, training: bool) -> SampleTransform | None:
        """Return how a record and its picture change together; None where the picture alone changes, as it usually does."""
        return None

    @abstractmethod
    def collator(self, training: bool) -> Collator:
        """Return a small picklable object that turns items into a batch; it runs in the loader's workers."""

    @property
    def shardable(self) -> bool:
        """Whether training goes through the model's layers alone, so that each process may hold a piece of them only."""
        return True

    @property
    def looks_ahead(self) -> bool:
        """Whether ``look_ahead`` is to be called before the micro-batches of an optimizer step; ``begin_step`` then is once, before it."""
        return False

    def look_ahead(self, batches: Iterable[Batch]) -> None:
        """See all micro-batches of an optimizer step before the first of them is learned from."""

    def begin_step(self, progress: Progress) -> None:
        """Run before each micro-batch: momentum updates and ramps belong here, never in ``forward``."""

    def end_step(self) -> None:
        """Run after each backward pass: queues are written here."""

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Compute the training losses of one micro-batch."""

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """Predict each sample of one batch, in order. The engine calls it without gradients, in eval mode."""

    def evaluate(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """Predict a whole split. Tasks whose predictions depend on all samples (retrieval) override this."""
        for batch in batches:
            yield from self.predict(batch)

    @abstractmethod
    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Turn predictions into metrics; ``self.metric`` is among the keys."""

    def scorer(self) -> Mapping[str, str]:
        """Say how the metrics are computed (tokenisation, normalisation); written into ``metrics.json``."""
        return {}

    def marks(self, predictions: Sequence[Prediction]) -> Marks:
        """Say what each prediction is worth by itself; by default 1 where it equals a reference."""
        return exact_marks(predictions)

    def shown(self, prediction: Prediction) -> Shown:
        """Choose what a person sees of a prediction in the report."""
        return show(prediction)

    def training_state(self) -> dict[str, Tensor]:
        """Return every tensor of the task that is not the model's: twin, queues, pointers."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("model.")}

    def load_training_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put ``training_state()`` back, in place.

        Raises:
            ValueError: If the names or shapes are not exactly those of this task.
        """
        current = self.training_state()
        missing, unknown = sorted(current.keys() - tensors.keys()), sorted(tensors.keys() - current.keys())
        wrong = sorted(key for key in current.keys() & tensors.keys() if current[key].shape != tensors[key].shape)
        if missing or unknown or wrong:
            message = f"training state does not fit this task: missing {missing[:3]}, unknown {unknown[:3]}, wrong shape {wrong[:3]}"
            raise ValueError(message)
        with torch.no_grad():
            for key, value in current.items():
                value.copy_(tensors[key])
