"""From the measurements of speed to tables."""

from __future__ import annotations

from typing import Any

from benchmarks.setup.machine import line
from benchmarks.setup.results import table

HEAD = (
    "model", "tokens", "batch", "ours, tolerance 0.01", "evaluations", "injected attention, 64 left", "20 left",
    "**64 / ours**", "20 / ours", "token-level IG, 50", "ours / token-level", "true error: ours, 64, 20",
)  # fmt: skip


def row(c: dict[str, Any]) -> list[str]:
    """A model, a length and a batch."""
    start = [c["size"], str(c["tokens"]), str(c["batch"])]
    sides = ("ours", "by_hand_64", "by_hand_20", "tokens_only")
    ours, hand, short, tokens = (f"{'~' * c[f'{side}_estimated']}{c[f'{side}_seconds']:.3g} s" for side in sides)
    seconds = c["ours_seconds"]
    errors = [c[f"{side}_error"] for side in sides[:3] if f"{side}_error" in c]
    return [
        *start, ours, f"{c['evaluations']:.1f}", hand, short, f"**{c['by_hand_64_seconds'] / seconds:.1f}**",
        f"{c['by_hand_20_seconds'] / seconds:.1f}", tokens, f"{seconds / c['tokens_only_seconds']:.2f}",
        ", ".join(f"{error:.0e}" for error in errors),
    ]  # fmt: skip


def markdown(figures: dict[str, Any]) -> str:
    work, patience = figures["same_work"], figures["settings"]["patience"]
    grown = [
        [what, ", ".join(f"{n}: {seconds:.3g} s" for n, seconds in points)]
        for what, points in figures["growth"].items()
    ]
    pairs = ", ".join(f"{x:.2f}" for x in work["speedups"])
    over_bound = work["ours_forwards_a_step"] / work["bound_forwards_a_step"]
    most = work["by_hand_bound_forwards_a_step"] / work["bound_with_rows_that_are_read"]
    return f"""# Speed

Made by `python -m benchmarks.speed`; {line(figures["environment"])}. float32, both sides in turn in one process.

## The same answer

All token pairs of all heads of all layers, against `IntegratedGradients` over injected attention with 64 and 20 left
Riemann steps, and against `LayerIntegratedGradients` on the embeddings with 50 steps, one score a token. Medians of
three runs; one run where it takes over {patience:.0f} s. Captum's methods get the faster of two numbers of rows a run.
"~", filled in: where ours would take over {5 * patience:.0f} s, the first and the last layer were timed; where Captum's
would take over {patience:.0f} s, one run of steps was, of injected attention in the first and the last layer: time is
a straight line in both. The bundled model is trained, the others have random weights, which need 3 evaluations;
trained ones need somewhat more ([tolerance](tolerance.md)). The true error is relative, in the worst layer, against 64
Gauss-Legendre nodes.

{table(HEAD, [row(cell) for cell in figures["cells"]])}

## The same work

BERT-base size, one sentence of 128 tokens, 20 Gauss-Legendre steps in every layer. A forward pass, per row of a batch,
takes {work["forward_per_row_seconds"]:.4f} s.

| | seconds | forward passes a step |
| --- | --- | --- |
| bound of replays that compute every row | | {work["bound_forwards_a_step"]:.2f} |
| bound of replays that compute the rows that are read | | {work["bound_with_rows_that_are_read"]:.2f} |
| bound of whole forward passes, gradients down to the layer | | {work["by_hand_bound_forwards_a_step"]:.2f} |
| **SelfAttentionAttribution** | {work["ours_seconds"]:.2f} | {work["ours_forwards_a_step"]:.2f} |
| IntegratedGradients over injected attention | {work["by_hand_seconds"]:.2f} | {work["by_hand_forwards_a_step"]:.2f} |

**{work["speedup"]:.2f} times faster** (single pairs: {pairs}), at {over_bound:.2f} times the bound that counts every
row of the topmost block; only those that the classifier reads are computed. Where a backward pass costs what a forward
pass does, and both sides use the processor equally well, the same steps can be
{most:.2f} times faster at most: more comes from taking fewer of them, as above. Largest relative difference of the two
results: {work["relative_difference"]:.1e}.

## Growth

Seconds to tolerance 0.01 at width 384 (6 layers, 64 tokens, one sentence, where not said otherwise; random weights, so
a depth may take more evaluations than the next). Straight lines are due in batch and tokens, as long as attention's
square is small beside the rest; in layers it is a square, since each one is replayed through all above it.

{table(["against", ""], grown)}
"""
