"""Small models with adapters or quantized weights, as data: name -> model and its inputs."""

from __future__ import annotations

from collections.abc import Callable

import peft
import torch
import torch.nn.functional as F
from library_models import small_inputs, small_model
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """Weights in 8 bits and a scale for each row, as quantizers of weights store them; computed in the input's type."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def _int8() -> nn.Module:
    model = small_model("bert")
    for holder in list(model.modules()):
        for name, child in list(holder.named_children()):
            if isinstance(child, nn.Linear):
                setattr(holder, name, Int8Linear(child))
    return model


def _dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(small_model("bert"), {nn.Linear}, dtype=torch.qint8)


def _lora() -> nn.Module:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(small_model("llama"), config)


def _prefix(model_type: str) -> nn.Module:
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    return peft.get_peft_model(small_model(model_type), config)


ADAPTED: dict[str, Callable[[], nn.Module]] = {
    "peft: LoRA on Llama": _lora,
    "peft: prefix on Llama": lambda: _prefix("llama"),
    "peft: prefix on BERT": lambda: _prefix("bert"),
    "8-bit weights: BERT": _int8,
    "8-bit arithmetic: BERT": _dynamic,
}


def adapted_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ADAPTED[name]().eval()


def adapted_inputs() -> dict[str, Tensor]:
    ids = small_inputs(small_model("bert"))["input_ids"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
