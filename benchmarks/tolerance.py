"""Whether ``tolerance=0.01`` keeps its word, and what it costs, on every sentence of a data set.

    python -m benchmarks.tolerance --data FOLDER

For each sentence, each layer, and F as probability and as logit of the predicted class: the relative L2 error of the
attribution against 32 Gauss-Legendre nodes, and the evaluations (forward and backward passes from the layer on) that
it took. The mean is weighted by what an evaluation of a layer costs, 2 (L - l - 1/4) / L forward passes of the model.
The whole cost adds what all layers share, one forward and backward pass of the model, and for each layer a forward
pass without its attention.

Broken off, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.setup.attributing import attributed, predicted, relative_errors
from benchmarks.setup.command_line import add_texts, command_line, parsed, settings_of
from benchmarks.setup.machine import environment
from benchmarks.setup.results import Store, table
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.files.examples import read_examples
from captum_attattr.text.classifier import Batch, Classifier
from captum_attattr.text.model_output import OfLabel

OUTPUTS: tuple[OfLabel, ...] = ("probability", "logit")


def measure(classifier: Classifier, batch: Batch, args: argparse.Namespace) -> list[dict[str, Any]]:
    """True errors, evaluations and gaps of a batch, (layers,) for each sentence."""
    ids, *rest = batch.inputs
    method = SelfAttentionAttribution(classifier.outputs, attention_layers(classifier.model))
    settings: dict[str, Any] = {"target": predicted(classifier, batch), "additional_forward_args": tuple(rest)}
    found, reached, converged = attributed(method, ids, args.tolerance, n_steps=args.steps, **settings)
    exact = method.attribute(ids, n_steps=args.reference, **settings)
    errors = relative_errors(found, exact)
    columns = {"errors": errors, "evaluations": reached.evaluations, "gaps": reached.gap, "converged": converged}
    return [{name: values[:, row].tolist() for name, values in columns.items()} for row in range(len(batch.places))]


def run(args: argparse.Namespace, store: Store) -> dict[str, list[dict[str, Any]]]:
    """By F, what was found about each sentence."""
    texts = [example.text for example in read_examples(args.data, limit=args.limit, seed=args.seed)]
    found: dict[str, list[dict[str, Any]]] = {}
    for output in OUTPUTS:
        classifier = Classifier(args.model, None, output)
        batches = list(classifier.batches(texts, None, args.batch_size))
        found[output] = []
        for batch in tqdm(batches, desc=f"F = {output}", unit="batch"):
            found[output] += store.get(f"{output} {' '.join(map(str, batch.places))}", measure, classifier, batch, args)
    return found


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    errors = torch.tensor([record["errors"] for record in records])
    evaluations = torch.tensor([record["evaluations"] for record in records], dtype=torch.float64)
    layers = errors.shape[1]
    cost = 2 * (layers - torch.arange(layers, dtype=torch.float64) - 0.25) / layers
    weighted = float((evaluations.mean(0) * cost).sum() / cost.sum())
    return {
        "pairs": errors.numel(),
        "below_1e-2": float((errors < 1e-2).double().mean()),
        "above_1e-2": int((errors >= 1e-2).sum()),
        "above_2e-2": int((errors >= 2e-2).sum()),
        "worst": float(errors.max()),
        "median": float(errors.median()),
        "evaluations": weighted,
        "evaluations_by_layer": evaluations.mean(0).tolist(),
        "most_evaluations": int(evaluations.max()),
        "whole_cost_in_evaluations": weighted + 0.5 + 2 / float(cost.sum()),
        "not_converged": sum(not one for record in records for one in record["converged"]),
    }


def markdown(figures: dict[str, Any]) -> str:
    s, outputs = figures["settings"], [figures[output] for output in OUTPUTS]
    rows = [
        ("(sentence, layer) pairs", "pairs", "{:,}"),
        ("true error below 1e-2", "below_1e-2", "{:.4%}"),
        ("pairs above 1e-2", "above_1e-2", "{}"),
        ("pairs above 2e-2", "above_2e-2", "{}"),
        ("worst true error", "worst", "{:.1e}"),
        ("median true error", "median", "{:.1e}"),
        ("**evaluations a layer, weighted by cost**", "evaluations", "**{:.2f}**"),
        ("most evaluations of a pair", "most_evaluations", "{}"),
        ("whole cost in evaluations a layer", "whole_cost_in_evaluations", "{:.2f}"),
        ("pairs that n_steps did not suffice for", "not_converged", "{}"),
    ]
    lines = [[name, *(form.format(o[key]) for o in outputs)] for name, key, form in rows]
    by_layer = [
        [f"layer {layer}", *(f"{mean:.2f}" for mean in means)]
        for layer, means in enumerate(zip(*(o["evaluations_by_layer"] for o in outputs), strict=True))
    ]
    head = ["", *(f"F = {output}" for output in OUTPUTS)]
    return f"""# Accuracy to a tolerance

`tolerance={s["tolerance"]}`, at most {s["steps"]} steps, {figures["sentences"]} sentences of SST-2, bundled model,
float32; reference: {s["reference"]} Gauss-Legendre nodes. Made by `python -m benchmarks.tolerance --data FOLDER`.

{table(head, lines)}

An evaluation is a forward and backward pass from the layer on; the whole cost adds the pass that all layers share and
a forward pass without the layer's attention (half an evaluation) for each. Mean evaluations by layer:

{table(head, by_layer)}
"""


def main() -> None:
    parser = command_line("tolerance", __doc__, threads=2)
    add_texts(parser, "TSV file, or folder with test.tsv")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--reference", type=int, default=32, help="Gauss-Legendre nodes of the reference")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parsed(parser)
    settings = settings_of(args, "data", "threads")
    store = Store(args.output / "tolerance.jsonl", settings)
    found = run(args, store)
    figures = {"settings": settings, "environment": environment(), "sentences": len(found["logit"])}
    figures |= {output: summary(records) for output, records in found.items()}
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
