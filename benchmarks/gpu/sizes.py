"""What is measured: sizes in full, and tiny ones for a quick look, and the tolerance of our method."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.setup import sized_models

TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Sizes:
    """Of all that is measured."""

    classifier: tuple[int, int, int]
    """Layers, width, heads."""
    tokens: int
    batches: tuple[int, int]
    decoder: dict[str, int]
    """Its configuration."""
    decoder_tokens: int


FULL = Sizes(
    classifier=sized_models.SIZES["BERT-base size"],
    tokens=128,
    batches=(1, 32),
    decoder={
        "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    },
    decoder_tokens=2048,
)  # fmt: skip
QUICK = Sizes(
    classifier=(2, 24, 2),
    tokens=8,
    batches=(1, 2),
    decoder={
        "vocab_size": 32000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16,
    },
    decoder_tokens=16,
)  # fmt: skip
