"""Whether ``tolerance=0.01`` keeps its word where paths are rough, and what that costs.

    python benchmarks/rough_paths.py
    python benchmarks/rough_paths.py --models smollm2 --folder FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf

For small models that were trained on copying (the encoder of a T5; Gemma 3 and OLMo 2, whose norm behind attention
hides the size of its context) and for a language model: the relative L2 error of attributions in float32 against the
same integrator at a much smaller tolerance in float64, layer by layer and on the joint path, and the evaluations that
they took. The reference itself is held against Gauss's rule in panels graded towards no attention, 2,048 nodes, for the
two lowest layers of the first question.

Broken off, it goes on where it stopped; each model's figures are kept until they are made anew.
"""

from __future__ import annotations

import argparse
import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import environment
from rough_questions import Explained, Rough, copying_decoder, copying_t5, language_model
from store import Store
from torch import Tensor, nn

from captum_attattr import SelfAttentionAttribution
from captum_attattr.attribution import self_attention as engine

RESULTS = Path(__file__).parent / "results"
NAMES = {"t5": "T5 encoder", "gemma3": "Gemma 3", "olmo2": "OLMo 2", "smollm2": "SmolLM2-135M-Instruct"}


def load(name: str, args: argparse.Namespace) -> Rough:
    if name == "t5":
        return copying_t5(args.examples, steps=args.training)
    if name != "smollm2":
        return copying_decoder(name, args.examples, steps=args.training)
    if args.folder is None:
        raise SystemExit("smollm2 needs --folder, a model of transformers (and --gguf, the file, where it is one).")
    return language_model(args.folder, args.gguf, args.examples)


def attributed(
    model: nn.Module, layers: list[nn.Module], question: tuple[Tensor, Explained], path: str, **options: Any
) -> tuple[list[Tensor], SelfAttentionAttribution]:
    ids, explained = question
    method = SelfAttentionAttribution(lambda some: explained(model, some), layers, path=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge is counted
        return method.attribute(ids, **options), method


def measure(
    models: tuple[nn.Module, nn.Module],
    rough: Rough,
    place: int,
    path: str,
    layer: int | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One path: a layer's, or the joint one."""
    found, exact = [], []
    for model, into, options in (
        (models[0], found, {"tolerance": args.tolerance}),
        (models[1], exact, {"tolerance": args.reference, "n_steps": args.most}),
    ):
        layers = rough.layers(model) if layer is None else [rough.layers(model)[layer]]
        attributions, method = attributed(model, layers, rough.questions[place], path, **options)
        into += [torch.cat([one.double().flatten() for one in attributions]), method.convergence]
    return {
        "error": float((found[0] - exact[0]).norm() / exact[0].norm()),
        "estimate": float(found[1].error.max()),
        "evaluations": int(found[1].evaluations.max()),
        "converged": bool(found[1].converged.all()),
        "reference_estimate": float(exact[1].error.max()),
        "reference_evaluations": int(exact[1].evaluations.max()),
    }


def graded_gauss(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """In place of a fixed rule: n_steps / 32 panels, half of them ever smaller towards no attention."""
    panels = n_steps // 32
    points, weights = np.polynomial.legendre.leggauss(32)
    low = np.geomspace(1e-7, 2 / panels, panels // 2)
    edges = np.concatenate([[0.0], low, np.linspace(2 / panels, 1, panels - panels // 2)[1:]])
    width = np.diff(edges)[:, None]
    nodes, weights = (edges[:-1, None] + width * (points + 1) / 2), width * weights / 2
    return torch.from_numpy(nodes.ravel()), torch.from_numpy(weights.ravel())


def reference_error(model: nn.Module, rough: Rough, layer: int, args: argparse.Namespace) -> float:
    """Of the reference itself, in one layer of the first question."""
    layers = [rough.layers(model)[layer]]
    own, _ = attributed(model, layers, rough.questions[0], "layerwise", tolerance=args.reference, n_steps=args.most)
    rule, engine.quadrature = engine.quadrature, graded_gauss
    try:
        exact, _ = attributed(model, layers, rough.questions[0], "layerwise", n_steps=2048, method="riemann_middle")
    finally:
        engine.quadrature = rule
    return float((own[0] - exact[0]).norm() / exact[0].norm())


def run(name: str, args: argparse.Namespace, store: Store) -> dict[str, Any]:
    rough = load(name, args)
    models = rough.model, deepcopy(rough.model).double()
    depth = len(rough.layers(rough.model))
    chosen = [layer for layer in args.layers if layer < depth] if args.layers else list(range(depth))
    found: dict[str, list[Any]] = {"layerwise": [], "joint": []}
    for place in range(len(rough.questions)):
        for layer in chosen:
            result = store.get(
                f"{name} {place} {layer}", lambda p=place, n=layer: measure(models, rough, p, "layerwise", n, args)
            )
            found["layerwise"].append({"question": place, "layer": layer, **result})
        if place < args.joint:
            result = store.get(f"{name} {place} joint", lambda p=place: measure(models, rough, p, "joint", None, args))
            found["joint"].append({"question": place, **result})
    checks = [
        store.get(f"{name} reference {layer}", lambda n=layer: reference_error(models[1], rough, n, args))
        for layer in chosen[:2]
        if not args.unchecked
    ]
    about = {"questions": len(rough.questions), "layers": chosen, "depth": depth, "reference_tolerance": args.reference}
    return {**about, "reference": checks, **found}


def row(name: str, kind: str, records: list[dict[str, Any]]) -> str:
    errors = torch.tensor([record["error"] for record in records])
    spent = torch.tensor([record["evaluations"] for record in records], dtype=torch.float64)
    silent = max([record["error"] for record in records if record["converged"]], default=0.0)
    announced = sum(not record["converged"] for record in records)
    near = float((errors < 1e-2).double().mean())
    return (
        f"| {name}, {kind} | {len(records)} | {near:.1%} | {float(errors.median()):.1e} | {silent:.1e} | {announced} "
        f"| {float(spent.mean()):.1f} | {int(spent.max())} |"
    )


def table(figures: dict[str, Any]) -> str:
    lines, layers, checks = [], [], []
    for name, found in figures["models"].items():
        lines += [row(NAMES[name], kind, found[kind]) for kind in ("layerwise", "joint") if found[kind]]
        spent = {
            layer: [r["evaluations"] for r in found["layerwise"] if r["layer"] == layer] for layer in found["layers"]
        }
        means = ", ".join(f"{layer}: {sum(some) / len(some):.1f}" for layer, some in spent.items())
        layers.append(f"| {NAMES[name]} | {found['depth']} | {means} |")
        if found["reference"]:
            checks.append(f"{NAMES[name]} {max(found['reference']):.0e} (at {found['reference_tolerance']})")
    s = figures["settings"]
    references = ", ".join(f"{found['reference_tolerance']} ({NAMES[n]})" for n, found in figures["models"].items())
    return f"""# Accuracy to a tolerance where paths are rough

`tolerance={s["tolerance"]}` in float32, F a difference of two logits, each question by itself; reference: the same
integrator in float64 at a tolerance of {references}. Made by `python
benchmarks/rough_paths.py` (the language model with `--models smollm2 --folder FOLDER`). The
small models were trained on saying a list of words once more.

| | paths | true error below 1e-2 | median | worst that is not announced | announced | evaluations, mean | most |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}

"Announced" are paths for which a warning says that the steps did not suffice. The reference against 2,048 Gauss nodes
in graded panels, two lowest layers of the first question, worst: {"; ".join(checks) or "not measured"}.

Mean evaluations by layer:

| | layers | |
| --- | --- | --- |
{chr(10).join(layers)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=["t5", "gemma3", "olmo2"])
    parser.add_argument("--folder", type=Path, help="the language model's")
    parser.add_argument("--gguf", help="the language model's file in that folder, where it is a GGUF")
    parser.add_argument("--examples", type=int, default=20, help="questions a model")
    parser.add_argument("--training", type=int, default=800, help="steps, of the small models")
    parser.add_argument("--joint", type=int, default=20, help="of these, for the joint path")
    parser.add_argument("--layers", type=int, nargs="+", help="numbers of the layers (default: all)")
    parser.add_argument("--unchecked", action="store_true", help="do not hold the reference against Gauss nodes")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--reference", type=float, default=1e-4, help="tolerance of the reference")
    parser.add_argument("--most", type=int, default=20_000, help="evaluations of the reference, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"tolerance": args.tolerance, "most": args.most}
    store = Store(
        args.output / "rough_paths.jsonl", {**settings, "reference": args.reference, "training": args.training}
    )
    file = args.output / "rough_paths.json"
    models = json.loads(file.read_text())["models"] if file.is_file() else {}
    for name in args.models:
        models[name] = run(name, args, store)
    figures = {"settings": settings, "environment": environment(), "models": models}
    file.write_text(json.dumps(figures, indent=2) + "\n")
    (args.output / "rough_paths.md").write_text(table(figures))
    store.file.unlink()
    print(table(figures))


if __name__ == "__main__":
    main()
