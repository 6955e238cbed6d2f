"""Whether ``tolerance=0.01`` keeps its word where paths are rough, and what that costs.

    python -m benchmarks.rough_paths
    python -m benchmarks.rough_paths --models smollm2 --folder FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf

For small models that were trained on copying (the encoder of a T5; Gemma 3 and OLMo 2, whose norm behind attention
hides the size of its context) and for a language model: the relative L2 error of attributions in float32 against the
same integrator at a much smaller tolerance in float64, layer by layer and on the joint path, and the evaluations that
they took. A path counts only where the reference's own estimate of its error is below a tenth of the tolerance. The
reference itself is held against Gauss's rule in panels graded towards no attention, 2,048 nodes, for the two lowest
layers of the first question.

Broken off, it goes on where it stopped; a model's figures on a device are kept until they are made anew.
"""

from __future__ import annotations

import argparse
import json
import warnings
from copy import deepcopy
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.setup.attributing import attributed
from benchmarks.setup.command_line import add_language_model, command_line, parsed
from benchmarks.setup.machine import environment, line
from benchmarks.setup.results import Store, table
from benchmarks.setup.rough_models import Explained, Rough, copying_decoder, copying_t5, language_model
from captum_attattr import SelfAttentionAttribution
from captum_attattr.attribution.self_attention import PathName

NAMES = {"t5": "T5 encoder", "gemma3": "Gemma 3", "olmo2": "OLMo 2", "smollm2": "SmolLM2-135M-Instruct"}


def load(name: str, args: argparse.Namespace) -> Rough:
    if name == "t5":
        return copying_t5(args.examples, steps=args.training)
    if name != "smollm2":
        return copying_decoder(name, args.examples, steps=args.training)
    if args.folder is None:
        raise SystemExit("smollm2 needs --folder, a model of transformers (and --gguf, the file, where it is one).")
    return language_model(args.folder, args.gguf, args.examples)


def method_of(
    model: nn.Module, layers: list[nn.Module], explained: Explained, path: PathName = "layerwise"
) -> SelfAttentionAttribution[list[Tensor]]:
    return SelfAttentionAttribution(lambda some: explained(model, some), layers, path=path)


def measure(
    models: tuple[nn.Module, nn.Module],
    rough: Rough,
    place: int,
    chosen: list[int],
    path: PathName,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A record for each path of a question: of every layer, or the one that is joint."""
    ids, explained = rough.questions[place]
    methods = [method_of(model, [rough.layers(model)[layer] for layer in chosen], explained, path) for model in models]
    found, reached, converged = attributed(methods[0], ids, args.tolerance)
    exact, known, _ = attributed(methods[1], ids, args.reference, n_steps=args.most)
    if path == "joint":
        found, exact = ([torch.stack(parts)] for parts in (found, exact))
    return [
        {
            "error": float((one.double() - other).norm() / other.norm()),
            "estimate": float(reached.error[row].max()),
            "evaluations": int(reached.evaluations[row].max()),
            "converged": bool(converged[row].all()),
            "reference_estimate": float(known.error[row].max()),
            "reference_evaluations": int(known.evaluations[row].max()),
        }
        for row, (one, other) in enumerate(zip(found, exact, strict=True))
    ]


def graded_gauss(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """In place of a fixed rule: n_steps / 32 panels, half of them ever smaller towards no attention."""
    panels = n_steps // 32
    points, weights = np.polynomial.legendre.leggauss(32)
    low = np.geomspace(1e-7, 2 / panels, panels // 2)
    edges = np.concatenate([[0.0], low, np.linspace(2 / panels, 1, panels - panels // 2)[1:]])
    width = np.diff(edges)[:, None]
    nodes, weights = (edges[:-1, None] + width * (points + 1) / 2), width * weights / 2
    return torch.from_numpy(nodes.ravel()), torch.from_numpy(weights.ravel())


def reference_error(model: nn.Module, rough: Rough, place: int, layer: int, args: argparse.Namespace) -> float:
    """Of the reference itself, in one layer of a question."""
    ids, explained = rough.questions[place]
    method = method_of(model, [rough.layers(model)[layer]], explained)
    (own,), *_ = attributed(method, ids, args.reference, n_steps=args.most)
    with (
        mock.patch("captum_attattr.attribution.integrals.quadrature", graded_gauss),
        warnings.catch_warnings(action="ignore"),
    ):
        (exact,) = method.attribute(ids, n_steps=2048, method="riemann_middle")
    return float((own - exact).norm() / exact.norm())


def run(name: str, args: argparse.Namespace, store: Store) -> dict[str, Any]:
    rough = load(name, args).to(args.device)
    models = rough.model, deepcopy(rough.model).double()
    depth = len(rough.layers(rough.model))
    chosen = [layer for layer in args.layers if layer < depth] if args.layers else list(range(depth))
    places = args.questions or list(range(len(rough.questions)))
    found: dict[str, list[Any]] = {"layerwise": [], "joint": []}
    for place in places:
        records = store.get(f"{name} {place} layerwise", measure, models, rough, place, chosen, "layerwise", args)
        found["layerwise"] += [{"question": place, "layer": at, **one} for at, one in zip(chosen, records, strict=True)]
        if place < args.joint:
            records = store.get(f"{name} {place} joint", measure, models, rough, place, chosen, "joint", args)
            found["joint"] += [{"question": place, **one} for one in records]
    checks = [
        store.get(f"{name} reference {layer}", reference_error, models[1], rough, places[0], layer, args)
        for layer in chosen[:2]
        if not args.unchecked
    ]
    about = {"environment": environment(args.device), "questions": len(places), "layers": chosen}
    return {**about, "depth": depth, "reference_tolerance": args.reference, "reference": checks, **found}


def row(name: str, kind: str, every: list[dict[str, Any]], tolerance: float) -> list[str]:
    records = [record for record in every if record["reference_estimate"] <= tolerance / 10]
    errors = torch.tensor([record["error"] for record in records])
    spent = torch.tensor([record["evaluations"] for record in records], dtype=torch.float64)
    silent = max([record["error"] for record in records if record["converged"]], default=0.0)
    announced = sum(not record["converged"] for record in records)
    near = float((errors < 1e-2).double().mean())
    return [
        f"{name}, {kind}", f"{len(records)} of {len(every)}", f"{near:.1%}", f"{float(errors.median()):.1e}",
        f"{silent:.1e}",
        str(announced), f"{float(spent.mean()):.1f}", str(int(spent.max())),
    ]  # fmt: skip


def by_layer(found: dict[str, Any]) -> str:
    """Mean evaluations."""
    spent = {layer: [r["evaluations"] for r in found["layerwise"] if r["layer"] == layer] for layer in found["layers"]}
    return ", ".join(f"{layer}: {sum(some) / len(some):.1f}" for layer, some in spent.items())


def markdown(figures: dict[str, Any]) -> str:
    s, models = figures["settings"], figures["models"]
    references = ", ".join(f"{found['reference_tolerance']} ({name})" for name, found in models.items())
    checks = [
        f"{name} {max(found['reference']):.0e} (at {found['reference_tolerance']})"
        for name, found in models.items()
        if found["reference"]
    ]
    machines = [f"* {name}: {line(found['environment'])}" for name, found in models.items()]
    head = ["", "paths that count", "true error below 1e-2", "median", "worst that is not announced", "announced",
            "evaluations, mean", "most"]  # fmt: skip
    kinds = [(name, kind) for name in models for kind in ("layerwise", "joint") if models[name][kind]]
    return f"""# Accuracy to a tolerance where paths are rough

`tolerance={s["tolerance"]}` in float32, F a difference of two logits, each question by itself; reference: the same
integrator in float64 at a tolerance of {references}. Made by
`python -m benchmarks.rough_paths` with `--reference` (the language model with `--models smollm2 --folder FOLDER`, on a
GPU with `--device cuda`). The small models were
trained on saying a list of words once more. A path counts where the reference estimates its own error at a tenth of the
tolerance at most.

{table(head, [row(name, kind, models[name][kind], s["tolerance"]) for name, kind in kinds])}

"Announced" are paths for which a warning says that the steps did not suffice. The reference against 2,048 Gauss nodes
in graded panels, two lowest layers of the first question, worst: {"; ".join(checks) or "not measured"}.

Mean evaluations by layer:

{table(["", "layers", ""], [[name, str(found["depth"]), by_layer(found)] for name, found in models.items()])}

Machines:

{chr(10).join(machines)}
"""


def main() -> None:
    parser = command_line("rough_paths", __doc__, threads=2)
    add_language_model(parser, "questions a model", required=False)
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=["t5", "gemma3", "olmo2"])
    parser.add_argument("--training", type=int, default=800, help="steps, of the small models")
    parser.add_argument("--joint", type=int, default=20, help="of the questions, for the joint path")
    parser.add_argument("--layers", type=int, nargs="+", help="numbers of the layers (default: all)")
    parser.add_argument("--questions", type=int, nargs="+", help="numbers of the questions (default: all)")
    parser.add_argument("--unchecked", action="store_true", help="do not hold the reference against Gauss nodes")
    parser.add_argument("--reference", type=float, default=1e-4, help="tolerance of the reference")
    parser.add_argument("--most", type=int, default=20_000, help="evaluations of the reference, at most")
    args = parsed(parser)
    settings = {"tolerance": args.tolerance, "most": args.most}
    key = {**settings, "reference": args.reference, "training": args.training}
    key |= {"layers": args.layers, "device": args.device, "examples": args.examples}
    store = Store(args.output / "rough_paths.jsonl", key)
    file = args.output / "rough_paths.json"
    models = json.loads(file.read_text())["models"] if file.is_file() else {}
    for name in args.models:
        models[NAMES[name] + ("" if args.device == "cpu" else ", GPU")] = run(name, args, store)
    figures = {"settings": settings, "models": models}
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
