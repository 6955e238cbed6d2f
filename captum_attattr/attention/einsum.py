"""Einsums that multiply a matrix (query, key) by values (key, dim), written as a product of two matrices."""

from __future__ import annotations

import string
from typing import NamedTuple

from torch import Tensor


class EinsumProduct(NamedTuple):
    """How the operands are to be turned, so that their product is the einsum's result."""

    matrix: list[int]
    """The matrix's axes in the order (..., query, key)."""
    values: list[int]
    """The values' axes in the order (..., key, dim)."""
    result: list[int]
    """The axes of the product (..., query, dim) in the order of the einsum's result."""


def einsum_product(equation: str, matrix: Tensor, values: Tensor, matrix_first: bool) -> EinsumProduct | None:
    """Understand an equation of two operands; None if it is no product of a matrix with values, or not clearly one.

    Args:
        equation: As ``torch.einsum`` takes it.
        matrix: The operand that holds probabilities.
        values: The other one.
        matrix_first: Whether the matrix is the first operand.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    operands = inputs.split(",")
    if len(operands) != 2 or not arrow:
        return None
    if not matrix_first:
        operands.reverse()
    free = [letter for letter in string.ascii_letters if letter not in equation]
    counts = [one.dim() - len(label.replace("...", "")) for one, label in zip((matrix, values), operands, strict=True)]
    most = max(counts)
    of_matrix, of_values = (
        label.replace("...", "".join(free[most - count : most])) for label, count in zip(operands, counts, strict=True)
    )
    output = output.replace("...", "".join(free[:most]))
    keys = [one for one in of_matrix if one in of_values and one not in output]
    widths = [one for one in of_values if one in output and one not in of_matrix]
    queries = [one for one in of_matrix if one in output and one not in of_values]
    # Axes that only the matrix has may be queries or heads: with two of them it is not known which is which.
    if (len(keys), len(widths), len(queries)) != (1, 1, 1):
        return None
    batch = [one for one in of_matrix if one in output and one != queries[0]]
    kept = [one for one in batch if one in of_values]
    in_order = [*batch, queries[0], keys[0]], [*kept, keys[0], widths[0]], [*batch, queries[0], widths[0]]
    if [sorted(one) for one in in_order] != [sorted(one) for one in (of_matrix, of_values, output)]:
        return None
    return EinsumProduct(
        [of_matrix.index(one) for one in in_order[0]],
        [of_values.index(one) for one in in_order[1]],
        [in_order[2].index(one) for one in output],
    )
