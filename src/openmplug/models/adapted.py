"""Linear layers with a low-rank adapter beside them (LoRA), made by ``peft``."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.packing import Linear

ADAPTER = "default"
"""The name ``peft`` gives the one adapter; it stands in the names of its parameters."""


def adapt(model: nn.Module, names: Collection[str], rank: int, alpha: float, dropout: float) -> None:
    """Put an adapter beside linear layers, in place: ``W x + b`` becomes ``W x + b + alpha / rank * B A x``.

    ``B`` begins with zeros, so the model computes what it did before. Every parameter but the adapters' is frozen.

    Args:
        model: Holds the layers.
        names: Full names of linear layers.
        rank: Rows of ``A``, columns of ``B``.
        alpha: Scale of the adapters, divided by the rank.
        dropout: On what the adapters read.

    Raises:
        ImportError: If ``peft`` is not installed.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear as LoraLinear

    class AdaptedLinear(LoraLinear):
        """peft's adapted layer, which also knows what openmplug asks of its own linear layers."""

        # Autocast chooses the type of each product; a cast of the input to the adapter's type would only be undone.
        cast_input_dtype_enabled = False

        def gelu(self, x: Tensor) -> Tensor:
            """Compute ``gelu(self(x))``: the adapter's share must be added before it, so there is no fused kernel."""
            return F.gelu(self(x))

        def pack(self, copy: bool = True) -> None:
            """Pack the layer beneath; the adapter is small."""
            base = self.get_base_layer()
            if isinstance(base, Linear):
                base.pack(copy)

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(names), bias="none")
    # The one way peft offers to bring a layer class of one's own.
    config._register_custom_module({nn.Linear: AdaptedLinear})
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
