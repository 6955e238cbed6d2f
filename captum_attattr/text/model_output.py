"""The explained number F, computed from a model's output; the same for texts and for data sets.

| the model's output | F of a label |
| --- | --- |
| logits of labels, one of which is true | by softmax: "log-odds", "probability", "log-probability"; or the "logit" |
| logits of labels that do not exclude each other, one or several (``problem_type`` says so) | the same, by sigmoid |
| one number (regression), or several (``problem_type="regression"``) | the number itself: "given" |
| what a forward function returns | as it is: "given" |

Log-odds are log p - log(1 - p). For two labels they are the difference of the logits, for a sigmoid the logit. They do
not saturate, as a probability does near 1, and unlike a logit of several labels they change only with the probability.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_attattr.arguments import check_choice

Kind = Literal["log-odds", "logit", "probability", "log-probability", "given"]
OfLabel = Literal["log-odds", "logit", "probability", "log-probability"]

OF_LABEL: tuple[OfLabel, ...] = ("log-odds", "logit", "probability", "log-probability")
"""The kinds for models whose outputs are logits of labels."""
KINDS: tuple[Kind, ...] = (*OF_LABEL, "given")

_NOT_LABELS = (
    "{what} needs logits of labels. This output is one number an example, or a regression's, or of unknown meaning: "
    "use the measure 'ablation_output', or, for a forward function that returns logits of several labels, give "
    "output='probability' or 'logit'."
)


@dataclass(frozen=True)
class Output:
    """The computation of F, for a model that gives one output a label.

    Args:
        kind: One of :data:`KINDS`; "given": the output as it is.
        several: Whether an example may have several labels, so that each has its own probability, by the sigmoid.
        regression: Whether the outputs are known to be numbers of a regression, not logits of labels.
    """

    kind: Kind
    several: bool = False
    regression: bool = False

    def over(self, count: int | None) -> Output:
        """Return the computation for a known number of outputs an example: a single output is taken as it is.

        The softmax over one logit would be 1 for every input.
        """
        return replace(self, kind="given", regression=True) if count == 1 and not self.several else self

    def compute(self, logits: Tensor) -> Tensor:
        """Compute F of each label, (B, labels)."""
        if self.kind == "probability":
            return logits.sigmoid() if self.several else logits.softmax(-1)
        if self.kind == "log-probability":
            return self.log_probabilities(logits)
        return logits - _of_the_others(logits) if self.kind == "log-odds" and not self.several else logits

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Compute each label's probability, (B, labels), from the result of :meth:`compute`."""
        if self.kind == "log-probability":
            return outputs.exp()
        if self.kind == "log-odds" or (self.kind == "logit" and self.several):
            return outputs.sigmoid()
        return outputs.softmax(-1) if self.kind == "logit" else outputs

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Compute the logarithm of each label's probability, (B, labels).

        Raises:
            ValueError: The outputs are not known to be logits.
        """
        if self.kind == "given":
            raise ValueError(_NOT_LABELS.format(what="A loss"))
        return F.logsigmoid(logits) if self.several else logits.log_softmax(-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """Return which labels are predicted, (B, labels): the largest one, or each with a probability above 1/2.

        Raises:
            ValueError: The outputs are numbers of a regression.
        """
        if self.regression:
            raise ValueError(_NOT_LABELS.format(what="An accuracy"))
        return logits > 0 if self.several else logits == logits.amax(-1, keepdim=True)


def _of_the_others(logits: Tensor) -> Tensor:
    """Compute for each label the logarithm of the sum of the others' exponentials, (B, labels).

    By sums from both ends: 1 - p would lose its digits near p = 1, and the largest label is not looked for, since which
    one it is may change along a path.
    """
    below = F.pad(logits.logcumsumexp(-1)[..., :-1], (1, 0), value=-torch.inf)
    above = F.pad(logits.flip(-1).logcumsumexp(-1)[..., :-1], (1, 0), value=-torch.inf).flip(-1)
    return torch.logaddexp(below, above)


def output_of(kind: Kind | None, model: Any) -> Output:
    """Choose F by the model's configuration; by default a model's probability, and a function's output as it is.

    Raises:
        ValueError: There is no such kind.
    """
    if kind is not None:
        check_choice("output", kind, KINDS)
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "regression":
        return Output("given", regression=True)
    if kind is None:
        kind = "probability" if isinstance(model, nn.Module) else "given"
    return Output(kind, several=kind != "given" and problem == "multi_label_classification")
