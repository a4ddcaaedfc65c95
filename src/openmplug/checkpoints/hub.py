"""Files from the Hugging Face hub: models by name, and BERT's words."""

from __future__ import annotations

import re
from pathlib import Path
from socket import getaddrinfo
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from openmplug.checkpoints.folder import VOCABULARY
from openmplug.checkpoints.store import CONFIG, WEIGHTS
from openmplug.errors import EnvironmentProblem, ModelError

VOCABULARY_REPO = "google-bert/bert-base-uncased"
MODEL_FILES = (CONFIG, WEIGHTS, VOCABULARY, "origin.json")


def is_name(text: str) -> bool:
    """Say whether a text is a name on the hub (``org/name``) and not a path: neither it nor a folder ``org`` is here."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None and not Path(text).parent.is_dir()


def fetch_model(name: str, **options: Any) -> Path:
    """Fetch a model's files, or find those that were fetched before.

    Args:
        name: ``org/name``.
        options: Further arguments of ``huggingface_hub.snapshot_download``, such as ``revision``.

    Returns:
        The folder.

    Raises:
        ModelError: If the hub has no such model, or does not let us see it.
        EnvironmentProblem: If the hub cannot be reached and the model was not fetched before.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    offline = options.pop("local_files_only", False) or out_of_reach()
    try:
        return Path(snapshot_download(name, local_files_only=offline, allow_patterns=list(MODEL_FILES), **options))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"'{name}' is no folder here, and the Hugging Face hub has no such model, or hides it from you ({_told(error)})"
        ) from error
    except OSError as error:
        why = "cannot be reached from here" if offline else f"does not answer ({_told(error)})"
        raise EnvironmentProblem(
            f"'{name}' is no folder here, and the Hugging Face hub, where it might be, {why}; give a folder, or fetch the model first"
        ) from error


def fetch_vocabulary() -> Path | None:
    """Fetch the words of ``bert-base-uncased``; None where there is no network and they were not fetched before."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(VOCABULARY_REPO, VOCABULARY, etag_timeout=5, local_files_only=out_of_reach()))
    except OSError:  # those of the hub are, too
        return None


def out_of_reach() -> bool:
    """Say whether the hub's name cannot be found: the library tries for half a minute where there is no network."""
    from huggingface_hub import constants

    try:
        return not getproxies() and not getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True


def _told(error: Exception) -> str:
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0]:.200}"
