"""What F is: the number of a model's output that is explained. Decided here, for texts and for data sets alike.

| the model's output | F of a label |
| --- | --- |
| logits of labels, one of which is true | softmax: "probability"; or the "logit" |
| logits of labels that do not exclude each other, one or several (``problem_type`` says so) | the same, by sigmoid |
| one number (regression), or several (``problem_type="regression"``) | the number itself: "given" |
| what a forward function returns | as it is: "given" |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["probability", "logit", "given"]

KINDS: tuple[Kind, ...] = ("probability", "logit", "given")

_NOT_LABELS = (
    "{what} needs logits of labels. This output is one number an example, or a regression's, or nothing is known about "
    "it: take the measure 'ablation_output', or, for a forward function that returns logits of several labels, say so "
    "with output='probability' or 'logit'."
)


@dataclass(frozen=True)
class Output:
    """F, for a model that gives one output a label.

    Args:
        kind: "probability" or "logit" of a label; "given": the output as it is.
        several: Whether an example may have several labels, so that each has a probability of its own.
        regression: Whether the outputs are known to be numbers of their own, not logits of labels.
    """

    kind: Kind
    several: bool = False
    regression: bool = False

    def over(self, count: int | None) -> Output:
        """The same once it is known how many outputs an example has: one, where none is to choose, is taken as it is.

        The softmax over one logit is 1 whatever the input.
        """
        return replace(self, kind="given", regression=True) if count == 1 and not self.several else self

    def compute(self, logits: Tensor) -> Tensor:
        """F of each label, (B, labels)."""
        if self.kind != "probability":
            return logits
        return logits.sigmoid() if self.several else logits.softmax(-1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of each label, (B, labels).

        Raises:
            ValueError: The outputs are no logits, as far as is known.
        """
        if self.kind == "given":
            raise ValueError(_NOT_LABELS.format(what="A loss"))
        return F.logsigmoid(logits) if self.several else logits.log_softmax(-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """Of each label whether it is predicted, (B, labels): the largest, or each whose own probability is above 1/2.

        Raises:
            ValueError: There are no labels to choose from.
        """
        if self.regression:
            raise ValueError(_NOT_LABELS.format(what="An accuracy"))
        return logits > 0 if self.several else logits == logits.amax(-1, keepdim=True)


def output_of(kind: Kind | None, model: Any) -> Output:
    """What F is, by the model's configuration: unless said otherwise, the probability, and of a function what it gives.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"Unknown output {kind!r}. Choose {', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}.")
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "regression":
        return Output("given", regression=True)
    if kind is None:
        kind = "probability" if isinstance(model, nn.Module) else "given"
    return Output(kind, several=kind != "given" and problem == "multi_label_classification")
