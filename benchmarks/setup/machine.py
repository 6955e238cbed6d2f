"""The machine and the versions that figures depend on besides the code."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import captum
import torch
import transformers


def environment(device: str = "cpu") -> dict[str, str]:
    """Of this process; ``device`` is where the model is."""
    graphics = {} if device == "cpu" else {"device": torch.cuda.get_device_name(device)}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "captum": captum.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **graphics,
    }


def line(found: Mapping[str, str]) -> str:
    """An environment in a line of text."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


def resident_mebibytes(field: str = "VmRSS") -> float:
    """This process's resident set, or the peak of it, "VmHWM" (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
