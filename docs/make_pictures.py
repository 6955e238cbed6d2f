"""Makes the pictures of the documentation by the bundled model: python docs/make_pictures.py"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from captum_attattr import (
    AttributionTree,
    HeadImportance,
    SelfAttentionAttribution,
    attention_layers,
    explain,
    visualize_explanation,
    visualize_head_importance,
)
from captum_attattr.cli.answers import describe
from captum_attattr.demo import load_demo, load_reviews

FOLDER = Path(__file__).parent / "images"
FIRST = "Not bad at all."
FLOW = "The plot was interesting but the execution was poor."
LONG = (
    "I went in with low hopes, since the first film was a mess, and for an hour this one is hardly better; but then it "
    "finds its feet, and the last act is as good as anything this year."
)


def path_curves() -> Figure:
    """The log-odds of a sentence on the joint path, and on the paths of three layers."""
    model, tokenizer = load_demo()
    batch = tokenizer(FIRST, return_tensors="pt")

    def log_odds(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids, attention_mask=attention_mask).logits
        return logits[:, 1] - logits[:, 0]

    layers, alphas = attention_layers(model), torch.linspace(0, 1, 41)
    figure = Figure(figsize=(7, 3.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, chosen, width in [
        ("all layers (joint)", layers, 2.5),
        *((f"layer {n}", [layers[n]], 1.2) for n in (0, 3, 5)),
    ]:
        function = SelfAttentionAttribution(log_odds, chosen).attention_function(batch.input_ids, batch.attention_mask)
        with torch.no_grad():
            values = [float(function(*(alpha * attention for attention in function.attention))) for alpha in alphas]
        axes.plot(alphas, values, linewidth=width, label=name)
    axes.set(xlabel="alpha: part of the attention that is there", ylabel="log-odds of 'positive'", title=FIRST)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    first = explain(FIRST)
    (FOLDER / "first.txt").write_text(describe(first, 4) + "\n", encoding="utf-8")
    figures = {
        "path": path_curves(),
        "first": visualize_explanation(first)[0],
        "layers": visualize_explanation(explain(FLOW, layerwise=True))[0],
        "long": visualize_explanation(explain(LONG))[0],
        "tree": AttributionTree(explain(FLOW)).plot()[0],
        "heads": visualize_head_importance(
            HeadImportance(load_demo()[0]).run(load_reviews(), tokenizer=load_demo()[1])
        )[0],
    }
    for name, figure in figures.items():
        figure.savefig(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
