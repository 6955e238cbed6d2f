"""Models whose attributions must differ: with weights drawn anew from the top, and tiny ones trained here."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from captum_attattr import attention_layers


def randomized_from_the_top(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """The model as it is, then with more and more of its parts drawn anew: head, blocks from the top, embeddings.

    Each tensor's entries are drawn from a normal distribution of its own mean and spread. It is one model that changes
    from one step to the next (Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018: the cascading test).
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    yield "as trained", model
    for name, parameters in reversed(_parts(model)):
        with torch.no_grad():
            for parameter in parameters:
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(float(parameter.mean()) + spread * noise)
        yield name, model


def _parts(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Embeddings, blocks and head, in the order in which they run."""
    names = {module: name for name, module in model.named_modules()}
    blocks = []
    for layer in attention_layers(model):
        found = re.match(r".*?\.\d+(?=\.)", names[layer])
        if found is None:
            raise SystemExit(f"No block with a number was found around {names[layer]!r}.")
        blocks.append(found.group())
    named = list(model.named_parameters())
    inside = [place for place, (name, _) in enumerate(named) if any(name.startswith(f"{b}.") for b in blocks)]
    parts = [("embeddings", [p for _, p in named[: inside[0]]])]
    for number, block in enumerate(blocks):
        parts.append((f"block {number}", [p for name, p in named if name.startswith(f"{block}.")]))
    return [*parts, ("head", [p for _, p in named[inside[-1] + 1 :]])]


def train_tiny(tokenizer: Any, texts: list[str], labels: list[int], seed: int, epochs: int) -> tuple[nn.Module, float]:
    """A BERT of two layers trained from scratch, and its accuracy on what it was trained on."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = _batches(tokenizer, texts, labels)
    for _ in tqdm(range(epochs), desc="Training a tiny model", unit="epoch"):
        for place in torch.randperm(len(batches)).tolist():
            ids, mask, wanted = batches[place]
            loss = model(input_ids=ids, attention_mask=mask, labels=wanted).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), _accuracy(model, batches)


@torch.no_grad()
def _accuracy(model: nn.Module, batches: list[tuple[Tensor, Tensor, Tensor]]) -> float:
    right = sum(int((model(input_ids=i, attention_mask=m).logits.argmax(-1) == w).sum()) for i, m, w in batches)
    return right / sum(len(wanted) for *_, wanted in batches)


def _batches(tokenizer: Any, texts: list[str], labels: list[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    batches = []
    for start in range(0, len(order), 32):
        places = order[start : start + 32]
        encoded = tokenizer([texts[p] for p in places], padding=True, return_tensors="pt")
        wanted = torch.tensor([labels[p] for p in places])
        batches.append((encoded["input_ids"], encoded["attention_mask"], wanted))
    return batches
