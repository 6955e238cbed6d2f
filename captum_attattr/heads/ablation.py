"""Ablation: what the model loses when one head is masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from captum_attattr.arguments import check_choice
from captum_attattr.engine.calls import Listed
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.trials import always
from captum_attattr.heads.measure import Measure, scores_of
from captum_attattr.heads.outputs import Examples
from captum_attattr.text.model_output import Output

# Rows of one run of the model when heads are masked one by one: more are no faster on a CPU.
_MOST_ROWS = 128


@dataclass(frozen=True)
class Ablation(Measure):
    """The loss when one head is masked (its attention multiplied by 0) and all others stay; positive if the head helps.

    Each head takes one pass, from its layer on. A regression has "output" only.

    Args:
        loses: "loss" for the increase of the negative logarithm of the target's probability; "output" for the decrease
            of F; "accuracy" for the decrease of accuracy (if labels do not exclude each other, of the label's own
            prediction, a probability above 1/2).
    """

    loses: Literal["loss", "output", "accuracy"] = "loss"

    def __post_init__(self) -> None:
        """Check the choice."""
        check_choice("loses", self.loses, ("loss", "output", "accuracy"))

    @property
    def name(self) -> str:
        """The measure's name: ablation, ablation_output or ablation_accuracy."""
        return "ablation" if self.loses == "loss" else f"ablation_{self.loses}"

    @with_gradients(False)
    def scores(self, examples: Examples) -> list[Tensor]:
        """Compute (B, heads) for each layer."""
        forward = Forward(examples.logits_of, examples.inputs)
        recording = Recording(forward, Listed(examples.layers))
        target = examples.target(recording.output)
        clean = self._worth(examples.output, forward, recording.output, target)
        found = []
        for state in recording.states:
            batch, _, heads, _ = state.context.shape
            scores = []
            for some in torch.arange(heads, device="cpu").split(max(1, _MOST_ROWS // batch)):
                rows = forward.all_rows.repeat(len(some))
                masked = always(_without_each(state.context, some))
                logits = recording.replay(recording.plan(state.index), {state.index: masked}, rows)
                worth = self._worth(examples.output, forward, logits, target, rows)
                scores.append(clean - worth.view(len(some), batch))
            found.append(torch.cat(scores).T)
        return found

    def _worth(
        self, output: Output, forward: Forward, logits: Tensor, target: Any, rows: Tensor | None = None
    ) -> Tensor:
        """Compute the quantity that masking a head may decrease, for each row."""
        if self.loses == "loss":
            return scores_of(forward, output.log_probabilities(logits), target, rows)
        if self.loses == "output":
            return scores_of(forward, output.compute(logits), target, rows)
        return scores_of(forward, output.predicted(logits).to(logits.dtype), target, rows)


def _without_each(context: Tensor, heads: Tensor) -> Tensor:
    """Repeat a context (B, Q, H, D) for each of these heads, with this head set to zero: (heads * B, Q, H, D)."""
    gone = torch.nn.functional.one_hot(heads, context.shape[2]).bool().to(context.device)
    return context.unsqueeze(0).masked_fill(gone.view(len(heads), 1, 1, -1, 1), 0).flatten(0, 1)
