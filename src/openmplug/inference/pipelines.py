"""Pictures and words in, plain dataclasses out.

Every call takes one item or a list. A list gives the same results as its items one by one, in the same order: items are put into
batches of similar text length, which saves padding, and padding is masked, so it changes no result.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from PIL import Image, ImageOps

from openmplug.batch import Batch, Item, Sample
from openmplug.checkpoints.store import load_weights, read_config
from openmplug.config import validate
from openmplug.data.images import decode_image
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import EvalTransform, ImageSettings
from openmplug.device import autocast, choose_device, choose_precision
from openmplug.errors import DataError, ModelError, UsageError
from openmplug.tasks import build_task
from openmplug.tasks.base import Task

ImageInput: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray[Any, Any]"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its length-normalised log probability (<= 0, higher is surer)."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and its length-normalised log probability (<= 0, higher is surer)."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Match:
    """How well a text fits a picture: the matching head's probability (0 to 1) and the cosine similarity of both (-1 to 1).

    The probability is None where the model was trained without matching (``settings.matching_weight: 0``).
    """

    probability: float | None
    similarity: float


def read_image(image: ImageInput) -> Image.Image:
    """Return any accepted input as an RGB picture.

    Args:
        image: Path, encoded bytes, PIL image, or array (H, W), (H, W, 3) or (H, W, 4) of uint8.

    Raises:
        DataError: If the file is missing or unreadable, or the array has another shape or type.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"image '{path}' does not exist") from None
        except OSError as error:
            raise DataError(f"image '{path}' cannot be read: {error.strerror}") from error
        return decode_image(data, str(path))
    if isinstance(image, bytes):
        return decode_image(image, "bytes")
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not fits or 0 in image.shape:
            raise DataError(f"an image array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4); got {image.dtype} {image.shape}")
        return _to_rgb(Image.fromarray(np.ascontiguousarray(image)))
    raise DataError(f"an image must be a path, bytes, a PIL image or an array; got {type(image).__name__}")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Treat an opened picture as ``decode_image`` treats its file: upright, alpha on white, 16 bits scaled."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layers = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    if upright.mode.startswith("I"):
        encoded = BytesIO()
        upright.save(encoded, "PNG")
        return decode_image(encoded.getvalue(), "image")
    return upright.convert("RGB")


class Pipeline:
    """A trained folder, ready to use.

    Args:
        task: The task, its weights loaded.
        name: The task's name, ``vqa``, ``caption`` or ``retrieval``.
        transform: Picture to pixels, as in evaluation.
        device: Where the model runs.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
        batch_size: Items worked on at once.
    """

    def __init__(self, task: Task, name: str, transform: EvalTransform, device: torch.device, precision: str, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self.task = task.to(device).eval()
        self.name = name
        self.batch_size = batch_size
        self._transform = transform
        self._device = device
        self._precision = precision
        self._collate = task.collator(training=False)

    @overload
    def answer(self, images: ImageInput, questions: str) -> Answer: ...
    @overload
    def answer(self, images: ImageInput | Sequence[ImageInput], questions: str | Sequence[str]) -> Answer | list[Answer]: ...
    def answer(self, images: ImageInput | Sequence[ImageInput], questions: str | Sequence[str]) -> Answer | list[Answer]:
        """Answer questions about pictures.

        Args:
            images: One picture or several.
            questions: One question or several; one picture may get several questions, and several pictures one question.

        Raises:
            UsageError: If the model was not trained to answer, or the numbers of pictures and questions differ.
            DataError: If a picture cannot be read.
        """
        self._needs("vqa", "answer questions")
        pairs, single = _pairs(images, questions, "questions")
        answers = [Answer(prediction.text, prediction.score) for prediction in self._in_batches(pairs, self.task.predict)]
        return answers[0] if single else answers

    @overload
    def caption(self, images: str | Path | bytes | Image.Image) -> Caption: ...
    @overload
    def caption(self, images: ImageInput | Sequence[ImageInput]) -> Caption | list[Caption]: ...
    def caption(self, images: ImageInput | Sequence[ImageInput]) -> Caption | list[Caption]:
        """Write a caption for each picture.

        Raises:
            UsageError: If the model was not trained to write captions.
            DataError: If a picture cannot be read.
        """
        self._needs("caption", "write captions")
        single = not _is_list(images)
        pairs: list[tuple[ImageInput, str | None]] = [(image, None) for image in _as_list(images)]
        captions = [Caption(prediction.text, prediction.score) for prediction in self._in_batches(pairs, self.task.predict)]
        return captions[0] if single else captions

    @overload
    def match(self, images: ImageInput, texts: str) -> Match: ...
    @overload
    def match(self, images: ImageInput | Sequence[ImageInput], texts: str | Sequence[str]) -> Match | list[Match]: ...
    def match(self, images: ImageInput | Sequence[ImageInput], texts: str | Sequence[str]) -> Match | list[Match]:
        """Say how well each text fits its picture.

        Args:
            images: One picture or several.
            texts: One text or several; one picture may be matched with several texts, and several pictures with one text.

        Raises:
            UsageError: If the model was not trained to match, or the numbers of pictures and texts differ.
            DataError: If a picture cannot be read.
        """
        self._needs("retrieval", "match pictures and texts")
        pairs, single = _pairs(images, texts, "texts")
        matches = self._in_batches(pairs, self._match)
        return matches[0] if single else matches

    def _needs(self, name: str, ability: str) -> None:
        if self.name != name:
            raise UsageError(f"this model was trained for task '{self.name}' and cannot {ability}; that needs one trained for '{name}'")

    def _match(self, batch: Batch) -> list[Match]:
        assert batch.images is not None and batch.text is not None
        model, words = self.task.model, batch.text
        vision, text = model.encode_images(batch.images), model.encode_text(words.ids, words.mask)
        features = model.contrastive.vision_features(vision).float(), model.contrastive.text_features(text).float()
        similarities = (features[0] * features[1]).sum(dim=1)
        if "matching" not in model.modules_built:
            return [Match(None, similarity) for similarity in similarities.tolist()]
        # Logit 1 of the two is "match".
        probabilities = model.matching(model.fuse(vision, text, words.mask).text).float().softmax(dim=1)[:, 1]
        return [Match(*values) for values in zip(probabilities.tolist(), similarities.tolist(), strict=True)]

    def _in_batches(self, pairs: Sequence[tuple[ImageInput, str | None]], compute: Callable[[Batch], list[Result]]) -> list[Result]:
        results: dict[int, Result] = {}
        for positions in self._batches([text for _, text in pairs]):
            items = []
            for position in positions:
                image, text = pairs[position]
                # The evaluation transform draws nothing; the generator is only there because training's does.
                pixels = self._transform(read_image(image), random.Random(0))
                sample = Sample(str(position), text=text, references=() if text is None else (text,), image_index=position)
                items.append(Item(sample, pixels))
            batch = self._collate(items).to(self._device)
            with torch.inference_mode(), autocast(self._device, self._precision):
                results.update(zip(positions, compute(batch), strict=True))
        return [results[position] for position in range(len(pairs))]

    def _batches(self, texts: Sequence[str | None]) -> Iterator[list[int]]:
        lengths = [0 if text is None else len(self.task.tokenizer.encode(text)) for text in texts]
        order = sorted(range(len(texts)), key=lambda position: lengths[position])
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _as_list(value: Any) -> list[Any]:
    return list(value) if _is_list(value) else [value]


def _pairs(images: Any, texts: Any, what: str) -> tuple[list[tuple[ImageInput, str | None]], bool]:
    single = not _is_list(images) and not _is_list(texts)
    many_images, many_texts = _as_list(images), _as_list(texts)
    if not _is_list(images):
        many_images = many_images * len(many_texts)
    if not _is_list(texts):
        many_texts = many_texts * len(many_images)
    if len(many_images) != len(many_texts):
        raise UsageError(f"{len(many_images)} images and {len(many_texts)} {what}; give as many of one as of the other, or a single one")
    return list(zip(many_images, many_texts, strict=True)), single


def _find(folder: Path) -> Path:
    """Take a run's folder for the best checkpoint in it."""
    for name in ("checkpoint-best", "checkpoint-last"):
        if not (folder / "config.json").exists() and (folder / name).is_dir():
            return folder / name
    return folder


def load(folder: str | Path, device: str | None = None, dtype: str | None = None, batch_size: int = 16) -> Pipeline:
    """Load a trained folder, such as ``checkpoint-best`` of a run.

    Args:
        folder: Holds ``model.safetensors``, ``config.json`` and ``vocab.txt``; or a run's folder, for its ``checkpoint-best``.
        device: ``auto`` (None), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` (None), ``fp32``, ``bf16`` or ``fp16``; the weights stay fp32, the arithmetic is done in this type.
        batch_size: Items worked on at once.

    Raises:
        ModelError: If the folder is not a trained model, or its weights do not fit its description.
        UsageError: If device or dtype is unknown.
        EnvironmentProblem: If this machine has no such device.
    """
    chosen = choose_device(device)
    precision = choose_precision(dtype, chosen)
    path = _find(Path(folder).expanduser())
    config = read_config(path)
    missing = [key for key in ("task", "model", "settings", "image") if key not in config]
    if missing:
        raise ModelError(f"'{path / 'config.json'}' has no {', '.join(missing)}; it is not a folder that openmplug train wrote")
    vocabulary = path / "vocab.txt"
    if not vocabulary.is_file():
        raise ModelError(f"'{vocabulary}' is missing; the model's words cannot be read without it")
    task = build_task(config["task"], config["model"], Tokenizer.from_vocab_file(vocabulary), config["settings"])
    load_weights(path, task.model)
    return Pipeline(
        task, config["task"], EvalTransform(validate(ImageSettings, config["image"], where="image")), chosen, precision, batch_size
    )
