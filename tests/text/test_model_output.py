"""The explained output F: a number, labels that exclude each other or not, labels of tokens, and the words to come."""

from __future__ import annotations

import math

import pytest
import torch
import transformers as hf
from datasets import Dataset
from oracles import direct_attribution
from tiny_classifiers import bert, lively
from tiny_models import FAMILIES, SMALL, case, make

from captum_attattr import attention_layers, explain
from captum_attattr.attention import mask_heads
from captum_attattr.cli.answers import describe
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.pictures.explanations import visualize_explanation
from captum_attattr.text.model_output import OF_LABEL, Output, output_of
from captum_attattr.triggers.extraction import extract_triggers

TEXT = "A warm, funny film."
IDS = torch.arange(5, 17).view(2, 6)


def small(model_class=hf.BertForSequenceClassification, config_class=hf.BertConfig, **settings):
    torch.manual_seed(0)
    return lively(model_class(config_class(**SMALL, **settings))).double()


# A classifier of texts

MODELS = {
    "labels": ({}, "probability", lambda logits: logits.softmax(-1)),
    "several labels": ({"problem_type": "multi_label_classification"}, "probability", torch.sigmoid),
    "one label": ({"problem_type": "multi_label_classification", "num_labels": 1}, "probability", torch.sigmoid),
    "regression": ({"num_labels": 1}, "given", lambda logits: logits),
    "regression, said": ({"num_labels": 1, "problem_type": "regression"}, "given", lambda logits: logits),
    "several numbers": ({"num_labels": 3, "problem_type": "regression"}, "given", lambda logits: logits),
}


def direct(kind, logits, several):
    """F of each label as the definition says, from probabilities."""
    p = logits.sigmoid() if several else logits.softmax(-1)
    return {"log-odds": p.log() - (1 - p).log(), "logit": logits, "probability": p, "log-probability": p.log()}[kind]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("labels", [2, 3, 40])
@pytest.mark.parametrize("kind", OF_LABEL)
def test_every_kind_is_its_definition(kind, labels, several):
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, labels, dtype=torch.float64)).requires_grad_()
    output = Output(kind, several=several)
    found, expected = output.compute(logits), direct(kind, logits, several)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(output.probabilities(found), direct("probability", logits, several))
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((weights * one).sum(), logits)[0] for one in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_log_odds_keep_their_digits_where_a_probability_is_nearly_one():
    logits = torch.tensor([[60.0, -20.0, -21.0], [0.0, 90.0, -90.0]], requires_grad=True)
    found = Output("log-odds").compute(logits)
    exact = torch.tensor([[60 + 20 - math.log1p(math.exp(-1)), -80, -81], [-90, 90, -180]])
    torch.testing.assert_close(found, exact)
    (slope,) = torch.autograd.grad(found[0, 0], logits)
    first = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(slope[0], torch.tensor([1, -first, first - 1]))


def test_log_odds_of_two_labels_are_the_difference_of_the_logits():
    logits = torch.randn(4, 2)
    assert torch.equal(Output("log-odds").compute(logits), logits - logits.flip(-1))


@pytest.mark.parametrize(("settings", "kind", "compute"), MODELS.values(), ids=MODELS)
def test_one_place_says_what_an_explanation_and_an_importance_are_of(settings, kind, compute):
    model, tokenizer = bert(**settings)
    model.double()
    explanation = explain(TEXT, model, tokenizer, target=0, output="probability", path="layerwise")
    batch = tokenizer(TEXT, return_tensors="pt")
    expected = compute(model(**batch).logits[0])
    assert explanation.settings["output"] == kind
    torch.testing.assert_close(explanation.probabilities.double(), expected, rtol=1e-6, atol=0)
    assert explanation.output == pytest.approx(float(expected[0].detach()), rel=1e-6)
    importance = HeadImportance(model, measure="attattr_sum")
    importance.update(batch, [0])
    found = importance.compute()
    assert found.settings["output"] == kind
    assert found.scores.abs().max() > 1e-3
    torch.testing.assert_close(found.scores, explanation.head_scores().abs().double(), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("kind", ["log-odds", "probability", "given"])
def test_in_words_and_pictures(kind):
    """A probability is called one, and a regression model's number is not."""
    several = {"num_labels": 1, "problem_type": "multi_label_classification"}
    how = {} if kind == "given" else {"output": kind}
    explanation = explain(TEXT, *bert(**({"num_labels": 1} if kind == "given" else several)), **how)
    figure, _ = visualize_explanation(explanation)
    name = "output" if kind == "given" else kind
    assert explanation.output_name == name
    for words in (describe(explanation), explanation._repr_html_(), " ".join(text.get_text() for text in figure.texts)):
        assert name in words
        for other in {"probability", "log-odds", "logit", "given"} - {name}:
            assert other not in words


def test_a_logit_stays_one_and_its_probability_is_known():
    model, tokenizer = bert(num_labels=1, problem_type="multi_label_classification")
    explanation = explain(TEXT, model, tokenizer, output="logit")
    logit = model(**tokenizer(TEXT, return_tensors="pt")).logits[0]
    assert explanation.settings["output"] == "logit"
    assert explanation.output == pytest.approx(float(logit.detach()), rel=1e-5)
    torch.testing.assert_close(explanation.probabilities, logit.sigmoid())


def test_a_regression_model_predicts_none_of_several_numbers():
    model, tokenizer = bert(num_labels=3, problem_type="regression")
    with pytest.raises(ValueError, match=r"gives 3 numbers \(regression\), none of which it predicts: choose the one"):
        explain(TEXT, model, tokenizer)
    with pytest.raises(ValueError, match="predicts none of its outputs"):
        HeadImportance(model, measure="taylor", target="predicted").update(IDS)
    with pytest.raises(ValueError, match="at least two classes"):
        extract_triggers([TEXT], model, tokenizer)


@pytest.mark.parametrize("names", [{1: "a", 2: "b", 3: "c"}, {0: "a", 1: "b", 3: "c"}, {-1: "a", 0: "b", 1: "c"}])
def test_labels_that_do_not_count_from_0_are_refused(names):
    model, tokenizer = bert()
    model.config.id2label = names
    with pytest.raises(ValueError, match=r"have the numbers .*Number the labels 0 to 2, in the order"):
        explain(TEXT, model, tokenizer)


def test_there_is_no_other_kind():
    with pytest.raises(ValueError, match=r"Unknown output 'odds'\. Choose 'log-odds', .* 'log-probability' or 'given'"):
        output_of("odds", None)


# Heads of a model with one output


def regression_heads(model, layer):
    """The largest entry of each head's attribution, mean over examples, by the direct computation."""
    (attributions,), _ = direct_attribution(model, lambda: model(IDS).logits[:, 0], [layer])
    return attributions.amax((-2, -1)).mean(0)


def test_heads_of_a_regression_model_are_those_of_its_output():
    model = small(num_labels=1)
    found = HeadImportance(model)
    found.update(IDS)
    expected = torch.stack([regression_heads(model, layer) for layer in attention_layers(model)])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found.compute().scores, expected, rtol=0.01, atol=1e-4)


def test_ablation_of_a_regression_model():
    model = small(num_labels=1)
    found = HeadImportance(model, measure="ablation_output")
    found.update(IDS)
    clean = model(IDS).logits[:, 0]
    with mask_heads(model, {1: [2]}):
        masked = model(IDS).logits[:, 0]
    torch.testing.assert_close(found.compute().scores[1, 2], (clean - masked).mean().detach())


@pytest.mark.parametrize("measure", ["ablation", "ablation_accuracy"])
@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "regression"}], ids=str)
def test_a_loss_or_an_accuracy_of_a_regression_is_refused(measure, settings):
    found = HeadImportance(small(**settings), measure=measure)
    with pytest.raises(ValueError, match=r"needs logits of labels.*use the measure 'ablation_output'"):
        found.update(IDS, [0, 0])


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_module_of_one_s_own_that_gives_one_number(shape):
    """No softmax over it, and none over the examples."""
    inner = small(num_labels=1)

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, ids):
            return self.inner(ids).logits.view(len(ids), *shape[1:])

    found = HeadImportance(Own(), measure="taylor")
    found.update(IDS)
    plain = HeadImportance(inner, measure="taylor")
    plain.update(IDS)
    assert plain.compute().scores.max() > 1e-3
    torch.testing.assert_close(found.compute().scores, plain.compute().scores, rtol=1e-9, atol=0)
    assert found.compute().settings["output"] == "given"


def test_the_state_of_a_regression_s_run_is_read_by_another():
    model = small(num_labels=1)
    first, second = HeadImportance(model, measure="taylor"), HeadImportance(model, measure="taylor")
    first.update(IDS)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.compute().scores, second.compute().scores)


def test_accuracy_where_labels_do_not_exclude_each_other_asks_each_for_itself():
    model = small(num_labels=1, problem_type="multi_label_classification")
    with torch.no_grad():  # right only with some heads: the output is put at the edge
        with mask_heads(model, {0: [1]}):
            masked = model(IDS).logits[0, 0]
        model.classifier.bias -= (model(IDS).logits[0, 0] + masked) / 2
    found = HeadImportance(model, measure="ablation_accuracy")
    found.update(IDS[:1])
    assert found.compute().scores[0, 1].abs() == 1


# Several gold labels an example


def texts():
    model = small(num_labels=4, problem_type="multi_label_classification")
    labels = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])
    return model, labels, lambda values: (values * labels).sum(1) / labels.sum(1), torch.sigmoid


def tokens():
    """The examples have their labels at different places."""
    model = small(hf.BertForTokenClassification, num_labels=4)
    labels = torch.tensor([[-100, 2, 0, -100, 3, -100], [1, -100, -100, -100, -100, 2]])

    def mean(values):
        rows = [[values[row, place, label] for place, label in enumerate(own) if label != -100]
                for row, own in enumerate(labels.tolist())]  # fmt: skip
        return torch.stack([torch.stack(row).mean() for row in rows])

    return model, labels, mean, lambda logits: logits.softmax(-1)


def words():
    model = make(next(family for family in FAMILIES if family.name == "gpt2"))
    labels = IDS.clone()
    labels[0, :2] = -100

    def mean(values):
        first = torch.stack([values[0, place - 1, int(IDS[0, place])] for place in range(2, 6)]).mean()
        second = torch.stack([values[1, place - 1, int(IDS[1, place])] for place in range(1, 6)]).mean()
        return torch.stack([first, second])

    return model, labels, mean, lambda logits: logits.softmax(-1)


SEVERAL = {"texts": (texts, "gold"), "tokens": (tokens, "gold"), "words to come": (words, "next")}
several = pytest.mark.parametrize(("make_case", "target"), SEVERAL.values(), ids=SEVERAL)


@several
def test_f_is_the_mean_over_the_gold_labels(make_case, target):
    model, labels, mean, compute = make_case()
    layers = attention_layers(model)
    found = {}
    for measure in ("attattr", "taylor", "ablation", "ablation_output", "ablation_accuracy"):
        importance = HeadImportance(model, measure=measure, target=target)
        importance.update(IDS, labels)
        found[measure] = importance.compute().scores
    attributions = [
        direct_attribution(model, lambda: mean(compute(model(IDS).logits)), [layer])[0][0] for layer in layers
    ]
    expected = torch.stack([layer.amax((-2, -1)).mean(0) for layer in attributions])
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(found["attattr"], expected, rtol=0.02, atol=0.01 * float(expected.max()))
    log_compute = torch.nn.functional.logsigmoid if compute is torch.sigmoid else lambda logits: logits.log_softmax(-1)
    hit = (
        (lambda x: (x > 0).double()) if compute is torch.sigmoid else lambda x: (x == x.amax(-1, keepdim=True)).double()
    )
    with torch.no_grad():
        clean = model(IDS).logits
        with mask_heads(model, {1: [2]}):
            masked = model(IDS).logits
    for measure, value in (("ablation", log_compute), ("ablation_output", compute), ("ablation_accuracy", hit)):
        torch.testing.assert_close(found[measure][1, 2], (mean(value(clean)) - mean(value(masked))).mean().double())


@several
def test_runs_take_them_from_a_data_set(make_case, target):
    model, labels, *_ = make_case()
    rows = [{"input_ids": ids, "labels": own} for ids, own in zip(IDS.tolist(), labels.tolist())]
    found = HeadImportance(model, measure="taylor", target=target).run(Dataset.from_list(rows), batch_size=2)
    whole = HeadImportance(model, measure="taylor", target=target)
    whole.update({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, labels)
    torch.testing.assert_close(found.scores, whole.compute().scores, rtol=1e-9, atol=0)


def test_labels_of_tokens_are_filled_up_in_a_batch():
    model = small(hf.BertForTokenClassification, num_labels=4, pad_token_id=0)
    rows = [{"input_ids": [5, 6, 7], "labels": [1, 2, -100]}, {"input_ids": [8, 9, 10, 11], "labels": [3, 0, 0, 1]}]
    together = HeadImportance(model, measure="taylor").run(Dataset.from_list(rows), batch_size=2)
    apart = HeadImportance(model, measure="taylor").run(Dataset.from_list(rows), batch_size=1)
    torch.testing.assert_close(together.scores, apart.scores, rtol=1e-9, atol=1e-15)


def items(*labels, **more):
    return Dataset.from_list([{"input_ids": [5 + place, 6, 7], "labels": own} for place, own in enumerate(labels)])


ALONE = {"num_labels": 3}
WRONG = {
    "rows, but labels exclude each other": (ALONE, {}, items([0, 1, 1]), r"exclude each other: give one label an"),
    "rows of another width": (
        {**ALONE, "problem_type": "multi_label_classification"}, {}, items([0, 1]), "the model has 3 labels",
    ),
    "rows that are no 0 and 1": (
        {**ALONE, "problem_type": "multi_label_classification"}, {}, items([0.5, 1, 0]), "a row of 0 and 1",
    ),
    "a text without a label": (
        {**ALONE, "problem_type": "multi_label_classification"}, {}, items([0, 0, 0]), "Example 0 of the batch has no",
    ),
    "next of a classifier": (ALONE, {"target": "next"}, items(1), "target='next' is for language models"),
    "a number that is no label": (ALONE, {}, items(1.5), "Example 0 of the batch has the label 1.5"),
    "a name": (ALONE, {}, items("glad"), "has the label 'glad'"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "options", "data", "message"), WRONG.values(), ids=WRONG)
def test_labels_that_do_not_fit_are_refused(settings, options, data, message):
    with pytest.raises(ValueError, match=message):
        HeadImportance(small(**settings), measure="taylor", **options).run(data)


OF_TOKENS = {
    "the tokens themselves": (
        items([5, 6, 7]),
        "if each token is to be predicted from the position before it.*target='next'",
    ),
    "out of range": (items([1, 60, 2]), "must be 0 to 59, or -100 for none"),
    "none at all": (items([-100, -100, -100]), "Example 0 of the batch has no label"),
    "numbers": (items([0.5, 1.0, 0.0]), "must be whole numbers"),
    "for other places": (items([1, 2]), "for 2 positions, the model's output has the shape"),
}


@pytest.mark.parametrize(("data", "message"), OF_TOKENS.values(), ids=OF_TOKENS)
def test_labels_of_tokens_that_do_not_fit_are_refused(data, message):
    model = make(next(family for family in FAMILIES if family.name == "gpt2"))
    with pytest.raises(ValueError, match=message):
        HeadImportance(model, measure="taylor").run(data)


def test_what_to_give_where_nothing_is_predicted():
    c = case(next(family for family in FAMILIES if family.name == "gpt2"), batch=2, padded=False)
    with pytest.raises(ValueError, match=r"no predicted label .*targets \(place, label\), or labels of tokens"):
        HeadImportance(c.model, measure="taylor", target="predicted").update(c.inputs)
    with pytest.raises(ValueError, match="The batch has no labels"):
        HeadImportance(c.model, measure="taylor").update(c.inputs)
    with pytest.raises(ValueError, match="Got labels of 1 examples for 2"):
        HeadImportance(c.model, measure="taylor").update(c.inputs, [[1, 2]])
    with pytest.raises(ValueError, match="in rows of equal length"):
        HeadImportance(c.model, measure="taylor").update(c.inputs, [[1, 2], [1]])
