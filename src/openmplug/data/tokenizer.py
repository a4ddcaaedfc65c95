"""Uncased BERT WordPiece, with the habits of the released mPLUG code.

The one to know: a text becomes ``[CLS]`` and its pieces, with **no** ``[SEP]`` at the end. Where an end is wanted (answers,
captions) the text itself ends with the string ``[SEP]``, which becomes one id; see ``openmplug.data.text.target_text``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as _Engine

from openmplug.batch import Tokens
from openmplug.errors import ModelError, UsageError

# The library's thread pool does not survive a fork, which is how data loaders start workers; batches here are too small to need it.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)

# As in bert-base-uncased, so that ids 100 to 103 mean the same everywhere.
_HEAD = [PAD, *(f"[unused{index}]" for index in range(99)), UNK, CLS, SEP, MASK]
_LONGEST_WORD = 100  # characters; BERT's limit, longer words are [UNK]
_TIDIED_UP_CLITICS = tuple((f" {clitic}", clitic) for clitic in ("n't", "'m", "'s", "'ve", "'re"))
TIDIED_UP = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), *_TIDIED_UP_CLITICS)
"""What ``decode`` replaces in a text, in this order."""


class Tokenizer:
    """Turns texts into ids and ids into text.

    Two tokenizers are equal when their vocabularies are. Instances can be pickled and used in forked workers.

    Args:
        vocab: One token per id, in order; see :meth:`from_vocab` for what is checked.
    """

    def __init__(self, vocab: Sequence[str]) -> None:
        self._set_vocab(list(vocab))

    @classmethod
    def from_vocab(cls, vocab: Sequence[str], where: str = "vocabulary") -> Tokenizer:
        """Check a vocabulary and make a tokenizer of it.

        Args:
            vocab: One token per id, in order.
            where: Name of the vocabulary in error messages.

        Raises:
            ModelError: If it is empty, holds a token twice, or lacks a special token.
        """
        if not any(vocab):
            raise ModelError(f"{where} is empty; expected one WordPiece token per line")
        doubles = [token for token, count in Counter(vocab).items() if count > 1]
        if doubles:
            lines = [line for line, token in enumerate(vocab, start=1) if token == doubles[0]]
            raise ModelError(
                f"{where} holds {doubles[0]!r} on lines {lines[0]} and {lines[1]} ({len(doubles)} tokens twice); "
                "every token may stand there once; take the file that came with the model"
            )
        missing = [token for token in SPECIAL_TOKENS if token not in set(vocab)]
        if missing:
            raise ModelError(f"{where} has no {', '.join(missing)}; expected a BERT WordPiece vocabulary (vocab.txt)")
        return cls(vocab)

    @classmethod
    def from_vocab_file(cls, path: Path | str) -> Tokenizer:
        """Read a ``vocab.txt``: UTF-8, one token per line.

        Raises:
            ModelError: If the file is missing, not UTF-8, empty, or not a vocabulary (see :meth:`from_vocab`).
        """
        path = Path(path)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ModelError(f"{path} is not UTF-8 text; expected a WordPiece vocabulary, one token per line") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ModelError(f"cannot read the vocabulary {path} ({reason}); expected a vocab.txt, one token per line") from None
        # Not splitlines(): real vocabularies hold U+2028 and the like as tokens.
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        return cls.from_vocab(lines, where=str(path))

    def _set_vocab(self, vocab: list[str]) -> None:
        self.vocab = vocab
        self._ids = {token: index for index, token in enumerate(vocab)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self._ids[token] for token in SPECIAL_TOKENS)
        self._engine = _Engine(models.WordPiece(vocab=self._ids, unk_token=UNK, max_input_chars_per_word=_LONGEST_WORD))
        self._engine.normalizer = _normalizer()
        self._engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        # Found in the raw text before anything else, so that a literal "[SEP]" is one id and not "[ sep ]".
        self._engine.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.vocab)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of one token of the vocabulary, or None if it is not in it."""
        return self._ids.get(token)

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return ``[CLS]`` and the pieces of one text, without a ``[SEP]`` at the end.

        Args:
            text: Any text; the strings ``[SEP]``, ``[CLS]``, ``[PAD]``, ``[UNK]`` and ``[MASK]`` in it become their ids.
            max_length: Most ids to return, with ``[CLS]`` among them; the end is cut off, also a final ``[SEP]``.

        Raises:
            ValueError: If ``max_length`` is less than 1.
        """
        return self._encode([text], max_length)[0]

    def _encode(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}; expected at least 1, the place of [CLS]")
        encodings = self._engine.encode_batch(list(texts), add_special_tokens=False)
        return [[self.cls_id, *encoding.ids][:max_length] for encoding in encodings]

    def __call__(self, texts: Sequence[str], max_length: int | None = None, pad_to: int | None = None) -> Tokens:
        """Encode several texts and pad them on the right.

        Args:
            texts: The texts, at least one.
            max_length: Most ids per text, as in :meth:`encode`.
            pad_to: Number of columns; by default that of the longest text.

        Returns:
            Tokens (N, T); the mask is True up to each text's last id.

        Raises:
            ValueError: If there are no texts, or one is longer than ``pad_to``.
        """
        if isinstance(texts, str):
            raise ValueError("got one string; expected a list of texts (encode() takes a single one)")
        return self._pad(self._encode(texts, max_length), pad_to)

    def pairs(self, texts: Sequence[str], max_length: int) -> Tokens:
        """Encode texts, or pairs of texts joined by ``[SEP]``, and cut what is too long: of a pair the longer text, piece by piece.

        Args:
            texts: At least one; of several ``[SEP]`` the first one parts the pair.
            max_length: Most ids of a text, with ``[CLS]`` and ``[SEP]`` among them, >= 4.

        Returns:
            Tokens (N, T).

        Source: BERT's ``_truncate_seq_pair``.

        Example:
            >>> tokens = Tokenizer([*SPECIAL_TOKENS, *"abc"]).pairs(["a b a b [SEP] c c"], 6)
            >>> tokens.ids.tolist()  # [CLS] a b [SEP] c c
            [[2, 5, 6, 3, 7, 7]]
        """
        rows = self._encode(texts, None)
        for row in rows:
            while len(row) > max_length:
                # [CLS] counts with the first text and [SEP] with the second; of two equal ones the second is cut.
                parting = row.index(self.sep_id) if self.sep_id in row else 0
                row.pop(parting - 1 if 2 * parting > len(row) else -1)
        return self._pad(rows, None)

    def _pad(self, rows: list[list[int]], pad_to: int | None) -> Tokens:
        if not rows:
            raise ValueError("got no texts; expected at least one")
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        if pad_to is not None and longest > pad_to:
            raise ValueError(f"a text has {longest} tokens, more than pad_to={pad_to}; pass max_length={pad_to} as well to cut it")
        width = longest if pad_to is None else pad_to
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows])  # (N, T)
        return Tokens(ids=ids, mask=torch.arange(width) < lengths[:, None])

    def encode_phrases(self, phrases: Sequence[str], length: int = 20) -> Tokens:
        """Encode phrases for grounding: ``[CLS] ... [SEP]``, cut and padded to ``length``.

        This is the one place where a ``[SEP]`` is added, and it survives the cut.

        Args:
            phrases: Referring expressions, at least one; a literal ``[SEP]`` in them is only letters, since they are lower-cased first.
            length: Number of columns, >= 2.

        Returns:
            Tokens (N, length).

        Raises:
            ValueError: If ``length`` is less than 2.

        Source: the grounding data set of mPLUG (there ``max_query_len``, 20).
        """
        if length < 2:
            raise ValueError(f"length is {length}; expected at least 2, the places of [CLS] and [SEP]")
        rows = self._encode([phrase.lower() for phrase in phrases], length - 1)
        return self._pad([[*row, self.sep_id] for row in rows], length)

    def prompt_ids(self, prompt: str = "") -> list[int]:
        """Return the ids that generation starts from: ``[CLS]``, then the prompt without its last piece.

        The original drops the last id of the prompt, believing it to be a ``[SEP]``; so the last word of the prompt is generated, and
        is part of the training loss. The length of the result is the number of labels to ignore in training.

        Source: the VATEX captioner of mPLUG.
        """
        ids = self.encode(prompt)
        return ids[:-1] if len(ids) > 1 else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Join pieces to words, tidy the spaces before punctuation, and remove special tokens.

        Only the strings ``[SEP]``, ``[CLS]`` and ``[PAD]`` are removed: what follows an inner ``[SEP]`` stays, and two spaces
        are left in its place. An id beyond the vocabulary reads ``[UNK]``.

        Source: ``BertTokenizer.decode`` with ``clean_up_tokenization_spaces``, then the replacements of the mPLUG scripts.
        """
        size = len(self.vocab)
        text = " ".join(self.vocab[index] if 0 <= index < size else UNK for index in map(int, ids)).replace(" ##", "").strip()
        for spaced, tidy in TIDIED_UP:
            text = text.replace(spaced, tidy)
        for token in (SEP, CLS, PAD):
            text = text.replace(token, "")
        return text.strip()

    def save(self, folder: Path | str) -> Path:
        """Write ``vocab.txt`` into an existing folder and return its path."""
        path = Path(folder) / "vocab.txt"
        path.write_bytes("".join(f"{token}\n" for token in self.vocab).encode())
        return path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.vocab == other.vocab

    def __hash__(self) -> int:
        return hash(tuple(self.vocab))

    def __repr__(self) -> str:
        return f"Tokenizer({len(self.vocab)} tokens)"

    def __getstate__(self) -> dict[str, Any]:
        return {"vocab": self.vocab}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_vocab(state["vocab"])


def build_vocabulary(texts: Iterable[str], size: int = 8000, min_count: int = 2, own: Sequence[str] = ()) -> list[str]:
    """Make a WordPiece vocabulary of whole words and single characters, in BERT's layout.

    Ids 0 ``[PAD]``, 1 to 99 ``[unusedN]``, 100 ``[UNK]``, 101 ``[CLS]``, 102 ``[SEP]``, 103 ``[MASK]``; then a task's ``own`` words, which
    stand in no text (boxes are written with such); then every character seen, then the same with ``##``; then words, the most frequent
    first and equal ones by the alphabet. A word left out is spelled, so no text made of characters seen becomes ``[UNK]``.

    Args:
        texts: The texts of a training split, in any order.
        size: Most tokens to return.
        min_count: Least number of occurrences of a word.
        own: Words to have in any case, in this order.

    Raises:
        UsageError: If ``size`` has no room for the characters.
    """
    chunks: Counter[str] = Counter()
    for text in texts:
        for token in SPECIAL_TOKENS:
            text = text.replace(token, " ")
        chunks.update(text.split(" "))
    normalizer, splitter = _normalizer(), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():  # each different one once: the slow part
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(chunk)):
            words[word] += count
    characters = sorted({character for word in words for character in word})
    tokens = [*_HEAD, *own, *characters, *(f"##{character}" for character in characters)]
    if len(tokens) > size:
        besides = f" and {len(own)} words of the task" if own else ""
        raise UsageError(
            f"a vocabulary of {size} cannot hold {len(characters)} characters{besides}; set tokenizer.size to at least {len(tokens)}"
        )
    ranked = sorted((-count, word) for word, count in words.items() if count >= min_count and 1 < len(word) <= _LONGEST_WORD)
    return tokens + [word for _, word in ranked[: size - len(tokens)]]


def _normalizer() -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)
