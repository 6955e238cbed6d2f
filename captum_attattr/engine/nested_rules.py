"""Nested integration rules: the second rule uses all nodes of the first and adds more where those did not suffice.

    integral_0^1 f(alpha) dalpha  =  integral_0^1 f(alpha(t)) alpha'(t) dt,      alpha(t) = t / (1 + c (1 - t))

The substitution (c = 1/2) places more nodes near alpha = 0, where outputs are most curved. In t the first rule is
Radau's: Gaussian with the endpoint t = 1 as a node, since one ordinary backward pass gives the gradient there, at the
model's own attention, for all layers. The second rule keeps these nodes and adds those that raise the degree the most,
as Kronrod's extension does. Paths that need more evaluations go on in panels (:mod:`captum_attattr.engine.panels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

_BEND = 0.5
FIRST = 3
"""Number of evaluations of the first rule, without the one at alpha = 1."""
_SECOND = 7


@dataclass(frozen=True)
class Rule:
    """A rule on the first nodes of its :class:`NestedRules`."""

    count: int
    """Number of nodes."""
    partial: Tensor
    """(count + 1, count): weights of the integrals from 0 to each of the nodes and, in the last row, to 1."""
    coarse: Tensor
    """(count,): weights of a rule on fewer of the nodes: those of the rule before, or all but one."""

    @property
    def weights(self) -> Tensor:
        """The weights of the whole integral, (count,)."""
        return self.partial[-1]


@dataclass(frozen=True)
class NestedRules:
    """Rules that share their nodes, which are in the order of evaluation, alpha = 1 first."""

    nodes: Tensor
    rules: list[Rule]


def nested_rules(n_steps: int) -> NestedRules:
    """Return rules that take at most ``n_steps`` evaluations together, not counting the one at alpha = 1.

    Example:
        >>> from captum_attattr.engine.nested_rules import nested_rules
        >>> [rule.count - 1 for rule in nested_rules(20).rules]
        [3, 7]
    """
    return _nested_rules(n_steps, 0) if n_steps < _SECOND else _nested_rules(FIRST, _SECOND - FIRST)


@lru_cache
def _nested_rules(first: int, more: int) -> NestedRules:
    nodes = _radau(first + 1)
    counts = [len(nodes)]
    if more:
        nodes = np.concatenate([nodes, _extension(nodes, more)])
        counts.append(len(nodes))
    # Without the node next to alpha = 1 the rule loses least.
    below = [np.delete(np.arange(counts[0]), 1), *map(np.arange, counts[:-1])]
    return NestedRules(
        torch.from_numpy(nodes / (1 + _BEND * (1 - nodes))),
        [_rule(nodes[:count], coarse) for count, coarse in zip(counts, below, strict=True)],
    )


def _rule(nodes: np.ndarray, coarse: np.ndarray) -> Rule:
    weights = np.zeros(len(nodes))
    weights[coarse] = _partial_integrals(nodes[coarse])[-1]
    return Rule(len(nodes), torch.from_numpy(_partial_integrals(nodes)), torch.from_numpy(weights))


def _radau(count: int) -> np.ndarray:
    """Radau's nodes on [0, 1]: the zeros of P_{n-1} - P_n, the zero 1 first."""
    zeros = np.sort(np.real(legendre.legroots([0] * (count - 1) + [1, -1])))[::-1]
    return np.concatenate([[1.0], (1 + zeros[1:]) / 2])


def _extension(nodes: np.ndarray, more: int) -> np.ndarray:
    """Kronrod's added nodes: zeros of the polynomial E of degree ``more`` that is orthogonal to prod_i (t - t_i) t^k.

    That is, the integral of E(t) t^k prod_i (t - t_i) is 0 for all k < more.
    """
    at, weights = legendre.leggauss(len(nodes) + 2 * more)
    product = weights * np.prod(at[:, None] - (2 * nodes - 1), 1)
    powers = legendre.legvander(at, more)
    products = (powers[:, :more] * product[:, None]).T @ powers
    lower = np.linalg.solve(products[:, :more], -products[:, more])
    return (1 + np.sort(np.real(legendre.legroots([*lower, 1.0])))) / 2


def _partial_integrals(nodes: np.ndarray) -> np.ndarray:
    """Weights of the integrals, from 0 to each node and to 1, of the polynomial through the nodes, times alpha'(t)."""
    count, ends = len(nodes), np.concatenate([nodes, [1.0]])
    values = legendre.legvander(2 * nodes - 1, count - 1)
    integrals = np.stack(
        [legendre.legval(2 * ends - 1, legendre.legint(basis, lbnd=-1)) / 2 for basis in np.eye(count)], 1
    )
    slope = (1 + _BEND) / (1 + _BEND * (1 - nodes)) ** 2
    return np.linalg.solve(values.T, integrals.T).T * slope
