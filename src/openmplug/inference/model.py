"""The front door: a loaded model that answers, captions, matches, grounds and embeds.

Every call takes one item or a list. A list gives the same results as its items one by one, in the same order: items are put into
batches of similar text length, which saves padding, and padding is masked, so it changes no result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openmplug.batch import Batch, Item, Sample
from openmplug.checkpoints.foreign import TASK_MODULES
from openmplug.checkpoints.hub import fetch_model
from openmplug.checkpoints.store import save_weights
from openmplug.config import validate
from openmplug.data.clips import saved_video
from openmplug.data.tokenizer import Tokenizer
from openmplug.data.transforms import ImageSettings
from openmplug.device import autocast
from openmplug.errors import UsageError
from openmplug.inference.abilities import box_transform, box_words, call_defaults, embed_images, embed_texts, ground
from openmplug.inference.classifying import classifier, classify, labels
from openmplug.inference.explain.explanation import Explanation
from openmplug.inference.explain.front import Asked, explain
from openmplug.inference.explain.reading import Layers
from openmplug.inference.pictures import ImageInput
from openmplug.inference.results import Answer, Box, Caption, Label, Match
from openmplug.inference.visuals import VisualInput, VisualTransform, by_kind, is_clip
from openmplug.models.network import Network
from openmplug.tasks import PRETRAINING, task_around
from openmplug.tasks.base import Task
from openmplug.tasks.vqa import VQATask

Result = TypeVar("Result")
Pair = tuple[VisualInput, str | None]

_DOES = {
    "vqa": "answer questions",
    "caption": "write captions",
    "retrieval": "match pictures and texts",
    "grounding": "find phrases",
    "classification": "name classes",
}


def check_trained_for(task: str | None, wanted: str) -> None:
    """Refuse a model that was trained for another task than the one wanted; None was trained for none in particular.

    Raises:
        UsageError: If it was.
    """
    if task not in (None, wanted):
        raise UsageError(
            f"this model was trained for task '{task}' and cannot {_DOES[wanted]}; that needs one trained for '{wanted}'"
            f" (load(…, task='{wanted}') tries this one all the same)"
        )


class Model(PyTorchModelHubMixin, library_name="openmplug", tags=["mplug", "vision-language"]):
    """A model, its words and its settings, ready to use.

    ``openmplug.load`` makes one. ``Model.from_pretrained`` and ``push_to_hub`` are those of the Hugging Face hub.

    Args:
        network: The weights, already on the device.
        tokenizer: The words.
        content: A model folder's ``config.json``.
        device: Where the network is.
        precision: ``fp32``; ``bf16``, the weights are (``models.precision.cast_for_inference``); or ``fp16``, by autocast.
        batch_size: Items worked on at once.

    Example:
        >>> import openmplug
        >>> model = openmplug.load(folder, device="cpu")
        >>> one = model.caption(picture, min_length=1, max_length=4)
        >>> one.score < 0
        True
        >>> len(model.caption([picture, picture], max_length=9))
        2
        >>> ranked = model.answer(picture, "what colour is the cup?", candidates=["red", "a picture"])
        >>> sorted(text for text, probability in ranked.candidates)
        ['a picture', 'red']
        >>> match = model.match(picture, "a red cup")
        >>> 0 < match.probability < 1
        True
        >>> box = model.ground(picture, "the left cup")
        >>> 0 <= box.left <= box.right <= 60
        True
        >>> model.embed_images([picture]).shape == model.embed_texts(["a red cup"]).shape == (1, 64)
        True
    """

    def __init__(
        self, network: Network, tokenizer: Tokenizer, content: Mapping[str, Any], device: torch.device, precision: str, batch_size: int = 16
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self.network = network.eval()
        self.tokenizer = tokenizer
        # Pre-training is for no task in particular.
        self.config = {**content, **({"task": None, "settings": {}} if content["task"] == PRETRAINING else {})}
        if defaults := call_defaults(content):
            self.config["defaults"] = defaults
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.image = validate(ImageSettings, self.config["image"], where="image")
        self.video = saved_video(self.config)
        self.visuals = VisualTransform(self.image, self.video, box_transform(self) if self.name == "grounding" else None)
        self.transform = self.visuals.picture
        self.source: Path | None = None  # the folder or file of the weights; ``load`` says it
        self._tasks: dict[tuple[str, str], Task] = {}

    # ------------------------------------------------------------------------------------------------------------- abilities

    @property
    def name(self) -> str | None:
        """The task the model was trained for; None = whatever its parts allow."""
        name = self.config["task"]
        return None if name is None else str(name)

    @property
    def task(self) -> Task:
        """The task the model was trained for, around its weights.

        Raises:
            UsageError: If it was trained for none in particular, or for grounding.
        """
        if self.name is None:
            raise UsageError("this model was trained for no task in particular; load it with task=, one of vqa, caption, retrieval")
        return self.task_for(self.name)

    def task_for(self, name: str, **changes: Any) -> Task:
        """Return a task around this model's weights, with settings changed for this call; those that are None stay."""
        self.require(name)
        changes = {key: value for key, value in changes.items() if value is not None}
        key = (name, json.dumps(changes, sort_keys=True))
        if key not in self._tasks:
            own = {**self.config.get("defaults", {}).get(name, {}), **(self.config["settings"] if self.name in (None, name) else {})}
            made = task_around(name, self.network, self.tokenizer, {**own, **changes}).eval()
            if len(self._tasks) >= 32:  # candidates differ from call to call
                self._tasks.clear()
            self._tasks[key] = made
        return self._tasks[key]

    def require(self, name: str) -> None:
        """Refuse a task this model cannot do.

        Raises:
            UsageError: If it was trained for another one, or lacks a part.
            ModelError: If its vocabulary lacks the words for it.
        """
        check_trained_for(self.name, name)
        # Without fusion and matching head, retrieval still has its similarities.
        spared = ("fusion", "matching") if name == "retrieval" else ()
        lacking = [part for part in TASK_MODULES[name] if part not in self.network.modules_built and part not in spared]
        if lacking:
            raise UsageError(
                f"this model has no {', '.join(lacking)} and cannot {_DOES[name]}; its parts: {', '.join(self.network.modules_built)}"
            )
        if name == "grounding":
            box_words(self)

    # ------------------------------------------------------------------------------------------------------------------ calls

    @overload
    def caption(
        self,
        images: str | Path | bytes | Image.Image,
        *,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
    ) -> Caption: ...
    @overload
    def caption(
        self,
        images: VisualInput | Sequence[VisualInput],
        *,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
    ) -> Caption | list[Caption]: ...
    def caption(
        self,
        images: VisualInput | Sequence[VisualInput],
        *,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
    ) -> Caption | list[Caption]:
        """Write a caption for each picture or video.

        Args:
            images: One picture or video, or several, mixed at will.
            num_beams: Beams of the search; this and the others default to what the model was trained with.
            min_length: Fewest new tokens.
            max_length: Most new tokens.
            prompt: Words every caption begins with.

        Raises:
            UsageError: If the model was not trained to write captions, or a setting is out of its range.
            DataError: If a picture cannot be read.
        """
        task = self.task_for("caption", num_beams=num_beams, min_length=min_length, max_length=max_length, prompt=prompt)
        pairs: list[Pair] = [(image, None) for image in _as_list(images)]
        found = [Caption(one.text, one.score) for one in self._in_batches(pairs, task, task.predict)]
        return found if _is_list(images) else found[0]

    @overload
    def answer(
        self,
        images: str | Path | bytes | Image.Image,
        questions: str,
        *,
        candidates: Sequence[str] | None = None,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> Answer: ...
    @overload
    def answer(
        self,
        images: VisualInput | Sequence[VisualInput],
        questions: str | Sequence[str],
        *,
        candidates: Sequence[str] | None = None,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> Answer | list[Answer]: ...
    def answer(
        self,
        images: VisualInput | Sequence[VisualInput],
        questions: str | Sequence[str],
        *,
        candidates: Sequence[str] | None = None,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> Answer | list[Answer]:
        """Answer questions about pictures and videos.

        Args:
            images: One picture or video, or several, mixed at will.
            questions: One question or several; one picture may get several questions, and several pictures one question.
            candidates: Choose among these, ranked with probabilities, instead of writing freely.
            num_beams: Beams of the search; this and the lengths default to what the model was trained with.
            min_length: Fewest new tokens.
            max_length: Most new tokens.

        Raises:
            UsageError: If the model was not trained to answer, the numbers of pictures and questions differ, or candidates are empty.
            DataError: If a picture cannot be read.
        """
        pairs, single = _pairs(images, questions, "questions")
        if candidates is None:
            task = self.task_for("vqa", num_beams=num_beams, min_length=min_length, max_length=max_length)
            found = [Answer(one.text, one.score) for one in self._in_batches(pairs, task, task.predict)]
            return found[0] if single else found
        ranker, ranked = self._ranking(candidates)
        chosen = self._in_batches(pairs, ranker, ranked)
        return chosen[0] if single else chosen

    @overload
    def match(self, images: str | Path | bytes | Image.Image, texts: str) -> Match: ...
    @overload
    def match(self, images: VisualInput | Sequence[VisualInput], texts: str | Sequence[str]) -> Match | list[Match]: ...
    def match(self, images: VisualInput | Sequence[VisualInput], texts: str | Sequence[str]) -> Match | list[Match]:
        """Say how well each text fits its picture or video.

        Args:
            images: One picture or video, or several, mixed at will.
            texts: One text or several; one picture may be matched with several texts, and several pictures with one text.

        Raises:
            UsageError: If the model was not trained to match, or the numbers of pictures and texts differ.
            DataError: If a picture cannot be read.
        """
        pairs, single = _pairs(images, texts, "texts")
        matches = self._in_batches(pairs, self.task_for("retrieval"), self._match)
        return matches[0] if single else matches

    @overload
    def ground(self, images: str | Path | bytes | Image.Image, phrases: str) -> Box: ...
    @overload
    def ground(self, images: ImageInput | Sequence[ImageInput], phrases: str | Sequence[str]) -> Box | list[Box]: ...
    def ground(self, images: ImageInput | Sequence[ImageInput], phrases: str | Sequence[str]) -> Box | list[Box]:
        """Find what each phrase names in its picture.

        Args:
            images: One picture or several.
            phrases: One phrase or several, as in ``match``.

        Raises:
            UsageError: If the model was not trained to ground, or the numbers of pictures and phrases differ.
            ModelError: If its vocabulary has no words for boxes.
            DataError: If a picture cannot be read.
        """
        self.require("grounding")
        pairs, single = _pairs(images, phrases, "phrases")
        boxes = ground(self, pairs)
        return boxes[0] if single else boxes

    def classify(self, inputs: Any | Sequence[Any], texts: str | Sequence[str] | None = None) -> Label | list[Label]:
        """Name the class of each input, or estimate its number.

        Args:
            inputs: One picture or several; of a model that reads words alone, one text or several; of one whose texts are about several
                pictures, a list of tuples of them, such as ``[(left, right)]``.
            texts: What is said about each picture, or the second sentence of each pair, where the model was trained on such.

        Raises:
            UsageError: If the model was not trained to classify, reads other inputs, or the numbers of inputs and texts differ.
            DataError: If a picture cannot be read.
        """
        if texts is None:
            found = classify(self, _as_list(inputs), [None] * len(_as_list(inputs)))
            return found if _is_list(inputs) else found[0]
        pairs, single = _pairs(inputs, texts, "texts")
        found = classify(self, [one for one, _ in pairs], [text for _, text in pairs])
        return found[0] if single else found

    def explain(
        self,
        images: VisualInput | Sequence[VisualInput],
        texts: str | Sequence[str] | None = None,
        *,
        target: str | Sequence[str | None] | None = None,
        task: str | None = None,
        layer: int | None = None,
        decoder_layer: int | None = None,
    ) -> Explanation | list[Explanation]:
        """Show where the model looks: for every word, and for all of them, a map over the patches of each picture or video.

        The maps are attention from words to patches, weighted by the gradient of what is explained: the log odds of a match, or of
        each word of an answer or caption. Words that are read have that of the fusion; words that are written, of the decoder.

        Args:
            images: One picture or video, or several, mixed at will.
            texts: The sentence to match or the question to answer, one or several as in ``match``; None for captions.
            target: An answer or caption, or one for each input, to explain in the place of the model's own.
            task: ``retrieval``, ``vqa`` or ``caption``; default what the model was trained for.
            layer: Of the fusion, from 0; default the middle one.
            decoder_layer: Of the decoder; default the middle one.

        Raises:
            UsageError: If the model cannot do that, a text is missing or too many, or there is no such layer.
            DataError: If a picture cannot be read.
        """
        pairs: list[Pair] = [(image, None) for image in _as_list(images)]
        single = not _is_list(images)
        if texts is not None:
            pairs, single = _pairs(images, texts, "texts")
        targets = list(target) if isinstance(target, Sequence) and not isinstance(target, str) else [target] * len(pairs)
        if len(targets) != len(pairs):
            raise UsageError(f"{len(targets)} targets for {len(pairs)} inputs; give as many, or a single one")
        asked = [Asked(*pair, wanted) for pair, wanted in zip(pairs, targets, strict=True)]
        found = explain(self, asked, task, Layers(layer, decoder_layer))
        return found[0] if single else found

    def embed_images(self, images: VisualInput | Sequence[VisualInput], batch_size: int | None = None) -> NDArray[np.float32]:
        """Embed pictures and videos for search.

        They are projected and of length 1, so that a dot product with ``embed_texts`` is the cosine similarity.

        Returns:
            (n, E) float32, or (E,) for a single picture.

        Raises:
            UsageError: If the model was not trained to match.
            DataError: If a picture cannot be read.
        """
        self.require("retrieval")
        found = embed_images(self, _as_list(images), batch_size or self.batch_size)
        return found if _is_list(images) else found[0]

    embed_videos = embed_images

    def embed_texts(self, texts: str | Sequence[str], batch_size: int | None = None) -> NDArray[np.float32]:
        """Embed texts for search, cleaned and cut as in evaluation.

        Returns:
            (n, E) float32, each of length 1, or (E,) for a single text.

        Raises:
            UsageError: If the model was not trained to match.
        """
        found = embed_texts(self, _as_list(texts), batch_size or self.batch_size)
        return found if _is_list(texts) else found[0]

    # ---------------------------------------------------------------------------------------------------------------- batches

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients and in the chosen precision while the block runs."""
        # bf16 is in the weights; what needs more digits stays fp32 there, which autocast would undo.
        with torch.inference_mode(), autocast(self.device, "fp32" if self.precision == "bf16" else self.precision):
            yield

    def _ranking(self, candidates: Sequence[str]) -> tuple[Task, Callable[[Batch], list[Answer]]]:
        """Return the task that ranks candidates, and what makes answers of its batches."""
        answers = tuple(dict.fromkeys(candidates))
        if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
            raise UsageError("candidates must be at least one text, none of them empty; leave candidates out for a free answer")
        ranker = self.task_for("vqa", inference="rank", answers=list(answers), k_test=len(answers))
        assert isinstance(ranker, VQATask)

        def ranked(batch: Batch) -> list[Answer]:
            ranking = ranker.rank(batch)
            rows = zip(ranking.indices.tolist(), ranking.probabilities.tolist(), strict=True)
            listed = [tuple((answers[index], share) for index, share in zip(*row, strict=True)) for row in rows]
            return [Answer(one[0][0], one[0][1], one) for one in listed]

        return ranker, ranked

    def _match(self, batch: Batch) -> list[Match]:
        assert batch.images is not None and batch.text is not None
        model, words = self.network, batch.text
        vision, text = model.encode_images(batch.images), model.encode_text(words.ids, words.mask)
        frames = batch.images.shape[1] if batch.images.ndim == 5 else 1
        features = model.vision_features(vision, frames).float(), model.contrastive.text_features(text).float()
        similarities = (features[0] * features[1]).sum(dim=1)
        if "matching" not in model.modules_built:
            return [Match(None, similarity) for similarity in similarities.tolist()]
        # Logit 1 of the two is "match".
        probabilities = model.matching(model.fuse(vision, text, words.mask).text).float().softmax(dim=1)[:, 1]
        return [Match(*values) for values in zip(probabilities.tolist(), similarities.tolist(), strict=True)]

    def results(
        self, verb: str, items: Sequence[tuple[Tensor, str | None]], *, candidates: Sequence[str] | None = None, **settings: Any
    ) -> list[Any]:
        """Work on pictures and clips that are pixels already.

        Args:
            verb: ``vqa``, ``caption``, ``retrieval`` or ``classification``.
            items: Pixels (3, size, size) or (F, 3, size, size), from ``visuals``, and the words of each.
            candidates: Of ``vqa``: choose among these, as ``answer`` does.
            settings: Of the task, changed for this call, such as ``num_beams``; those that are None stay.

        Returns:
            One ``Answer``, ``Caption``, ``Match`` or ``Label`` per item, in order.
        """
        texts, clips = [text for _, text in items], [pixels.ndim == 4 for pixels, _ in items]

        def pixels(position: int) -> Tensor:
            return items[position][0]

        if verb == "classification":
            return list(labels(self, classifier(self), texts, clips, pixels))
        if candidates is not None:
            return self.compute(texts, clips, pixels, *self._ranking(candidates))
        task = self.task_for(verb, **settings)
        if verb == "retrieval":
            return self.compute(texts, clips, pixels, task, self._match)
        kind = Answer if verb == "vqa" else Caption
        return [kind(one.text, one.score) for one in self.compute(texts, clips, pixels, task, task.predict)]

    def _in_batches(self, pairs: Sequence[Pair], task: Task, compute: Callable[[Batch], list[Result]]) -> list[Result]:
        texts, clips = [text for _, text in pairs], [is_clip(visual) for visual, _ in pairs]
        return self.compute(texts, clips, lambda position: self.visuals.read(pairs[position][0]), task, compute)

    def compute(
        self,
        texts: Sequence[str | None],
        clips: Sequence[bool],
        pixels: Callable[[int], Tensor | tuple[Tensor, ...]] | None,
        task: Task,
        compute: Callable[[Batch], list[Result]],
    ) -> list[Result]:
        """Work on items in batches of one kind and similar text length.

        Args:
            texts: Of each item, or None.
            clips: Of each item, whether it is a video.
            pixels: Gives an item's pixels, those of each picture where it has several, as its batch comes up; None where there is
                nothing to see.
            task: Makes the batches.
            compute: Works on one.

        Returns:
            One result per item, in order.
        """
        results: dict[int, Result] = {}
        for positions, batch in self.batches(texts, clips, pixels, task):
            with self.computing():
                results.update(zip(positions, compute(batch), strict=True))
        return [results[position] for position in range(len(texts))]

    def batches(
        self,
        texts: Sequence[str | None],
        clips: Sequence[bool],
        pixels: Callable[[int], Tensor | tuple[Tensor, ...]] | None,
        task: Task,
    ) -> Iterator[tuple[list[int], Batch]]:
        """Make batches of items, as ``compute`` works on them.

        Returns:
            For each batch the positions of its items, and the batch, on the model's device.
        """
        collate = task.collator(training=False)
        lengths = [0 if text is None else len(self.tokenizer.encode(text)) for text in texts]
        for positions in by_kind(clips, lengths, self.batch_size, self.video.frames):
            items = []
            for position in positions:
                text = texts[position]
                sample = Sample(str(position), text=text, references=() if text is None else (text,), image_index=position)
                seen = None if pixels is None else pixels(position)
                first, *further = seen if isinstance(seen, tuple) else (seen,)
                items.append(Item(sample, first, further_pixels=tuple(further)))
            yield positions, collate(items).to(self.device)

    # -------------------------------------------------------------------------------------------------------------------- hub

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(save_directory, self.network.state_dict(), {key: value for key, value in self.config.items() if key != "format"})
        self.tokenizer.save(save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> Model:
        from openmplug.inference.loading import load

        folder = Path(model_id)
        if not folder.is_dir():
            folder = fetch_model(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return load(folder, **options)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _as_list(value: Any) -> list[Any]:
    return list(value) if _is_list(value) else [value]


def _pairs(images: Any, texts: Any, what: str) -> tuple[list[Pair], bool]:
    single = not _is_list(images) and not _is_list(texts)
    many_images, many_texts = _as_list(images), _as_list(texts)
    if not _is_list(images):
        many_images = many_images * len(many_texts)
    if not _is_list(texts):
        many_texts = many_texts * len(many_images)
    if len(many_images) != len(many_texts):
        raise UsageError(f"{len(many_images)} images and {len(many_texts)} {what}; give as many of one as of the other, or a single one")
    return list(zip(many_images, many_texts, strict=True)), single
