"""Which number to explain: does it cost faithfulness to explain log-odds, which do not saturate, in place of another?

    python -m benchmarks.outputs --data FOLDER

For each F (log-odds, logit, probability, log-probability of the predicted class) and each path, attributions to
tolerance 0.01. Tokens are hidden and attention edges cut in their order, in all layers at once, and what the
probability and the log-odds of the class lose is measured: the same two yardsticks for all. Each sentence's results are
kept as they come: broken off, the same command goes on.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.faithfulness.curves import EDGE_FRACTIONS, rounded
from benchmarks.faithfulness.methods import token_removal
from benchmarks.faithfulness.report import cell
from benchmarks.faithfulness.samples import Sample, log_odds
from benchmarks.setup.command_line import add_texts, command_line, parsed, settings_of
from benchmarks.setup.machine import environment, line
from benchmarks.setup.results import Store, table
from benchmarks.setup.sentences import Sentence, Subject, texts_in_random_order
from captum_attattr import SelfAttentionAttribution, token_scores
from captum_attattr.attribution import PathName
from captum_attattr.demo import REVIEWS
from captum_attattr.faithfulness import FRACTIONS, EdgeRemoval, deletion_curve, sufficiency
from captum_attattr.text.model_output import OF_LABEL, OfLabel, Output

NAMES = [f"{path}, {kind}" for path, kind in product(get_args(PathName), OF_LABEL)]
FIRST = "joint, log-odds"
MEASURES = {
    "comprehensiveness": lambda e: e["tokens"][0] - np.mean(e["tokens"][1:]),
    "sufficiency": lambda e: np.mean(e["rest"]),
    "log-odds": lambda e: np.mean(log_odds(np.array(e["tokens"][1:]))) - log_odds(np.array(e["tokens"][:1]))[0],
    "edges": lambda e: _area(e["least"]) - _area(e["most"]),
    "edges, log-odds": lambda e: _area(log_odds(np.array(e["least"]))) - _area(log_odds(np.array(e["most"]))),
}
HEADINGS = ["tokens: compr.", "tokens: suff.", "tokens: log-odds", "edges: gap", "edges: gap of log-odds"]


def attributions_of(sentence: Sentence, path: PathName, kind: OfLabel) -> list[Tensor]:
    """Ours, one (1, head, query, key) a layer."""

    def forward(ids: Tensor) -> Tensor:
        mask = sentence.mask.expand(len(ids), -1)
        others = {name: value.expand(len(ids), -1) for name, value in sentence.others.items()}
        logits = sentence.subject.model(input_ids=ids, attention_mask=mask, **others).logits
        return Output(kind).compute(logits.double())

    method = SelfAttentionAttribution(forward, sentence.subject.layers, path=path)
    found: list[Tensor] = method.attribute(sentence.ids, target=sentence.target, tolerance=0.01)
    return found


def measured(sentence: Sentence) -> dict[str, Any]:
    """For each F and path: the probability on the curves, tokens hidden and edges cut."""
    asked = list(product(get_args(PathName), OF_LABEL))
    attributions = [attributions_of(sentence, path, kind) for path, kind in asked]
    tokens = torch.stack([token_scores(one)[0] for one in attributions]).double()
    removal = token_removal(sentence, "mask", len(tokens))
    hidden, rest = deletion_curve(removal, tokens, FRACTIONS).outputs, sufficiency(removal, tokens, FRACTIONS)
    edges = EdgeRemoval(sentence.forward, sentence.subject.layers, sentence.ids, target=sentence.target)
    curve = partial(deletion_curve, edges, fractions=EDGE_FRACTIONS)
    return {
        name: {
            "tokens": rounded(hidden[place]),
            "rest": rounded(rest[place]),
            "most": rounded(curve(attributions[place], order="most").outputs[0]),
            "least": rounded(curve(attributions[place], order="least").outputs[0]),
        }
        for place, name in enumerate(NAMES)
    }


def _area(ys: Any) -> float:
    xs = np.array([0.0, *EDGE_FRACTIONS])
    return float(np.trapezoid(np.array(ys), xs))


def words(samples: dict[str, Sample]) -> str:
    """What differs from the default with a 95% interval that leaves out zero."""
    found = []
    for name, heading in zip(MEASURES, HEADINGS, strict=True):
        lower = name in ("sufficiency", "log-odds")
        for other in NAMES:
            mean, low, high = samples[name].difference(FIRST, other)
            if other != FIRST and other.startswith("joint") and low * high > 0:
                found.append(
                    f"{heading} {'better' if (mean < 0) == lower else 'worse'} than of *{other}* ({mean:+.3f})"
                )
    told = "; ".join(found) or "no difference that is larger than chance"
    return f"On the joint path, log-odds against the other numbers, paired over sentences: {told}."


def markdown(figures: dict[str, Any], samples: dict[str, Sample]) -> str:
    rows = [[name, *(cell(samples[measure].mean(name)) for measure in MEASURES)] for name in NAMES]
    return (
        "# Which number to explain\n\n"
        f"Made by `python -m benchmarks.outputs`; {figures['sentences']} sentences, bundled model, tolerance 0.01. Of "
        "each F the attributions of tokens (received) and of edges, whose removal is measured by the same two "
        "numbers, the probability and the log-odds of the predicted class, as in [faithfulness](faithfulness.md): "
        "what they lose without the best 5, 10, 20 and 50% of the tokens (comprehensiveness, log-odds) and with "
        "nothing but them (sufficiency, lower is better); and the area between the curves of the least and the most "
        "important edges first, cut in all layers at once. 95% intervals, bootstrap over sentences.\n\n"
        f"{words(samples)}\n\n{table(['path, F', *HEADINGS], rows)}\n\nEnvironment: {line(figures['environment'])}.\n"
    )


def main() -> None:
    parser = command_line("outputs", __doc__)
    add_texts(parser, "a TSV file, or a folder with {split}.tsv", default=REVIEWS)
    parser.add_argument("--split", default="test")
    args = parsed(parser)
    settings = settings_of(args, "threads", "data", "limit") | {"data": args.data.name}
    store, subject = Store(args.output / "outputs.jsonl", settings), Subject(args.model, 0)
    texts = texts_in_random_order(args.data, args.split, args.seed, args.limit)
    records = [
        {"all": store.get(str(place), lambda one: measured(subject.sentence(one)), text)}
        for place, text in tqdm(texts.items(), desc="Sentences", unit="sentence")
    ]
    samples = {name: Sample(records, "all", value, args.seed) for name, value in MEASURES.items()}
    figures = {
        "settings": settings,
        "sentences": len(records),
        "means": {name: {one: sample.mean(one) for one in NAMES} for name, sample in samples.items()},
        "environment": environment(),
    }
    store.finish(figures, markdown(figures, samples))


if __name__ == "__main__":
    main()
