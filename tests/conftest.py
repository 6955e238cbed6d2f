import copy
import datetime
import os
import runpy
import sys
import zlib

import pytest
import torch
import tried

# The models are tiny: a second thread costs more than it gives, above all beside other work. Processes that tests
# start (kernels of notebooks, the command line, gloo) inherit it.
THREADS = os.environ.get("CAPTUM_ATTATTR_TEST_THREADS", "1")
torch.set_num_threads(int(THREADS))
os.environ["OMP_NUM_THREADS"] = THREADS


DAYS = 4
TODAY = datetime.datetime.now(tz=datetime.UTC).toordinal()


def pytest_addoption(parser):
    parser.addoption(
        "--turns", choices=("today", "all"), default="today", help="which of the tests that take turns are run"
    )


def pytest_collection_modifyitems(config, items):
    """CI has twenty minutes: of the tests that take long, and their like, a quarter are run each day."""
    if config.getoption("--turns") == "all":
        return
    turns = [item for item in items if item.get_closest_marker("in_turn")]
    for item in turns:
        if zlib.crc32(item.nodeid.encode()) % DAYS != TODAY % DAYS:
            item.add_marker(pytest.mark.skip(reason="its turn is another day: --turns all"))


@pytest.fixture
def run_benchmark(monkeypatch, tmp_path):
    """Runs a benchmark as ``python -m`` does, without a process of its own: that is what takes the time."""

    def run(name: str, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path), "--threads", THREADS, *options])
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")

    return run


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A folder with a classifier of two layers and random weights, for what does not depend on training."""
    from transformers import BertForSequenceClassification

    from captum_attattr.demo import load_demo

    model, tokenizer = load_demo()
    config = copy.deepcopy(model.config)
    config.update({"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4})
    config.initializer_range = 0.3
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small") / "model"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


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
