"""Self-critical training of captions: write several, score them as the metric does, and make the better ones more probable.

Source: ``caption_mplug_scst.py`` of the released mPLUG, after arXiv:1612.00563. The reward of a caption is its CIDEr, the baseline the mean
over all captions written for the same picture. Document frequencies are those of the training captions, counted once, so that a reward does
not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from openmplug.batch import Losses, Sample
from openmplug.data.tokenizer import Tokenizer
from openmplug.metrics.captions import cider
from openmplug.metrics.ngrams import DocumentFrequencies
from openmplug.metrics.ptb import ptb_tokenise
from openmplug.models.decoder import DecoderMemory, TextDecoder
from openmplug.models.generation import beam_search, rescore


class CiderReward:
    """CIDEr of single captions, with the document frequencies of the training captions.

    Args:
        samples: The training records; their ``references`` are what people wrote.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.frequencies = DocumentFrequencies([_split(sample.references) for sample in samples if sample.references])

    def __call__(self, captions: Sequence[Sequence[str]], samples: Sequence[Sample]) -> Tensor:
        """Reward ``captions[b]``, all of the picture of sample b: (B, C)."""
        references = [_split(sample.references) for sample in samples]
        flat = [ptb_tokenise(caption) for several in captions for caption in several]
        repeated = [given for several, given in zip(captions, references, strict=True) for _ in several]
        _, scores = cider(flat, repeated, self.frequencies)
        return torch.from_numpy(scores).float().view(len(captions), -1)


def _split(texts: Sequence[str]) -> list[str]:
    return [ptb_tokenise(text) for text in texts]


def self_critical_loss(
    decoder: TextDecoder,
    memory: DecoderMemory,
    tokenizer: Tokenizer,
    reward: CiderReward,
    samples: Sequence[Sample],
    *,
    num_beams: int,
    min_length: int,
    max_length: int,
    prompt: Sequence[int],
) -> Losses:
    """Write ``num_beams`` captions per picture and compute the loss that rewards the better ones.

    The search keeps no graph; the score of what it found is computed again in one forward, which is the same number. A caption's share
    is ``-(score / ids) * (reward - baseline)``, its score normalised by length already and ``ids`` counting begin and end, as there.

    Args:
        decoder: In training mode; the search runs without dropout.
        memory: Of B items, with a graph.
        tokenizer: For begin and end, and to read what was written.
        reward: Scores captions.
        samples: The B records.
        num_beams: Captions per picture.
        min_length: Fewest new tokens.
        max_length: Most new tokens.
        prompt: Ids to begin with; empty is [CLS].
    """
    device = memory.layers[0].keys.device
    begin = torch.tensor([list(prompt) or [tokenizer.cls_id]], device=device).expand(len(memory), -1)
    decoder.eval()
    try:
        # Autocast would keep the weights it casts inside the search, without their graph, for the forward below.
        with torch.autocast(device.type, enabled=torch.is_autocast_enabled(device.type), cache_enabled=False):
            found = beam_search(
                decoder,
                memory,
                num_beams=num_beams,
                min_length=min_length,
                max_length=max_length,
                prompt=begin,
                num_return=num_beams,
                end_id=tokenizer.sep_id,
            )
    finally:
        decoder.train()
    captions = [[tokenizer.decode(one.ids) for one in several] for several in found]
    rewards = reward(captions, samples).to(device)  # (B, C)
    advantage = rewards - rewards.mean(dim=1, keepdim=True)
    rows = [torch.tensor(one.ids, device=device) for several in found for one in several]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_id)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    scores = rescore(decoder, memory, ids, mask, prompt_length=begin.shape[1])
    total = -(scores / lengths * advantage.flatten()).mean()
    return Losses(total, {"reward": rewards.mean(), "best_reward": rewards.amax(dim=1).mean()})
