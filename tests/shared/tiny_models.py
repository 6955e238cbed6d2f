"""Small random models of every family that the engine promises to explain, as data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf
from torch import Tensor, nn

DEVICE = os.environ.get("CAPTUM_ATTATTR_TEST_DEVICE", "cpu")
"""Where the small models are, and what is given to them."""

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


@dataclass(frozen=True)
class Family:
    name: str
    build: Callable[[], nn.Module]
    kind: str = "encoder"  # encoder | decoder | image
    digits: float = 1e-9  # relative error that the family's own arithmetic allows

    @property
    def rounding(self) -> float:
        """Relative error of its output where kernels, memory or threads are others: of the type of its softmax."""
        return 1e-6 if self.digits >= 1e-6 else 1e-12


def _gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=32))


def _distilbert() -> nn.Module:
    config = hf.DistilBertConfig(vocab_size=60, dim=32, n_layers=3, n_heads=4, hidden_dim=48, num_labels=3)
    return hf.DistilBertForSequenceClassification(config)


def _vit() -> nn.Module:
    config = hf.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=12, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    return hf.ViTForImageClassification(config)


def _modernbert() -> nn.Module:
    special = {"pad_token_id": 0, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    config = hf.ModernBertConfig(**SMALL, **special, global_attn_every_n_layers=2, local_attention=4, num_labels=3)
    return hf.ModernBertForSequenceClassification(config)


def _decoder(config_class: type, model_class: type, **settings) -> Callable[[], nn.Module]:
    return lambda: model_class(config_class(**SMALL, num_key_value_heads=2, num_labels=3, pad_token_id=0, **settings))


def _mistral() -> nn.Module:
    return _decoder(hf.MistralConfig, hf.MistralForSequenceClassification, sliding_window=3)()


def _encoder(config_class: type, model_class: type, **settings) -> Callable[[], nn.Module]:
    return lambda: model_class(config_class(**{**SMALL, "num_labels": 3, "pad_token_id": 0, **settings}))


FAMILIES = [
    Family("bert", _encoder(hf.BertConfig, hf.BertForSequenceClassification)),
    Family("roberta", _encoder(hf.RobertaConfig, hf.RobertaForSequenceClassification, pad_token_id=1)),
    Family("distilbert", _distilbert),
    Family("electra", _encoder(hf.ElectraConfig, hf.ElectraForSequenceClassification, embedding_size=16)),
    Family("gpt2", _gpt2, "decoder"),
    # Llama and its kin take their softmax in float32.
    Family("llama", _decoder(hf.LlamaConfig, hf.LlamaForSequenceClassification), "decoder", digits=1e-6),
    Family("modernbert", _modernbert, digits=3e-6),  # local attention in some layers
    Family("qwen3", _decoder(hf.Qwen3Config, hf.Qwen3ForSequenceClassification, head_dim=8), "decoder", digits=1e-6),
    Family(
        "mistral", _decoder(hf.MistralConfig, hf.MistralForSequenceClassification, sliding_window=3), "decoder", 1e-6
    ),
    Family("vit", _vit, "image", digits=1e-6),  # as Llama
]


def make(family: Family, dtype: torch.dtype = torch.float64, attention: str = "sdpa", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = family.build()
    with torch.no_grad():  # the usual initialisation is so small that attention hardly matters
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4 if "embed" not in name else 10)
    model.set_attn_implementation(attention)
    return model.to(DEVICE, dtype).eval()


@dataclass(frozen=True)
class Case:
    """A model, inputs for it, and F: the softmax probability of class 1 (of token 7 at the last place)."""

    model: nn.Module
    inputs: Tensor
    mask: Tensor | None

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        options = {} if mask is None else {"attention_mask": mask}
        logits = self.model(inputs, **options).logits
        if logits.dim() == 3:
            return logits[:, 0].softmax(-1) if mask is None else logits[range(len(mask)), mask.sum(1) - 1].softmax(-1)
        return logits.softmax(-1)

    @property
    def padding(self) -> Tensor | None:
        return None if self.mask is None else self.mask == 0


def case(family: Family, batch: int = 2, tokens: int = 7, padded: bool = True, **settings) -> Case:
    model = make(family, **settings)
    generator = torch.Generator().manual_seed(1)
    if family.kind == "image":
        images = torch.randn(batch, 3, 12, 12, generator=generator, dtype=torch.float64)
        return Case(model, images.to(DEVICE, model.dtype), None)
    ids = torch.randint(5, 60, (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padded and batch > 1:
        mask[-1, -2:] = 0
        ids[-1, -2:] = model.config.pad_token_id or 0
    return Case(model, ids.to(DEVICE), mask.to(DEVICE))
