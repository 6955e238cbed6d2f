"""Error against evaluations and against seconds: five rules, the tolerance, both paths, and the work done by hand.

    python benchmarks/convergence.py --data FOLDER

For some sentences, one at a time, F as probability and as logit of the predicted class: relative L2 error of each
layer's attributions, and seconds for all layers. The reference is 128 Gauss-Legendre nodes in float64. The float32
work that is timed: Captum's five rules from 2 steps to 32, tolerances from 0.1 to 0.001, and Captum's
``IntegratedGradients`` over injected attention, layer by layer, with 20 (the paper's) and 64 (its authors') left
Riemann steps. An evaluation is one node on the path: for the work by hand a pass through the whole model, for ours a
pass from the layer on.

Broken off, it goes on where it stopped. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from by_hand import by_hand
from convergence_report import write_report
from store import Store
from torch import Tensor
from tqdm import tqdm

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.engine.quadrature import METHODS
from captum_attattr.files.examples import read_examples
from captum_attattr.text.classifier import Classifier

RESULTS = Path(__file__).parent / "results"
OUTPUTS = ("probability", "logit")
PATHS = ("layerwise", "joint")
STEPS = (2, 4, 8, 16, 32)
TOLERANCES = (0.1, 0.03, 0.01, 0.003, 0.001)
BY_HAND = (20, 64)


class Case:
    """A sentence, F and a path, with the reference in float64."""

    def __init__(self, classifier: Classifier, exact: Classifier, text: str, path: str, reference: int) -> None:
        (batch,), _ = (list(one.batches([text], None, 1)) for one in (classifier, exact))
        self.classifier, self.path = classifier, path
        self.ids, *self.rest = batch.inputs
        self.target = int(classifier.predict(batch)[0].argmax())
        self.reference = self._method(exact).attribute(
            self.ids, target=self.target, additional_forward_args=tuple(self.rest), n_steps=reference
        )

    def measure(self) -> dict[str, Any]:
        method = self._method(self.classifier)
        found: dict[str, Any] = {}
        for rule in METHODS:
            for steps in STEPS:
                found[f"{rule} {steps}"] = self._entry(
                    lambda r=rule, n=steps: self._ours(method, n_steps=n, method=r), steps
                )
        for tolerance in TOLERANCES:
            entry = self._entry(lambda t=tolerance: self._ours(method, n_steps=64, tolerance=t), None)
            found[f"tolerance {tolerance}"] = entry | {"evaluations": method.convergence.evaluations[:, 0].tolist()}
        for steps in BY_HAND if self.path == "layerwise" else ():
            found[f"by hand {steps}"] = self._entry(lambda n=steps: self._by_hand(n), steps)
        return found

    def _method(self, classifier: Classifier) -> SelfAttentionAttribution:
        layers = attention_layers(classifier.model)
        return SelfAttentionAttribution(classifier.outputs, layers, path=self.path)

    def _ours(self, attribution: SelfAttentionAttribution, **options: Any) -> list[Tensor]:
        return attribution.attribute(
            self.ids, target=self.target, additional_forward_args=tuple(self.rest), **options
        )  # fmt: skip

    def _by_hand(self, steps: int) -> list[Tensor]:
        output = self.classifier.output
        return by_hand(self.classifier.model, self.ids, steps, "riemann_left", steps, self.target, output=output)

    def _entry(self, work: Callable[[], list[Tensor]], evaluations: int | None) -> dict[str, Any]:
        start = time.perf_counter()
        attributions = work()
        seconds = time.perf_counter() - start
        errors = [
            float((one.double() - other).norm() / other.norm())
            for one, other in zip(attributions, self.reference, strict=True)
        ]
        return {"errors": errors, "seconds": seconds, "evaluations": [evaluations] * len(errors)}


def measure(args: argparse.Namespace, store: Store) -> None:
    examples = read_examples(args.data, limit=args.limit, seed=args.seed)
    for output in OUTPUTS:
        classifier = Classifier(args.model, None, output)
        exact = Classifier(copy.deepcopy(classifier.model).double(), classifier.tokenizer, output)
        classifier.outputs(*next(iter(classifier.batches([examples[0].text], None, 1))).inputs)  # the first is slow
        for path in PATHS:
            for place, example in enumerate(tqdm(examples, desc=f"F = {output}, {path}", unit="sentence")):
                store.get(
                    f"{output} {path} {place}",
                    lambda c=classifier, x=exact, t=example.text, p=path: Case(c, x, t, p, args.reference).measure(),
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="TSV file, or folder with test.tsv")
    parser.add_argument("--model", help="classification model (default: the bundled one)")
    parser.add_argument("--limit", type=int, default=6, help="sentences")
    parser.add_argument("--reference", type=int, default=128, help="Gauss-Legendre nodes of the reference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name not in ("data", "output")}
    store = Store(args.output / "convergence.jsonl", settings)
    measure(args, store)
    print(write_report(store.results, settings, args.output))
    store.file.unlink()


if __name__ == "__main__":
    main()
