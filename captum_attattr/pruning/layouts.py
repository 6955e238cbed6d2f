"""The attention projections of each family of models, and how heads are cut out of them.

A head is a block of rows in the query, key and value projections and a block of columns in the output projection.
Parameters that all heads share stay: the output projection's bias, and norms of queries and keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from captum_attattr.attention import UnsupportedModelError

Change = tuple[Any, str, Any]
"""An object, the name of one of its attributes, and the attribute's new value."""


@dataclass(frozen=True)
class Layout:
    """The names of an attention layer's attributes, as its forward function uses them."""

    inputs: tuple[str, ...]
    """Query, key and value projection; one name if a single module computes all three, in this order."""
    output: str
    """The output projection; a name after ".." belongs to the module that holds the layer."""
    head_size: str
    count: str | None = None
    """The number of heads."""
    width: str | None = None
    """The number of heads times their size; for a single input module, the sizes into which its output is split."""
    further: tuple[str, ...] = ()
    """Projections with as many rows as the queries' that some models have besides, for positions."""
    runs_empty: bool = True
    """Whether the layer's code runs without any heads."""


_BERT = Layout(
    ("query", "key", "value"), "..output.dense", "attention_head_size", "num_attention_heads", "all_head_size"
)
_LLAMA = Layout(("q_proj", "k_proj", "v_proj"), "o_proj", "head_dim")
_VIT = Layout(("q_proj", "k_proj", "v_proj"), "o_proj", "head_dim", "num_attention_heads")

_DEBERTA = Layout(
    ("query_proj", "key_proj", "value_proj"), "..output.dense", "attention_head_size", "num_attention_heads",
    "all_head_size", further=("pos_key_proj", "pos_query_proj"), runs_empty=False,
)  # fmt: skip

# By class, not by attributes: another model with the same attributes may have further parameters for each head.
LAYOUTS = {
    "BertSelfAttention": _BERT,
    "CamembertSelfAttention": _BERT,
    "deberta_v2.DisentangledSelfAttention": _DEBERTA,
    "sew_d.DisentangledSelfAttention": _DEBERTA,
    "ElectraSelfAttention": _BERT,
    "MegatronBertSelfAttention": _BERT,
    "RemBertSelfAttention": _BERT,
    "RoFormerSelfAttention": _BERT,
    "RobertaSelfAttention": _BERT,
    "XLMRobertaSelfAttention": _BERT,
    "DistilBertSelfAttention": Layout(("q_lin", "k_lin", "v_lin"), "out_lin", "attention_head_size", "n_heads"),
    "GPT2Attention": Layout(("c_attn",), "c_proj", "head_dim", "num_heads", "split_size"),
    "LlamaAttention": _LLAMA,
    "MistralAttention": _LLAMA,
    "Qwen2Attention": _LLAMA,
    "Qwen3Attention": _LLAMA,
    "DeiTAttention": _VIT,
    "ViTAttention": _VIT,
}
"""The families that can be pruned, by the class of their attention layers; with its folder where two share a name."""


@dataclass(frozen=True)
class Projections:
    """The projections of one attention layer, and the number of their heads."""

    layer: nn.Module
    layout: Layout
    inputs: list[nn.Module]
    further: list[nn.Module]
    holder: nn.Module
    output_name: str
    """The output projection's name in ``holder``."""
    size: int
    """Number of dimensions of a head."""
    heads: int
    groups: int
    """Number of key-value heads; equal to ``heads`` without grouped heads."""

    @classmethod
    def from_layer(cls, model: nn.Module, layer: nn.Module) -> Projections:
        """Find the projections of ``layer``, a part of ``model``.

        Raises:
            UnsupportedModelError: The layer's family is unknown, or its projections are not those of the family.
        """
        name, module = type(layer).__name__, type(layer).__module__
        layout = None
        if module.startswith("transformers.models."):
            layout = LAYOUTS.get(name) or LAYOUTS.get(f"{module.split('.')[2]}.{name}")
        if layout is None or getattr(layer, "is_cross_attention", False):
            raise UnsupportedModelError(
                f"Heads cannot be cut out of {name} ({type(model).__name__}), but mask_heads can switch them off. "
                "Prunable are BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, DeBERTa (v2, v3), "
                "Megatron-BERT, RemBERT, RoFormer, GPT-2, Llama, Mistral, Qwen2, Qwen3, ViT and DeiT of transformers, "
                "self-attention only."
            )
        inputs = [getattr(layer, attribute) for attribute in layout.inputs]
        further = [getattr(layer, attribute) for attribute in layout.further if hasattr(layer, attribute)]
        holder, output_name = _holder(model, layer, layout.output)
        size = int(getattr(layer, layout.head_size))
        output = getattr(holder, output_name)
        for projection in (*inputs, *further, output):
            _check(projection, model)
        heads = _width(output, outputs=False) // size
        widths = [_width(projection, outputs=True) for projection in inputs]
        groups = heads if len(inputs) == 1 else widths[1] // size
        expected = [3 * heads * size] if len(inputs) == 1 else [heads * size, groups * size, groups * size]
        if widths != expected or (groups and heads % groups):
            raise UnsupportedModelError(
                f"The projections of {name} have {widths} rows, where {heads} heads of {size} dimensions and their "
                f"keys and values need {expected}: this is not transformers' layer of this name."
            )
        return cls(layer, layout, inputs, further, holder, output_name, size, heads, groups)

    def changes(self, keep: Sequence[int]) -> list[Change]:
        """Return the changes after which only the heads at these indices remain; nothing is changed yet.

        Raises:
            ValueError: No head would remain in a layer whose code does not run without any.
        """
        if not keep and not self.layout.runs_empty:
            raise ValueError(
                f"A {type(self.layer).__name__} does not run without any heads: leave one, or mask them (mask_heads)."
            )
        together = self.heads // max(self.groups, 1)
        queries = _block(keep, self.size)
        keys = _block(sorted({place // together for place in keep}), self.size)
        if len(self.inputs) == 1:
            width = self.heads * self.size
            rows = [torch.cat([queries + part * width for part in range(3)])]
        else:
            rows = [queries, keys, keys]
        changes = [
            change
            for projection, kept in zip(self.inputs, rows, strict=True)
            for change in _cut(projection, kept, outputs=True)
        ]
        changes += [change for projection in self.further for change in _cut(projection, queries, outputs=True)]
        if self.layout.count:
            changes.append((self.layer, self.layout.count, len(keep)))
        if self.layout.width:
            changes.append((self.layer, self.layout.width, len(queries) if len(rows) == 3 else [len(queries)] * 3))
        return changes + self._output_changes(queries)

    def _output_changes(self, columns: Tensor) -> list[Change]:
        output = getattr(self.holder, self.output_name)
        changes = _cut(output, columns, outputs=False)
        if len(columns) or not isinstance(output, Conv1D):
            return changes
        # A Conv1D cannot run without any input columns. A Linear can, and has the same names of weight and bias.
        linear = nn.Linear(1, output.nf, device="meta").train(output.training)
        linear.in_features, linear.bias = 0, output.bias
        linear.weight = nn.Parameter(changes[0][2].detach().t(), changes[0][2].requires_grad)
        return [(self.holder, self.output_name, linear)]


def _holder(model: nn.Module, layer: nn.Module, path: str) -> tuple[nn.Module, str]:
    start = layer
    if path.startswith(".."):
        name = next(name for name, module in model.named_modules() if module is layer)
        start, path = model.get_submodule(name.rpartition(".")[0]), path[2:]
    holder, _, last = path.rpartition(".")
    return start.get_submodule(holder), last


def _check(projection: nn.Module, model: nn.Module) -> None:
    weights = [p for p in projection._parameters.values() if p is not None]
    if type(projection) not in (nn.Linear, Conv1D) or projection._parameters.get("weight") is None:
        raise UnsupportedModelError(
            f"A projection of the attention is a {type(projection).__name__}, not a plain linear layer: merge adapters "
            "and remove quantisation or reparametrisation before pruning."
        )
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    if any(uses[id(weight)] > 1 for weight in weights):
        raise UnsupportedModelError("Projections of the attention share their weights, so none can be cut alone.")


def _width(projection: Any, *, outputs: bool) -> int:
    axis = 0 if outputs == isinstance(projection, nn.Linear) else 1
    return int(projection.weight.shape[axis])


def _block(places: Sequence[int], size: int) -> Tensor:
    """Return the rows of the heads at these indices, on the CPU even under a context that sets another device."""
    starts = torch.tensor(list(places), dtype=torch.long, device="cpu") * size
    return (starts[:, None] + torch.arange(size, device="cpu")).flatten()


def _cut(projection: Any, kept: Tensor, *, outputs: bool) -> list[Change]:
    linear = isinstance(projection, nn.Linear)
    count = ("out_features" if outputs else "in_features") if linear else ("nf" if outputs else "nx")
    axis = 0 if outputs == linear else 1
    changes: list[Change] = [
        (projection, "weight", _selected(projection.weight, axis, kept)),
        (projection, count, len(kept)),
    ]
    if outputs and projection.bias is not None:
        changes.append((projection, "bias", _selected(projection.bias, 0, kept)))
    return changes


def _selected(parameter: nn.Parameter, axis: int, kept: Tensor) -> nn.Parameter:
    chosen = parameter.detach().index_select(axis, kept.to(parameter.device))
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)
