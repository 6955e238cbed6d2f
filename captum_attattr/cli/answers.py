"""Answers of ``captum-attattr explain``, in words."""

from __future__ import annotations

from collections.abc import Sequence

from captum_attattr.text.explanation import Explanation
from captum_attattr.text.overview import Overview, number, signed

# A gap above this fraction of the norm of the attributions is told; below it the true error is small, too.
_WIDE_GAP = 0.01


def describe(explanation: Explanation, k: int = 8, *, special: bool = True, pieces: bool = False) -> str:
    """Describe an explanation: the answer in a line, then what is read, what acts together, heads, and layers.

    Args:
        explanation: The explanation.
        k: How many lines each part has at most.
        special: Whether to list tokens that the tokenizer added among those that are read.
        pieces: Show the tokenizer's pieces, not words.
    """
    view = Overview(explanation if pieces else explanation.words)
    e, names = view.explanation, view.explanation.token_names
    texts = " | ".join(f'"{_short(text)}"' for text in (e.text, e.text_pair) if text is not None)
    lines = [view.headline, f"  {texts}", f"  {view.sum_of_parts}{_spent(e)}", *_wide(e)]
    reads = [(names[place], score) for place, score in view.strongest_reads(len(names)) if special or place in view.own]
    lines += ["", f"  {view.reader_name} reads ({signed(float(view.reads.sum()))} in all)", *_scored(view, reads[:k])]
    between = [(f"{names[pair.query]} -> {names[pair.key]}", pair.score) for pair in view.strongest_between(k)]
    net = signed(float(view.between.sum()))
    lines += ["", f"  between words, who looks -> at whom (net {net}, {view.part_between:.0%} of all magnitude)"]
    lines += _scored(view, between)
    lines += ["", "  heads (layers and heads count from 0)"]
    lines += _scored(view, [(f"layer {head.layer}, head {head.head}", head.score) for head in e.top_heads(k)])
    apart = e.layerwise or (e if e.sums_only_rank else None)
    return "\n".join([*lines, *([] if apart is None else ["", *_layers(apart)])])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."


def _scored(view: Overview, rows: Sequence[tuple[str, float]]) -> list[str]:
    """Write a line for each name and score, with aligned numbers, and percent of the total where scores add up."""
    parts = not view.explanation.sums_only_rank and view.added != 0
    cells = [(signed(score), f"{score / view.added:.0%}" if parts else "", name) for name, score in rows]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in (0, 1)]
    lines = [f"    {score:>{widths[0]}}  {part:>{widths[1]}}  {name}" for score, part, name in cells]
    return lines or ["    none"]


def _spent(explanation: Explanation) -> str:
    spent = explanation.evaluations
    if not spent:
        return ""
    ends = " to ".join(str(count) for count in sorted({min(spent), max(spent)}))
    return f" ({ends} evaluations{'' if explanation.layers_add_up else ' a layer'})"


def _wide(explanation: Explanation) -> list[str]:
    """Tell of the gaps of completeness that are too wide."""
    e = explanation
    found = (e.attributions.unsqueeze(0) if e.layers_add_up else e.attributions).flatten(1).norm(dim=1)
    wide = (e.delta.abs() > _WIDE_GAP * found + 1e-6).nonzero().flatten().tolist()
    names = ["all layers"] if e.layers_add_up else [f"layer {layer}" for layer in e.layers]
    gaps = ", ".join(f"{names[place]} {float(e.delta[place]):+.0e}" for place in wide)
    return [f"  NOT converged, try more --steps: the attributions miss their sum by {gaps}"] if wide else []


def _layers(explanation: Explanation) -> list[str]:
    """Write for each layer, the last one first: F without its attention, and what its attention adds."""
    e = explanation
    rows = sorted(zip(e.layers, e.baseline_output.tolist(), e.delta.tolist(), strict=True), reverse=True)
    cells = [(f"layer {layer}", signed(e.output - start), number(start)) for layer, start, _ in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    start = e.settings.get("baseline", "no attention")
    what = "without the attention of one layer" if start == "no attention" else f"with one layer's attention at {start}"
    return [
        f"  layer by layer: what its attention adds, and the {e.output_name} {what} (these do not add up)",
        *(f"    {added:>{widths[1]}}  {name:<{widths[0]}}  {without:>{widths[2]}}" for name, added, without in cells),
        *_wide(e),
    ]
