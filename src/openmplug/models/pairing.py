"""Fusing pictures with many texts for matching: what does not depend on the pair, or does not reach the result, is not computed for it.

The matching head reads the fused text's class token only. Up to the first connected layer a picture's states are its own, so its keys
and values serve all its texts. In that layer every picture token attends to [picture; text]: the picture's part of the scores and of
the mixture is computed once, and a pair only adds its text's part. After it, picture states differ from pair to pair; few text tokens
attend to many picture tokens then, which is cheaper with the projections moved to the side of the queries. The last layer computes the
class token alone.

Shapes: V picture tokens, n texts of T tokens, N heads, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.models.fusion import CoAttentionLayer, ConnectedLayer, SkipConnectedFusion
from openmplug.models.layers import Attention, KeyValues, PostNormAttention, PostNormCrossBlock, merge_heads, split_heads
from openmplug.models.masks import key_mask
from openmplug.models.packing import add_linear, plain


@dataclass(frozen=True, slots=True)
class SharedPart:
    """What a picture brings to a connected layer, whatever the text.

    Args:
        queries, keys, values: Of its tokens, (N, V, D/N); queries are scaled.
        mass: Log of the summed exponentials of each token's scores over the picture, (N, V, 1).
        mixed: Each head's mixture of the picture after the output projection, and last the states plus the output bias, (V, N + 1, D).
        states: (V, 1, D).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mass: Tensor
    mixed: Tensor
    states: Tensor


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's share of the fusion: keys and values for the layers before the first connected one, then that layer's part.

    ``connected`` is None without such a layer, or where its output projection is adapted or quantised and cannot be split by heads.
    """

    states: Tensor
    memories: list[KeyValues]
    connected: SharedPart | None


class PairFusion:
    """Fuses one picture with several texts at a time; returns class states, equal to ``SkipConnectedFusion``'s up to rounding.

    Args:
        fusion: The stack, in eval mode. For inference: nothing here is meant to be differentiated.
    """

    def __init__(self, fusion: SkipConnectedFusion) -> None:
        self.layers = list(fusion.layers)
        connected = [index for index, layer in enumerate(self.layers) if isinstance(layer, ConnectedLayer)]
        self._first_connected = connected[0] if connected else len(self.layers)
        if not torch.is_grad_enabled():
            fusion.pack()

    def begin(self, text: Tensor, mask: Tensor) -> Tensor:
        """Take text states (J, T, D) with mask (J, T) as far as they do not depend on a picture: the first self-attention."""
        if len(self.layers) < 2 or not isinstance(self.layers[0], CoAttentionLayer):
            return text
        return self.layers[0].block.self_attention.to_itself(text, key_mask(mask))

    def picture(self, vision: Tensor) -> Picture:
        """Compute what the states (V, D) of a picture bring to every pair."""
        memories, shared = [], None
        for layer in self.layers[: self._first_connected + 1]:
            if isinstance(layer, CoAttentionLayer):
                memories.append(layer.block.cross_attention.attention.project(vision[None]))
            elif isinstance(layer, ConnectedLayer) and plain(layer.block.self_attention.attention.output):
                shared = _shared_part(layer.block.self_attention.attention, vision)
        return Picture(vision, memories, shared)

    def class_states(self, picture: Picture, text: Tensor, mask: Tensor) -> Tensor:
        """Fuse a picture with texts (n, T, D) that ``begin`` returned, mask (n, T); returns the class states (n, D)."""
        vision: Tensor | None = None  # (n, V, D) once the pairs differ
        keys = key_mask(mask)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            if isinstance(layer, CoAttentionLayer):
                block = layer.block
                if index > 0 or last:
                    text = _attend_itself(block.self_attention, text, keys, last)
                text = block.cross_attention(text, picture.memories[index]) if vision is None else _attend_differing(block, text, vision)
                text = block.feed_forward(text)
                continue
            assert isinstance(layer, ConnectedLayer)
            if vision is None and picture.connected is not None:
                text, vision = _connect_shared(layer, picture.connected, text, mask, last)
            else:
                vision = picture.states.expand(len(text), -1, -1) if vision is None else vision
                text, vision = _connect_differing(layer, vision, text, mask, last)
        return text[:, 0]


def _attend_itself(attention: PostNormAttention, x: Tensor, keys: Tensor | None, first_only: bool) -> Tensor:
    """Attend within x (n, T, D); of the first token only where nothing else is asked for, (n, 1, D)."""
    return attention(_first(x), attention.attention.project(x), keys) if first_only else attention.to_itself(x, keys)


def _first(x: Tensor) -> Tensor:
    """Take the class token of (n, T, D), (n, 1, D); a copy, because a product with a strided view would copy the weight n times."""
    return x[:, :1].contiguous()


def _attend_differing(block: PostNormCrossBlock, x: Tensor, states: Tensor) -> Tensor:
    """Cross-attention sub-layer from x (n, T, D) to states (n, V, D) that serve this one text only."""
    sublayer, tokens, seen, width = block.cross_attention, x.shape[1], states.shape[1], x.shape[2]
    attention = sublayer.attention
    # Projecting V tokens to keys and values, or T queries back through the key matrix for every head.
    if tokens * (attention.heads * seen + width) >= seen * width or not plain(attention.key, attention.value):
        return sublayer(x, attention.project(states))
    return sublayer.norm(x + _unprojected(attention, x, states))


def _unprojected(attention: Attention, x: Tensor, states: Tensor) -> Tensor:
    """Attend from x (n, T, D) to states (n, V, D) without making keys and values of them.

    ``q . (W s + b) = (q W) . s + q . b``, and the last term is the same for every s: softmax does not see it. The mixture of values is
    the value projection of the mixture.
    """
    rows, tokens, _ = x.shape
    heads = attention.heads
    query = attention.query(x).view(rows * tokens, heads, -1).transpose(0, 1)  # (N, nT, D/N)
    query = query * query.shape[-1] ** -0.5
    back = torch.bmm(query, attention.key.weight.to(query.dtype).unflatten(0, (heads, -1)))  # (N, nT, D)
    back = back.unflatten(1, (rows, tokens)).transpose(0, 1).flatten(1, 2)  # (n, N*T, D)
    weights = torch.bmm(back, states.transpose(1, 2)).softmax(dim=-1)  # (n, N*T, V); statistics are fp32 in any type
    mixed = torch.bmm(weights, states).unflatten(1, (heads, tokens)).transpose(0, 1).flatten(1, 2)  # (N, nT, D)
    values = torch.bmm(mixed, attention.value.weight.to(mixed.dtype).unflatten(0, (heads, -1)).transpose(1, 2))  # (N, nT, D/N)
    return attention.output((values.transpose(0, 1).flatten(1) + attention.value.bias.to(values.dtype)).unflatten(0, (rows, tokens)))


def _output_of_heads(attention: Attention, dtype: torch.dtype) -> Tensor:
    """Return the output projection by head, (N, D/N, D)."""
    return attention.output.weight.to(dtype).unflatten(1, (attention.heads, -1)).permute(1, 2, 0)


def _shared_part(attention: Attention, vision: Tensor) -> SharedPart:
    """Compute the picture's own share of a connected layer's self-attention from its states (V, D)."""
    query, own = attention.project_self(vision[None])
    query, keys, values = query[0] * query.shape[-1] ** -0.5, own.keys[0], own.values[0]  # (N, V, D/N)
    scores = torch.bmm(query, keys.transpose(1, 2)).float()  # (N, V, V)
    mass = scores.logsumexp(dim=-1)  # (N, V)
    mixed = torch.bmm((scores - mass[..., None]).exp().to(values.dtype), values)
    out = torch.bmm(mixed, _output_of_heads(attention, mixed.dtype)).transpose(0, 1)  # (V, N, D)
    residual = (vision + attention.output.bias.to(vision.dtype))[:, None]
    return SharedPart(query.contiguous(), keys, values, mass[:, :, None], torch.cat([out, residual.to(out.dtype)], dim=1), vision[:, None])


def _connect_shared(layer: ConnectedLayer, shared: SharedPart, text: Tensor, mask: Tensor, last: bool) -> tuple[Tensor, Tensor | None]:
    """Connected attention over [picture; text] where all n texts (n, T, D) meet the same picture."""
    block, attention = layer.block, layer.block.self_attention.attention
    rows, tokens, _ = text.shape
    heads = attention.heads
    if last:
        own, query = attention.project(text), split_heads(attention.query(_first(text)), heads)
    else:
        query, own = attention.project_self(text)
    asked = query.shape[2]  # T, or 1
    query = query * query.shape[-1] ** -0.5
    hidden = ~mask
    # Text to [picture; text]: one softmax over both parts.
    to_picture = torch.bmm(query.transpose(0, 1).flatten(1, 2), shared.keys.transpose(1, 2)).unflatten(1, (rows, asked))  # (N, n, t, V)
    to_text = (query @ own.keys.transpose(2, 3)).masked_fill(hidden[:, None, None], -torch.inf).transpose(0, 1)  # (N, n, t, T)
    weights = torch.cat([to_picture, to_text], dim=-1).softmax(dim=-1)
    seen = to_picture.shape[-1]
    mixed = torch.bmm(weights[..., :seen].flatten(1, 2), shared.values).unflatten(1, (rows, asked)).transpose(0, 1)  # (n, N, t, D/N)
    mixed = mixed + weights[..., seen:].transpose(0, 1) @ own.values
    sublayer = block.self_attention
    fused = block.feed_forward(sublayer.norm(add_linear(attention.output, merge_heads(mixed), text[:, :asked].contiguous())))
    if last:
        return fused, None
    # Picture to [picture; text]: the picture's part is known up to one factor for each token and head.
    keys, values = (x.transpose(0, 1).flatten(1, 2) for x in (own.keys, own.values))  # (N, nT, D/N)
    scores = torch.bmm(shared.queries, keys.transpose(1, 2)).float().unflatten(2, (rows, tokens))  # (N, V, n, T)
    scores = scores.masked_fill(hidden, -torch.inf)
    total = torch.logaddexp(shared.mass, scores.logsumexp(dim=-1))  # (N, V, n)
    share = (shared.mass - total).exp().permute(1, 2, 0)  # (V, n, N)
    share = F.pad(share, (0, 1), value=1.0).to(values.dtype)  # the residual counts once, whatever the text
    of_text = (scores - total[..., None]).exp().to(values.dtype).permute(2, 1, 0, 3).flatten(2)  # (n, V, N*T)
    out = torch.bmm(values, _output_of_heads(attention, values.dtype))  # (N, nT, D)
    out = torch.bmm(of_text, out.unflatten(1, (rows, tokens)).transpose(0, 1).flatten(1, 2))  # (n, V, D)
    out = torch.baddbmm(out.transpose(0, 1), share, shared.mixed)  # (V, n, D)
    vision = block.feed_forward(sublayer.norm(out))
    vision += shared.states  # in place: this is the largest tensor of all
    return fused, vision.transpose(0, 1)


def _connect_differing(layer: ConnectedLayer, vision: Tensor, text: Tensor, mask: Tensor, last: bool) -> tuple[Tensor, Tensor | None]:
    """Connected attention over vision (n, V, D) and text (n, T, D), row by row."""
    block, seen = layer.block, vision.shape[1]
    if not last:
        fused = layer(vision, text, None, mask)
        return fused.text, fused.vision
    keys = key_mask(torch.cat([mask.new_ones(len(mask), seen), mask], dim=1))
    memory = block.self_attention.attention.project(torch.cat([vision, text], dim=1))
    return block.feed_forward(block.self_attention(_first(text), memory, keys)), None
