"""Integrals along the paths of a recorded clean pass: what is behind :class:`SelfAttentionAttribution`.

One recording serves for several questions: other targets, other layers, other paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captum._utils.typing import TargetType
from torch import Tensor
from tqdm.auto import tqdm

from captum_attattr.engine.adaptive import Adaptation
from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.integration import Convergence, Integral, Rise, integrate
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.nested_rules import FIRST
from captum_attattr.engine.paths import AttentionPath, Share
from captum_attattr.engine.quadrature import check_steps, quadrature, steps_of
from captum_attattr.engine.reductions import Keep
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.walks import Course, Walk


@dataclass(frozen=True)
class Integration:
    """How to integrate: to a tolerance, or by a fixed rule."""

    tolerance: float | None
    n_steps: int
    """Number of evaluations; with a tolerance the maximum."""
    method: str

    @classmethod
    def from_arguments(cls, tolerance: Any, n_steps: int | None, method: str) -> Integration:
        """Check the arguments of :meth:`SelfAttentionAttribution.attribute`, and fill in the number of steps.

        Raises:
            ValueError, TypeError: The tolerance is no number between 0 and 1, or the rule is unknown, cannot have this
                number of steps, or is given beside a tolerance.
        """
        if tolerance is not None:
            if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
                raise ValueError(
                    f"tolerance must be a number between 0 and 1, such as 0.01, or None; got {tolerance!r}."
                )
            if method != "gausslegendre":
                raise ValueError(f"tolerance chooses the nodes itself: leave method={method!r} out, or tolerance.")
        n_steps = steps_of(n_steps, tolerance)
        check_steps(method, n_steps, fixed=tolerance is None)
        return cls(tolerance, n_steps, method)


@with_gradients(True)
def integrals_along(
    path: AttentionPath,
    recording: Recording,
    layer_paths: Sequence[LayerPath],
    target: TargetType,
    integration: Integration,
    keep: Keep,
    *,
    most_rows: int | None = None,
    progress: str | None = None,
) -> list[Integral]:
    """Integrate along the walks of a kind of path.

    Args:
        path: The kind of path.
        recording: The clean pass.
        layer_paths: The path of each layer to explain.
        target: A target in any of Captum's forms.
        integration: How to integrate.
        keep: What to keep of the attributions.
        most_rows: Maximum number of rows in one run of the model.
        progress: Title of a progress bar on standard error; None for no bar.

    Returns:
        One integral for each walk: for each layer, or one for all of them where the layers add up.
    """
    clean = recording.forward.scores(recording.output, target)
    count, device = recording.forward.batch_size, recording.states[0].context.device
    labels, tolerance = path.labels([one.state for one in layer_paths]), integration.tolerance
    total = None if tolerance is not None else integration.n_steps * count * len(labels)
    first = integration.n_steps if tolerance is None else FIRST

    def integral(walk: Walk, share: Share) -> Course[Integral]:
        if tolerance is not None:
            return Adaptation(walk, tolerance, integration.n_steps, clean, keep, share).integral()
        return integrate(walk, *quadrature(integration.method, integration.n_steps), keep, clean)

    with tqdm(total=total, desc=progress, unit="eval", disable=progress is None) as bar:
        chunks = Chunks(count, 1 if recording.one_by_one else most_rows, device, bar.update)
        found = dict[int, Integral]()
        for group in path.groups(recording, layer_paths, target, chunks, first):
            bar.set_postfix(path=f"{len(found) + len(group.walks)} of {len(labels)}")
            found |= group.run(integral)
    return [found[place] for place in range(len(labels))]


def rises_along(
    path: AttentionPath, recording: Recording, layer_paths: Sequence[LayerPath], target: TargetType
) -> list[Tensor]:
    """Compute the rise of F, (B,), from A0 to A, on each walk of a kind of path."""
    clean = recording.forward.scores(recording.output, target)

    def rise(walk: Walk, share: Share) -> Course[Tensor]:
        start = yield from walk.start(recording.forward.all_rows)
        return Rise.from_outputs(walk, clean, start).change

    most = 1 if recording.one_by_one else None
    chunks = Chunks(recording.forward.batch_size, most, recording.states[0].context.device)
    found = dict[int, Tensor]()
    for group in path.groups(recording, layer_paths, target, chunks, 1):
        found |= group.run(rise)
    return [found[place] for place in sorted(found)]


def convergence_of(
    integrals: Sequence[Integral], path: AttentionPath, layer_paths: Sequence[LayerPath], integration: Integration
) -> Convergence:
    """Return the convergence of these integrals, and warn of those that have not converged."""
    found = Convergence.from_integrals(integrals)
    found.warn(path.labels([one.state for one in layer_paths]), integration.tolerance, integration.n_steps)
    return found
