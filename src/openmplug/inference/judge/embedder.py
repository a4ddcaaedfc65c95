"""The choice nearest to a free answer, by sentence embeddings: what TIFA's authors do with all-mpnet-base-v2.

The package does without ``transformers``; it is imported here, when embeddings are asked for and their weights are on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from torch.nn import functional as F

from openmplug.errors import EnvironmentProblem, ModelError

NAME = "sentence-transformers/all-mpnet-base-v2"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def local_embedder() -> Path | None:
    """Return the folder of all-mpnet-base-v2 in the Hugging Face cache, None where it or ``transformers`` is not there."""
    if find_spec("transformers") is None:
        return None
    for name in _WEIGHTS:
        file = try_to_load_from_cache(NAME, name)
        if isinstance(file, str) and (Path(file).parent / "config.json").is_file():
            return Path(file).parent
    return None


class SentenceEmbedder:
    """Texts to vectors: the mean over a text's tokens, normalised.

    Args:
        folder: A sentence encoder in the format of ``transformers``.

    Raises:
        EnvironmentProblem: If ``transformers`` is not installed.
        ModelError: If the folder holds no such model.

    Source: ``mc_sbert.py`` of Yushi-Hu/tifa.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("transformers") is None:
            raise EnvironmentProblem("--choose embed needs transformers: pip install 'openmplug[judge]'; or use --choose rank")
        if not (folder / "config.json").is_file():
            raise ModelError(f"'{folder}' is not a sentence encoder: it holds no config.json; give a folder with {NAME} to --embedder")
        transformers: Any = import_module("transformers")
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"'{folder}' cannot be read as a sentence encoder ({reason}); give a folder with {NAME}") from error
        self.folder = folder

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to (N, D) float32, length 1."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state  # (N, T, D)
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        return F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9), dim=1)

    def nearest(self, answer: str, choices: Sequence[str]) -> str:
        """Return the choice whose embedding is nearest to the answer's; of equals the first."""
        vectors = self.embed([answer, *choices])
        return choices[int((vectors[1:] @ vectors[0]).argmax())]
