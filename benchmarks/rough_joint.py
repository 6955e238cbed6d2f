"""Cost and faithfulness of the joint path of a language model, with the rough lowest layers and without them.

    python benchmarks/rough_joint.py --folder FOLDER
    python benchmarks/rough_joint.py --folder FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf

For each prompt of ``rough_questions.py``, F a difference of two logits: the joint path over all layers, and over those
that ``rough_layers`` leaves, with the lowest ones at their own attention. Both to a tolerance of 0.01, in float32.
Cost: evaluations and seconds, those of finding the layers out beside them. Faithfulness: what F loses when the
looks (layer, head, query, key) with the largest attributions are cut, and when the tokens that receive the most are
hidden; for comparison in a random order, the mean of five.

Broken off, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from machine import environment
from rough_questions import Explained, Rough, language_model
from store import Store
from torch import Tensor, nn

from captum_attattr import SelfAttentionAttribution, rough_layers, token_scores
from captum_attattr.faithfulness import EdgeRemoval, TokenRemoval, comprehensiveness

RESULTS = Path(__file__).parent / "results"
LOOKS, TOKENS = (0.001, 0.003, 0.01, 0.03, 0.1), (0.2, 0.5)
KINDS = {"all": "all layers", "others": "without the rough ones"}


def attributed(
    forward: Any, layers: list[nn.Module], kept: list[nn.Module], ids: Tensor, args: argparse.Namespace
) -> tuple[list[Tensor], dict[str, Any]]:
    """The joint attribution over some layers, zeros in the others; and what it cost."""
    method = SelfAttentionAttribution(forward, kept, path="joint")
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge is counted
        found = method.attribute(ids, tolerance=args.tolerance)
    seconds = time.perf_counter() - begin
    reached, total = method.convergence, sum(float(one.sum()) for one in found)
    places = {id(layer): one for layer, one in zip(kept, found, strict=True)}
    return [places.get(id(layer), torch.zeros_like(found[0])) for layer in layers], {
        "layers": len(kept),
        "evaluations": int(reached.evaluations.max()),
        "seconds": seconds,
        "converged": bool(reached.converged.all()),
        "sum": total,
    }


def faithful(forward: Any, layers: list[nn.Module], ids: Tensor, attributions: list[Tensor]) -> dict[str, list[float]]:
    """What F loses without the first looks, and without the first tokens."""
    looks = EdgeRemoval(forward, layers, ids)
    first = torch.zeros_like(ids)
    first[:, 0] = 1  # where the sink is: another model without it
    tokens = TokenRemoval(lambda some, mask: forward(some, mask), ids, special_tokens_mask=first)
    return {
        "looks": comprehensiveness(looks, attributions, LOOKS, batch_size=8)[0].tolist(),
        "tokens": comprehensiveness(tokens, token_scores(attributions), TOKENS)[0].tolist(),
    }


def at_random(forward: Any, layers: list[nn.Module], ids: Tensor, like: list[Tensor]) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    draws = [
        faithful(forward, layers, ids, [torch.rand(one.shape, generator=generator) for one in like]) for _ in range(5)
    ]
    return {kind: [mean(column) for column in zip(*(draw[kind] for draw in draws), strict=True)] for kind in draws[0]}


def measure(rough: Rough, question: tuple[Tensor, Explained], args: argparse.Namespace) -> dict[str, Any]:
    ids, explained = question
    layers = rough.layers(rough.model)

    def forward(some: Tensor, mask: Tensor | None = None) -> Tensor:
        return explained(rough.model, some) if mask is None else explained(_Masked(rough.model, mask), some)

    begin = time.perf_counter()
    left_out = rough_layers(forward, layers, ids)
    found: dict[str, Any] = {"left out": len(left_out), "seconds to find out": time.perf_counter() - begin}
    everything, found["all"] = attributed(forward, layers, layers, ids, args)
    others, found["others"] = attributed(forward, layers, layers[len(left_out) :], ids, args)
    with torch.no_grad():
        found["output"] = float(forward(ids))
    found["all"] |= faithful(forward, layers, ids, everything)
    found["others"] |= faithful(forward, layers, ids, others)
    return {**found, "random": at_random(forward, layers, ids, everything)}


class _Masked:
    """The model with an attention mask, called as without one."""

    def __init__(self, model: nn.Module, mask: Tensor) -> None:
        self._model, self._mask = model, mask

    def __call__(self, ids: Tensor, **options: Any) -> Any:
        return self._model(ids, attention_mask=self._mask, **options)


def table(figures: dict[str, Any]) -> str:
    records = figures["prompts"]
    lines = []
    for kind, name in KINDS.items():
        some = [record[kind] for record in records]
        lines.append(
            f"| {name} | {mean(one['layers'] for one in some):.1f} | {mean(one['evaluations'] for one in some):.0f} | "
            f"{max(one['evaluations'] for one in some)} | {mean(one['seconds'] for one in some):.1f} | "
            f"{sum(not one['converged'] for one in some)} |"
        )
    falls = []
    for kind, name in {**KINDS, "random": "random order"}.items():
        columns = [*zip(*(r[kind]["looks"] for r in records), strict=True)]
        columns += zip(*(r[kind]["tokens"] for r in records), strict=True)
        falls.append(f"| {name} | " + " | ".join(f"{mean(column):+.2f}" for column in columns) + " |")
    heads = " | ".join([*(f"{share:.1%} of looks" for share in LOOKS), *(f"{share:.0%} of tokens" for share in TOKENS)])
    finding = mean(record["seconds to find out"] for record in records)
    return f"""# The joint path of a language model with its rough lowest layers, and without them

{figures["settings"]["name"]}, {len(records)} prompts, `tolerance={figures["settings"]["tolerance"]}`, float32,
{figures["settings"]["threads"]} thread(s). Made by `python benchmarks/rough_joint.py --folder FOLDER`.

| joint path over | layers, mean | evaluations, mean | most | seconds, mean | did not converge |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}

To find out which layers are rough took {finding:.1f} s a prompt; {mean(r["left out"] for r in records):.1f} layers
were left out, {max(r["left out"] for r in records)} at most.

What F loses, of {mean(record["output"] for record in records):.2f} in the mean, when the looks with the largest
attributions are cut, or the tokens that receive the most (all but the first token) are hidden; larger is better:

| order by | {heads} |
| --- |{" --- |" * (len(LOOKS) + len(TOKENS))}
{chr(10).join(falls)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of a language model of transformers")
    parser.add_argument("--gguf", help="its file in that folder, where it is a GGUF")
    parser.add_argument("--name", default="SmolLM2-135M-Instruct", help="of the model, for the table")
    parser.add_argument("--examples", type=int, default=20, help="prompts")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"name": args.name, "tolerance": args.tolerance, "threads": args.threads}
    store = Store(args.output / "rough_joint.jsonl", settings, args.examples)
    rough = language_model(args.folder, args.gguf, args.examples)
    records = [
        store.get(str(place), lambda q=question: measure(rough, q, args))
        for place, question in enumerate(rough.questions)
    ]
    figures = {"settings": settings, "environment": environment(), "prompts": records}
    (args.output / "rough_joint.json").write_text(json.dumps(figures, indent=1) + "\n")
    (args.output / "rough_joint.md").write_text(table(figures))
    store.file.unlink()
    print(table(figures))


if __name__ == "__main__":
    main()
