"""One step from any checkpoint to a folder of ours, or from such a folder back to a file of the original code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmplug.checkpoints.export import export_original
from openmplug.checkpoints.folder import find_folder, is_ours, write_foreign
from openmplug.checkpoints.foreign import Foreign, Options, open_foreign
from openmplug.checkpoints.hub import fetch_vocabulary
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import ModelError, UsageError

FILE_SUFFIXES = (".pth", ".pt", ".bin")
VOCABULARY_SIZE = 30522


def words_of(foreign: Foreign, given: Path | None = None) -> Tokenizer | None:
    """Find the vocabulary of a checkpoint: the one given, the one beside it, or BERT's from the Hugging Face hub (or its local cache).

    Returns:
        None where the model has no words (an image tower alone).

    Raises:
        ModelError: If there is none, or it has another number of words than the model.
    """
    if not {"text", "decoder"} & set(foreign.modules):
        return None
    path = given or foreign.vocabulary
    if path is None and foreign.config.vocab_size == VOCABULARY_SIZE:
        path = fetch_vocabulary()
    if path is None:
        which = " (of bert-base-uncased)" if foreign.config.vocab_size == VOCABULARY_SIZE else ""
        raise ModelError(
            f"'{foreign.source}' comes without vocab.txt, and the model's {foreign.config.vocab_size:,} words cannot be read without it;"
            f" put it beside the file{which}, or give --vocab FILE to openmplug models convert"
        )
    tokenizer = Tokenizer.from_vocab_file(path)
    if tokenizer.vocab_size != foreign.config.vocab_size:
        raise ModelError(
            f"'{path}' has {tokenizer.vocab_size:,} words, the model {foreign.config.vocab_size:,}; give the vocabulary it was trained with"
        )
    return tokenizer


def convert(
    source: Path, target: Path, options: Options | None = None, vocabulary: Path | None = None, keep: str = "all", dry_run: bool = False
) -> tuple[Foreign | None, dict[str, Any]]:
    """Convert a checkpoint.

    Args:
        source: Any checkpoint file or folder; or a folder of ours.
        target: A folder to write; or, for a folder of ours, a ``.pth``, ``.pt`` or ``.bin`` file.
        options: What the user says about the source.
        vocabulary: ``vocab.txt``, where it does not lie beside the source.
        keep: What of the unused keys stays beside the model, see ``KEEP``.
        dry_run: Read and check everything, write nothing.

    Returns:
        What the source was (None for a folder of ours) and what was written.

    Raises:
        ModelError: If the source cannot be read or understood.
        UsageError: If source and target are of the same kind, or they are the same place.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if source.resolve() == target.resolve() or (source.resolve() in target.resolve().parents and source.is_dir()):
        raise UsageError(f"'{target}' lies in '{source}'; choose another --output")
    backwards = target.suffix in FILE_SUFFIXES
    if is_ours(find_folder(source)):
        if not backwards:
            raise UsageError(
                f"'{source}' is a folder of ours already; name a file ({', '.join(FILE_SUFFIXES)}) to write the original's format"
            )
        return None, {"dry_run": True} if dry_run else export_original(find_folder(source), target)
    if backwards and source.exists():  # where there is nothing, that is what is said
        raise UsageError(f"'{source}' is a file of the original code; name a folder as --output, not '{target.name}'")
    foreign = open_foreign(source, options)
    tokenizer = words_of(foreign, vocabulary)
    return foreign, {"dry_run": True} if dry_run else write_foreign(foreign, target, tokenizer, keep)
