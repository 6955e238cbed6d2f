"""Whether two outputs of a model are the same number, computed in another way."""

from __future__ import annotations

import torch
from torch import Tensor

# An output is an outlier when it is this many times the median: its size is not the usual one.
_OUTLIER = 100.0
# A median above this is that of labels that are ruled out (-1e9), not of outputs.
_BANNED = 1e3


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two results of the same operations agree in all but the last digits."""
    eps = torch.finfo(other.dtype).eps if other.is_floating_point() else 0.0
    return near(one, other, min(100 * eps, eps ** (2 / 3)))


def near(one: Tensor, other: Tensor, error: float, effects: Tensor | None = None) -> bool:
    """Whether each entry agrees to a relative error, of its own size or of the usual size of an entry.

    A label that is ruled out (-inf, -1e9) does not count for the usual size. With ``effects``, the sizes of what can
    change in each output, these count in place of both.
    """
    if not other.is_floating_point() or one.dtype != other.dtype:
        return torch.equal(one, other)
    apart = (one != other) & ~(one.isnan() & other.isnan())
    if not bool(apart.any()):
        return True
    one, other = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (one, other))
    if effects is not None:
        return bool(((one - other).abs() <= error * effects.to(other))[apart].all())
    sizes = other.abs()[torch.isfinite(other) & (other != 0)]
    if len(sizes) and float(sizes.median()) > _BANNED:
        sizes = other.abs()[apart]
    usual = float(sizes[sizes <= _OUTLIER * sizes.median()].max()) if len(sizes) else 0.0
    return torch.allclose(one[apart], other[apart], rtol=error, atol=error * usual)
