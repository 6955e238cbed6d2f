"""What does it cost to see attention at torch's level, where transformers' interface could be asked?

    python -m benchmarks.backends

Both backends explain the same layers of the same model with the same steps, in turns; their attributions must agree.
A mode of torch sees every function that the watched layers call; transformers' interface is asked once a call.
"""

from __future__ import annotations

import statistics
import time
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from benchmarks.setup import paired
from benchmarks.setup.machine import line
from benchmarks.setup.results import table
from benchmarks.setup.sized_models import BUNDLED, build, sentences
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attention import backends
from captum_attattr.attention.torch_functions import TorchFunctions
from captum_attattr.attribution import PathName

CASES: tuple[tuple[str, int], ...] = (
    (BUNDLED, 8),
    (BUNDLED, 32),
    (BUNDLED, 128),
    ("BERT-base size", 32),
)
STEPS = 20


class ByTorch(TorchFunctions):
    """Holds these layers, whatever interface their attention goes through."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = set(layers)

    def holds(self, module: nn.Module) -> bool:
        """See :meth:`Backend.holds`."""
        return module in self._layers


def seconds(model: Any, layers: list[nn.Module], ids: Tensor, path: PathName) -> tuple[float, list[Tensor]]:
    method = SelfAttentionAttribution(lambda some: model(some).logits.softmax(-1), layers, path=path)
    start = time.process_time()
    attributions = method.attribute(ids, target=1, n_steps=STEPS)
    return time.process_time() - start, attributions


def measure(size: str, tokens: int, path: PathName, repeats: int) -> dict[str, float]:
    model, tokenizer = build(size)
    ids, layers = sentences(tokenizer, tokens, 1), attention_layers(model)
    interface, torchs, error = [], [], 0.0
    for _ in range(repeats + 1):
        taken, expected = seconds(model, layers, ids, path)
        interface.append(taken)
        with patch.object(backends, "BACKENDS", (ByTorch(layers),)):
            taken, found = seconds(model, layers, ids, path)
        torchs.append(taken)
        errors = [(one - other).norm() / other.norm() for one, other in zip(found, expected, strict=True)]
        error = max(error, *map(float, errors))
    ratios = [one / other for one, other in zip(torchs, interface, strict=True)][1:]
    return {
        "interface": statistics.median(interface[1:]),
        "torch": statistics.median(torchs[1:]),
        "more": statistics.median(ratios) - 1,
        "error": error,
    }


def markdown(figures: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{found['interface']:.2f}",
            f"{found['torch']:.2f}",
            f"**{found['more']:+.1%}**",
            f"{found['error']:.0e}",
        ]
        for name, found in figures["found"].items()
    ]
    return f"""# Attention seen by transformers' interface or at torch's level

Processor seconds of an attribution of one text, {STEPS} evaluations a path, F = probability; medians of pairs taken in
turns. *Difference*: of a layer's attributions in its norm, in float32, the largest. Made by
`python -m benchmarks.backends`; {line(figures["environment"])}.

{table(["", "interface", "torch", "more", "difference"], rows)}
"""


if __name__ == "__main__":
    paired.run("backends", __doc__, CASES, measure, markdown, repeats=5)
