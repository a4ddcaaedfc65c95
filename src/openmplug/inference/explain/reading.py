"""Which patches each word hangs on: one pass forward through a model as it is, one back, for a batch of pictures or clips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.batch import Tokens
from openmplug.errors import UsageError
from openmplug.models.attention_maps import AttentionCall, AttentionProbe, through_universal
from openmplug.models.decoder import DecoderMemory
from openmplug.models.fusion import ConnectedLayer, Fused
from openmplug.models.network import Network
from openmplug.models.universal import UniversalLayers


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers whose attention is shown, counted from 0; None = the default.

    Args:
        fusion: Default the middle one, as ALBEF chose (the third of six); of two the first. The last one will not do for matching, which
            reads [CLS] alone: no other word has a gradient there.
        decoder: Default the middle one too.
    """

    fusion: int | None = None
    decoder: int | None = None

    def chosen_fusion(self, network: Network, matching: bool) -> int:
        """Return the fusion layer.

        Raises:
            UsageError: If there is none of that number, or matching would see nothing in it.
        """
        count = len(network.fusion.layers)
        layer = _checked("fusion", self.fusion, count)
        if matching and self.fusion == count - 1 and count > 1:
            raise UsageError(
                f"fusion layer {layer} is the last: matching reads [CLS] alone there, no word has a map; take 0 to {count - 2}"
            )
        return layer

    def chosen_decoder(self, network: Network) -> int:
        """Return the decoder layer.

        Raises:
            UsageError: If there is none of that number.
        """
        return _checked("decoder", self.decoder, len(network.decoder.layers))


def _checked(part: str, layer: int | None, count: int) -> int:
    if count == 0:
        raise UsageError(f"this model's {part} has no layers, so there is nothing to show")
    if layer is not None and not 0 <= layer < count:
        raise UsageError(f"the {part} has layers 0 to {count - 1}; got {layer}")
    return (count - 1) // 2 if layer is None else layer


class Seen:
    """The vision tokens of a batch, made without gradients, and the way from a value per token to one per patch.

    Args:
        network: The model.
        images: (B, 3, H, W) or (B, F, 3, H, W).
    """

    def __init__(self, network: Network, images: Tensor) -> None:
        self._network = network
        self._frames = images.shape[1] if images.ndim == 5 else 1
        universal = getattr(network, "universal", None)
        self._universal = universal if isinstance(universal, UniversalLayers) else None
        with torch.no_grad(), AttentionProbe([] if self._universal is None else list(self._universal.layers)) as probe:
            self.tokens = network.encode_images(images)
        self._calls = list(probe.calls.values())

    def by_patch(self, relevance: Tensor) -> Tensor:
        """Turn the relevance of vision tokens (B, R, V) into maps (B, R, F', h, w)."""
        if self._universal is not None:
            relevance = through_universal(self._universal, self._calls, relevance)
        return self._network.by_patch(relevance, self._frames)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a batch hangs on.

    Shapes: scores (B,); read (B, T, F, h, w), a map for every token of the given text, None where there was none; written
    (B, W, F, h, w), one for every token that was written after the first.
    """

    scores: Tensor
    read: Tensor | None = None
    written: Tensor | None = None


def read_match(network: Network, images: Tensor, text: Tokens, layers: Layers) -> Reading:
    """Find what the matching head's verdict hangs on; the scores are the probabilities of a match."""
    layer = network.fusion.layers[layers.chosen_fusion(network, matching=True)]
    seen = Seen(network, images)
    with torch.no_grad():
        words = network.encode_text(text.ids, text.mask)
    with torch.enable_grad(), AttentionProbe([layer]) as probe:
        logits = network.matching(network.fuse(seen.tokens, words, text.mask).text).float()
    call = probe.calls[layer][-1]
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), call.mixed)
    return Reading(logits.detach().softmax(dim=1)[:, 1], read=_of_words(layer, call, gradient, seen))


def read_writing(network: Network, images: Tensor, text: Tokens | None, output: Tokens, given: int, layers: Layers) -> Reading:
    """Find what an answer or a caption hangs on; the scores are the log probabilities of what was written.

    Args:
        network: The model.
        images: (B, 3, H, W) or (B, F, 3, H, W).
        text: The questions or instructions; None where the decoder looks at the picture alone.
        output: What was written, from [CLS] to [SEP].
        given: How many tokens of it were there before the model wrote, >= 1.
        layers: Those to show.
    """
    last = network.decoder.layers[layers.chosen_decoder(network)]
    seen = Seen(network, images)
    if text is None:
        if layers.fusion is not None:
            raise UsageError("this model writes about the picture alone, without fusion; choose a decoder layer")
        with torch.no_grad():
            memory = network.decoder.project_memory(seen.tokens)
        with torch.enable_grad(), AttentionProbe([last]) as probe:
            log_odds = _log_odds(network, memory, output, given)
        return Reading(_log_prob(log_odds, output, given), None, _of_written(probe.calls[last][-1], log_odds, given, seen))
    first = network.fusion.layers[layers.chosen_fusion(network, matching=False)]
    with torch.no_grad():
        words = network.encode_text(text.ids, text.mask)
    with torch.enable_grad(), AttentionProbe([first, last]) as probe:
        fused: Fused = network.fuse(seen.tokens, words, text.mask)
        memory = network.decoder_memory(fused, text.mask)
        log_odds = _log_odds(network, memory, output, given)
    call = probe.calls[first][-1]
    (gradient,) = torch.autograd.grad((log_odds * output.mask[:, given:]).sum(), call.mixed, retain_graph=True)
    written = _of_written(probe.calls[last][-1], log_odds, given, seen)
    return Reading(_log_prob(log_odds, output, given), _of_words(first, call, gradient, seen), written)


def _log_odds(network: Network, memory: DecoderMemory, output: Tokens, given: int) -> Tensor:
    """Compute each written token's log odds against all others, (B, W).

    As a score they point where the log probability does, but a token that the model is sure of has as much of a gradient as any other.
    """
    logits = network.decoder(output.ids[:, :-1], output.mask[:, :-1], memory)[:, given - 1 :].float()
    tokens = output.ids[:, given:, None]
    return (logits.gather(2, tokens) - logits.scatter(2, tokens, -torch.inf).logsumexp(dim=2, keepdim=True))[..., 0]


def _log_prob(log_odds: Tensor, output: Tokens, given: int) -> Tensor:
    """Return the log probability of all that was written, (B,)."""
    return (F.logsigmoid(log_odds.detach()) * output.mask[:, given:]).sum(dim=1)


def _of_words(layer: torch.nn.Module, call: AttentionCall, gradient: Tensor, seen: Seen) -> Tensor:
    """Make the maps of a fusion layer's words (B, T, F, h, w)."""
    visible = seen.tokens.shape[1]
    # A connected layer attends from [vision; text] to [vision; text] at once.
    first = visible if isinstance(layer, ConnectedLayer) else 0
    return seen.by_patch(call.rows(first).grad_cam(gradient[:, :, first:])[:, :, :visible])


def _of_written(call: AttentionCall, log_odds: Tensor, given: int, seen: Seen) -> Tensor:
    """Make the maps of what was written (B, W, F, h, w): of each token by its own odds, at the place that wrote it."""
    gradient = torch.zeros_like(call.mixed)
    for place in range(log_odds.shape[1]):
        (own,) = torch.autograd.grad(log_odds[:, place].sum(), call.mixed, retain_graph=True)
        gradient[:, :, given - 1 + place] = own[:, :, given - 1 + place]
    return seen.by_patch(call.rows(given - 1).grad_cam(gradient[:, :, given - 1 :])[:, :, : seen.tokens.shape[1]])
