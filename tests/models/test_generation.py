"""Generation and ranking with a cache against the plain way: the whole prefix every step, every beam on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openmplug.models.decoder import DecoderMemory, TextDecoder
from openmplug.models.generation import (
    BEGIN_ID,
    END_ID,
    Hypothesis,
    beam_search,
    begin_prompt,
    greedy,
    length_penalty,
    rescore,
    sample,
    sequence_log_probs,
    top_words,
)
from parity.plain import plain_beam_search
from tiny_models import random_ids, right_padded, tiny_decoder

Generate = Callable[[TextDecoder, DecoderMemory], object]


def random_memory(decoder: TextDecoder, items: int, seed: int = 0, masked: bool = True) -> tuple[Tensor, Tensor | None, DecoderMemory]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(items, 6, 32, generator=generator)
    mask = right_padded(torch.randint(1, 7, (items,), generator=generator).tolist(), 6) if masked else None
    return states, mask, decoder.project_memory(states, mask)


def random_prompt(items: int, length: int, seed: int) -> Tensor | None:
    return random_ids(items, length, seed) if length else None


@torch.no_grad()
def plain_greedy(decoder: TextDecoder, memory: DecoderMemory, min_length: int, max_length: int) -> list[tuple[int, ...]]:
    texts = []
    for item in range(len(memory)):
        ids, own = [BEGIN_ID], memory.rows(torch.tensor([item]))
        for step in range(max_length):
            prefix = torch.tensor([ids])
            logits = decoder(prefix, torch.ones_like(prefix, dtype=torch.bool), own)[0, -1]
            if step < min_length:
                logits[END_ID] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == END_ID:
                break
        texts.append(tuple(ids))
    return texts


# ----------------------------------------------------------------------------------------------------------------- beam search


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 4),
    num_beams=st.integers(1, 5),
    max_length=st.integers(1, 7),
    shortest=st.integers(0, 7),
    prompt_length=st.integers(0, 3),
    masked=st.booleans(),
    end_bias=st.sampled_from([0.0, 2.0, 4.0, 6.0]),
)
def test_cached_search_equals_the_plain_one(
    seed: int, items: int, num_beams: int, max_length: int, shortest: int, prompt_length: int, masked: bool, end_bias: float
) -> None:
    decoder = tiny_decoder(seed, end_bias)
    states, mask, memory = random_memory(decoder, items, seed, masked)
    prompt, min_length = random_prompt(items, prompt_length, seed), min(shortest, max_length)
    found = beam_search(
        decoder, memory, num_beams=num_beams, min_length=min_length, max_length=max_length, prompt=prompt, num_return=num_beams
    )
    plain = plain_beam_search(decoder, states, mask, num_beams, min_length, max_length, prompt, num_return=num_beams)
    assert [[one.ids for one in item] for item in found] == [[ids for ids, _ in item] for item in plain]
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(
            torch.tensor([one.score for one in ours]), torch.tensor([score for _, score in theirs]), atol=1e-4, rtol=1e-4
        )


def searches(end_bias: float) -> list[list[Hypothesis]]:
    """Search with many models, so that a rare path is met."""
    found = []
    for seed in range(30):
        decoder = tiny_decoder(seed, end_bias)
        found += beam_search(decoder, random_memory(decoder, 3, seed)[2], num_beams=4, max_length=7, num_return=4)
    return found


def test_items_of_a_batch_end_at_different_steps_and_beams_go_on_beyond_their_end() -> None:
    """The comparison above is worth something only if these paths are taken."""
    found = searches(end_bias=4.0)
    assert len({len(item[0].ids) for item in found}) >= 4
    assert any(END_ID in one.ids[:-1] for item in found for one in item), "a finished beam that is not the best is continued"
    assert any(one.ids[-1] != END_ID and len(one.ids) < 8 for item in found for one in item), "unfinished beams join when the best ends"
    assert all(item == sorted(item, key=lambda one: -one.score) for item in found)


@pytest.mark.parametrize("masked", [False, True])
def test_an_item_s_texts_do_not_depend_on_its_batch(masked: bool) -> None:
    decoder = tiny_decoder(3, end_bias=3.0)
    _, _, memory = random_memory(decoder, 4, masked=masked)
    together = beam_search(decoder, memory, num_beams=3, max_length=6)
    for item in range(4):
        alone = beam_search(decoder, memory.rows(torch.tensor([item])), num_beams=3, max_length=6)
        assert alone[0][0].ids == together[item][0].ids
        assert alone[0][0].score == pytest.approx(together[item][0].score, abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("min_length", "max_length"), [(0, 6), (3, 6), (5, 5)])
def test_one_beam_is_greedy(seed: int, min_length: int, max_length: int) -> None:
    decoder = tiny_decoder(seed, end_bias=3.0)
    _, _, memory = random_memory(decoder, 3, seed)
    one_beam = [item[0] for item in beam_search(decoder, memory, num_beams=1, min_length=min_length, max_length=max_length)]
    arg_max = greedy(decoder, memory, min_length=min_length, max_length=max_length)
    assert [one.ids for one in one_beam] == [one.ids for one in arg_max] == plain_greedy(decoder, memory, min_length, max_length)
    assert [one.score for one in one_beam] == pytest.approx([one.score for one in arg_max], abs=1e-5)


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("prompt_length", [0, 3])
def test_lengths_count_new_tokens_only(num_beams: int, prompt_length: int) -> None:
    for seed in range(5):
        decoder = tiny_decoder(seed, end_bias=9.0)
        _, _, memory = random_memory(decoder, 2, seed)
        prompt = random_prompt(2, prompt_length, seed)
        for min_length, max_length in ((3, 5), (4, 4)):
            found = beam_search(decoder, memory, num_beams=num_beams, min_length=min_length, max_length=max_length, prompt=prompt)
            for number, (best,) in enumerate(found):
                begin = [BEGIN_ID] if prompt is None else prompt[number].tolist()
                assert list(best.ids[: len(begin)]) == begin
                new = best.ids[len(begin) :]
                assert min_length <= len(new) <= max_length
                assert END_ID not in new[:min_length]


def test_score_is_the_log_probability_over_the_length_penalty() -> None:
    decoder = tiny_decoder(1)
    _, _, memory = random_memory(decoder, 2)
    assert length_penalty(1) == 1.0
    assert length_penalty(7) == pytest.approx(2**0.6)
    for item, (best,) in enumerate(beam_search(decoder, memory, num_beams=3, max_length=5)):
        ids = torch.tensor([best.ids])
        real = torch.ones_like(ids, dtype=torch.bool)
        total = float(sequence_log_probs(decoder, memory.rows(torch.tensor([item])), ids, real).detach().sum())
        assert best.score == pytest.approx(total / ((5 + len(best.ids) - 1) / 6) ** 0.6, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), vocab=st.sampled_from([7, 1000, 2048, 2111, 5003]), k=st.integers(1, 7))
def test_the_best_words_of_a_row_wherever_they_stand(seed: int, vocab: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=generator)
    logits[1, -k:] += 10  # all at the end, in a block that may be short
    logits[2, torch.randint(vocab, (k,), generator=generator)] = -1e20
    values, words = top_words(logits, k)
    torch.testing.assert_close(values, logits.topk(k, dim=1).values, rtol=0, atol=0)
    assert torch.equal(logits.gather(1, words), values)
    assert all(len(set(row)) == k for row in words.tolist())


def test_equal_logits_give_different_words() -> None:
    values, words = top_words(torch.zeros(1, 4000), 5)
    assert values.tolist() == [[0.0] * 5]
    assert len(set(words[0].tolist())) == 5


def test_as_many_hypotheses_as_asked_for_at_most_what_was_found() -> None:
    decoder = tiny_decoder(1)
    _, _, memory = random_memory(decoder, 1)
    assert [len(beam_search(decoder, memory, num_beams=3, max_length=4, num_return=n)[0]) for n in (1, 2, 3)] == [1, 2, 3]
    assert len(beam_search(decoder, memory, num_beams=1, max_length=1, num_return=9)[0]) == 1


def test_another_end_token_can_be_given() -> None:
    decoder = tiny_decoder(1)
    _, _, memory = random_memory(decoder, 1)
    first = beam_search(decoder, memory, num_beams=1, max_length=5)[0][0].ids[1]
    assert beam_search(decoder, memory, num_beams=1, max_length=5, end_id=first)[0][0].ids == (BEGIN_ID, first)


def test_the_last_position_can_be_used() -> None:
    decoder = tiny_decoder(1, end_bias=-50.0)  # 24 positions
    _, _, memory = random_memory(decoder, 1)
    (best,) = beam_search(decoder, memory, num_beams=2, max_length=24)[0]
    assert len(best.ids) == 25


# -------------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    "narrowed", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}, {"top_k": 1, "temperature": 5.0}]
)
@pytest.mark.parametrize("seed", range(4))
def test_sampling_without_choice_is_greedy(narrowed: dict[str, Any], seed: int) -> None:
    decoder = tiny_decoder(seed, end_bias=3.0)
    _, _, memory = random_memory(decoder, 3, seed)
    drawn = sample(decoder, memory, min_length=2, max_length=6, **narrowed)
    assert [one.ids for one in drawn] == [one.ids for one in greedy(decoder, memory, min_length=2, max_length=6)]


def test_draws_are_reproducible_and_differ_between_seeds() -> None:
    decoder = tiny_decoder(0)
    _, _, memory = random_memory(decoder, 3)

    def draw(seed: int) -> list[Hypothesis]:
        return sample(decoder, memory, max_length=6, generator=torch.Generator().manual_seed(seed))

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1


def first_token_shares(decoder: TextDecoder, memory: DecoderMemory, **narrowed: Any) -> tuple[Tensor, Tensor]:
    """Return the model's own first-token probabilities and the shares of 4,000 draws, both (vocab,)."""
    rows = memory.rows(torch.zeros(4000, dtype=torch.int64))
    begin = begin_prompt(1, torch.device("cpu"))
    with torch.no_grad():
        expected = decoder(begin, torch.ones_like(begin, dtype=torch.bool), memory)[0, -1].softmax(dim=-1)
    drawn = sample(decoder, rows, max_length=1, generator=torch.Generator().manual_seed(0), **narrowed)
    return expected, torch.bincount(torch.tensor([one.ids[1] for one in drawn]), minlength=len(expected)) / 4000


def test_draws_follow_the_model_s_distribution() -> None:
    decoder = tiny_decoder(0)
    _, _, memory = random_memory(decoder, 1)
    expected, shares = first_token_shares(decoder, memory)
    assert float((shares - expected).abs().max()) < 0.03
    assert float(expected.max()) < 0.9, "there is something to draw"


def test_temperature_flattens_and_sharpens() -> None:
    decoder = tiny_decoder(0)
    _, _, memory = random_memory(decoder, 1)
    for temperature in (0.5, 2.0):
        expected, shares = first_token_shares(decoder, memory, temperature=temperature)
        tempered = expected.pow(1 / temperature) / expected.pow(1 / temperature).sum()
        assert float((shares - tempered).abs().max()) < 0.03


def test_top_k_draws_among_the_k_best_only() -> None:
    decoder = tiny_decoder(0)
    _, _, memory = random_memory(decoder, 1)
    expected, shares = first_token_shares(decoder, memory, top_k=3)
    best = expected.topk(3)
    assert set(shares.nonzero()[:, 0].tolist()) == set(best.indices.tolist())
    torch.testing.assert_close(shares[best.indices], best.values / best.values.sum(), atol=0.03, rtol=0)
    assert torch.equal(first_token_shares(decoder, memory, top_k=9999)[1], first_token_shares(decoder, memory)[1])


def test_top_p_draws_among_the_smallest_set_that_reaches_it() -> None:
    decoder = tiny_decoder(0)
    _, _, memory = random_memory(decoder, 1)
    expected, shares = first_token_shares(decoder, memory, top_p=0.8)
    ordered, places = expected.sort(descending=True)
    count = int((ordered.cumsum(dim=0) < 0.8).sum()) + 1
    assert set(shares.nonzero()[:, 0].tolist()) <= set(places[:count].tolist())
    kept = ordered[:count] / ordered[:count].sum()
    torch.testing.assert_close(shares[places[:count]], kept, atol=0.03, rtol=0)


def test_drawn_texts_are_cut_after_their_end_and_scored_without_temperature() -> None:
    decoder = tiny_decoder(0, end_bias=6.0)
    _, _, memory = random_memory(decoder, 6)
    drawn = sample(decoder, memory, max_length=7, temperature=2.0, generator=torch.Generator().manual_seed(3))
    assert len({len(one.ids) for one in drawn}) > 1
    for item, one in enumerate(drawn):
        assert END_ID not in one.ids[:-1]
        assert one.ids[-1] == END_ID or len(one.ids) == 8
        ids = torch.tensor([one.ids])
        again = rescore(decoder, memory.rows(torch.tensor([item])), ids, torch.ones_like(ids, dtype=torch.bool))
        assert one.score == pytest.approx(float(again.detach()), abs=1e-4)


def test_sampling_keeps_its_prompt() -> None:
    decoder, prompt = tiny_decoder(0), random_ids(2, 3)
    _, _, memory = random_memory(decoder, 2)
    for one, begin in zip(sample(decoder, memory, max_length=4, prompt=prompt), prompt.tolist(), strict=True):
        assert list(one.ids[:3]) == begin


# --------------------------------------------------------------------------------------------------------------------- rescore


@pytest.mark.parametrize("prompt_length", [0, 3])
def test_rescoring_finds_the_search_s_scores_with_a_gradient(prompt_length: int) -> None:
    decoder = tiny_decoder(4, end_bias=4.0)
    states = torch.randn(3, 6, 32, requires_grad=True)
    memory = decoder.project_memory(states)
    prompt, beams = random_prompt(3, prompt_length, 0), 4
    found = beam_search(decoder, memory, num_beams=beams, max_length=6, prompt=prompt, num_return=beams)
    texts = [one.ids for item in found for one in item]
    assert len(texts) == 3 * beams
    width = max(map(len, texts))
    ids = torch.tensor([text + (0,) * (width - len(text)) for text in texts])
    mask = right_padded([len(text) for text in texts], width)
    scores = rescore(decoder, memory, ids, mask, max(prompt_length, 1))
    torch.testing.assert_close(scores.detach(), torch.tensor([one.score for item in found for one in item]), atol=1e-4, rtol=1e-4)
    scores.sum().backward()
    assert states.grad is not None and bool((states.grad.abs().sum(dim=(1, 2)) > 0).all())
    assert decoder.embeddings.words.weight.grad is not None


def test_log_probabilities_of_padding_are_zero() -> None:
    decoder = tiny_decoder(4)
    _, _, memory = random_memory(decoder, 1)
    ids, mask = random_ids(2, 5), right_padded([5, 3])
    log_probs = sequence_log_probs(decoder, memory, ids, mask).detach()
    assert log_probs.shape == (2, 4)
    assert (log_probs != 0).int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


# ---------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("generate", "message"),
    [
        (
            lambda d, m: beam_search(d, m, num_beams=2, min_length=5, max_length=4),
            "min_length 5 and max_length 4 contradict; choose 0 <= min_",
        ),
        (lambda d, m: beam_search(d, m, num_beams=2, min_length=-1, max_length=4), "min_length -1 and max_length 4 contradict"),
        (lambda d, m: beam_search(d, m, num_beams=2, max_length=0), "min_length 0 and max_length 0 contradict"),
        (lambda d, m: beam_search(d, m, num_beams=0, max_length=4), "num_beams is 0; choose 1 to 120, the size of the vocabulary"),
        (lambda d, m: beam_search(d, m, num_beams=121, max_length=4), "num_beams is 121; choose 1 to 120"),
        (lambda d, m: beam_search(d, m, num_beams=2, max_length=25), "prompt of 1 and max_length 25 exceed 24 positions; lower max_length"),
        (lambda d, m: sample(d, m, max_length=22, prompt=random_ids(2, 4)), "prompt of 4 and max_length 22 exceed 24 positions"),
        (lambda d, m: sample(d, m, min_length=3, max_length=2), "min_length 3 and max_length 2 contradict"),
        (
            lambda d, m: sample(d, m, max_length=2, temperature=-1.0),
            r"temperature -1.0, top_k 0, top_p 1.0: expected >= 0, >= 0 and in \(0, 1\]",
        ),
        (lambda d, m: sample(d, m, max_length=2, top_k=-1), "temperature 1.0, top_k -1, top_p 1.0: expected"),
        (lambda d, m: sample(d, m, max_length=2, top_p=0.0), "top_p 0.0: expected"),
        (lambda d, m: sample(d, m, max_length=2, top_p=1.5), "top_p 1.5: expected"),
        (lambda d, m: greedy(d, m, max_length=99), "max_length 99 exceed 24 positions"),
    ],
)
def test_contradictions_are_refused(generate: Generate, message: str) -> None:
    decoder = tiny_decoder()
    with pytest.raises(ValueError, match=message):
        generate(decoder, random_memory(decoder, 2)[2])
