"""The machine and the versions that figures depend on besides the code."""

from __future__ import annotations

import platform

import captum
import torch
import transformers


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "captum": captum.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def line() -> str:
    return ", ".join(f"{name} {value}" for name, value in environment().items())
