"""Small models whose paths are rough on purpose, as those of trained decoders are: random ones are too smooth."""

from __future__ import annotations

import numpy as np
import torch
import transformers as hf
from tiny_models import DEVICE, SMALL, Case
from torch import nn


def _sharpened(model: nn.Module, factor: float) -> nn.Module:
    """Large weights, and one token of huge norm, as an attention sink has it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(10 if "embed" in name else factor)
        model.get_input_embeddings().weight[5] *= 30
    return model.to(DEVICE, torch.float64).eval()


def sink_model(seed: int = 0, tokens: int = SMALL["vocab_size"]) -> Case:
    """A Llama that jumps between several answers while the attention of a low layer grows."""
    torch.manual_seed(seed)
    config = hf.LlamaConfig(**{**SMALL, "vocab_size": tokens}, num_key_value_heads=2, num_labels=3, pad_token_id=0)
    model = _sharpened(hf.LlamaForSequenceClassification(config), 14.0)
    return _case(model)


def post_norm_model(seed: int = 0) -> Case:
    """A Gemma 3, whose norm behind attention hides the size of the context but near no attention."""
    torch.manual_seed(seed)
    config = hf.Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=8, num_labels=3, pad_token_id=0)
    model = _sharpened(hf.Gemma3TextForSequenceClassification(config), 3.0)
    return _case(model)


def _case(model: nn.Module) -> Case:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(6, 60, (2, 7), generator=generator)
    ids[:, 0] = 5
    ids = ids.to(DEVICE)
    return Case(model, ids, torch.ones_like(ids))


def graded_gauss(panels: int, nodes: int, smallest: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """A composite rule on [0, 1] that sees whatever is there: panels that grow from no attention on, then alike."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    low = np.geomspace(smallest, 1 / panels, panels // 2)
    edges = np.concatenate([[0.0], low, np.linspace(1 / panels, 1, panels)[1:]])
    width = np.diff(edges)[:, None]
    return (edges[:-1, None] + width * (points + 1) / 2).ravel(), (width * weights / 2).ravel()
