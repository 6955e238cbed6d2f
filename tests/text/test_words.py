"""Pieces become words, and words the user's own groups, without any attribution being lost."""

from __future__ import annotations

import pytest
import torch
from made_explanations import made
from tiny_classifiers import bert, byte_level, demo, gpt2, metaspace, roberta

from captum_attattr import explain
from captum_attattr.text.words import Span, group_units, word_units


def spans_of(text, *pieces):
    """Where these pieces are in the text, one after the other; None for special tokens."""
    found, start = [], 0
    for piece in pieces:
        if piece is None:
            found.append(None)
            continue
        start = text.index(piece, start)
        found.append(Span(0, start, start + len(piece)))
        start += len(piece)
    return found


CASES = {
    "word pieces": ("Unputdownable film", ["Un", "put", "down", "able", "film"], ["Unputdownable", "film"]),
    "an apostrophe": ("I can't", ["I", "can", "'", "t"], ["I", "can't"]),
    "a hyphen": ("well-known", ["well", "-", "known"], ["well", "-", "known"]),
    "a number": ("3.14 is", ["3", ".", "14", "is"], ["3.14", "is"]),
    "signs": ("so...!", ["so", ".", ".", ".", "!"], ["so", ".", ".", ".", "!"]),
    "Chinese": ("这部电影", ["这", "部", "电", "影"], ["这", "部", "电", "影"]),
    "Hangul": ("영화가 좋다", ["영화", "가", "좋", "다"], ["영화가", "좋다"]),
    "an accent of its own": ("cafe\u0301 au", ["caf", "e", "\u0301", "au"], ["cafe\u0301", "au"]),
    "a white space in a piece": ("a film", ["a", " film"], ["a", "film"]),
}


@pytest.mark.parametrize(("text", "pieces", "words"), CASES.values(), ids=CASES)
def test_pieces_are_joined_where_no_word_ends(text, pieces, words):
    units = word_units([text], pieces, spans_of(text, *pieces))
    assert [unit.name for unit in units] == words
    assert [place for unit in units for place in unit.tokens] == list(range(len(pieces)))


def test_the_bytes_of_an_emoji_are_one():
    text = "so 👩‍👩‍👧 good"
    start = text.index("👩")
    bytes_of = [Span(0, place, place + 1) for place in range(start, start + 5) for _ in range(3)]
    spans = [Span(0, 0, 2), *bytes_of, Span(0, text.index("good"), len(text))]
    assert [unit.name for unit in word_units([text], ["x"] * len(spans), spans)] == ["so", "👩‍👩‍👧", "good"]


def a_roberta():
    tokenizer = byte_level(pad_token="<pad>")
    return roberta(tokenizer), tokenizer


def a_gpt2():
    tokenizer = byte_level(wrapped=False)
    return gpt2(tokenizer), tokenizer


@pytest.mark.parametrize("build", [bert, a_roberta, a_gpt2])
@pytest.mark.parametrize("text", ["Unfilmable films, unwatchably funny!", "Café 👩‍👩‍👧 电影 naïve", "a  b\n\nc"])
def test_words_of_real_tokenizers_are_those_of_the_text(build, text):
    model, tokenizer = build()
    explanation = explain(text, model, tokenizer, tolerance=None, n_steps=2)
    own = [word for word, added in zip(explanation.words.tokens, explanation.words.special) if not added]
    assert not [word for word in own if word not in text and word != "\u21b5"]
    if build is not bert:  # whose tokenizer drops characters that it does not know
        assert "".join(own).replace("\u21b5", "") == "".join(text.split())


@pytest.mark.parametrize("tokenizer", [byte_level(), metaspace(), metaspace(pre_tokenized=False)])
def test_every_kind_of_piece_is_joined(tokenizer):
    text = "watchable films how unwatchable"
    encoding = tokenizer(text, return_offsets_mapping=True)
    parts = encoding.sequence_ids(0)
    spans = [None if part is None else Span(part, *ends) for part, ends in zip(parts, encoding["offset_mapping"])]
    tokens = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    units = word_units([text], tokens, spans)
    assert [unit.name for unit in units if unit.span] == text.split()


def test_without_places_the_marks_of_pieces_count():
    units = word_units(["x"], ["[CLS]", "un", "##put", "##able", "film", "[SEP]"], [])
    assert [unit.name for unit in units] == ["[CLS]", "unputable", "film", "[SEP]"]


def test_sums_stay_what_they_are():
    pieces = explain("Unputdownable, unfilmable nonsense!", *bert(), layerwise=True)
    words = pieces.words
    assert len(words.tokens) < len(pieces.tokens)
    for one, other in ((pieces, words), (pieces.layerwise, words.layerwise)):
        torch.testing.assert_close(one.head_scores(), other.head_scores())
        torch.testing.assert_close(one.baseline_output, other.baseline_output)
    first = word_units([pieces.text], pieces.tokens, pieces.spans)
    for i, query in enumerate(first):
        for j, key in enumerate(first):
            expected = pieces.attributions[
                :, :, query.tokens.start : query.tokens.stop, key.tokens.start : key.tokens.stop
            ]
            torch.testing.assert_close(words.attributions[:, :, i, j], expected.sum((-1, -2)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(words.attention.sum(-1), torch.ones_like(words.attention.sum(-1)))


def test_words_of_words_are_the_same():
    words = explain("Unputdownable film", *demo()).words
    assert words.words is words


def test_an_explanation_without_pieces_is_its_own_words():
    explanation = made(4)
    assert explanation.words is explanation


def test_groups_of_the_users_own():
    text = "The plot was interesting but the execution was poor."
    explanation = explain(text, *demo())
    names = ["[CLS]", "The plot", "was", "interesting", "but", "the execution was poor", ".", "[SEP]"]
    by_name = explanation.grouped(["The plot", "the execution was poor"])
    by_number = explanation.grouped([(0, 8), (29, 51)])
    assert by_name.tokens == by_number.tokens == names
    torch.testing.assert_close(by_name.layer_scores(), explanation.layer_scores())


def test_groups_in_both_texts_of_a_pair():
    explanation = explain("A man is here.", *bert(), text_pair="A man is not here.")
    grouped = explanation.grouped(["A man", "A man is"])
    assert grouped.tokens == ["[CLS]", "A man", "is", "here", ".", "[SEP]", "A man is", "not", "here", ".", "[SEP]"]
    assert grouped.second_text_start == 6


BAD = {
    "not there": (["warm film"], ValueError, "'warm film' is not in the text"),
    "not in order": (["film", "warm"], ValueError, "'warm' is not in the text after the groups before it"),
    "no text": ([""], ValueError, "'' is not in the text"),
    "outside": ([(0, 99)], ValueError, "must be characters of the text, which has 19"),
    "overlapping": ([(0, 6), (4, 9)], ValueError, "after the groups before it"),
    "white space": ([(1, 2)], ValueError, "holds no token of its own"),
    "a number": ([3], TypeError, r"the numbers of its ends \(start, stop\), got 3"),
}


@pytest.mark.parametrize(("groups", "error", "message"), BAD.values(), ids=BAD)
def test_groups_that_are_none_are_refused(groups, error, message):
    with pytest.raises(error, match=message):
        explain("A warm, funny film.", *bert()).grouped(groups)


def test_groups_need_to_know_where_tokens_are():
    with pytest.raises(ValueError, match="does not tell where its tokens are"):
        group_units(["a"], ["a"], [], ["a"])
