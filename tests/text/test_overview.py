"""What is said first: the answer, the word that is read most, and the words that act together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_explanations import made
from tiny_classifiers import byte_level, gpt2

from captum_attattr import explain
from captum_attattr.text.overview import Overview, number, signed

TOKENS = ["[CLS]", "never", "watch", "garbage", "[SEP]"]


def of(*pairs, path="joint", **fields):
    """An overview of attributions that are zero but for these: layer, query, key, score; [CLS] alone is read."""
    attributions = torch.zeros(2, 1, 5, 5)
    for layer, query, key, score in pairs:
        attributions[layer, 0, query, key] = score
    explanation = made(5, layers=2, heads=1, **{"delta": torch.zeros(1), **fields})
    settings = {"output": "log-odds", "path": path}
    return Overview(replace(explanation, tokens=TOKENS, attributions=attributions, settings=settings))


def test_the_parts_are_those_of_the_map():
    view = of((1, 0, 3, -0.5), (1, 0, 4, 0.25), (0, 3, 1, 0.4), (0, 1, 2, -0.1))
    assert view.reader == 0
    assert view.reads.tolist() == [0, 0, 0, -0.5, 0.25]
    assert view.queries == view.own == [1, 2, 3]
    torch.testing.assert_close(view.between, torch.tensor([[0, -0.1, 0], [0, 0, 0], [0.4, 0, 0]]))
    assert view.part_between == pytest.approx(0.5 / 1.25)
    assert view.added == pytest.approx(0.05)


HEADLINES = {
    "outweighed": (
        [(1, 0, 3, -0.3), (0, 3, 1, 0.4)],
        "[CLS] reads 'garbage' -0.30, outweighed by 'garbage' looking at 'never' +0.40",
    ),
    "despite": (
        [(1, 0, 3, -0.5), (0, 3, 1, 0.4)],
        "[CLS] reads 'garbage' -0.50, despite 'garbage' looking at 'never' +0.40",
    ),
    "and": ([(1, 0, 3, 0.5), (0, 3, 1, 0.4)], "[CLS] reads 'garbage' +0.50, and 'garbage' looking at 'never' +0.40"),
    "nothing between": ([(1, 0, 3, 0.5)], "[CLS] reads 'garbage' +0.50"),
    "nothing at all": ([], "attention adds nothing"),
    "both against": (
        [(1, 0, 3, -0.3), (0, 3, 1, -0.2), (1, 0, 1, 0.25), (0, 1, 2, 0.1), (1, 0, 4, 0.5)],
        "[CLS] reads 'garbage' -0.30, and 'garbage' looking at 'never' -0.20, "
        "outweighed by [CLS] reading 'never' +0.25",
    ),
    "special tokens are no words": ([(1, 0, 4, 2.0), (1, 0, 1, 0.5)], "[CLS] reads 'never' +0.50"),
}


@pytest.mark.parametrize(("pairs", "said"), HEADLINES.values(), ids=HEADLINES)
def test_the_first_line_is_an_answer(pairs, said):
    assert of(*pairs).headline == f"good 0.750: {said}"


def test_another_label_than_the_predicted_one_is_named():
    assert of((1, 0, 3, 0.5), target=0).headline == "good 0.750: [CLS] reads 'garbage' +0.50 (for 'bad')"


def test_the_output_is_a_sum():
    view = of((1, 0, 3, 4.0), output=4.5)
    assert view.sum_of_parts == "log-odds 4.50 = 0.500 without attention + 4.00 from attention"
    view = Overview(replace(view.explanation, target=0, settings={**view.explanation.settings, "baseline": "uniform"}))
    assert view.sum_of_parts == "log-odds of 'bad' 4.50 = 0.500 with attention at uniform + 4.00 from attention"


def test_sums_over_layers_of_layerwise_attributions_are_called_a_ranking(recwarn):
    view = of((1, 0, 3, 4.0), path="layerwise", delta=torch.zeros(2))
    assert view.sum_of_parts == "log-odds of 'good' 0.750; sums over layers are a ranking, not shares"
    assert not recwarn.list
    with pytest.warns(UserWarning, match="a ranking, not shares"):
        view.explanation.pair_scores()
    view.explanation.token_scores()
    assert not recwarn.list


def test_where_every_token_is_read_every_token_reads():
    view = of((1, 0, 3, 0.5), (1, 2, 1, 0.25))
    assert view.reader is None
    assert view.reads.tolist() == [0, 0.25, 0, 0.5, 0]
    assert view.headline.startswith("good 0.750: every token reads 'garbage' +0.50")


def test_a_decoder_s_last_word_reads():
    tokenizer = byte_level(wrapped=False)
    view = Overview(explain("a warm film", gpt2(tokenizer), tokenizer).words)
    last = len(view.explanation.tokens) - 1
    assert view.reader == last
    assert last in view.own
    assert last not in view.queries
    total = view.reads.sum() + view.between.sum()
    torch.testing.assert_close(total, view.pairs.sum())


def test_numbers_have_three_digits():
    assert [number(x) for x in (4.3267, 0.05, -123.4, 0.0)] == ["4.33", "0.0500", "-123", "0.00"]
    assert [signed(x) for x in (4.3267, -0.05)] == ["+4.33", "-0.0500"]
