"""From a text to its explanation: every promise of ``explain`` and of what it gives back."""

from __future__ import annotations

import json
import struct
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import transformers as hf
from oracles import clean_attention, scaled
from snapshot import untouched
from tiny_classifiers import bert, byte_level, demo, gpt2, metaspace, roberta

from captum_attattr import Explanation, SelfAttentionAttribution, attention_layers, explain
from captum_attattr.engine.quadrature import METHODS

__all__ = ["untouched"]

TEXT = "A warm, funny film."
TEXTS = ["Dull.", "A warm, funny film that never once looks down on its people.", "Not bad at all!", "Dull.", "So long"]
PAIRS = ["Boring.", "It is kind.", "Quite good, in fact, all things considered.", "A warm film.", "Short"]


def assert_same(one, other):
    """All fields, tensors bit for bit."""
    for field in fields(Explanation):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, torch.Tensor):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name


def assert_close(one, other):
    assert (one.text, one.text_pair, one.tokens, one.special) == (
        other.text,
        other.text_pair,
        other.tokens,
        other.special,
    )
    assert one.target == other.target
    for name in ("probabilities", "attributions", "attention", "delta"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


def outputs(model, tokenizer, *texts):
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt")).logits[0]


# One text, many texts


def test_one_text_gives_one_explanation_by_the_bundled_model():
    explanation = explain(TEXT)
    assert isinstance(explanation, Explanation)
    assert explanation.text == TEXT
    assert explanation.text_pair is None
    assert explanation.tokens == ["[CLS]", "a", "warm", ",", "funny", "film", ".", "[SEP]"]
    assert explanation.special == [True, *[False] * 6, True]
    assert explanation.labels == ["negative", "positive"]
    assert explanation.label == explanation.prediction == "positive"
    assert explanation.attributions.shape == explanation.attention.shape == (6, 12, 8, 8)
    assert explanation.layers == [0, 1, 2, 3, 4, 5]
    assert repr(explanation).startswith(f"Explanation('{TEXT}', positive 6.")


@pytest.mark.parametrize("as_given", [list, tuple, np.array])
def test_a_list_gives_a_list_in_its_order(as_given):
    explanations = explain(as_given(TEXTS), *bert())
    assert [explanation.text for explanation in explanations] == TEXTS


def test_a_list_of_one_gives_a_list_of_one():
    (explanation,) = explain([TEXT], *bert())
    assert explanation.text == TEXT


@pytest.mark.parametrize(("build", "batch_size"), [(bert, 1), (bert, 2), (bert, 8), (demo, 8)])
def test_texts_of_different_lengths_are_explained_together_as_alone(build, batch_size):
    model, tokenizer = build()
    together = explain(TEXTS, model, tokenizer, batch_size=batch_size, n_steps=4, tolerance=None)
    for text, explanation in zip(TEXTS, together, strict=True):
        assert_close(explanation, explain(text, model, tokenizer, n_steps=4, tolerance=None))


def test_pairs_of_different_lengths_are_explained_together_as_alone():
    model, tokenizer = bert()
    together = explain(TEXTS, model, tokenizer, text_pair=PAIRS)
    for text, pair, explanation in zip(TEXTS, PAIRS, together, strict=True):
        assert_close(explanation, explain(text, model, tokenizer, text_pair=pair))


def test_a_pair_is_told_apart_by_its_token_types():
    model, tokenizer = bert()
    explanation = explain("So long", model, tokenizer, text_pair="Short")
    assert explanation.tokens == ["[CLS]", "so", "long", "[SEP]", "short", "[SEP]"]
    assert explanation.special == [True, False, False, True, False, True]
    assert explanation.text_pair == "Short"
    torch.testing.assert_close(explanation.probabilities, outputs(model, tokenizer, "So long", "Short").softmax(-1))


def test_long_texts_are_not_taken_together(monkeypatch):
    monkeypatch.setattr("captum_attattr.text.classifier._MOST_PAIRS", 2 * 5**2)
    model, tokenizer = bert()
    sizes = []
    forward = model.forward

    def noting(**inputs):
        if torch.is_grad_enabled():  # what takes memory
            sizes.append(inputs["input_ids"].shape)
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", noting)
    texts = ["so long", "so short", "so long and so short"]
    explain(texts, model, tokenizer, n_steps=1, tolerance=None, path="layerwise")
    layers = model.config.num_hidden_layers  # one row a text and layer
    assert {(2 * layers, 4), (layers, 7)} <= {tuple(size) for size in sizes}
    assert max(count for count, _ in sizes) == 2 * layers


# What is explained


@pytest.mark.parametrize(("target", "label"), [(None, "positive"), (0, "negative"), (1, "positive")])
def test_the_target_is_the_predicted_label_or_the_one_asked_for(target, label):
    explanation = explain(TEXT, *demo(), target=target, layers=[5])
    assert explanation.label == label
    assert explanation.prediction == "positive"
    assert explanation.output == pytest.approx(float(explanation.probabilities[explanation.target].logit()), rel=1e-3)


@pytest.mark.parametrize("target", ["negative", "0", np.int64(0), torch.tensor(0)])
def test_a_label_is_known_by_name_and_by_number(target):
    assert explain("Dull.", *demo(), target=target, layers=[5], n_steps=1, tolerance=None).target == 0


def test_a_label_whose_name_is_a_number_goes_by_its_name():
    model, tokenizer = bert(id2label={0: "2", 1: "1", 2: "0"})
    assert explain(TEXT, model, tokenizer, target="0").target == 2
    assert explain(TEXT, model, tokenizer, target=0).target == 0


@pytest.mark.parametrize("targets", [[0, "LABEL_2", None], torch.tensor([0, 2, 1])])
def test_one_target_each(targets):
    explanations = explain(TEXTS[:3], *bert(), target=targets)
    predicted = int(explanations[2].probabilities.argmax())
    assert [e.target for e in explanations] == [0, 2, predicted if isinstance(targets, list) else 1]


def test_the_target_s_attributions_and_those_of_the_other_of_two_labels_cancel():
    one, other = (explain(TEXT, *demo(), target=target, layers=[5]) for target in (0, 1))
    torch.testing.assert_close(one.attributions, -other.attributions, atol=1e-6, rtol=1e-4)


def test_every_output_is_the_model_s():
    model, tokenizer = bert()
    logits = outputs(model, tokenizer, TEXT)
    p = logits.softmax(-1)[2]
    expected = {"log-odds": p.logit(), "logit": logits[2], "probability": p, "log-probability": p.log()}
    for output, number in expected.items():
        explanation = explain(TEXT, model, tokenizer, target=2, output=output)
        assert explanation.output == pytest.approx(float(number), rel=1e-5)
        torch.testing.assert_close(explanation.probabilities, logits.softmax(-1))
        assert explanation.settings["output"] == explanation.output_name == output


def test_a_regression_model_s_output_is_taken_as_it_is():
    model, tokenizer = bert(num_labels=1)
    explanation = explain(TEXT, model, tokenizer)
    assert explanation.output == pytest.approx(float(outputs(model, tokenizer, TEXT)[0]), rel=1e-5)
    assert explanation.settings["output"] == "given"
    rise = explanation.output - explanation.baseline_output
    torch.testing.assert_close(rise, explanation.attributions.sum().reshape(1), rtol=1e-3, atol=1e-4)


def test_labels_that_do_not_exclude_each_other_have_a_probability_each():
    model, tokenizer = bert(problem_type="multi_label_classification")
    explanation = explain(TEXT, model, tokenizer)
    torch.testing.assert_close(explanation.probabilities, outputs(model, tokenizer, TEXT).sigmoid())
    assert explanation.output == pytest.approx(float(explanation.probabilities.max().logit()), rel=1e-4)


# How it is explained


def by_hand(model, tokenizer, layers, target, **options):
    inputs = tokenizer(TEXT, return_tensors="pt")

    def forward(ids, types, mask):
        return model(ids, token_type_ids=types, attention_mask=mask).logits.softmax(-1)

    path, rest = options.pop("path", "layerwise"), (inputs["token_type_ids"], inputs["attention_mask"])
    return SelfAttentionAttribution(forward, layers, path=path).attribute(
        inputs["input_ids"], target=target, additional_forward_args=rest, return_convergence_delta=True,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize(
    ("method", "n_steps", "tolerance"),
    [(METHODS[0], 3, None), ("gausslegendre", 1, None), ("gausslegendre", 7, None), ("gausslegendre", 20, 1e-3)],
)
def test_it_is_self_attention_attribution_called_by_hand(path, method, n_steps, tolerance):
    model, tokenizer = bert()
    how = {"path": path, "method": method, "n_steps": n_steps, "tolerance": tolerance}
    explanation = explain(TEXT, model, tokenizer, target=1, output="probability", **how)
    attributions, delta = by_hand(model, tokenizer, attention_layers(model), 1, **how)
    torch.testing.assert_close(explanation.attributions, torch.cat(attributions), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(explanation.delta, delta if path == "joint" else torch.cat(delta), rtol=1e-5, atol=1e-6)
    assert {name: explanation.settings[name] for name in how} == how


@pytest.mark.parametrize("baseline", [0.1, "uniform"])
def test_the_baseline_is_passed_on(baseline):
    model, tokenizer = bert()
    how = {"output": "probability", "path": "layerwise", "attention_baseline": baseline}
    explanation = explain(TEXT, model, tokenizer, target=1, **how)
    attributions, _ = by_hand(model, tokenizer, attention_layers(model), 1, attention_baselines=baseline)
    torch.testing.assert_close(explanation.attributions, torch.cat(attributions), rtol=1e-5, atol=1e-7)
    assert explanation.settings["baseline"] == str(baseline)


@pytest.mark.parametrize("layers", [[2], [0, 2], [2, 0]])
def test_some_layers_are_explained_as_all_are(layers):
    some, everything = explain(TEXT, *bert(), layers=layers), explain(TEXT, *bert(), path="layerwise")
    assert some.layers == layers
    torch.testing.assert_close(some.attributions, everything.attributions[layers], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(some.attention, everything.attention[layers])


def test_the_joint_path_has_one_difference_for_all_layers():
    explanation = explain(TEXT, *demo(), path="joint")
    assert explanation.delta.shape == explanation.baseline_output.shape == (1,)
    assert float(explanation.delta.abs()) < 0.01 * float(explanation.attributions.norm())
    total = float(explanation.attributions.sum())
    assert total == pytest.approx(
        explanation.output - float(explanation.baseline_output), abs=1e-6 + float(explanation.delta.abs())
    )


def test_the_attributions_of_each_layer_add_up_and_the_baseline_output_is_the_model_s_own():
    model, tokenizer = bert()
    inputs = tokenizer(TEXT, return_tensors="pt")
    forward = lambda: model(**inputs).logits.softmax(-1)[:, 1]
    explanation = explain(TEXT, model, tokenizer, target=1, output="probability", path="layerwise")
    sums = explanation.attributions.sum((1, 2, 3))
    torch.testing.assert_close(sums - explanation.delta, explanation.output - explanation.baseline_output)
    assert float(explanation.delta.abs().max()) < 1e-5
    for layer, start in zip(attention_layers(model), explanation.baseline_output, strict=True):
        (attention,) = clean_attention(model, forward, [layer])
        without = scaled(model, forward, {layer: torch.zeros_like(attention)})
        torch.testing.assert_close(start, without[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["DebertaV2", "MPNet", "XLNet", "RoFormer"])
def test_families_whose_attention_is_code_of_their_own(family):
    config_class = getattr(hf, f"{family}Config")
    more = {"d_inner": 24, "d_head": 8} if family == "XLNet" else {}
    model, tokenizer = bert(config_class, getattr(hf, f"{family}ForSequenceClassification"), **more)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Replaying from")  # XLNet's tokens come first, then its batch
        explanation = explain(TEXT, model, tokenizer, target=1, path="layerwise")
        together = explain([TEXT, TEXTS[1]], model, tokenizer, target=1, path="layerwise")[0]
    assert explanation.attention.shape[:2] == (3, 2)
    sums = explanation.attributions.sum((1, 2, 3))
    torch.testing.assert_close(sums - explanation.delta, explanation.output - explanation.baseline_output)
    assert float(explanation.delta.abs().max()) < 1e-4
    torch.testing.assert_close(together.attributions, explanation.attributions, rtol=1e-3, atol=1e-5)


def test_probabilities_and_rows_of_attention_sum_to_1():
    for explanation in explain(TEXTS, *bert()):
        torch.testing.assert_close(explanation.probabilities.sum(), torch.tensor(1.0))
        torch.testing.assert_close(explanation.attention.sum(-1), torch.ones(explanation.attention.shape[:-1]))


def test_what_is_in_the_settings_says_how_it_was_made():
    settings = explain(TEXT, *bert()).settings
    assert settings["model"] == "BertForSequenceClassification"
    assert settings["baseline"] == "no attention"
    assert settings["versions"] == {"torch": torch.__version__, "transformers": hf.__version__, "captum": "0.9.0"}
    assert explain(TEXT, layers=[5], n_steps=1, tolerance=None).settings["model"] == "the bundled SST-2 model"


# Families and tokenizers


def words_of(tokens):
    return " ".join(tokens).replace(" ##", "")


def test_a_word_piece_that_continues_a_word_is_marked():
    explanation = explain("unwatchable harbour", *bert())
    words = [token for token, special in zip(explanation.tokens, explanation.special) if not special]
    assert words_of(words) == "unwatchable harbour"
    assert len(words) > 2


@pytest.mark.parametrize(
    "tokenizer",
    [byte_level(wrapped=False), metaspace(), metaspace(pre_tokenized=False)],
    ids=["bytes", "metaspace", "one word"],
)
def test_pieces_of_other_tokenizers_are_marked_the_same_way(tokenizer):
    explanation = explain("warmly funny films watching", gpt2(tokenizer), tokenizer)
    assert words_of(explanation.tokens) == "warmly funny films watching"
    assert any(token.startswith("##") for token in explanation.tokens)
    assert explanation.special == [False] * len(explanation.tokens)


def test_punctuation_does_not_continue_a_word():
    tokenizer = metaspace()
    assert explain("how warm !", gpt2(tokenizer), tokenizer).tokens[-1] == "!"
    assert explain("how warm!", gpt2(tokenizer), tokenizer).tokens[-1] == "!"


def test_the_first_word_of_a_second_text_does_not_continue_the_first_text():
    tokenizer = byte_level(wrapped=False)
    assert words_of(explain("film", gpt2(tokenizer), tokenizer, text_pair="film").tokens) == "film film"


def test_a_roberta_with_its_special_tokens():
    tokenizer = byte_level(pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")
    explanation = explain("funny film", roberta(tokenizer), tokenizer)
    assert explanation.tokens == ["<s>", "funny", "film", "</s>"]
    assert explanation.special == [True, False, False, True]


@pytest.mark.parametrize("pad", [None, "<pad>", "<s>"], ids=["none", "the model's", "another"])
def test_a_decoder_is_explained_with_and_without_a_padding_token(pad, untouched):
    """The decoder finds the text's end by its padding token, and refuses batches where it has none."""
    tokenizer = byte_level(wrapped=False, pad_token=pad)
    model = gpt2(tokenizer, pad_token_id=None if pad is None else 1)
    texts = ["how funny", "a film", "a warm funny film about films", "how warm"]
    with untouched(model, lambda: model(**tokenizer(texts[2], return_tensors="pt"))):
        explanations = explain(texts, model, tokenizer)
    for text, explanation in zip(texts, explanations, strict=True):
        torch.testing.assert_close(explanation.probabilities, outputs(model, tokenizer, text).softmax(-1))
        assert_close(explanation, explain(text, model, tokenizer))
        assert float(explanation.attributions.triu(1).abs().max()) == 0


SHARED = hf.AlbertConfig, hf.AlbertForSequenceClassification


def test_layers_that_share_their_weights_are_told_apart():
    model, tokenizer = bert(*SHARED, embedding_size=8)
    explanation = explain(TEXT, model, tokenizer, target=1, output="probability", path="layerwise")
    (layer,) = attention_layers(model)
    attributions, _ = by_hand(model, tokenizer, [layer] * 3, 1)
    torch.testing.assert_close(explanation.attributions, torch.cat(attributions), rtol=1e-5, atol=1e-7)
    assert explanation.layers == [0, 1, 2]
    with pytest.raises(ValueError, match="share their weights and cannot be explained apart: leave layers out"):
        explain(TEXT, model, tokenizer, layers=[1])


def test_of_an_encoder_decoder_the_encoder_is_explained():
    tokenizer = demo()[1]
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    config = hf.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=2, num_labels=3, pad_token_id=0,
        eos_token_id=tokenizer.sep_token_id, **heads,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.BartForSequenceClassification(config).eval()
    explanation = explain(TEXT, model, tokenizer, target=1)
    method = SelfAttentionAttribution(lambda ids: model(ids).logits.softmax(-1), attention_layers(model.model.encoder))
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    torch.testing.assert_close(explanation.attributions, torch.cat(method.attribute(ids, target=1)))


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_model_given_as_a_folder(tmp_path, with_tokenizer):
    model, tokenizer = bert(id2label={0: "sad", 1: "so-so", 2: "glad"})
    model.save_pretrained(tmp_path)
    if with_tokenizer:
        tokenizer.save_pretrained(tmp_path)
    found = explain(TEXT, tmp_path, None if with_tokenizer else tokenizer)
    assert_close(found, explain(TEXT, model, tokenizer))
    assert found.labels == ["sad", "so-so", "glad"]
    assert found.settings["model"] == str(tmp_path)


# What is said meanwhile


def test_progress_is_shown_on_standard_error_where_asked_for(capsys):
    explain(TEXTS, *bert(), show_progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Explaining: 100%" in err
    assert "5/5" in err


def test_nothing_is_said_otherwise(capsys):
    explain(TEXT, n_steps=1, tolerance=None)
    assert capsys.readouterr() == ("", "")


def test_a_text_longer_than_the_model_takes_is_cut_and_that_is_said():
    model, tokenizer = bert(max_position_embeddings=8)
    with pytest.warns(
        UserWarning, match=r"^1 of 2 texts were cut, as the model takes 8 tokens \(text 1 has 22\)"
    ) as caught:
        short, long = explain(["good", "good " * 20], model, tokenizer)
    assert caught[0].filename == __file__
    assert len(short.tokens) == 3
    assert long.tokens == ["[CLS]", *["good"] * 6, "[SEP]"]


def test_positions_that_are_counted_from_the_padding_token_s_number_are_fewer():
    tokenizer = byte_level(pad_token="<pad>")
    model = roberta(tokenizer, max_position_embeddings=12)
    with pytest.warns(UserWarning, match="the model takes 10 tokens"):
        assert len(explain("film " * 30, model, tokenizer).tokens) == 10


def test_a_text_of_just_the_longest_length_is_not_cut():
    model, tokenizer = bert(max_position_embeddings=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(explain("good " * 6, model, tokenizer).tokens) == 8


# What may be asked of an explanation


@pytest.fixture(scope="module")
def explanation():
    model, tokenizer = bert(num_hidden_layers=4)
    return explain("A film, a warm film!", model, tokenizer, layers=[1, 3])


def test_scores_are_sums_of_attributions(explanation):
    attributions = explanation.attributions
    torch.testing.assert_close(explanation.head_scores(), attributions.sum((2, 3)))
    torch.testing.assert_close(explanation.head_scores("max"), attributions.amax((2, 3)))
    torch.testing.assert_close(explanation.pair_scores(), attributions.sum((0, 1)))
    torch.testing.assert_close(explanation.layer_scores(), attributions.sum((1, 2, 3)))
    torch.testing.assert_close(explanation.token_scores(), attributions.sum((0, 1, 2)))
    torch.testing.assert_close(explanation.token_scores("sent"), attributions.sum((0, 1, 3)))
    assert float(explanation.pair_scores(normalize="max").abs().max()) == 1


def test_the_strongest_pairs_come_first_with_their_signs(explanation):
    scores = explanation.pair_scores()
    pairs = explanation.top_pairs(10**6)
    assert [pair.score for pair in pairs] == [float(scores[pair.query, pair.key]) for pair in pairs]
    sizes = [abs(pair.score) for pair in pairs]
    assert sizes == sorted(sizes, reverse=True)
    assert len(pairs) == scores.numel()
    assert {pair.score > 0 for pair in pairs} == {True, False}
    assert explanation.top_pairs(3) == pairs[:3]
    assert explanation.top_pairs(0) == []


def test_pairs_without_special_tokens(explanation):
    pairs = explanation.top_pairs(10**6, special=False)
    assert pairs == [p for p in explanation.top_pairs(10**6) if not {p.query, p.key} & {0, len(explanation.tokens) - 1}]


def test_the_strongest_heads_are_numbered_as_in_the_model(explanation):
    scores = explanation.head_scores()
    heads = explanation.top_heads(10**6)
    assert {head.layer for head in heads} == {1, 3}
    assert [h.score for h in heads] == [float(scores[[1, 3].index(h.layer), h.head]) for h in heads]
    assert [abs(h.score) for h in heads] == sorted((abs(h.score) for h in heads), reverse=True)
    assert len(heads) == 4


def test_tokens_that_are_there_twice_have_names_of_their_own(explanation):
    names = ["[CLS]", "a", "film", ",", "a (2nd)", "warm", "film (2nd)", "!", "[SEP]"]
    assert explanation.token_names == names


@pytest.mark.parametrize(("number", "name"), [(3, "3rd"), (4, "4th"), (11, "11th"), (13, "13th"), (22, "22nd")])
def test_ordinals(explanation, number, name):
    tokens = ["so"] * number
    assert replace(explanation, tokens=tokens).token_names[-1] == f"so ({name})"


def test_the_dictionary_is_plain_and_holds_the_answer(explanation):
    answer = json.loads(json.dumps(explanation.to_dict(2, special=False)))
    assert answer["prediction"] == explanation.prediction
    assert answer["head_scores"] == explanation.head_scores().tolist()
    best = explanation.top_pairs(1, special=False)[0]
    assert answer["top_pairs"][0] == {
        "from": explanation.tokens[best.query], "to": explanation.tokens[best.key], **best._asdict(),
    }  # fmt: skip
    assert [len(answer["top_pairs"]), len(answer["top_heads"])] == [2, 2]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "how", [{}, {"text_pair": "Na\u00efve? \u2603 $x$"}, {"path": "joint", "output": "logit"}, {"layers": [2, 0]}]
)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, how):
    explanation = explain("Caf\u00e9 \u96fb\u5f71", *bert(), **how)
    path = explanation.save(tmp_path / "new" / "folder" / "one.safetensors")
    assert_same(Explanation.load(path), explanation)
    assert_same(Explanation.load(str(path)), explanation)


def test_the_file_is_safetensors_with_its_words_in_the_header(tmp_path, explanation):
    """Eight bytes of length, a header in JSON, and raw numbers: nothing that is run when it is read."""
    data = explanation.save(tmp_path / "one").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    words = json.loads(header.pop("__metadata__")["captum_attattr"])
    assert words["version"] == 2
    assert words["tokens"] == explanation.tokens
    assert set(header) == {"probabilities", "attributions", "attention", "delta"}
    assert len(data) == 8 + length + max(tensor["data_offsets"][1] for tensor in header.values())


def test_a_saved_explanation_is_overwritten_by_the_next(tmp_path, explanation):
    explain(TEXT, *bert()).save(tmp_path / "one")
    explanation.save(tmp_path / "one")
    assert_same(Explanation.load(tmp_path / "one"), explanation)
