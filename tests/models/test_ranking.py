"""Ranking answers: the tree gives what scoring each candidate alone gives, however the tree is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmplug.models.decoder import DecoderMemory, TextDecoder
from openmplug.models.generation import BEGIN_ID, END_ID, sequence_log_probs
from openmplug.models.ranking import AnswerTrie, Ranking, rank_answers, rank_with_trie
from parity.plain import plain_rank
from tiny_models import right_padded, tiny_decoder


def random_memory(decoder: TextDecoder, items: int, seed: int = 0, masked: bool = True) -> tuple[Tensor, Tensor | None, DecoderMemory]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(items, 6, 32, generator=generator)
    mask = right_padded(torch.randint(1, 7, (items,), generator=generator).tolist(), 6) if masked else None
    return states, mask, decoder.project_memory(states, mask)


def candidates(count: int, seed: int, few_first: bool) -> tuple[Tensor, Tensor]:
    """Make answers of 1 to 5 words with [SEP]; with few first words many tie in the choice."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (count,), generator=generator)
    ids = torch.randint(104, 120, (count, 7), generator=generator)
    if few_first:
        ids[:, 1] = 104 + ids[:, 1] % 3
    ids[:, 0] = BEGIN_ID
    ids[torch.arange(count), lengths + 1] = END_ID
    mask = right_padded((lengths + 2).tolist(), 7)
    return ids.masked_fill(~mask, 0), mask


def assert_same_ranking(ours: Ranking, plain: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours.probabilities, plain[1], atol=1e-5, rtol=1e-4)
    assert torch.equal(ours.indices, plain[0])


@pytest.mark.parametrize("max_rows", [1, 7, 1024])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("items", "count", "k"), [(1, 9, 9), (3, 12, 5), (2, 6, 1), (4, 10, 10)])
def test_shared_ranking_equals_the_plain_one(items: int, count: int, k: int, masked: bool, max_rows: int) -> None:
    for seed in range(3):
        decoder = tiny_decoder(seed)
        states, mask, memory = random_memory(decoder, items, seed, masked)
        ids, real = candidates(count, seed, few_first=False)
        assert_same_ranking(rank_answers(decoder, memory, ids, real, k, max_rows), plain_rank(decoder, states, mask, ids, real, k))


def test_candidates_that_share_their_first_word_are_all_considered() -> None:
    """Ties in the choice are torch's to resolve, so nothing is compared where the tie is at the border."""
    decoder = tiny_decoder(2)
    states, mask, memory = random_memory(decoder, 3)
    ids, real = candidates(12, 0, few_first=True)
    assert_same_ranking(rank_answers(decoder, memory, ids, real, 12), plain_rank(decoder, states, mask, ids, real, 12))


def test_equal_candidates_get_equal_probabilities() -> None:
    decoder = tiny_decoder(2)
    _, _, memory = random_memory(decoder, 2)
    ids, real = candidates(4, 0, few_first=False)
    ranking = rank_answers(decoder, memory, ids[[0, 1, 0, 2]], real[[0, 1, 0, 2]], 4)
    for indices, probabilities in zip(ranking.indices.tolist(), ranking.probabilities, strict=True):
        torch.testing.assert_close(probabilities[indices.index(0)], probabilities[indices.index(2)])


def test_one_token_candidates_are_ranked() -> None:
    decoder = tiny_decoder(2)
    states, mask, memory = random_memory(decoder, 2)
    only_end, word = [BEGIN_ID, END_ID, 0], [BEGIN_ID, 110, END_ID]
    ids = torch.tensor([only_end, word])
    assert_same_ranking(rank_answers(decoder, memory, ids, ids != 0, 2), plain_rank(decoder, states, mask, ids, ids != 0, 2))
    short = torch.tensor([[BEGIN_ID, word] for word in range(105, 110)])
    real = torch.ones_like(short, dtype=torch.bool)
    assert_same_ranking(rank_answers(decoder, memory, short, real, 4), plain_rank(decoder, states, mask, short, real, 4))


def test_the_first_token_counts_twice() -> None:
    decoder = tiny_decoder(2)
    _, _, memory = random_memory(decoder, 1)
    ids, real = candidates(5, 0, few_first=False)
    with torch.no_grad():
        log_probs = sequence_log_probs(decoder, memory, ids, real)
    scores = log_probs.sum(dim=1) + log_probs[:, 0]
    ranking = rank_answers(decoder, memory, ids, real, 5)
    torch.testing.assert_close(ranking.probabilities[0], scores.softmax(dim=0)[ranking.indices[0]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ranking.probabilities.sum(dim=1), torch.ones(1))
    assert ranking.probabilities[0].tolist() == sorted(ranking.probabilities[0].tolist(), reverse=True)


@pytest.mark.parametrize("max_rows", [1, 5, 16, 1024])
@pytest.mark.parametrize("k", [40, 9])
def test_long_shared_beginnings_cut_anywhere(k: int, max_rows: int) -> None:
    """Candidates over three words share long beginnings, some are beginnings of others, some are equal."""
    decoder = tiny_decoder(1)
    states, mask, memory = random_memory(decoder, 3)
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 9, (40,), generator=generator)
    ids = torch.randint(104, 107, (40, 9), generator=generator)
    ids[:, 0] = BEGIN_ID
    if k < 40:  # no ties at the border of the choice: those are torch's to resolve
        ids[:, 1] = 60 + torch.arange(40)
    real = right_padded(lengths.tolist(), 9)
    ids = ids.masked_fill(~real, 0)
    found, expected = rank_answers(decoder, memory, ids, real, k, max_rows), plain_rank(decoder, states, mask, ids, real, k)
    torch.testing.assert_close(found.probabilities, expected[1], atol=1e-5, rtol=1e-4)
    by_candidate = [torch.zeros(3, 40).scatter(1, indices, values) for indices, values in ((found.indices, found.probabilities), expected)]
    torch.testing.assert_close(by_candidate[0], by_candidate[1], atol=1e-5, rtol=1e-4)  # equal candidates may change places


def test_a_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = tiny_decoder(2)
    _, _, memory = random_memory(decoder, 2)
    texts = [[105, 106, END_ID], [105, 106, 107, END_ID], [105, END_ID], [108, END_ID], [105, 106, END_ID]]
    ids = torch.tensor([[BEGIN_ID, *text, *[0] * (4 - len(text))] for text in texts])
    fed: list[Tensor] = []
    step = decoder.step

    def watched(ids: Tensor, *rest: object) -> Tensor:
        fed.append(ids)
        return step(ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder, "step", watched)
    ranking = rank_answers(decoder, memory, ids, ids != 0, 5)
    assert [x.tolist() for x in fed] == [[[BEGIN_ID]] * 2, [[105, 106, 107, 108]] * 2]
    for indices, probabilities in zip(ranking.indices.tolist(), ranking.probabilities, strict=True):
        torch.testing.assert_close(probabilities[indices.index(0)], probabilities[indices.index(4)])


def test_a_tree_serves_many_questions() -> None:
    decoder = tiny_decoder(2)
    ids, real = candidates(9, 0, few_first=False)
    trie = AnswerTrie(ids, real).to(torch.device("cpu"))
    for seed in range(3):
        states, mask, memory = random_memory(decoder, 2, seed)
        assert_same_ranking(rank_with_trie(decoder, memory, trie, 4), plain_rank(decoder, states, mask, ids, real, 4))


def test_parts_hold_every_candidate_and_not_too_many_beginnings() -> None:
    ids, real = candidates(60, 3, few_first=True)
    trie = AnswerTrie(ids, real)
    for most in (1, 7, 20):
        parts = trie.parts(torch.arange(60), most)
        assert sorted(torch.cat(parts).tolist()) == list(range(60))
        for part in parts:
            assert len(part) == 1 or len({int(node) for node in trie.inner[part].flatten() if node >= 0}) <= most
    assert len(trie.parts(torch.arange(60), 10_000)) == 1


@pytest.mark.parametrize(
    ("k", "message"),
    [(4, "k_test is 4, but there are 3 candidates; choose 1 to 3"), (0, "k_test is 0, but there are 3 candidates")],
)
def test_wrong_k_is_refused(k: int, message: str) -> None:
    decoder = tiny_decoder()
    with pytest.raises(ValueError, match=message):
        rank_answers(decoder, random_memory(decoder, 2)[2], *candidates(3, 0, False), k)


def test_candidates_that_cannot_be_ranked_are_refused() -> None:
    decoder, ids = tiny_decoder(), torch.full((2, 26), BEGIN_ID)
    with pytest.raises(ValueError, match="a candidate has 26 tokens, the model has positions for 25; shorten it"):
        rank_answers(decoder, random_memory(decoder, 1)[2], ids, torch.ones_like(ids, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="2 candidates, the shortest without a token after"):
        AnswerTrie(ids, right_padded([3, 1], 26))
