"""Shared caches of a beam search: what a beam sees is its own text, wherever its tokens were written."""

from __future__ import annotations

import pytest
import torch

from openmplug.models.beams import BeamCache, BeamState
from openmplug.models.layers import KeyValueCache
from tiny_models import random_ids, tiny_decoder


@pytest.mark.parametrize("prompt", [1, 3])
def test_beams_continue_what_they_are_told_to(prompt: int) -> None:
    decoder, items, beams = tiny_decoder(), 3, 4
    memory = decoder.project_memory(torch.randn(items, 6, 32))
    ids = random_ids(items, prompt)
    texts = ids.repeat_interleave(beams, dim=0)  # what each beam has written, kept the plain way
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        state = decoder.start(memory, items, prompt + 5)
        decoder.step(ids, state)
        shared = BeamState.of(state, beams, prompt + 5)
        for step in range(5):
            new = torch.randint(104, 120, (len(texts), 1), generator=generator)
            out = decoder.step(new, shared)[:, 0]
            texts = torch.cat([texts, new], dim=1)
            mine = memory.rows(torch.tensor([0, 1, 2] if step < 3 else [2, 0])).rows(
                torch.arange(len(texts) // beams).repeat_interleave(beams)
            )
            expected = decoder.hidden(texts, torch.ones_like(texts, dtype=torch.bool), mine)[:, -1]
            torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-5)
            parents = torch.randint(0, beams, (len(texts) // beams, beams), generator=generator)
            kept = torch.tensor([2, 0]) if step == 2 else None
            shared.reorder(parents, kept)
            rows = torch.arange(len(parents))[:, None] * beams + parents
            texts = texts[(rows if kept is None else rows[kept]).flatten()]
    assert shared.length == prompt + 5


def test_a_full_cache_says_so() -> None:
    like = torch.zeros(2, 4, 1, 8)
    cache = BeamCache(KeyValueCache(2, 1, like), 3, 1)
    cache.append_joint(torch.ones(6, 1, 2, 4, 8))
    with pytest.raises(ValueError, match="the cache holds 1 tokens; allocate it with a larger max_length"):
        cache.append_joint(torch.ones(6, 1, 2, 4, 8))
