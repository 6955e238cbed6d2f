"""``IntegratedGradients`` over an attention matrix put into the model by hand, as a Captum user does it today."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from captum_attattr import attention_layers

AttentionMaskInterface.register("by_hand", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


class InjectedAttention:
    """F of the target as a function of one layer's attention matrix: plain attention in the graph, whole passes."""

    def __init__(self, model: Any, layer: nn.Module, ids: Tensor, output: str = "probability") -> None:
        self.model, self.layer, self.ids, self.output = model, layer, ids, output
        self.matrix: Tensor | None = None
        with torch.no_grad():
            self(None, torch.arange(len(ids)))

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        own = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        if module is self.layer:
            if self.matrix is None:
                self.clean = own.detach()
            else:
                own = self.matrix
        return (own @ value).transpose(1, 2).contiguous(), own

    def __call__(self, matrix: Tensor | None, examples: Tensor) -> Tensor:
        self.matrix = matrix
        ALL_ATTENTION_FUNCTIONS["by_hand"] = self.attend
        before = self.model.config._attn_implementation
        self.model.config._attn_implementation = "by_hand"
        try:
            logits: Tensor = self.model(self.ids[examples]).logits
            return logits if self.output == "logit" else logits.softmax(-1)
        finally:
            self.model.config._attn_implementation = before
            del ALL_ATTENTION_FUNCTIONS["by_hand"]  # it holds the model
            self.matrix = None


def by_hand(
    model: Any,
    ids: Tensor,
    n_steps: int,
    method: str,
    rows: int | None,
    target: Any = 1,
    layers: list[nn.Module] | None = None,
    output: str = "probability",
) -> list[Tensor]:
    """Layer by layer; ``rows`` is Captum's ``internal_batch_size``."""
    found = []
    for layer in attention_layers(model) if layers is None else layers:
        function = InjectedAttention(model, layer, ids, output)
        found.append(
            IntegratedGradients(function).attribute(
                function.clean,
                target=target,
                additional_forward_args=torch.arange(len(ids)),
                n_steps=n_steps,
                method=method,
                internal_batch_size=rows,
            )
        )
    return found
