"""A batch of texts after its clean pass, explained along one kind of path or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_attattr.attention import original_heads
from captum_attattr.attribution import Integration, convergence_of, integrals_along, rough_places
from captum_attattr.engine.integration import Integral
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.path_kinds import path_named
from captum_attattr.engine.paths import AttentionPath
from captum_attattr.engine.reductions import Keep
from captum_attattr.engine.replay import Recording
from captum_attattr.warned import warn

# Maximum number of evaluations of a joint path without its lowest layers: if it takes more, it is still rough.
_TRIED_STEPS = 60


@dataclass(frozen=True)
class Found:
    """The attributions of a batch: of L layers, on P paths."""

    layers: list[int]
    """Numbers of the layers."""
    attributions: list[Tensor]
    """L matrices (B, H, T, T)."""
    attention: list[Tensor]
    """The same of the attention probabilities."""
    delta: Tensor
    """(P, B)."""
    evaluations: Tensor
    """(P, B)."""

    def of_text(self, row: int, real: Tensor) -> dict[str, Any]:
        """Return the fields of an explanation for one text, of whose row the ``real`` tokens are no padding."""
        return {
            "layers": self.layers,
            "attributions": _of_row(self.attributions, row, real),
            "attention": _of_row(self.attention, row, real),
            "delta": self.delta[:, row].float().cpu(),
            "evaluations": self.evaluations[:, row].tolist(),
        }


@dataclass(frozen=True)
class RecordedBatch:
    """A batch of texts after its clean pass.

    Args:
        recording: The clean pass; its output is F for every label, (B, labels).
        paths: The paths of the recorded layers.
        numbers: Their numbers in the model.
        targets: The label to explain of each text.
        integration: How to integrate.
        may_leave_out: Whether a joint path may be taken without the lowest layers if it does not converge with them.
    """

    recording: Recording
    paths: list[LayerPath]
    numbers: list[int]
    targets: list[int]
    integration: Integration
    may_leave_out: bool

    def along(self, name: str, layers: Sequence[int] | None) -> Found:
        """Attribute along a kind of path through some layers, given by number; None for all.

        Raises:
            ValueError: There is no such layer.

        Warns:
            UserWarning: A path did not converge, or the joint path leaves the lowest layers out.
        """
        path = path_named(name)
        if not set(layers or ()) <= set(self.numbers):
            raise ValueError(f"layers {layers} do not all exist: the model has layers 0 to {max(self.numbers)}.")
        places = [place for place, number in enumerate(self.numbers) if layers is None or number in layers]
        integrals = self._integrals(path, places)
        rough = self._rough(path, places, integrals)
        if rough:
            warn(
                f"The joint path through the lowest layers ({', '.join(str(self.numbers[place]) for place in rough)}) "
                f"did not converge within n_steps={self.integration.n_steps}: they keep their own attention, and the "
                "attributions of the other layers add up to what the output loses without the attention of these."
            )
            places = [place for place in places if place not in rough]
            integrals = self._integrals(path, places)
        reached = convergence_of(integrals, path, [self.paths[place] for place in places], self.integration)
        states = [self.recording.states[place] for place in places]
        modules = [state.call.module for state in states]
        return Found(
            [self.numbers[place] for place in places],
            original_heads([layer[0] for one in integrals for layer in one.kept], modules),
            original_heads([state.probabilities() for state in states], modules),
            torch.stack([one.gap for one in integrals]),
            reached.evaluations,
        )

    def _integrals(self, path: AttentionPath, places: Sequence[int]) -> list[Integral]:
        paths, keep = [self.paths[place] for place in places], Keep((None,), True)
        return integrals_along(path, self.recording, paths, self.targets, self.integration, keep)

    def _rough(self, path: AttentionPath, places: list[int], integrals: Sequence[Integral]) -> list[int]:
        """Find the lowest layers that must keep their own attention for the joint path to converge: their places."""
        converged = all(one.converged is None or bool(one.converged.all()) for one in integrals)
        if converged or not self.may_leave_out or not path.layers_add_up:
            return []
        tried = replace(self.integration, n_steps=min(_TRIED_STEPS, self.integration.n_steps))
        found = rough_places(self.recording, [self.paths[place] for place in places], self.targets, tried)
        rough = [places[place] for place in found]
        return rough if len(rough) < len(places) else []  # leaving layers out does not help: a warning says so


def _of_row(matrices: Sequence[Tensor], row: int, real: Tensor) -> Tensor:
    """Select the matrices (L, H, T, T) of one text, without its padding."""
    kept = real[row].to(matrices[0].device)
    return torch.stack([matrix[row][:, kept][:, :, kept] for matrix in matrices]).float().cpu()
