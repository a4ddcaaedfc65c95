"""What a model does besides running a task's own batches: boxes in a picture's pixels, and vectors for search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openmplug.batch import Item, Sample, Tokens
from openmplug.config import validate
from openmplug.data.box_transforms import EvalBoxes, to_picture
from openmplug.data.text import clean_caption
from openmplug.data.video import Video
from openmplug.errors import DataError
from openmplug.inference.pictures import read_image
from openmplug.inference.results import Box
from openmplug.inference.visuals import VisualInput, by_kind, is_clip
from openmplug.tasks import PRETRAINING
from openmplug.tasks.decoding import stack_images
from openmplug.tasks.grounding import BoxWords, GroundingSettings, locate
from openmplug.tasks.retrieval import RetrievalSettings

if TYPE_CHECKING:
    from openmplug.inference.model import Model


def ground(model: Model, pairs: Sequence[tuple[VisualInput, str | None]]) -> list[Box]:
    """Find what each phrase names in its picture; see ``Model.ground``."""
    transform = box_transform(model)
    boxes: list[Box] = []
    for start in range(0, len(pairs), model.batch_size):
        part = [(transform.place(_picture(image)), text) for image, text in pairs[start : start + model.batch_size]]
        boxes += find_boxes(model, [Item(Sample("", text=text), pixels, placement=place) for (pixels, place), text in part])
    return boxes


def box_transform(model: Model) -> EvalBoxes:
    """Return how a picture gets onto the square that the model looks for boxes on."""
    return EvalBoxes(model.image, _box_settings(model).boxes)


def _box_settings(model: Model) -> GroundingSettings:
    return validate(GroundingSettings, model.config["settings"] if model.name == "grounding" else {}, where="settings")


def box_words(model: Model) -> BoxWords:
    """Return the words that a model writes boxes with.

    Raises:
        ModelError: If its vocabulary has none.
    """
    return BoxWords.of(_box_settings(model), model.tokenizer)


def find_boxes(model: Model, items: Sequence[Item]) -> list[Box]:
    """Find what each item's phrase names, in the pixels of its picture; all items have pixels and a placement."""
    settings = _box_settings(model)
    words = box_words(model)
    boxes: list[Box] = []
    for start in range(0, len(items), model.batch_size):
        part = items[start : start + model.batch_size]
        tokens = model.tokenizer.encode_phrases([item.sample.text or "" for item in part], settings.max_text_length).to(model.device)
        pixels = stack_images(part).to(model.device)
        with model.computing():
            found, scores = locate(model.network, pixels, tokens.ids, tokens.mask, words)
        for item, (x, y, width, height), score in zip(part, found.tolist(), scores.tolist(), strict=True):
            assert item.placement is not None
            boxes.append(Box(*to_picture((x, y, width, height), item.placement, model.image.size), score))
    return boxes


def _picture(visual: VisualInput) -> Image.Image:
    if isinstance(visual, Video):
        raise DataError(f"phrases are found in pictures, and '{visual.name}' is a video; give one of its frames")
    return read_image(visual)


def embed_images(model: Model, images: Sequence[VisualInput], batch_size: int) -> NDArray[np.float32]:
    """Embed pictures and videos to (n, E); see ``Model.embed_images``."""
    return embed_pixels(model, [is_clip(image) for image in images], lambda position: model.visuals.read(images[position]), batch_size)


def embed_pixels(model: Model, clips: Sequence[bool], pixels: Callable[[int], Tensor], batch_size: int) -> NDArray[np.float32]:
    """Embed pictures and clips by their pixels.

    Args:
        model: One with encoder and contrastive head.
        clips: Of each item, whether it is a clip.
        pixels: Gives an item's pixels (3, size, size) or (F, 3, size, size) as its batch comes up.
        batch_size: Pictures worked on at once; of clips as many as have so many frames.

    Returns:
        (n, E), each of length 1.
    """
    found = torch.empty(len(clips), model.network.config.embed_dim)
    for positions in by_kind(clips, [0] * len(clips), batch_size, model.video.frames):
        found[positions] = embed_batch(model, torch.stack([pixels(position) for position in positions]))
    return found.numpy()


def embed_batch(model: Model, pixels: Tensor) -> Tensor:
    """Embed a batch of pictures (B, 3, size, size) or clips (B, F, 3, size, size) to (B, E) float32 on the CPU."""
    with model.computing():
        return encode_visuals(model, pixels.to(model.device))[1].float().cpu()


def call_defaults(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by task what its calls take where nothing else is said, of a model that was trained for another task or for none.

    A folder's ``config.json`` may say it under ``defaults``. Who learned in pre-training to describe when asked is asked the same.

    Args:
        content: The model's ``config.json``.
    """
    learned = content["settings"] if content["task"] == PRETRAINING else {}
    asked = {"caption": {"instruction": learned["instructions"][0]}} if learned.get("instruction") else {}
    said = content.get("defaults", {})
    return {task: {**asked.get(task, {}), **said.get(task, {})} for task in {*asked, *said}}


def encode_visuals(model: Model, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pictures (B, 3, H, W) or clips (B, F, 3, H, W) to states (B, V, D) and features (B, E) of length 1."""
    states = model.network.encode_images(pixels)
    return states, model.network.vision_features(states, pixels.shape[1] if pixels.ndim == 5 else 1)


def embed_texts(model: Model, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Embed texts to (n, E), shorter ones first and put back in order; see ``Model.embed_texts``."""
    found: Tensor = torch.empty(len(texts), model.network.config.embed_dim)
    if not texts:
        return found.numpy()
    tokens = text_tokens(model, texts)
    lengths = tokens.mask.sum(dim=1)
    for positions in lengths.argsort(stable=True).split(batch_size):
        width = int(lengths[positions].max())
        part = Tokens(tokens.ids[positions, :width], tokens.mask[positions, :width]).to(model.device)
        with model.computing():
            found[positions] = model.network.contrastive.text_features(model.network.encode_text(part.ids, part.mask)).float().cpu()
    return found.numpy()


def text_tokens(model: Model, texts: Sequence[str]) -> Tokens:
    """Clean, cut and tokenise texts as retrieval is evaluated: ids and mask (n, T)."""
    settings = model.task_for("retrieval").settings
    assert isinstance(settings, RetrievalSettings)
    return model.tokenizer([clean_caption(text, settings.max_words) for text in texts], settings.max_text_length)
