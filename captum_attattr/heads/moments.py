"""Mean and standard deviation over examples, gathered batch by batch, on any number of processes.

Two parts with counts n and m, means a and b, sums of squared deviations S and T make one with

    count = n + m        mean = a + (b - a) m / (n + m)        deviations = S + T + (b - a)^2 n m / (n + m)

(Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979). The parts may
have any sizes and order, and no precision is lost when many small batches are merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from captum_attattr.files.records import Record, Rows, checked, matrix, rows


class MomentsRecord(Record):
    """Moments in plain types."""

    count: Annotated[int, Field(ge=1, le=2**53)]
    mean: Rows
    deviations: Rows


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of values seen one example at a time; float64, on the CPU."""

    count: int
    mean: Tensor
    deviations: Tensor
    """Sum over examples of (value - mean)^2."""

    @classmethod
    def from_values(cls, values: Tensor) -> Moments:
        """Compute the moments of values with the examples along dimension 0, (example, ...)."""
        values = values.detach().to("cpu", torch.float64)
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both parts together.

        Raises:
            ValueError: The parts have values of different shapes.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"Moments of {tuple(self.mean.shape)} values cannot be merged with those of {tuple(other.mean.shape)}."
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = apart.square() * (self.count * other.count / count)
        return Moments(count, mean, self.deviations + other.deviations + between)

    @property
    def standard_deviation(self) -> Tensor:
        """Standard deviation over examples, with the denominator n - 1; NaN for fewer than two examples."""
        return (self.deviations / (self.count - 1 if self.count > 1 else float("nan"))).sqrt()

    def state_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, from which a matrix is read back bit for bit; None stands for NaN."""
        return {"count": self.count, "mean": rows(self.mean), "deviations": rows(self.deviations)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Moments:
        """Make moments from the result of :meth:`state_dict`.

        Raises:
            ValueError: The state is something else.
        """
        found = checked(MomentsRecord, state)
        mean, deviations = matrix(found.mean), matrix(found.deviations)
        if (
            mean.shape != deviations.shape
            or not torch.equal(mean.isnan(), deviations.isnan())
            or (deviations < 0).any()
        ):
            raise ValueError("the deviations do not fit the means")
        return cls(found.count, mean, deviations)


def merge(parts: Iterable[Moments | None]) -> Moments | None:
    """Merge all parts; None stands for a part without examples."""
    total: Moments | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else total.merged(part)
    return total
