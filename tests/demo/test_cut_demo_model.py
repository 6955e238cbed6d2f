"""The cut keeps every character, moves the right embedding rows, and changes no output where no token was lost."""

from __future__ import annotations

import importlib.util
import string
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from agreement import assert_agree
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

SCRIPT = Path(__file__).parents[2] / "tutorials" / "cut_demo_model.py"
WORDS = ["good", "bad", "film", "##s", "##ing", "play", "rare", "##est", "un", "[unused0]"]
COUNTS = Counter({"good": 9, "bad": 7, "film": 5, "##ing": 4, "play": 4, "rare": 1})
CHARACTERS = [*string.printable, "é", "漢"]
# Punctuation is a word of its own to BERT, so its continuations never occur and may go.
ALWAYS_KEPT = 5 + len(string.ascii_lowercase + ".!") + len(string.ascii_lowercase)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cut_demo_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tokenizer() -> BertTokenizer:
    characters = [*string.ascii_lowercase, ".", "!"]
    continuations = ["##" + character for character in characters]
    words = [word for word in WORDS if word not in continuations]
    tokens = ["[PAD]", *words, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *continuations]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=32)


@pytest.fixture
def model(tokenizer: BertTokenizer) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def kept(script: ModuleType, tokenizer: BertTokenizer) -> list[str]:
    chosen: list[str] = script.choose_vocabulary(tokenizer, COUNTS, ALWAYS_KEPT + 4)
    return chosen


def test_the_most_frequent_tokens_stay_in_their_old_order(tokenizer: BertTokenizer, kept: list[str]) -> None:
    assert len(kept) == ALWAYS_KEPT + 4
    assert kept[0] == "[PAD]"
    # "##ing" and "play" occur equally often: the lower id wins.
    assert [token for token in kept if token in WORDS and token != "##s"] == ["good", "bad", "film", "##ing"]
    ids = tokenizer.convert_tokens_to_ids(kept)
    assert ids == sorted(ids)


def test_tokens_that_never_occur_are_not_kept(script: ModuleType, tokenizer: BertTokenizer) -> None:
    everything = script.choose_vocabulary(tokenizer, COUNTS, 10_000)
    assert len(everything) == ALWAYS_KEPT + len(COUNTS)
    assert "[unused0]" not in everything


def test_all_assigned_characters_are_checked(script: ModuleType) -> None:
    characters = script.assigned_characters()
    assert {"a", " ", "é", "漢", "😀"} <= set(characters)
    assert "\ud800" not in characters
    assert "\ue000" not in characters


def test_a_vocabulary_too_small_for_the_characters_is_refused(script: ModuleType, tokenizer: BertTokenizer) -> None:
    with pytest.raises(ValueError, match=f"vocabulary of 10 tokens .* alone are {ALWAYS_KEPT}"):
        script.choose_vocabulary(tokenizer, COUNTS, 10)


def test_counts_leave_special_tokens_out(script: ModuleType, tokenizer: BertTokenizer) -> None:
    assert script.count_tokens(["good films", "good ."], tokenizer) == {"good": 2, "film": 1, "##s": 1, ".": 1}


def test_no_character_becomes_unknown(script: ModuleType, tokenizer: BertTokenizer, kept: list[str]) -> None:
    smaller = script.cut_tokenizer(tokenizer, kept)
    script.check_characters(tokenizer, smaller, CHARACTERS)
    assert smaller.tokenize("rarest playing!") == [
        *["r", "##a", "##r", "##e", "##s", "##t"],
        *["p", "##l", "##a", "##y", "##ing", "!"],
    ]


@pytest.mark.parametrize("dropped", ["q", "##q"])
def test_a_lost_character_is_found(script: ModuleType, tokenizer: BertTokenizer, kept: list[str], dropped: str) -> None:
    smaller = script.cut_tokenizer(tokenizer, [token for token in kept if token != dropped])
    assert script.newly_unknown(tokenizer, smaller, CHARACTERS) == ["Q", "q"]
    with pytest.raises(ValueError, match="characters unknown that were known"):
        script.check_characters(tokenizer, smaller, CHARACTERS)


def test_embedding_rows_move_with_their_tokens(
    script: ModuleType, tokenizer: BertTokenizer, model: BertForSequenceClassification, kept: list[str]
) -> None:
    before = model.get_input_embeddings().weight.clone()
    smaller = script.cut_model(model, tokenizer, kept)
    rows = smaller.get_input_embeddings().weight
    assert torch.equal(rows, before[tokenizer.convert_tokens_to_ids(kept)])
    assert smaller.config.vocab_size == len(kept) == rows.shape[0]
    assert smaller.config.pad_token_id == 0
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.config.vocab_size == len(tokenizer)


def test_texts_of_kept_tokens_give_equal_outputs(
    script: ModuleType, tokenizer: BertTokenizer, model: BertForSequenceClassification, kept: list[str]
) -> None:
    texts = ["good film!", "bad films.", "xy filming good"]
    outputs = []
    smaller = script.cut_tokenizer(tokenizer, kept)
    for net, splitter in ((model, tokenizer), (script.cut_model(model, tokenizer, kept), smaller)):
        with torch.no_grad():
            outputs.append(net(**splitter(texts, padding=True, return_tensors="pt")).logits)
    assert script.split_alike(tokenizer, smaller, [(text, 0) for text in texts]) == 3
    assert_agree(*outputs)


def test_what_is_saved_is_read_back(
    script: ModuleType, tokenizer: BertTokenizer, model: BertForSequenceClassification, kept: list[str], tmp_path: Path
) -> None:
    smaller, splitter = script.cut_model(model, tokenizer, kept), script.cut_tokenizer(tokenizer, kept)
    smaller.save_pretrained(tmp_path)
    splitter.save_pretrained(tmp_path)
    loaded, loaded_splitter = script.load(tmp_path)
    inputs = loaded_splitter("good film")
    assert loaded_splitter.get_vocab() == {token: index for index, token in enumerate(kept)}
    assert inputs["input_ids"] == [kept.index(token) for token in ("[CLS]", "good", "film", "[SEP]")]
    assert torch.equal(loaded.get_input_embeddings().weight, smaller.get_input_embeddings().weight)


def test_only_wordpiece_of_bert_can_be_cut(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="comes with a str"):
        script.cut_tokenizer("not a tokenizer", ["[PAD]"])


def test_figures_replace_the_old_ones_in_the_card(script: ModuleType, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Card\n\nBefore.\n")
    for value in (1, 2):
        script.write_card(card, {"accuracy": value})
    text = card.read_text()
    assert text.startswith("# Card\n\nBefore.\n")
    assert text.count("figures: begin") == 1
    assert '"accuracy": 2' in text
    assert '"accuracy": 1' not in text


def test_the_size_allowed_gives_the_number_of_tokens(
    script: ModuleType, tokenizer: BertTokenizer, model: BertForSequenceClassification, kept: list[str]
) -> None:
    weights = sum(weight.numel() for weight in script.cut_model(model, tokenizer, kept).parameters())
    needed = (2 * weights + script.JSON_BYTES_PER_TOKEN * len(kept)) / script.SHARE_OF_BUDGET_FOR_MODEL
    assert script.vocabulary_that_fits(model, needed + 1) == len(kept)
    assert script.vocabulary_that_fits(model, needed - 1) == len(kept) - 1
