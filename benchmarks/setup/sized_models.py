"""The bundled model, and models of BERT's sizes with random weights, whose speed does not depend on training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from captum_attattr.demo import load_demo, load_reviews

BUNDLED = "bundled"
SIZES = {"BERT-base size": (12, 768, 12), "BERT-large size": (24, 1024, 16)}
"""Layers, width, heads."""


def build(size: str, layers: int | None = None) -> tuple[Any, Any]:
    """The model and, if it is the bundled one, its tokenizer; ``layers``: another depth for random weights."""
    if size == BUNDLED:
        return load_demo()
    depth, width, heads = SIZES[size]
    return random_bert(layers or depth, width, heads), None


def random_bert(layers: int, width: int, heads: int, **config: Any) -> Any:
    torch.manual_seed(0)
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return BertForSequenceClassification(BertConfig(**shape, intermediate_size=4 * width, **config)).eval()


def sentences(tokenizer: Any, tokens: int, batch: int) -> Tensor:
    """Reviews strung together up to the length; random numbers for models without a tokenizer."""
    if tokenizer is None:
        return torch.randint(1000, 30000, (batch, tokens), generator=torch.Generator().manual_seed(0))
    reviews = [text for text, _ in load_reviews()]
    rows = []
    for row in range(batch):
        text = " ".join((reviews[row % len(reviews) :] + reviews) * 2)
        rows.append(tokenizer(text, truncation=True, max_length=tokens, return_tensors="pt")["input_ids"])
    return torch.cat(rows)
