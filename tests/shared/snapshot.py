"""A model, and what surrounds it, as it is now: to be compared bit for bit with what it is later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn

from captum_attattr.attention import backend
from captum_attattr.attention import transformers_interface as attention


def snapshot(model: nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
    """Everything about the model that an attribution might change, and what ``run()`` puts out."""
    modules = dict(model.named_modules())
    return {
        "configurations": {name: _configuration(module) for name, module in modules.items()},
        "weights": {name: _bits(tensor) for name, tensor in model.state_dict().items()},
        "parameters": {name: (id(p), p.requires_grad, _bits(p.grad)) for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {name: _hooks(vars(module)) for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "own forwards": {name: vars(module).get("forward") for name, module in modules.items()},
        "hooks of all modules": _hooks(vars(torch_module)),
        "watches and masks": (attention._watches.get(), dict(backend.masks)),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "output": _output(run),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for part, value in before.items():
        assert after[part] == value, f"{part} changed"


@pytest.fixture
def untouched() -> Callable[..., Any]:
    """``with untouched(model, run):`` whatever happens inside, the model is bit for bit as before.

    Where the same model is looked at many times, ``before`` is the one snapshot that all of them compare with.
    """

    @contextmanager
    def check(model: nn.Module, run: Callable[[], Any], before: dict[str, Any] | None = None) -> Iterator[None]:
        before = before or snapshot(model, run)
        assert before["watches and masks"] == ((), {})
        try:
            yield
        finally:
            assert_same(before, snapshot(model, run))

    return check


def _configuration(module: nn.Module) -> dict[str, Any] | None:
    config = getattr(module, "config", None)
    return None if config is None else deepcopy(vars(config))


def _hooks(scope: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    return {name: dict(hooks) for name, hooks in scope.items() if "hook" in name and isinstance(hooks, dict)}


def _bits(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """NaN equals NaN here, and 0.0 is not -0.0."""
    if tensor is None:
        return None
    flat = tensor.detach().cpu().contiguous().flatten()
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def _output(run: Callable[[], Any]) -> Any:
    """The same random numbers each time, and none taken from the test's."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = run()
    return _bits(getattr(output, "logits", output))
