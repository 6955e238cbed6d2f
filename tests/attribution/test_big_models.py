"""Models whose weights lie elsewhere or are quantized: explained as the plain model is, or refused with a reason."""

from __future__ import annotations

import accelerate
import pytest
import torch
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers

BY_NAME = {family.name: family for family in FAMILIES}


def attributions(c, path):
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    return method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=4)


def on_cpu(model, folder):
    accelerate.cpu_offload(model, execution_device="cpu")


def on_disk(model, folder):
    accelerate.disk_offload(model, str(folder), execution_device="cpu")


def spread(model, folder):
    """As device_map does it: a part stays, the rest is fetched from disk when it is its turn."""
    places = {name: "cpu" for name, _ in model.named_children()}
    body = next(name for name in places if name in ("bert", "model"))
    places.pop(body)
    for name, child in getattr(model, body).named_children():
        places[f"{body}.{name}"] = "disk" if name in ("encoder", "layers") else "cpu"
        if not list(child.parameters()):
            places[f"{body}.{name}"] = "cpu"
    accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("placed", [on_cpu, on_disk, spread])
def test_offloaded_models(name, path, placed, tmp_path):
    c = case(BY_NAME[name])
    expected = attributions(c, path)
    required = {parameter: value.requires_grad for parameter, value in c.model.named_parameters()}
    placed(c.model, tmp_path)
    assert any(parameter.is_meta for parameter in c.model.parameters())
    for _ in range(2):
        for one, other in zip(attributions(c, path), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)
        assert {parameter: value.requires_grad for parameter, value in c.model.named_parameters()} == required


@pytest.mark.filterwarnings("ignore")  # torch's own kind of dynamic quantization is on its way out
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_operations_without_a_derivative_are_refused(path):
    """torch itself would go on with a warning, and with wrong gradients."""
    c = case(BY_NAME["bert"], dtype=torch.float32)
    quantized = torch.ao.quantization.quantize_dynamic(c.model, {torch.nn.Linear}, dtype=torch.qint8)
    method = SelfAttentionAttribution(lambda ids: quantized(ids).logits, attention_layers(quantized), path=path)
    with pytest.raises(UnsupportedModelError, match="operations that have no derivative, as quantized ones often do"):
        method.attribute(c.inputs, target=1)
