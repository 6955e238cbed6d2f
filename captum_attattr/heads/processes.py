"""Several processes with one task: this process's rank, the values of the others, and whether settings agree.

It uses the existing process group, whether Accelerate, Ray Train or the user's own script set it up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes: (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def joined() -> Iterator[torch.device]:
    """Join the other processes if ``torchrun`` started this one, and give the block this process's device."""
    place = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", place) if torch.cuda.is_available() else torch.device("cpu")
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of ranks; every process must call it."""
    _, size = rank_and_size()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def raise_together(error: str | None) -> None:
    """Raise on every process the error of any process, so that none waits for one that has ended.

    Raises:
        ValueError: The first error, with the rank of its process.
    """
    errors = gathered(error)
    for rank, found in enumerate(errors):
        if found is not None:
            raise ValueError(found if len(errors) == 1 else f"Process {rank} of {len(errors)}: {found}")


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Check that all processes have the same facts.

    Raises:
        ValueError: They do not. The message names the first fact that differs, and the processes.
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
