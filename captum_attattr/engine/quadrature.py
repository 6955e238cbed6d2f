"""Rules of numerical integration over [0, 1]: nodes alpha_k and weights w_k.

    integral_0^1 f(alpha) dalpha  ~  sum_k w_k f(alpha_k),        sum_k w_k = 1

The rules have the names and nodes of Captum's. The weights of Captum's ``riemann_trapezoid`` sum to 1 - 1/n and are
corrected here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def _left(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n) / n, np.full(n, 1 / n)


def _right(n: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(n) + 1) / n, np.full(n, 1 / n)


def _middle(n: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def _trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


_RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "riemann_left": _left,
    "riemann_right": _right,
    "riemann_middle": _middle,
    "riemann_trapezoid": _trapezoid,
    "gausslegendre": _gauss_legendre,
}

METHODS = tuple(_RULES)
"""Names of the rules."""


_FEWEST = {"gausslegendre": 1}
# The nodes of Gauss's rule are eigenvalues of an (n, n) matrix; the other rules need vectors only.
_MOST = {"gausslegendre": 1_000}


def steps_of(n_steps: int | None, tolerance: float | None) -> int:
    """Return the number of evaluations: by default 20, and with a tolerance, which may stop earlier, 1,000."""
    if n_steps is not None:
        return n_steps
    return 20 if tolerance is None else 1000


def check_steps(method: str, n_steps: int, *, fixed: bool = True) -> None:
    """Check a rule's name and its number of nodes before anything is computed.

    Args:
        method: One of :data:`METHODS`.
        n_steps: Number of nodes.
        fixed: Whether the rule has exactly so many nodes; otherwise ``n_steps`` is only a bound and may be any number.

    Raises:
        ValueError: Unknown rule, or too few or too many steps for it.
        TypeError: ``n_steps`` is not a whole number.
    """
    if method not in _RULES:
        raise ValueError(f"Unknown integration rule {method!r}. Choose one of {', '.join(METHODS)}.")
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)):
        raise TypeError(f"n_steps must be a whole number, got {n_steps!r}.")
    fewest, most = _FEWEST.get(method, 2), _MOST.get(method, 1_000_000)
    if n_steps < fewest:
        raise ValueError(f"{method} needs n_steps of at least {fewest}, got {n_steps}.")
    if fixed and n_steps > most:
        raise ValueError(
            f"{method} takes n_steps of at most {most}, got {n_steps}. A path that seems to need so many is rough: "
            "give a tolerance, which places nodes where they are needed, or another rule."
        )


def quadrature(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """Compute the nodes and weights of a rule on [0, 1].

    Args:
        method: One of :data:`METHODS`.
        n_steps: Number of nodes: 1 to 1,000, or for the Riemann rules 2, as in Captum, to 1,000,000.

    Returns:
        Nodes and weights, float64, each of shape (n_steps,).

    Raises:
        ValueError: Unknown rule, too few steps for it or too many.
        TypeError: ``n_steps`` is not a whole number.

    Example:
        >>> from captum_attattr.engine.quadrature import quadrature
        >>> nodes, weights = quadrature("gausslegendre", 4)
        >>> round(float(weights @ nodes**7), 6)  # exact for polynomials up to degree 2 n - 1
        0.125
    """
    check_steps(method, n_steps)
    nodes, weights = _RULES[method](int(n_steps))
    return torch.from_numpy(nodes.astype(np.float64)), torch.from_numpy(weights.astype(np.float64))
