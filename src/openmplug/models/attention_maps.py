"""Which picture tokens an output hangs on: attention, weighted by its gradient, of any layer of a model that computes as it always does.

No layer has to know of this. Attention is one call of ``scaled_dot_product_attention`` everywhere; while a layer is watched, the queries,
keys, values and result of its calls are kept. The weights and their gradient follow from these alone: with ``O = A V``, ``A`` is the
softmax of ``Q K' / sqrt(D/N)`` and the gradient of ``A`` is that of ``O`` times ``V'``. The fused kernel runs, with or without us.

Source: Grad-CAM (arXiv:1610.02391) on cross-attention, as ALBEF (arXiv:2107.07651) shows it; attention rollout (arXiv:2005.00928).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from openmplug.models.universal import UniversalLayers

_OWN, _CROSS = 0, 1  # the two attention calls of a ``PostNormCrossBlock``, in order


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention call: query (B, N, T, D/N) over keys and values (B, N, S, D/N), its mask and its result (B, N, T, D/N)."""

    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    mixed: Tensor

    def weights(self, head: int) -> Tensor:
        """Compute one head's attention weights (B, T, S) in fp32; head by head, because all at once can be gigabytes for a video."""
        query, keys = self.query[:, head].detach().float(), self.keys[:, head].detach().float()
        logits = query @ keys.mT * query.shape[-1] ** -0.5
        if self.mask is not None:
            logits = logits.masked_fill(~self.mask[:, 0], -torch.inf)  # masks are the same for every head
        return logits.softmax(dim=-1)

    def rows(self, first: int) -> AttentionCall:
        """Keep the queries from ``first`` on; with the mask of a call whose queries all see the same keys."""
        return AttentionCall(self.query[:, :, first:], self.keys, self.values, self.mask, self.mixed[:, :, first:])

    def grad_cam(self, gradient: Tensor) -> Tensor:
        """Weigh the attention by the positive part of its gradient: (B, T, S), the mean over heads.

        Args:
            gradient: Of a score by ``mixed``, (B, N, T, D/N).
        """
        heads = self.query.shape[1]
        found = self.query.new_zeros(1, dtype=torch.float32)
        for head in range(heads):
            by_weight = gradient[:, head].float() @ self.values[:, head].detach().float().mT  # (B, T, S)
            found = found + by_weight.clamp(min=0) * self.weights(head)
        return found / heads

    def carry(self, relevance: Tensor) -> Tensor:
        """Hand the relevance of the queries, (B, R, T), on to what they attend to, (B, R, S), by the mean of the heads' weights."""
        heads = self.query.shape[1]
        return torch.stack([relevance @ self.weights(head) for head in range(heads)]).mean(dim=0)


class AttentionProbe(TorchFunctionMode):
    """While the block runs, keeps the attention calls of some layers, and lets gradients reach their results.

    Args:
        layers: Modules that are called as such, such as ``CoAttentionLayer``.

    Attributes:
        calls: Of each of ``layers``, its attention calls since the block began.

    Example:
        >>> class Layer(torch.nn.Module):
        ...     def forward(self, x):
        ...         return F.scaled_dot_product_attention(x, x, x)
        >>> layer = Layer()
        >>> with torch.no_grad(), AttentionProbe([layer]) as probe:
        ...     _ = layer(torch.randn(1, 2, 3, 4))
        >>> len(probe.calls[layer])
        1
    """

    def __init__(self, layers: Collection[nn.Module]) -> None:
        super().__init__()
        self.calls: dict[nn.Module, list[AttentionCall]] = {layer: [] for layer in layers}
        self._inside: list[nn.Module] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> AttentionProbe:
        """Watch."""
        for layer in self.calls:
            self._hooks.append(layer.register_forward_pre_hook(lambda module, _: self._inside.append(module)))
            self._hooks.append(layer.register_forward_hook(lambda module, _, __: self._leave(), always_call=True))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the layers as they were."""
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._inside.clear()

    def _leave(self) -> None:
        self._inside.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function; of attention inside a watched layer keep what went in and came out."""
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention and self._inside:
            if torch.is_grad_enabled() and not result.requires_grad:
                result.requires_grad_()
            query, keys, values, *rest = args
            mask = rest[0] if rest else (kwargs or {}).get("attn_mask")
            self.calls[self._inside[-1]].append(AttentionCall(query, keys, values, mask, result))
        return result


def through_universal(layers: UniversalLayers, calls: Sequence[Sequence[AttentionCall]], relevance: Tensor) -> Tensor:
    """Hand the relevance of vision tokens on to the tokens that the universal layers made them of.

    Each token is itself, what it took from the others and what it read from the latents, which gathered it from all tokens. Of every sum
    of a residual and an attention each gets half, as in attention rollout; what leads to the latents' own values leads to no patch.

    Args:
        layers: The layers.
        calls: Attention calls of each of them, from one ``read_vision``.
        relevance: Of the tokens that came out, (B, R, V).

    Returns:
        Of the tokens that went in, (B, R, V).
    """
    *gathering, giving = calls
    on_latents = giving[_CROSS].carry(relevance) / 2
    kept = relevance / 2
    found = (kept + giving[_OWN].carry(kept)) / 2
    for own, cross in reversed(gathering):
        found = found + cross.carry(on_latents) / 2
        on_latents = (on_latents + own.carry(on_latents)) / 4
    return (relevance + found) / 2
