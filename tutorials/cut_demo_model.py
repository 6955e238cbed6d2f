"""Cut a fine-tuned SST-2 model down to the size at which a package can carry it.

    python tutorials/cut_demo_model.py --model sst2-minilm --data path/to/sst2 --output captum_attattr/demo

``--model`` is a folder written by ``finetune_sst2.py``; ``--data`` is a folder with ``train.tsv``,
``dev.tsv`` and ``test.tsv`` (columns ``sentence`` and ``label``). Half of a small BERT is its word
embeddings, and most of its word pieces never occur in film reviews: those that ``train.tsv`` and
``dev.tsv`` use most often stay, with every special token and every single character that can occur, so that no
text becomes unknown that was known before. ``test.tsv`` only measures what the cut costs. The exit code is
1 if the accuracy after the cut is below ``--min-accuracy`` or the folder is too large.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

Rows = list[tuple[str, int]]

CONTINUATION = "##"
SPECIAL_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
BYTES_PER_WEIGHT = 2
JSON_BYTES_PER_TOKEN = 26
# The rest goes to the card, the reviews, the code and the two configuration files.
SHARE_OF_BUDGET_FOR_MODEL = 0.98
BATCH = 64
FIGURES_BLOCK = re.compile(r"(<!-- figures: begin -->\n).*?(<!-- figures: end -->)", re.DOTALL)


def read_rows(file: Path) -> Rows:
    """Sentences and labels of a TSV file with the header ``sentence<TAB>label``, quotes being plain characters."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            (row["sentence"].strip(), int(row["label"]))
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def count_tokens(sentences: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Counter[str]:
    """How often each token occurs in the sentences, special tokens left out."""
    counts: Counter[int] = Counter()
    for block in blocks(sentences, "counting tokens"):
        for ids in tokenizer(block, add_special_tokens=False)["input_ids"]:
            counts.update(ids)
    return Counter({tokenizer.convert_ids_to_tokens(index): count for index, count in counts.items()})


def blocks(texts: Sequence[str], what: str, size: int = 1024) -> Iterator[list[str]]:
    for start in tqdm(range(0, len(texts), size), desc=what, unit="block"):
        yield list(texts[start : start + size])


def single_character(token: str) -> str | None:
    """The character that a token stands for alone, at the start of a word or inside it; None for longer tokens."""
    character = token[len(CONTINUATION) :] if len(token) > len(CONTINUATION) else token
    return character if len(character) == 1 and token in (character, CONTINUATION + character) else None


def can_stand_alone(token: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a token is a single character that the tokenizer can produce where the token says.

    Punctuation and Chinese characters are words of their own to BERT: their continuations never occur.
    """
    character = single_character(token)
    if character is None or token == character:
        return character is not None
    backend = tokenizer.backend_tokenizer
    return len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{character}"))) == 1


def choose_vocabulary(tokenizer: PreTrainedTokenizerBase, counts: Counter[str], size: int) -> list[str]:
    """The tokens to keep, in their old order but with the padding token first.

    Special tokens and single characters stay whatever they cost; the most frequent of the other tokens fill up
    to ``size``. Tokens that never occur are not kept, so the result may be shorter than ``size``.

    >>> tokens = ["[PAD]", "bad", "good", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a"]
    >>> tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    >>> choose_vocabulary(tokenizer, Counter(good=5, bad=3), 8)
    ['[PAD]', 'good', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', '##a']
    """
    ids = tokenizer.get_vocab()
    needed = {token for token in ids if token in tokenizer.all_special_tokens or can_stand_alone(token, tokenizer)}
    if size < len(needed):
        raise ValueError(
            f"A vocabulary of {size} tokens was asked for, but the special tokens and single characters alone are "
            f"{len(needed)}. Ask for at least that many, or raise --max-megabytes."
        )
    others = sorted((token for token in counts if token not in needed), key=lambda token: (-counts[token], ids[token]))
    kept = needed.union(others[: size - len(needed)])
    return sorted(kept, key=lambda token: (token != tokenizer.pad_token, ids[token]))


def vocabulary_that_fits(model: PreTrainedModel, max_bytes: float) -> int:
    """The number of tokens with which float16 weights and tokenizer together stay within ``max_bytes``."""
    embeddings = model.get_input_embeddings().weight
    other_weights = sum(weight.numel() for weight in model.parameters()) - embeddings.numel()
    left = SHARE_OF_BUDGET_FOR_MODEL * max_bytes - BYTES_PER_WEIGHT * other_weights
    return int(left // (BYTES_PER_WEIGHT * embeddings.shape[1] + JSON_BYTES_PER_TOKEN))


def cut_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Sequence[str]) -> BertTokenizer:
    """A tokenizer that knows the kept tokens only, numbered in the order given, without padding or truncation set."""
    if not isinstance(tokenizer, BertTokenizer):
        raise ValueError(
            f"The model comes with a {type(tokenizer).__name__}, but only a BertTokenizer (WordPiece) can be cut here. "
            "Start from a checkpoint of the BERT family."
        )
    specials = {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}
    return BertTokenizer(
        vocab={token: index for index, token in enumerate(kept)},
        do_lower_case=tokenizer.do_lower_case,
        tokenize_chinese_chars=tokenizer.tokenize_chinese_chars,
        strip_accents=tokenizer.strip_accents,
        model_max_length=tokenizer.model_max_length,
        **specials,
    )


def cut_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kept: Sequence[str]) -> PreTrainedModel:
    """A copy of the model whose word embeddings are the rows of the kept tokens, in the order given."""
    smaller = copy.deepcopy(model)
    old_ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(kept)))
    padding = list(kept).index(tokenizer.pad_token)
    rows = model.get_input_embeddings().weight.detach()[old_ids]
    embedding = nn.Embedding(len(kept), rows.shape[1], padding_idx=padding)
    embedding.weight = nn.Parameter(rows.clone())
    smaller.set_input_embeddings(embedding)
    smaller.config.vocab_size = len(kept)
    smaller.config.pad_token_id = padding
    return smaller


def assigned_characters() -> list[str]:
    """Every character that Unicode gives a meaning: no surrogates, private or unassigned code points."""
    every = map(chr, range(sys.maxunicode + 1))
    return [character for character in every if unicodedata.category(character) not in ("Cn", "Co", "Cs")]


def newly_unknown(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, characters: Sequence[str]
) -> list[str]:
    """The characters, alone or inside a word, that only the second tokenizer turns into its unknown token.

    >>> tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "b", "##b"]
    >>> before = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    >>> newly_unknown(before, cut_tokenizer(before, tokens[:-1]), ["a", "b", "c"])
    ['b']
    """
    lost = []
    for block in blocks(characters, "checking characters", 8192):
        for pattern in ("{}", "a{}"):
            texts = [pattern.format(character) for character in block]
            known, still_known = (
                [tokenizer.unk_token_id not in ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
                for tokenizer in (before, after)
            )
            lost += [c for c, was, remains in zip(block, known, still_known, strict=True) if was and not remains]
    return sorted(set(lost))


def check_characters(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, characters: Sequence[str]
) -> None:
    """Raise if any of the characters was representable before the cut and is not any more."""
    lost = newly_unknown(before, after, characters)
    if lost:
        raise ValueError(
            f"The cut makes {len(lost)} characters unknown that were known, {lost[:10]} among them. Every single "
            "character of the vocabulary must be kept, both alone and as a continuation."
        )


def split_alike(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, rows: Rows) -> int:
    """The number of sentences that both tokenizers split into the same tokens."""
    return sum(before.tokenize(sentence) == after.tokenize(sentence) for sentence, _ in rows)


@torch.no_grad()
def accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, what: str) -> float:
    """The share of the sentences whose predicted class is the label."""
    right = 0
    for start in tqdm(range(0, len(rows), BATCH), desc=what, unit="batch"):
        sentences, labels = zip(*rows[start : start + BATCH], strict=True)
        inputs = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        right += int((model(**inputs).logits.argmax(-1) == torch.tensor(labels)).sum())
    return right / len(rows)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32 and evaluation mode, and its tokenizer, by plain ``from_pretrained``."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def megabytes(folder: Path) -> float:
    """Size of all files in the folder in units of 1,000,000 bytes, Python's caches left out."""
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sum(file.stat().st_size for file in files) / 1e6


def write_card(card: Path, figures: dict[str, Any]) -> None:
    """Put the figures between the card's two markers; a card without markers gets them at its end."""
    block = f"<!-- figures: begin -->\n```json\n{json.dumps(figures, indent=2)}\n```\n<!-- figures: end -->"
    text = card.read_text(encoding="utf-8") if card.is_file() else "# Model card\n"
    if not FIGURES_BLOCK.search(text):
        text = f"{text.rstrip()}\n\n<!-- figures: begin -->\n<!-- figures: end -->\n"
    card.write_text(FIGURES_BLOCK.sub(lambda _: block, text), encoding="utf-8")


def cut_and_save(args: argparse.Namespace) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """Write the smaller model to the output folder; return the uncut tokenizer and the figures before the cut."""
    model, tokenizer = load(args.model)
    seen = [sentence for split in ("train", "dev") for sentence, _ in read_rows(args.data / f"{split}.tsv")]
    size = args.vocabulary or vocabulary_that_fits(model, args.max_megabytes * 1e6)
    kept = choose_vocabulary(tokenizer, count_tokens(seen, tokenizer), size)
    smaller = cut_tokenizer(tokenizer, kept)
    check_characters(tokenizer, smaller, assigned_characters())
    cut_model(model, tokenizer, kept).half().save_pretrained(args.output)
    smaller.save_pretrained(args.output)
    test = read_rows(args.data / "test.tsv")
    return tokenizer, {
        "test_sentences": len(test),
        "accuracy_before_cut": round(accuracy(model, tokenizer, test, "before the cut"), 4),
        "vocabulary_before_cut": len(tokenizer),
    }


def measure(args: argparse.Namespace, uncut: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Figures of the model as it lies in the output folder, read back the way a user reads it."""
    model, tokenizer = load(args.output)
    test, reviews = read_rows(args.data / "test.tsv"), args.output / "reviews.tsv"
    figures = {
        "accuracy_after_cut": round(accuracy(model, tokenizer, test, "after the cut"), 4),
        "vocabulary_after_cut": len(tokenizer),
        "test_sentences_split_as_before": split_alike(uncut, tokenizer, test),
    }
    if reviews.is_file():
        rows = read_rows(reviews)
        figures["own_reviews"] = len(rows)
        figures["own_reviews_right"] = round(accuracy(model, tokenizer, rows, "own reviews") * len(rows))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the fine-tuned model")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the smaller model to")
    parser.add_argument("--max-megabytes", type=float, default=30.0, help="largest size of the whole folder")
    parser.add_argument("--vocabulary", type=int, help="number of tokens; default: as many as the size allows")
    parser.add_argument("--min-accuracy", type=float, default=0.89, help="least accuracy on test.tsv after the cut")
    args = parser.parse_args()
    uncut, figures = cut_and_save(args)
    figures |= measure(args, uncut)
    trained = args.model / "figures.json"
    if trained.is_file():
        figures["fine_tuning"] = json.loads(trained.read_text(encoding="utf-8"))
    # Written twice because the card's own length counts.
    write_card(args.output / "README.md", figures | {"megabytes": 0.0})
    figures["megabytes"] = round(megabytes(args.output), 1)
    write_card(args.output / "README.md", figures)
    print(json.dumps(figures, indent=2))
    if figures["accuracy_after_cut"] < args.min_accuracy:
        sys.exit(f"Accuracy {figures['accuracy_after_cut']} is below {args.min_accuracy}: keep more tokens.")
    if megabytes(args.output) > args.max_megabytes:
        sys.exit(f"{megabytes(args.output):.2f} MB is more than {args.max_megabytes} MB: keep fewer tokens.")


if __name__ == "__main__":
    main()
