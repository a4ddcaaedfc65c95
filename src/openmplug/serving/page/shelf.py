"""The models of a page: which there are, what each can do, and what can be said about it in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openmplug.checkpoints.folder import find_folder
from openmplug.checkpoints.shipped import shipped_model
from openmplug.config import validate
from openmplug.data.text import clean_caption
from openmplug.errors import ModelError, OpenmplugError, UsageError
from openmplug.inference.loading import load
from openmplug.inference.model import Model
from openmplug.tasks.grounding import GroundingSettings
from openmplug.tasks.retrieval import RetrievalSettings

VERBS = {"vqa": "answer questions", "caption": "write captions", "grounding": "find things", "retrieval": "match sentences"}
CARD = "README.md"
FEW_WORDS = 3000


@dataclass(frozen=True, slots=True)
class Shelved:
    """A model on the page.

    Args:
        name: What the page calls it.
        model: The model.
        verbs: Those of ``VERBS`` it can do.
        card: Markdown that lies beside it, or nothing.
    """

    name: str
    model: Model
    verbs: tuple[str, ...]
    card: str = ""

    def remarks(self, verb: str, text: str) -> list[str]:
        """Say what of a text the model does not know or does not read."""
        tokenizer = self.model.tokenizer
        words = re.findall(r"\w+", text.lower())
        unknown = [word for word in dict.fromkeys(words) if tokenizer.unk_id in tokenizer.encode(word)]
        said = [f"It does not know the word{'s' * (len(unknown) > 1)} {', '.join(unknown[:8])}."] if unknown else []
        if self._cuts(verb, text):
            said.append("This is longer than the model reads: it has seen the beginning only.")
        return said

    def _cuts(self, verb: str, text: str) -> bool:
        """Say whether a task would cut a text off, by words or by tokens."""
        limit = self.model.network.config.max_positions
        if verb == "retrieval":
            settings = self.model.task_for(verb).settings
            assert isinstance(settings, RetrievalSettings)
            whole = clean_caption(text, max(1, len(text)))
            if clean_caption(text, settings.max_words) != whole:
                return True
            text, limit = whole, min(limit, settings.max_text_length)
        if verb == "grounding":
            own = self.model.config["settings"] if self.model.name == "grounding" else {}
            limit = min(limit, validate(GroundingSettings, own, where="settings").max_text_length - 1)  # and [SEP]
        return len(self.model.tokenizer.encode(text)) > limit

    def description(self) -> str:
        """Return, in Markdown, what it is and what it can and cannot do."""
        model = self.model
        config, count = model.network.config, sum(parameter.numel() for parameter in model.network.parameters())
        trained = f"Trained to {VERBS[model.name]}." if model.name in VERBS else f"It can {_listed([VERBS[verb] for verb in self.verbs])}."
        words = sum(not word.startswith("[") for word in model.tokenizer.vocab)
        lines = [
            f"### {_plain(self.name)}",
            f"{trained} {count:,} parameters; pictures are seen at {config.image_size} × {config.image_size} pixels.",
        ]
        if words < FEW_WORDS:
            lines.append(
                f"It knows {words:,} words and pieces of words. It was made for the few things these name; of all else it says nonsense."
            )
        if self.card:
            lines.append(self.card)
        else:
            lines.append(
                "Nothing is written down about what it learned from (a README.md in its folder would be shown here). It knows what its"
                " training pictures showed; about everything else it is wrong, and just as sure."
            )
        return "\n\n".join(lines)


def fill(paths: Sequence[Path], device: str | None = None, dtype: str | None = None, batch_size: int | None = None) -> list[Shelved]:
    """Load the models of a page.

    Args:
        paths: Folders or released checkpoints; none means the weights that come with the package.
        device: As in ``load``.
        dtype: As in ``load``.
        batch_size: As in ``load``; None takes 8.

    Raises:
        ModelError: If one cannot be loaded or can do nothing here, or there is none.
        UsageError: If device or dtype is unknown.
    """
    folders = list(paths)
    if not folders:
        shipped = shipped_model()
        if shipped is None:
            raise ModelError(
                "this installation came without weights; pass --model DIR (openmplug quickstart --output DIR makes small ones)"
            )
        folders = [shipped]
    shelf = []
    for path, name in zip(folders, _names(folders), strict=True):
        model = load(path, device=device, dtype=dtype, batch_size=batch_size or 8)
        verbs = verbs_of(model)
        if not verbs:
            raise ModelError(
                f"'{path}' was trained for '{model.name}'; the page can show models that {_listed(list(VERBS.values()), 'or')}"
            )
        shelf.append(Shelved(name, model, verbs, read_card(path)))
    return shelf


def verbs_of(model: Model) -> tuple[str, ...]:
    """Return which of ``VERBS`` a model can do."""

    def able(verb: str) -> bool:
        try:
            model.require(verb)
        except OpenmplugError:
            return False
        return True

    return tuple(verb for verb in VERBS if able(verb))


def read_card(path: Path) -> str:
    """Return a model's card without its front matter and its title; pictures in it become their words: the page loads none."""
    folder = find_folder(path)
    places = [place / CARD for place in (folder, path) if (place / CARD).is_file()]
    if not places:
        return ""
    text = places[0].read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\A\s*# .*\n", "", text).strip()


def _names(paths: Sequence[Path]) -> list[str]:
    """Name models by their folders, with as many parents as it takes to tell them apart."""
    parts = [path.expanduser().resolve().parts for path in paths]
    parts = [part[:-1] if part[-1] in ("checkpoint-best", "checkpoint-last") and len(part) > 2 else part for part in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"the same model is given twice; give two different ones to compare: {', '.join(sorted(set(names)))}")


def _listed(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
