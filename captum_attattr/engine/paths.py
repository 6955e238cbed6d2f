"""A kind of path: which layers are scaled together, from their baselines to the attention that the model used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from captum._utils.typing import TargetType

from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.walks import Walk


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
    def walks(
        self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks, adaptive: bool
    ) -> Sequence[Walk]:
        """Return the walks to integrate along, which together cover each layer once, in the given order.

        Args:
            recording: The clean pass.
            paths: One for each layer.
            target: A target in any of Captum's forms.
            chunks: The number of rows that a run may have.
            adaptive: Whether the rule of integration uses the gradient at alpha = 1, which may be known beforehand.
        """
