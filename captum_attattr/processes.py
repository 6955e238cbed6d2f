"""Several processes at one job: which part is mine, what the others have, and whether we mean the same.

It uses the process group that is there, of ``torchrun``, Accelerate or Ray Train, over gloo or nccl, and makes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gathered(value: Any) -> list[Any]:
    """The value of each process, in their order; every process must call it."""
    _, size = rank_and_size()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def raise_together(error: str | None) -> None:
    """Raise on every process what went wrong on any, so that none waits for one that is gone.

    Raises:
        ValueError: The first error, and on which process.
    """
    errors = gathered(error)
    for rank, found in enumerate(errors):
        if found is not None:
            raise ValueError(found if len(errors) == 1 else f"Process {rank} of {len(errors)}: {found}")


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Make sure that all processes have the same, part by part.

    Raises:
        ValueError: They do not. The message names the part, and the processes that differ from the first.
    """
    first, *others = gathered(dict(facts))
    for name, value in first.items():
        different = [rank for rank, other in enumerate(others, 1) if other.get(name) != value]
        if different:
            raise ValueError(
                f"The processes disagree on the {name}: process 0 has {value!r}, process {different[0]} has "
                f"{others[different[0] - 1].get(name)!r} ({len(different)} of {len(others)} differ from process 0). "
                "Load the same model and give the same settings and data on each."
            )
