"""A small sentiment classifier and sixty film reviews, for examples, tests and first steps without a download.

The model is a 6-layer BERT with 12 heads a layer, fine-tuned on SST-2; ``README.md`` beside this file is its card.

    >>> from captum_attattr.demo import load_demo, load_reviews
    >>> model, tokenizer = load_demo()
    >>> sentence, label = load_reviews()[0]
    >>> model(**tokenizer(sentence, return_tensors="pt")).logits.shape
    torch.Size([1, 2])
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from captum_attattr.files.examples import read_examples

__all__ = ["REVIEWS", "load_demo", "load_reviews"]

_FOLDER = Path(__file__).parent

REVIEWS = _FOLDER / "reviews.tsv"
"""The file with the reviews: columns sentence and label."""


def load_demo(
    dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the bundled classifier in evaluation mode and its tokenizer; label 0 is negative, 1 positive.

    The weights are stored in float16, and converted to ``dtype`` on ``device`` (by default the CPU).

    >>> model, tokenizer = load_demo()
    >>> inputs = tokenizer("A quiet and lovely film.", return_tensors="pt")
    >>> model.config.id2label[model(**inputs).logits.argmax().item()]
    'positive'
    """
    model = AutoModelForSequenceClassification.from_pretrained(_FOLDER, dtype=dtype, trust_remote_code=False)
    return model.to(device or "cpu").eval(), AutoTokenizer.from_pretrained(_FOLDER, trust_remote_code=False)


def load_reviews() -> list[tuple[str, int]]:
    """Return sixty review sentences written for this package, each with its label: 1 positive, 0 negative.

    >>> reviews = load_reviews()
    >>> len(reviews)
    60
    """
    return [(example.text, int(example.label or 0)) for example in read_examples(REVIEWS, labelled=True)]
