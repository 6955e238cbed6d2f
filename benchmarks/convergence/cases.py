"""A sentence, F and a path: errors, evaluations and seconds of everything that is compared."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.setup.attributing import attributed, predicted, relative_errors
from benchmarks.setup.by_hand import by_hand
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attribution.self_attention import PathName
from captum_attattr.engine.quadrature import METHODS
from captum_attattr.text.classifier import Classifier

STEPS = (2, 4, 8, 16, 32)
TOLERANCES = (0.1, 0.03, 0.01, 0.003, 0.001)
BY_HAND = (20, 64)


def measured(
    classifier: Classifier, exact: Classifier, text: str, path: PathName, reference: int
) -> dict[str, dict[str, Any]]:
    """By what was run; ``exact`` is the classifier in float64, ``reference`` its Gauss-Legendre nodes."""
    return Case(classifier, exact, text, path, reference).measure()


class Case:
    """A sentence, F and a path, with the reference in float64."""

    def __init__(self, classifier: Classifier, exact: Classifier, text: str, path: PathName, reference: int) -> None:
        (batch,), _ = (list(one.batches([text], None, 1)) for one in (classifier, exact))
        self.classifier, self.path = classifier, path
        self.ids, *rest = batch.inputs
        (target,) = predicted(classifier, batch)
        self.options: dict[str, Any] = {"target": target, "additional_forward_args": tuple(rest)}
        self.reference: list[Tensor] = self._method(exact).attribute(self.ids, **self.options, n_steps=reference)

    def measure(self) -> dict[str, dict[str, Any]]:
        method = self._method(self.classifier)
        found: dict[str, dict[str, Any]] = {}
        for rule, steps in itertools.product(METHODS, STEPS):
            integrate = partial(method.attribute, self.ids, **self.options, n_steps=steps, method=rule)
            found[f"{rule} {steps}"] = self._entry(*timed(integrate), [steps] * len(self.reference))
        for tolerance in TOLERANCES:
            seconds, (attributions, reached, _) = timed(
                attributed, method, self.ids, tolerance, **self.options, n_steps=64
            )
            found[f"tolerance {tolerance}"] = self._entry(seconds, attributions, reached.evaluations[:, 0].tolist())
        for steps in BY_HAND if self.path == "layerwise" else ():
            run = timed(
                by_hand, self.classifier.model, self.ids, steps, "riemann_left", steps, self.options["target"],
                output=self.classifier.output,
            )  # fmt: skip
            found[f"by hand {steps}"] = self._entry(*run, [steps] * len(self.reference))
        return found

    def _method(self, classifier: Classifier) -> SelfAttentionAttribution[list[Tensor]]:
        return SelfAttentionAttribution(classifier.outputs, attention_layers(classifier.model), path=self.path)

    def _entry(self, seconds: float, attributions: list[Tensor], evaluations: list[int]) -> dict[str, Any]:
        errors = relative_errors(attributions, self.reference)[:, 0].tolist()
        return {"errors": errors, "seconds": seconds, "evaluations": evaluations}
