"""Cost and faithfulness of the joint path of a language model, with the rough lowest layers and without them.

    python -m benchmarks.rough_joint --folder FOLDER
    python -m benchmarks.rough_joint --folder FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf

For each prompt of ``setup/rough_models.py``, F a difference of two logits: the joint path over all layers, and over
those that ``rough_layers`` leaves, with the lowest ones at their own attention. Both to a tolerance of 0.01, in
float32. Cost: evaluations and seconds, those of finding the layers out beside them. Faithfulness: what F loses when
the looks (layer, head, query, key) with the largest attributions are cut, and when the tokens that receive the most are
hidden; for comparison in a random order, the mean of five.

Broken off, it goes on where it stopped.
"""

from __future__ import annotations

from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.setup.attributing import attributed
from benchmarks.setup.command_line import add_language_model, command_line, parsed
from benchmarks.setup.machine import environment, line
from benchmarks.setup.results import Store, table
from benchmarks.setup.rough_models import Explained, Rough, language_model
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, rough_layers, token_scores
from captum_attattr.faithfulness import EdgeRemoval, TokenRemoval, comprehensiveness

LOOKS, TOKENS = (0.001, 0.003, 0.01, 0.03, 0.1), (0.2, 0.5)
KINDS = {"all": "all layers", "others": "without the rough ones"}


def joint(
    forward: Any, layers: list[nn.Module], first: int, ids: Tensor, tolerance: float
) -> tuple[list[Tensor], dict[str, Any]]:
    """The joint attribution over the layers from ``first`` on, zeros in those below; and what it cost."""
    method = SelfAttentionAttribution(forward, layers[first:], path="joint")
    seconds, (found, reached, converged) = timed(attributed, method, ids, tolerance)
    return [torch.zeros_like(found[0])] * first + found, {
        "layers": len(found),
        "evaluations": int(reached.evaluations.max()),
        "seconds": seconds,
        "converged": bool(converged.all()),
        "sum": sum(float(one.sum()) for one in found),
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


def measure(rough: Rough, question: tuple[Tensor, Explained], tolerance: float) -> dict[str, Any]:
    ids, explained = question
    layers = rough.layers(rough.model)

    def forward(some: Tensor, mask: Tensor | None = None) -> Tensor:
        return explained(rough.model if mask is None else partial(rough.model, attention_mask=mask), some)

    seconds, left_out = timed(rough_layers, forward, layers, ids)
    found: dict[str, Any] = {"left out": len(left_out), "seconds to find out": seconds}
    everything, found["all"] = joint(forward, layers, 0, ids, tolerance)
    others, found["others"] = joint(forward, layers, len(left_out), ids, tolerance)
    with torch.no_grad():
        found["output"] = float(forward(ids))
    found["all"] |= faithful(forward, layers, ids, everything)
    found["others"] |= faithful(forward, layers, ids, others)
    return {**found, "random": at_random(forward, layers, ids, everything)}


def cost(name: str, some: list[dict[str, Any]]) -> list[str]:
    evaluations = [one["evaluations"] for one in some]
    return [
        name, f"{mean(one['layers'] for one in some):.1f}", f"{mean(evaluations):.0f}", str(max(evaluations)),
        f"{mean(one['seconds'] for one in some):.1f}", str(sum(not one["converged"] for one in some)),
    ]  # fmt: skip


def falls(name: str, some: list[dict[str, Any]]) -> list[str]:
    columns = [column for what in ("looks", "tokens") for column in zip(*(one[what] for one in some), strict=True)]
    return [name, *(f"{mean(column):+.2f}" for column in columns)]


def markdown(figures: dict[str, Any]) -> str:
    records = figures["prompts"]
    costs = [cost(name, [record[kind] for record in records]) for kind, name in KINDS.items()]
    orders = {**KINDS, "random": "random order"}
    losses = [falls(name, [record[kind] for record in records]) for kind, name in orders.items()]
    heads = [*(f"{share:.1%} of looks" for share in LOOKS), *(f"{share:.0%} of tokens" for share in TOKENS)]
    finding = mean(record["seconds to find out"] for record in records)
    return f"""# The joint path of a language model with its rough lowest layers, and without them

{figures["settings"]["name"]}, {len(records)} prompts, `tolerance={figures["settings"]["tolerance"]}`, float32,
{line(figures["environment"])}. Made by `python -m benchmarks.rough_joint --folder FOLDER`.

{table(["joint path over", "layers, mean", "evaluations, mean", "most", "seconds, mean", "did not converge"], costs)}

To find out which layers are rough took {finding:.1f} s a prompt; {mean(r["left out"] for r in records):.1f} layers
were left out, {max(r["left out"] for r in records)} at most.

What F loses, of {mean(record["output"] for record in records):.2f} in the mean, when the looks with the largest
attributions are cut, or the tokens that receive the most (all but the first token) are hidden; larger is better:

{table(["order by", *heads], losses)}
"""


def main() -> None:
    parser = command_line("rough_joint", __doc__, threads=2)
    add_language_model(parser, "prompts", required=True)
    parser.add_argument("--name", default="SmolLM2-135M-Instruct", help="of the model, for the table")
    args = parsed(parser)
    settings = {"name": args.name, "tolerance": args.tolerance, "threads": args.threads, "device": args.device}
    store = Store(args.output / "rough_joint.jsonl", settings, args.examples)
    rough = language_model(args.folder, args.gguf, args.examples).to(args.device)
    records = [
        store.get(str(place), measure, rough, question, args.tolerance)
        for place, question in enumerate(rough.questions)
    ]
    figures = {"settings": settings, "environment": environment(args.device), "prompts": records}
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
