"""Ranking given answers with the decoder: candidates that begin alike are computed alike.

The candidates form a tree. Every distinct beginning is one position of one decoder call, and an attention mask lets it see just the
beginnings it continues: three thousand answers of a few words cost about as many positions as they have distinct beginnings, and
the memory of an item is projected once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openmplug.models.decoder import DecoderMemory, DecoderState, TextDecoder

_TREE_ROWS = 256  # beginnings that share one attention mask: attention among them grows with the square
_HEAD_ROWS = 256  # beginnings whose logits over the vocabulary are in memory at a time


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranked candidates: indices into the list and probabilities, each (B, k), best first."""

    indices: Tensor
    probabilities: Tensor


class AnswerTrie:
    """Candidate answers as a tree of their beginnings; built once for a list, used for any number of questions.

    Nodes are numbered depth first, so that a parent comes before its children; a node of depth d stands for [CLS] and d tokens.

    Args:
        ids: Candidates (A, T): [CLS] ... [SEP], right-padded.
        mask: (A, T) bool, True = real token.

    Raises:
        ValueError: If there are no candidates, or one has nothing after [CLS].

    Example:
        >>> trie = AnswerTrie(torch.tensor([[101, 7, 102, 0], [101, 7, 8, 102]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool())
        >>> trie.tokens.tolist(), trie.inner.tolist()  # 7, 7 8, 7 8 102, 7 102; what the first and second candidate continue
        ([7, 8, 102, 102], [[0, -1], [0, 1]])
    """

    def __init__(self, ids: Tensor, mask: Tensor) -> None:
        lengths = (mask.sum(dim=1) - 1).tolist()
        if not lengths or min(lengths) < 1:
            raise ValueError(f"{len(lengths)} candidates, the shortest without a token after [CLS]; give at least one, and none empty")
        self.ids = ids
        self.depth = max(lengths)
        words = [tuple(row[1 : length + 1]) for row, length in zip(ids.tolist(), lengths, strict=True)]
        order = sorted(range(len(words)), key=lambda candidate: words[candidate])
        numbers: dict[tuple[int, int], int] = {}
        tokens: list[int] = []
        beginnings: list[list[int]] = []  # of each node: the nodes above it, and itself
        paths: list[list[int]] = [[]] * len(words)
        for candidate in order:
            path: list[int] = []
            for token in words[candidate]:
                key = (path[-1] if path else -1, token)
                if key not in numbers:
                    numbers[key] = len(tokens)
                    tokens.append(token)
                    beginnings.append([*path, numbers[key]])
                path.append(numbers[key])
            paths[candidate] = path
        device = ids.device
        places = torch.empty(len(order), dtype=torch.int64)
        places[torch.tensor(order)] = torch.arange(len(order))
        self.places = places.to(device)  # (A,) of each candidate in the order of the tree
        self.tokens = torch.tensor(tokens, device=device)  # (M,)
        self.depths = torch.tensor([len(path) for path in beginnings], device=device)  # (M,)
        self.beginnings = _padded(beginnings, self.depth).to(device)  # (M, depth), -1 = none
        # What is fed to the decoder: every node of a candidate but its last.
        self.inner = _padded([path[:-1] for path in paths], self.depth - 1).to(device)  # (A, depth - 1)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> AnswerTrie:
        """Move to a device; the same object where it is there already."""
        if self.ids.device == device:
            return self
        moved = object.__new__(AnswerTrie)
        moved.__dict__ = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}
        return moved

    def parts(self, chosen: Tensor, most: int) -> list[Tensor]:
        """Split candidates (k,) into parts whose beginnings number at most ``most`` each (or those of one candidate).

        What is common to the candidates on both sides of a border is computed in both parts.
        """
        chosen = chosen[self.places[chosen].argsort(stable=True)]
        inner = self.inner[chosen]
        whole = (inner >= 0).sum(dim=1)
        # In the order of the tree, what a candidate shares with any earlier one it shares with the one before it.
        fresh = whole.clone()
        fresh[1:] = ((inner[1:] >= 0) & (inner[1:] != inner[:-1])).sum(dim=1)
        borders, rows = [0], 0
        for position, (alone, more) in enumerate(zip(whole.tolist(), fresh.tolist(), strict=True)):
            if rows and rows + more > most:
                borders.append(position)
                rows = alone
            else:
                rows += more
        return [chosen[low:high] for low, high in zip(borders, [*borders[1:], len(chosen)], strict=True)]


def _padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.int64).view(len(rows), width)


@dataclass(frozen=True, slots=True)
class _Forest:
    """The trees of several items, ready for one decoder call.

    Shapes: tokens and depths (B, n), visible (B, 1, n, 1 + n) with [CLS] in column 0; for every edge from a beginning to the next token
    of a candidate: row (of B * n), token, and the flat place of its candidate in the scores; edges are in the order of their rows.
    """

    tokens: Tensor
    depths: Tensor
    visible: Tensor
    rows: Tensor
    next_tokens: Tensor
    candidates: Tensor

    @staticmethod
    def of(trie: AnswerTrie, parts: Sequence[Tensor], first_item: int) -> _Forest | None:
        """Join one part per item; None where no candidate has more than one token."""
        device = trie.ids.device
        trees = [inner[inner >= 0].unique() for inner in (trie.inner[part] for part in parts)]
        width = max(map(len, trees))
        if width == 0:
            return None
        tokens = torch.zeros(len(parts), width, dtype=torch.int64, device=device)
        depths = torch.zeros_like(tokens)
        visible = torch.zeros(len(parts), width, 1 + width, dtype=torch.bool, device=device)
        visible[:, :, 0] = True  # padding too: a row that sees nothing would be NaN
        edges: list[tuple[Tensor, Tensor, Tensor]] = []
        columns = torch.zeros(len(trie.tokens) + 1, dtype=torch.int64, device=device)  # the last is that of "none"
        for item, (part, nodes) in enumerate(zip(parts, trees, strict=True)):
            count = len(nodes)
            tokens[item, :count], depths[item, :count] = trie.tokens[nodes], trie.depths[nodes]
            columns[nodes] = torch.arange(1, count + 1, device=device)
            visible[item, :count].scatter_(1, columns[trie.beginnings[nodes]], True)
            inner = trie.inner[part]
            candidate, position = (inner >= 0).nonzero().unbind(1)
            rows = item * width + columns[inner[candidate, position]] - 1
            edges.append((rows, trie.ids[part[candidate], position + 2], (first_item + item) * len(trie) + part[candidate]))
        rows, next_tokens, candidates = (torch.cat(side) for side in zip(*edges, strict=True))
        rows, order = rows.sort(stable=True)
        return _Forest(tokens, depths, visible[:, None], rows, next_tokens[order], candidates[order])

    def add_log_probs(self, decoder: TextDecoder, hidden: Tensor, scores: Tensor) -> None:
        """Add every edge's log probability, from states (B, n, D), to its candidate's place in ``scores`` (flat)."""
        needed, edges = self.rows.unique_consecutive(return_inverse=True)
        states = hidden.flatten(0, 1)[needed]  # padding pays for no vocabulary
        for start in range(0, len(needed), _HEAD_ROWS):
            logits = decoder.logits(states[start : start + _HEAD_ROWS]).float()
            low, high = torch.searchsorted(edges, torch.tensor([start, start + _HEAD_ROWS], device=edges.device)).tolist()
            rows = edges[low:high] - start
            log_probs = logits[rows, self.next_tokens[low:high]] - logits.logsumexp(dim=1)[rows]
            scores.index_add_(0, self.candidates[low:high], log_probs)


@torch.inference_mode()
def rank_with_trie(decoder: TextDecoder, memory: DecoderMemory, trie: AnswerTrie, k: int, max_rows: int = 1024) -> Ranking:
    """Rank given answers as the originals do.

    The first real token alone chooses k candidates per item; these are scored whole. The first token counts twice: score =
    log p(first) + log p(answer).

    Args:
        decoder: The decoder, in eval mode.
        memory: Of B items.
        trie: The candidates.
        k: How many candidates per item to score whole, 1 to A.
        max_rows: Beginnings computed at a time; bounds memory.

    Returns:
        Indices and softmax probabilities over the k.

    Raises:
        ValueError: If k is not within 1 to A, or a candidate is longer than the decoder's positions.

    Source: ``rank_answer`` of the originals.
    """
    count, items, positions = len(trie), len(memory), decoder.embeddings.positions.num_embeddings
    if not 1 <= k <= count:
        raise ValueError(f"k_test is {k}, but there are {count} candidates; choose 1 to {count}")
    if trie.depth > positions:
        raise ValueError(f"a candidate has {trie.depth + 1} tokens, the model has positions for {positions + 1}; shorten it")
    state = decoder.start(memory, items, 1)
    first = decoder.logits(decoder.step(trie.ids[:1, :1].expand(items, 1), state)[:, -1]).float().softmax(dim=-1)  # (B, vocab)
    chosen = first.index_select(1, trie.ids[:, 1]).topk(k, dim=1)
    later = first.new_zeros(items, count)  # log probabilities of the tokens after the first
    most = min(max_rows, _TREE_ROWS)
    if k == count:
        parts = [trie.parts(torch.arange(count, device=trie.ids.device), most)] * items
    else:
        parts = [trie.parts(row, most) for row in chosen.indices]
    for start, stop in _groups(trie, parts, max_rows):
        for turn in range(max(map(len, parts[start:stop]))):
            # Items with fewer parts than their neighbours wait, as empty trees.
            now = [own[turn] if turn < len(own) else own[0][:0] for own in parts[start:stop]]
            forest = _Forest.of(trie, now, start)
            if forest is not None:
                forest.add_log_probs(decoder, _states(decoder, state, forest, start), later.view(-1))
    # log p(first) as the pre-score, and again inside the whole answer.
    scores = chosen.values.log() * 2 + later.gather(1, chosen.indices)
    probabilities, order = scores.softmax(dim=1).sort(dim=1, descending=True)
    return Ranking(chosen.indices.gather(1, order), probabilities)


def rank_answers(decoder: TextDecoder, memory: DecoderMemory, ids: Tensor, mask: Tensor, k: int, max_rows: int = 1024) -> Ranking:
    """Rank candidates ids (A, T) with mask (A, T) that are used once; see ``rank_with_trie``."""
    return rank_with_trie(decoder, memory, AnswerTrie(ids, mask), k, max_rows)


def _groups(trie: AnswerTrie, parts: Sequence[Sequence[Tensor]], max_rows: int) -> list[tuple[int, int]]:
    """Join neighbouring items whose trees fit into one call; returns (first item, item after the last)."""
    groups: list[tuple[int, int]] = []
    start, widest = 0, 0
    sizes: dict[int, int] = {}
    for item, own in enumerate(parts):
        if id(own) not in sizes:  # ranking everything, all items have the same parts
            sizes[id(own)] = max(len(inner[inner >= 0].unique()) for inner in (trie.inner[part] for part in own))
        size = sizes[id(own)]
        if item > start and max(widest, size) * (item - start + 1) > max_rows:
            groups.append((start, item))
            start, widest = item, 0
        widest = max(widest, size)
    return [*groups, (start, len(parts))]


def _states(decoder: TextDecoder, state: DecoderState, forest: _Forest, first_item: int) -> Tensor:
    """Compute the states (B, n, D) of all beginnings of a forest; ``state`` has read [CLS] for every item and stays as it is."""
    items, width = forest.tokens.shape
    grown = state.fork(torch.arange(first_item, first_item + items, device=forest.tokens.device), 1 + width)
    grown.memory = state.memory.narrow(first_item, items)
    return decoder.step(forest.tokens, grown, forest.depths, forest.visible)
