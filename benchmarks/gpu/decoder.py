"""Head scores of a decoder for one long text."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.sizes import TOLERANCE, Sizes
from benchmarks.setup.attributing import attributed, summary
from benchmarks.setup.meter import Meter
from benchmarks.setup.sized_models import sentences
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attribution import PathName

MOST_STEPS = 60
"""To the tolerance; the layerwise path takes minutes with more, should all its layers be rough."""
FIXED_STEPS = 20


def decoder(sizes: Sizes, dtype: str, path: PathName, meter: Meter) -> dict[str, Any]:
    """Figures of a path: to the tolerance, or of a fixed number of steps where too many do not reach it."""
    model, ids = llama(sizes, dtype, meter.device), sentences(None, sizes.decoder_tokens, 1).to(meter.device)

    def forward(some: Tensor) -> Tensor:
        logits: Tensor = model(some, use_cache=False, logits_to_keep=1).logits
        return logits[:, -1].float()

    with torch.no_grad():
        options: dict[str, Any] = {"target": int(forward(ids).argmax()), "reduce": "sum"}
    method = SelfAttentionAttribution(forward, attention_layers(model), path=path)
    _, _, converged = attributed(method, ids, TOLERANCE, n_steps=MOST_STEPS, **options)
    reached = bool(converged.all())
    options |= {"tolerance": TOLERANCE, "n_steps": MOST_STEPS} if reached else {"n_steps": FIXED_STEPS}
    found = meter.measure(partial(method.attribute, ids, **options))
    return {"path": path, "reached": reached} | found | summary(method)


@lru_cache(maxsize=1)
def llama(sizes: Sizes, dtype: str, device: str) -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**sizes.decoder))
    return model.eval().to(getattr(torch, dtype))
