import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
import tried

# The models are tiny: a second thread costs more than it gives, above all beside other work. Processes that tests
# start (kernels of notebooks, the command line, gloo) inherit it.
THREADS = os.environ.get("CAPTUM_ATTATTR_TEST_THREADS", "1")
torch.set_num_threads(int(THREADS))
os.environ["OMP_NUM_THREADS"] = THREADS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark, or a module of one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def run_benchmark(load, monkeypatch, tmp_path):
    """Runs a benchmark as from the command line, without a process of its own: that is what takes the time."""

    def main(script: str, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, "--output", str(tmp_path), "--threads", THREADS, *options])
        load(script).main()

    return main


def pytest_sessionfinish(session):
    """A worker's counts go to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = tried.so_far()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    tried.add(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter):
    if tried.told():
        terminalreporter.write_line(tried.told())
