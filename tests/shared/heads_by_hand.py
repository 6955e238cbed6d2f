"""A model without some heads, made by hand: what their context would meet in the output projection is set to zero."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from captum_attattr import attention_layers

# Names of output projections, from the attention layer or the module around it.
OUTPUTS = ("output.dense", "out_lin", "c_proj", "o_proj", "out_proj", "o", "Wo", "dense")


def output_projection(model: nn.Module, layer: nn.Module) -> nn.Module:
    name = next(name for name, module in model.named_modules() if module is layer)
    around = dict(model.get_submodule(name.rpartition(".")[0]).named_modules())
    inside = dict(layer.named_modules())
    return next(place[path] for place in (inside, around) for path in OUTPUTS if path in place)


def without_heads(c, heads, count=4):
    """The case with a copy of its model in which these heads reach nothing. ``count``: heads of a layer."""
    model = deepcopy(c.model)
    layers = attention_layers(model)
    with torch.no_grad():
        for layer, gone in heads.items():
            projection = output_projection(model, layers[layer])
            weight = projection.weight if isinstance(projection, Conv1D) else projection.weight.t()
            for head in gone:
                weight.unflatten(0, (count, -1))[head] = 0
    return replace(c, model=model)
