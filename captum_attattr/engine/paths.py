"""A kind of path: which layers are scaled together, from their baselines to the attention that the model used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeVar

from captum._utils.typing import TargetType

from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.walks import Course, Walk, Wanted, together

T = TypeVar("T")

Share = Callable[[], float]
"""Gives the part of the memory that an integral may use now: others that have ended need none."""


class Group(NamedTuple):
    """Walks whose points are evaluated together."""

    walks: dict[int, Walk]
    """By the walk's place among all walks of the path."""
    evaluate: Callable[[Sequence[Wanted]], object]
    """Evaluates points of these walks."""

    def run(self, course: Callable[[Walk, Share], Course[T]]) -> dict[int, T]:
        """Run an integral over each walk, all in step, and return the results by the walk's place.

        Args:
            course: Makes the integral over a walk, which may use its share of the memory for points.
        """
        going_on: dict[int, Course[T]] = {}

        def share() -> float:
            return 1 / max(len(going_on), 1)

        going_on.update({place: course(walk, share) for place, walk in self.walks.items()})
        return together(going_on, self.evaluate)


class AttentionPath(ABC):
    """The interface of a kind of path. To add one, subclass it and list the subclass in ``path_kinds``."""

    name: ClassVar[str]
    """What users call it."""
    layers_add_up: ClassVar[bool]
    """Whether all layers share one walk, so that their attributions add up to one difference, F(A) - F(A0)."""

    @abstractmethod
    def labels(self, states: Sequence[LayerState]) -> list[str]:
        """Return a name for each walk, for messages."""

    @abstractmethod
    def groups(
        self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks, steps: int
    ) -> Iterator[Group]:
        """Yield the walks to integrate along, which together cover each layer once.

        Args:
            recording: The clean pass.
            paths: One for each layer.
            target: A target in any of Captum's forms.
            chunks: The number of rows that a run may have.
            steps: Number of points that each example wants at first.
        """
