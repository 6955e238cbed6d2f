"""Where the time of ``explain`` goes: the start of the command line, and many sentences.

    python -m benchmarks.explain_speed --data FOLDER
    python -m benchmarks.explain_speed --data FOLDER --limit 100

A start is one short text from a new process to its end: by ``captum-attattr explain``, which writes the explanation and
its picture, too, and by ``explain`` in Python. It is compared with what it cannot do without, the model's
``from_pretrained`` alone, in turns. Many sentences are explained by one call; a signal counts, after every two
milliseconds of the processor, whether the model's own passes are running or what the package does beside them. Passes
that check replays are passes. All times are those of the processor (Unix).
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import captum_attattr.demo
from benchmarks.setup.command_line import add_texts, command_line, parsed, settings_of
from benchmarks.setup.machine import environment, line
from benchmarks.setup.paired import PATHS
from benchmarks.setup.results import Store, table
from benchmarks.setup.spent import PASSES, spent
from captum_attattr import explain
from captum_attattr.attribution import PathName
from captum_attattr.files.examples import read_examples
from captum_attattr.text.model_loading import load_classifier

TEXT = "A warm, funny film."
LOADING = "from_pretrained alone"
_LOAD = """import torch, transformers
from transformers import AutoModelForSequenceClassification
AutoModelForSequenceClassification.from_pretrained({!r})
"""
_SHOWN = 0.005
"""Files of the package that take less than this part of the time are not listed."""


def commands(model: str | None) -> dict[str, list[str]]:
    """By name, what is started, as arguments of Python."""
    folder = model or str(Path(captum_attattr.demo.__file__).parent)
    options = [] if model is None else ["--model", model]
    return {
        LOADING: ["-c", _LOAD.format(folder)],
        "captum-attattr explain": ["-m", "captum_attattr.cli", "explain", TEXT, *options],
        "explain(...)": ["-c", f"from captum_attattr import explain\nexplain({TEXT!r}, {model!r})"],
    }


def started(words: Sequence[str], threads: int) -> float:
    """Processor seconds of a new process; modules are compiled, as they are once a package has been used."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [own.get("PYTHONPATH")])])
    own |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], cwd=folder, env=own, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def starts(model: str | None, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """By name, medians of seconds and of ratios to loading alone; a first turn does not count."""
    works = commands(model)
    turns = [{name: started(words, threads) for name, words in works.items()} for _ in range(repeats + 1)][1:]
    return {
        name: {
            "seconds": statistics.median(turn[name] for turn in turns),
            "times": statistics.median(turn[name] / turn[LOADING] for turn in turns),
        }
        for name in works
    }


def many(model: str | None, texts: Sequence[str], path: PathName) -> dict[str, Any]:
    """Sentences a second, and the part of the time that each place takes."""
    loaded, tokenizer = load_classifier(model)
    explain(texts[:8], loaded, tokenizer, path=path)  # a first call prepares what later ones use
    seconds = spent(partial(explain, texts, loaded, tokenizer, path=path))
    whole = sum(seconds.values())
    shares = {place: taken / whole for place, taken in sorted(seconds.items(), key=lambda one: -one[1])}
    beside = 1 - sum(shares.get(which, 0.0) for which in PASSES)
    return {"sentences": len(texts), "a second": len(texts) / whole, "beside": beside, "shares": shares}


def markdown(figures: Mapping[str, Any]) -> str:
    found, paths = figures["found"], [path for path in PATHS if path in figures["found"]]
    start = [[name, f"{one['seconds']:.2f}", f"**{one['times']:.2f}**"] for name, one in found["start"].items()]
    speed = [
        [
            path,
            f"**{found[path]['a second']:.2f}**",
            *(f"{found[path]['shares'].get(which, 0):.1%}" for which in PASSES),
            f"**{found[path]['beside']:.1%}**",
        ]
        for path in paths
    ]
    shares = [found[path]["shares"] for path in paths]
    places = dict.fromkeys(place for of in shares for place in of if place not in PASSES and of[place] >= _SHOWN)
    beside = [[place, *(f"{of.get(place, 0):.1%}" for of in shares)] for place in places]
    return f"""# Where the time of explain goes

Seconds of the processor. Made by `python -m benchmarks.explain_speed --data FOLDER`; {line(figures["environment"])}.

## A start

One short text, from a new process to its end; medians of {figures["settings"]["repeats"]} starts each, in turns.

{table(["", "seconds", "times from_pretrained"], start)}

## Many sentences

{found[paths[0]]["sentences"]} sentences of SST-2 in one call.

{table(["", "sentences a second", *PASSES, "beside the model's passes"], speed)}

Beside the passes, by file of the package, what takes {_SHOWN:.1%} or more:

{table(["", *paths], beside)}
"""


def main() -> None:
    parser = command_line("explain_speed", __doc__, threads=1)
    add_texts(parser, "TSV file, or folder with test.tsv")
    parser.add_argument("--repeats", type=int, default=5, help="starts of each kind")
    args = parsed(parser)
    settings = settings_of(args, "data")
    texts = [example.text for example in read_examples(args.data, limit=args.limit, seed=args.seed)]
    store = Store(args.output / "explain_speed.jsonl", settings)
    found = {"start": store.get("start", starts, args.model, args.threads, args.repeats)}
    for path in PATHS:
        found[path] = store.get(path, many, args.model, texts, path)
    figures = {"settings": settings, "environment": environment(), "found": found}
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
