"""A rule of integration that grows: few nodes first, more where those did not suffice, none evaluated in vain.

    integral_0^1 f(alpha) dalpha  =  integral_0^1 f(alpha(t)) alpha'(t) dt,      alpha(t) = t / (1 + c (1 - t))

The substitution (c = 1/2) puts more nodes near no attention, where outputs bend most. In t the rules are of Gauss's
kind with the endpoint t = 1 among the nodes (Radau), since the gradient at the attention that the model used
comes from one ordinary backward pass for all layers; the second rung adds the nodes that raise the degree
the most and keeps the first ones (Kronrod). Paths that ask for more go on in panels
(:mod:`captum_attattr.engine.panels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

_BEND = 0.5
_FIRST, _SECOND = 3, 7


@dataclass(frozen=True)
class Rung:
    """A rule on the first nodes of its :class:`Ladder`."""

    count: int
    """How many of the nodes it takes."""
    partial: Tensor
    """(count + 1, count): weights of the integrals from 0 to each of the nodes, and, last, to 1."""
    coarse: Tensor
    """(count,): weights of a rule on fewer of the nodes, those of the rung below or all but one."""

    @property
    def weights(self) -> Tensor:
        """(count,): weights of the whole integral."""
        return self.partial[-1]


@dataclass(frozen=True)
class Ladder:
    """Nested rules: nodes in the order in which they are evaluated, alpha = 1 first."""

    nodes: Tensor
    rungs: list[Rung]


def ladder(n_steps: int) -> Ladder:
    """Rules that take at most ``n_steps`` evaluations together, besides the one at alpha = 1.

    Example:
        >>> from captum_attattr.engine.nested_rules import ladder
        >>> [rung.count - 1 for rung in ladder(20).rungs]
        [3, 7]
    """
    return _ladder(n_steps, 0) if n_steps < _SECOND else _ladder(_FIRST, _SECOND - _FIRST)


@lru_cache
def _ladder(first: int, more: int) -> Ladder:
    nodes = _radau(first + 1)
    counts = [len(nodes)]
    if more:
        nodes = np.concatenate([nodes, _extension(nodes, more)])
        counts.append(len(nodes))
    # The node next to alpha = 1 is the one that the others replace best.
    below = [np.delete(np.arange(counts[0]), 1), *map(np.arange, counts[:-1])]
    return Ladder(
        torch.from_numpy(nodes / (1 + _BEND * (1 - nodes))),
        [_rung(nodes[:count], coarse) for count, coarse in zip(counts, below, strict=True)],
    )


def _rung(nodes: np.ndarray, coarse: np.ndarray) -> Rung:
    weights = np.zeros(len(nodes))
    weights[coarse] = _partial_integrals(nodes[coarse])[-1]
    return Rung(len(nodes), torch.from_numpy(_partial_integrals(nodes)), torch.from_numpy(weights))


def _radau(count: int) -> np.ndarray:
    """Zeros of P_{n-1} - P_n, of which 1 is one and comes first, on [0, 1]."""
    zeros = np.sort(np.real(legendre.legroots([0] * (count - 1) + [1, -1])))[::-1]
    return np.concatenate([[1.0], (1 + zeros[1:]) / 2])


def _extension(nodes: np.ndarray, more: int) -> np.ndarray:
    """Zeros of the polynomial E of degree ``more`` with integral of E(t) t^k prod_i (t - t_i) = 0 for all k < more."""
    at, weights = legendre.leggauss(len(nodes) + 2 * more)
    product = weights * np.prod(at[:, None] - (2 * nodes - 1), 1)
    powers = legendre.legvander(at, more)
    products = (powers[:, :more] * product[:, None]).T @ powers
    lower = np.linalg.solve(products[:, :more], -products[:, more])
    return (1 + np.sort(np.real(legendre.legroots([*lower, 1.0])))) / 2


def _partial_integrals(nodes: np.ndarray) -> np.ndarray:
    """Integrals, from 0 to each node and to 1, of the polynomial through values at the nodes, times alpha'(t)."""
    count, ends = len(nodes), np.concatenate([nodes, [1.0]])
    values = legendre.legvander(2 * nodes - 1, count - 1)
    integrals = np.stack(
        [legendre.legval(2 * ends - 1, legendre.legint(basis, lbnd=-1)) / 2 for basis in np.eye(count)], 1
    )
    slope = (1 + _BEND) / (1 + _BEND * (1 - nodes)) ** 2
    return np.linalg.solve(values.T, integrals.T).T * slope
