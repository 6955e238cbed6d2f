"""Triggers: what is found in a text, held against the direct computation; what they do in other texts."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import pytest
import torch
import transformers as hf
from agreement import assert_alike
from hypothesis import given
from hypothesis import strategies as st
from oracles import direct_attribution
from snapshot import untouched
from tiny_classifiers import bert, byte_level, demo, metaspace, roberta

import captum_attattr.triggers.extraction as triggers_module
from captum_attattr import attention_layers
from captum_attattr.files.examples import Example
from captum_attattr.files.records import seal
from captum_attattr.text.classifier import Classifier
from captum_attattr.triggers import (
    Accuracy,
    Trigger,
    apply_trigger,
    attack,
    extract_triggers,
    load_triggers,
    save_triggers,
)
from captum_attattr.triggers.extraction import each_pattern, strongest, strongest_pairs, token_words

__all__ = ["untouched"]

TEXTS = ["A warm, funny film.", "What a dull and lifeless mess!", "It doesn't bore.", "Unwatchable.", "Not bad at all"]
PAIRS = [Example(text, other) for text, other in zip(TEXTS, ["Kind.", "So dull", "It is, really.", "A film", "Good."])]


def undecided(seed=0):
    """A tiny model that predicts now this class and now that: its mean output over the texts is taken off."""
    model, tokenizer = bert()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.classifier.weight.normal_()
        inputs = [tokenizer(e.text, pair, return_tensors="pt") for e in PAIRS for pair in (e.text_pair, None)]
        model.classifier.bias -= torch.cat([model(**one).logits for one in inputs]).mean(0)
    return model, tokenizer


# The largest attribution of all, and the pairs of its head


def pairs_by_hand(attributions, second_pair):
    """As the method says it, entry by entry."""
    layers, heads, width, _ = attributions.shape
    entries = [
        (float(attributions[layer, head, i, j]), layer, head, i, j)
        for layer in range(layers) for head in range(heads) for i in range(width) for j in range(width)
    ]  # fmt: skip
    _, layer, head, _, _ = max(entries)
    own = sorted((entry for entry in entries if entry[1:3] == (layer, head)), reverse=True)
    pairs = [(i, j) for _, _, _, i, j in own[:2]]
    return layer, head, pairs if own[1][0] >= second_pair * own[0][0] else pairs[:1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("second_pair", [0.0, 0.5, 0.9, 1.0])
def test_the_strongest_pairs_are_those_found_entry_by_entry(seed, second_pair):
    attributions = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    assert strongest_pairs(attributions, second_pair) == pairs_by_hand(attributions, second_pair)


@pytest.mark.parametrize(("second", "count"), [(0.2, 2), (0.19, 1), (-1.0, 1)])
def test_a_second_pair_counts_from_a_part_of_the_first(second, count):
    attributions = torch.full((1, 2, 3, 3), -2.0)
    attributions[0, 1, 2, 0], attributions[0, 1, 0, 1] = 1.0, second
    assert strongest_pairs(attributions) == (0, 1, [(2, 0), (0, 1)][:count])


def test_a_text_of_one_token_has_one_pair():
    assert strongest_pairs(torch.ones(1, 1, 1, 1)) == (0, 0, [(0, 0)])


# From a text to its trigger

STEPS = 8  # of the rule, here and by hand


def by_hand(example, model, tokenizer, words):
    """The trigger of one text: the direct computation, and the words of its tokens as given."""
    inputs = tokenizer(example.text, example.text_pair, return_tensors="pt")
    with torch.no_grad():
        predicted = int(model(**inputs).logits.argmax())

    def forward():
        return model(**inputs).logits.softmax(-1)[:, predicted]

    attributions = [
        direct_attribution(model, forward, [layer], n_steps=STEPS)[0][0] for layer in attention_layers(model)
    ]
    layer, head, pairs = pairs_by_hand(torch.cat(attributions), 0.2)
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    found = [words[token] for token in sorted({token for pair in pairs for token in pair}) if words[token]]
    return {
        "label": model.config.id2label[predicted], "layer": layer, "head": head, "words": tuple(dict.fromkeys(found)),
        "shares": [float(attributions[layer][0, head, i, j]) for i, j in pairs],
        "pairs": tuple((tokens[i], tokens[j]) for i, j in pairs),
    }  # fmt: skip


WORDS = [  # which word each of the demo's tokens is a piece of
    [None, "A", "warm", ",", "funny", "film", ".", None],
    [None, "What", "a", "dull", "and", "lifeless", "mess", "!", None],
    [None, "It", *["doesn't"] * 4, "bore", ".", None],
    [None, "Unwatchable", "Unwatchable", "Unwatchable", ".", None],
    [None, "Not", "bad", "at", "all", None],
]


@pytest.mark.parametrize("seed", range(3))
def test_triggers_are_those_of_the_direct_computation(seed):
    model, tokenizer = undecided(seed)
    classifier = Classifier(model.double(), tokenizer, "probability")
    found = {}
    for batch in each_pattern(TEXTS, classifier, n_steps=STEPS, batch_size=3):
        found |= batch
    assert sorted(found) == list(range(len(TEXTS)))
    checked = 0
    for place, text in enumerate(TEXTS):
        expected = by_hand(Example(text), model, tokenizer, WORDS[place])
        if not expected["words"]:
            assert found[place] is None
            continue
        trigger, checked = found[place], checked + 1
        names = ("label", "layer", "head", "words", "pairs")
        assert {name: getattr(trigger, name) for name in names} == {name: expected[name] for name in names}
        assert trigger.shares == pytest.approx(expected["shares"], rel=1e-9)
        assert (trigger.source, trigger.source_pair) == (text, None)
    assert checked > 1


def test_positions_are_those_of_the_words_in_each_text_of_a_pair():
    model, tokenizer = undecided()
    triggers = extract_triggers(PAIRS, model, tokenizer, top=None, threshold=-1.0)
    assert {part for trigger in triggers for part in trigger.parts} == {0, 1}
    for trigger in triggers:
        found = [word for word in words_of(tokenizer, trigger.source, trigger.source_pair) if word]
        for word, position, part in zip(trigger.words, trigger.positions, trigger.parts):
            own = [w.text for w in dict.fromkeys(found) if w.part == part]
            assert own[round(position * (len(own) - 1))] == word


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_change_nothing(batch_size):
    def plain(triggers):
        return [(t.words, t.positions, t.layer, t.head, t.score) for t in triggers]

    expected = extract_triggers(TEXTS, *undecided(), top=None, threshold=-1.0)
    assert len(expected) > 3
    found = extract_triggers(TEXTS, *undecided(), top=None, threshold=-1.0, batch_size=batch_size)
    assert_alike(plain(found), plain(expected))


def test_batches_that_are_done_are_passed_over_and_the_others_are_the_same():
    classifier = Classifier(*bert(), "probability")
    whole = list(each_pattern(TEXTS, classifier, batch_size=2))
    assert len(whole) == 3
    rest = list(each_pattern(TEXTS, classifier, batch_size=2, done=[*whole[0], next(iter(whole[1]))]))
    assert rest == whole[1:]


def test_texts_of_special_tokens_alone_give_nothing(monkeypatch):
    """All attributions in [CLS] looking at itself."""

    def attributed(classifier, batch, n_steps):
        attributions = torch.zeros(len(batch.places), 2, *batch.real.shape[1:] * 2)
        attributions[:, :, 0, 0] = 1
        return [0] * len(batch.places), [attributions]

    monkeypatch.setattr(triggers_module, "_attributed", attributed)
    assert extract_triggers(TEXTS, *bert()) == []


def test_the_model_is_left_as_it_was(untouched):
    model, tokenizer = bert()
    inputs = tokenizer("a film", return_tensors="pt")
    with untouched(model, lambda: model(**inputs)):
        triggers = extract_triggers(TEXTS, model, tokenizer, threshold=-1.0)
        attack([Example(text, label="1") for text in TEXTS], triggers, model, tokenizer)


def test_progress_is_shown_where_it_is_wanted(capsys):
    triggers = extract_triggers(TEXTS, *bert(), threshold=-1.0, show_progress=True)
    assert "Finding triggers: 100%" in capsys.readouterr().err
    attack([Example("a", label="0")], triggers, *bert(), show_progress=True)
    assert "Attacking: 100%" in capsys.readouterr().err
    attack([Example("a", label="0")], triggers, *bert())
    extract_triggers(TEXTS, *bert())
    assert capsys.readouterr().err == ""


# The words of tokens


def words_of(tokenizer, text, pair=None, most=512):
    tokens = Classifier(bert()[0], tokenizer, "probability")
    tokens._config.max_position_embeddings = most
    batch = next(tokens.batches([text], None if pair is None else [pair], 1))
    return token_words(Example(text, pair), batch.tokens[0], tokenizer)


@pytest.mark.parametrize(("text", "words"), list(zip(TEXTS, WORDS)))
def test_pieces_belong_to_whole_words(text, words):
    assert [word and word.text for word in words_of(demo()[1], text)] == words


def test_quotes_and_signs_are_words_of_their_own():
    words = words_of(demo()[1], "He's 'odd' -- isn\u2019t he?")
    assert list(dict.fromkeys(word.text for word in words if word)) == [
        "He's",
        "'",
        "odd",
        "-",
        "isn\u2019t",
        "he",
        "?",
    ]


def test_words_of_a_pair_know_their_text_and_their_place():
    words = words_of(demo()[1], "A dull film", "Unwatchable")
    assert [word and (word.part, word.position, word.text) for word in words] == [
        None, (0, 0, "A"), (0, 0.5, "dull"), (0, 1, "film"), None, *[(1, 0, "Unwatchable")] * 3, None,
    ]  # fmt: skip


def test_a_text_that_is_cut_has_the_words_that_are_left():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        words = words_of(demo()[1], "a b c d e f g", "h i j", most=8)
    assert "texts were cut" in str(caught[0].message)
    assert [word and word.text for word in words] == [None, "a", "b", "c", None, "h", "i", None]


@pytest.mark.parametrize("tokenizer", [byte_level(), metaspace(), metaspace(pre_tokenized=False)])
def test_words_whatever_the_tokenizer(tokenizer):
    words = [word for word in words_of(tokenizer, "a funny film about filmmaking") if word]
    assert list(dict.fromkeys(word.text for word in words if word.text)) == [
        "a",
        "funny",
        "film",
        "about",
        "filmmaking",
    ]


def test_triggers_of_a_byte_level_model():
    tokenizer = byte_level(bos_token="<s>", eos_token="</s>", sep_token="</s>", cls_token="<s>", pad_token="<pad>")
    triggers = extract_triggers(["a caf\xe9 film \U0001f3ac", "how warm"], roberta(tokenizer), tokenizer, threshold=-1)
    assert len(triggers) == 2
    for trigger in triggers:
        assert set(trigger.words) <= set(trigger.source.split())


# The strongest


def named(score, *words, label="yes", parts=()):
    return Trigger(words, [0.5] * len(words), parts, label=label, pairs=[("a", "b")], shares=[score])


def test_the_strongest_of_each_class_without_the_weak_and_the_repeated():
    given = [
        named(0.5, "good"), named(0.9, "good"), named(0.6, "fine", "film"), named(0.01, "weak"), named(0.3, "nice"),
        named(0.7, "bad", label="no"), named(0.8, "good", label="no"), named(0.4, "good", parts=(1,)),
    ]  # fmt: skip
    found = strongest(given, ["no", "yes", "none"], top=3)
    assert [(t.label, t.score, t.words) for t in found] == [
        ("no", 0.8, ("good",)), ("no", 0.7, ("bad",)),
        ("yes", 0.9, ("good",)), ("yes", 0.6, ("fine", "film")), ("yes", 0.4, ("good",)),
    ]  # fmt: skip
    assert len(strongest(given, ["yes"], top=None, threshold=0)) == 5
    assert strongest(given, ["yes"], top=1, threshold=0.95) == []


def test_only_so_many_a_class_and_none_below_the_threshold():
    model = undecided()
    everything = extract_triggers(TEXTS, *model, top=None, threshold=-1)
    least = sorted(trigger.score for trigger in everything)[2]
    assert extract_triggers(TEXTS, *model, top=None, threshold=least) == [t for t in everything if t.score >= least]
    best = {label: max(t.score for t in everything if t.label == label) for label in {t.label for t in everything}}
    assert len(best) > 1
    assert {t.label: t.score for t in extract_triggers(TEXTS, *model, top=1, threshold=-1)} == best


# Into other texts

TABLE = {
    "the first stays first": ("b c d", ["X"], [0], "X b c d"),
    "the last stays last": ("b c d", ["X"], [1], "b c d X"),
    "the middle": ("b c d e", ["X"], [0.5], "b c X d e"),
    "neighbours stay apart from nobody": ("b c d e", ["X", "Y"], [0.5, 0.5], "b c X Y d e"),
    "two at the end": ("b c", ["X", "Y"], [1, 1], "b c X Y"),
    "two at the start": ("b c", ["X", "Y"], [0, 0], "X Y b c"),
    "more words than the text has": ("b", ["X", "Y", "Z"], [0, 0.5, 1], "X b Y Z"),
    "into its own text": ("a c", ["b", "d"], [1 / 3, 1], "a b c d"),
    "white space is kept": ("  b\tc \n d  ", ["X", "Y"], [0.5, 1], "  b\tc \n X d Y  "),
    "no white space": ("\u5f71\u7247", ["X", "Y"], [0, 1], "X \u5f71\u7247 Y"),
}


@pytest.mark.parametrize(("text", "words", "positions", "expected"), TABLE.values(), ids=TABLE)
def test_words_go_to_the_same_relative_places(text, words, positions, expected):
    assert apply_trigger(text, Trigger(words, positions)) == expected


def by_slots(words, trigger_words, positions):
    """Every way to place the words in order; the one whose places are, first to last, nearest to what is wanted."""
    total = len(words) + len(trigger_words)
    slots = []
    for k, position in enumerate(positions):
        wanted, least, most = round(position * (total - 1)), (slots[-1] + 1 if slots else 0), total - len(positions) + k
        slots.append(min(range(least, most + 1), key=lambda slot: abs(slot - wanted)))
    result = [None] * total
    for slot, word in zip(slots, trigger_words):
        result[slot] = word
    rest = iter(words)
    return [next(rest) if word is None else word for word in result]


words = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8)
positions = st.lists(st.floats(0, 1), min_size=1, max_size=4).map(sorted)


@given(words, positions)
def test_applying_is_filling_slots(text, where):
    put = [f"X{number}" for number in range(len(where))]
    result = apply_trigger(" ".join(text), Trigger(put, where)).split(" ")
    assert result == by_slots(text, put, where)
    assert [word for word in result if not word.startswith("X")] == text
    assert [word for word in result if word.startswith("X")] == put


@given(words, st.data())
def test_words_taken_out_go_back_to_where_they_stood(text, data):
    """The position of a word in a text is where it is put, if the rest of the text is what it goes into."""
    taken = sorted(data.draw(st.sets(st.integers(0, len(text) - 1), min_size=1, max_size=len(text))))
    rest = [word for place, word in enumerate(text) if place not in taken]
    if rest:
        trigger = Trigger([text[place] for place in taken], [place / (len(text) - 1) for place in taken])
        assert apply_trigger(" ".join(rest), trigger) == " ".join(text)


def test_words_of_a_pair_go_to_their_own_text():
    trigger = Trigger(["X", "Y", "Z"], [0, 1, 0], [0, 0, 1])
    assert apply_trigger("a b", trigger, "c d") == ("X a b Y", "Z c d")
    assert apply_trigger("a  b", Trigger(["Z"], [1], [1]), "c d") == ("a  b", "c d Z")
    assert apply_trigger("a b", Trigger(["X"], [1]), "c  d") == ("a b X", "c  d")


# Attack


def one_by_one(examples, model, tokenizer):
    """Right answers of each class, text by text."""
    right = [0] * model.config.num_labels
    for example in examples:
        with torch.no_grad():
            logits = model(**tokenizer(example.text, example.text_pair, return_tensors="pt")).logits[0]
        right[int(example.label)] += int(logits.argmax()) == int(example.label)
    return tuple(right)


@pytest.mark.parametrize("pairs", [False, True])
def test_accuracies_are_those_of_text_after_text(pairs):
    model, tokenizer = undecided()
    examples = [Example(e.text, e.text_pair if pairs else None, str(n % 2)) for n, e in enumerate(PAIRS * 2)]
    many = ["dull", "mess", "unwatchable", "!"]
    triggers = [Trigger(many, [0, 0.3, 0.6, 1], label="LABEL_0"), Trigger(["great", "!"], [0, 1], [0, int(pairs)])]
    result = attack(examples, triggers, model, tokenizer, batch_size=3)
    assert result.before == Accuracy(
        ("LABEL_0", "LABEL_1", "LABEL_2"), (5, 5, 0), one_by_one(examples, model, tokenizer)
    )
    assert result.triggers == tuple(triggers)
    for trigger, after in zip(triggers, result.after):
        new = [apply_trigger(e.text, trigger, e.text_pair) for e in examples]
        changed = [Example(*(n if pairs else (n, None)), e.label) for n, e in zip(new, examples)]
        assert after.right == one_by_one(changed, model, tokenizer)
    assert len({result.before.right, *(after.right for after in result.after)}) > 1
    assert result.after[0].per_class() == {f"LABEL_{n}": result.after[0].right[n] / 5 for n in range(2)}


def test_words_of_one_class_turn_the_other():
    """The bundled model and words that nobody doubts."""
    examples = [Example(text, label=label) for text, label in zip(TEXTS[:2], ["positive", "negative"])] * 2
    result = attack(examples, [Trigger(["dull", "mess"], [0, 1], label="negative")])
    assert result.before.total == 1
    assert result.after[0].per_class() == {"negative": 1, "positive": 0}
    assert result.after[0].without("negative") == 0
    assert result.after[0].without("positive") == 1


def test_the_result_in_plain_types():
    examples = [Example(TEXTS[0], label="1"), Example(TEXTS[1], label="0")]
    result = attack(examples, [Trigger(["dull", "mess"], [0, 1], label="negative"), Trigger(["the"], [0])])
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["counts"] == {"negative": 1, "positive": 1}
    assert plain["before"] == {"total": 1.0, "per_class": {"negative": 1.0, "positive": 1.0}, "right": [1, 1]}
    assert plain["after"][0] == {
        "label": "negative", "words": ["dull", "mess"], "others_before": 1.0, "others_after": 0.0,
        "total": 0.5, "per_class": {"negative": 1.0, "positive": 0.0}, "right": [1, 0],
    }  # fmt: skip


def test_accuracy_without_examples_of_other_classes():
    assert Accuracy(("no", "yes"), (0, 2), (0, 1)).without("yes") is None
    assert Accuracy(("no", "yes"), (0, 2), (0, 1)).without("no") == 0.5


# To a file and back


def test_saved_and_loaded_triggers_are_the_same(tmp_path):
    triggers = [*extract_triggers(PAIRS, *bert(), threshold=-1.0), Trigger(["caf\xe9"], [0.25])]
    path = save_triggers(triggers, tmp_path / "new" / "triggers.json")
    assert load_triggers(path) == triggers
    assert "caf\xe9" in path.read_text(encoding="utf-8")


NO_WORDS = asdict(Trigger(("a",), (0.0,))) | {"words": [], "positions": [], "parts": []}
BAD_FILES = {
    "no JSON": ("{", "cannot be read as saved triggers"),
    "other JSON": ("[1]", "cannot be read as saved triggers"),
    "newer": ('{"version": 99, "triggers": []}', "format version 99, this package reads up to 1: upgrade"),
    "no words": (json.dumps(seal({"version": 1, "triggers": [NO_WORDS]})), "A trigger needs words"),
    "pairs without shares": (
        json.dumps(seal({"version": 1, "triggers": [{**NO_WORDS, "pairs": [["a", "b"]]}]})),
        "1 pairs have 0 attributions",
    ),
    "unknown field": ('{"version": 1, "triggers": [{"words": ["a"], "positions": [0], "x": 1}]}', "cannot be read"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_are_no_triggers(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_triggers(tmp_path / "t.json")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as saved triggers"):
        load_triggers(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written to"):
        save_triggers([], tmp_path / "file" / "t.json")


# Errors

T = Trigger(["dull"], [0])
L = Example("a", label="0")
BAD_TRIGGERS = {
    "no words": (([], []), "needs words"),
    "no position": ((["a"], []), "1 words, 0 positions and 1 parts"),
    "empty word": ((["a", " "], [0, 1]), "not empty"),
    "position": ((["a"], [1.5]), "from 0 to 1"),
    "part": ((["a"], [1], [2]), "parts 0 or 1"),
    "order": ((["a", "b"], [1, 0]), "in the order"),
}
BAD_CALLS = {
    "a bare text": (lambda: extract_triggers("a film"), TypeError, "must be a list of texts or of Example, got str"),
    "no text": (lambda: extract_triggers([3]), TypeError, "example 0 is a int"),
    "no text in it": (lambda: extract_triggers([Example(3)]), TypeError, "example 0 has a int for a text"),
    "no examples": (lambda: extract_triggers([]), ValueError, "empty list: give at least one"),
    "empty": (lambda: extract_triggers(["a", " "]), ValueError, "example 1 has an empty text"),
    "empty pair": (lambda: extract_triggers([Example("a", "")]), ValueError, "example 0 has an empty text"),
    "mixed": (lambda: extract_triggers(["a", Example("a", "b")]), ValueError, "single texts or pairs"),
    "top": (lambda: extract_triggers(["a"], top=0), ValueError, "top must be a whole number of at least 1"),
    "second pair": (lambda: extract_triggers(["a"], second_pair=2), ValueError, "second_pair must be from 0 to 1"),
    "batch size": (lambda: extract_triggers(["a"], batch_size=0), ValueError, "batch_size must be"),
    "steps": (lambda: extract_triggers(["a"], n_steps=0), ValueError, "n_steps"),
    "no tokenizer": (lambda: extract_triggers(["a"], bert()[0]), TypeError, "needs its tokenizer"),
    "regression": (lambda: extract_triggers(["a"], *bert(num_labels=1)), ValueError, "at least two classes"),
    "no label": (lambda: attack([Example("a")], [T]), ValueError, "has the label None; the model has 0"),
    "unknown label": (lambda: attack([Example("a", label="x")], [T]), ValueError, "has the label 'x'"),
    "no triggers": (lambda: attack([L], []), ValueError, "triggers is an empty list"),
    "one trigger": (lambda: attack([L], T), TypeError, "must be a list of Trigger"),
    "no trigger": (lambda: attack([L], ["dull"]), TypeError, "must be a list of Trigger"),
    "pair": (lambda: attack([L], [Trigger(["a"], [0], [1])]), ValueError, "give text_pair"),
    "training": (lambda: attack([L], [T], bert()[0].train(), bert()[1]), ValueError, "model.eval"),
    "an empty text": (lambda: apply_trigger(" ", T), ValueError, "must be put into a text that is not empty, got ' '"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), BAD_TRIGGERS.values(), ids=BAD_TRIGGERS)
def test_triggers_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        Trigger(*fields)


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_say_what_came_and_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_tokenizer_without_places_in_the_text():
    class Slow(hf.PythonBackend):
        is_fast = False
        vocab_size = 9

        def __init__(self):
            super().__init__(pad_token="<pad>")

        def get_vocab(self):
            return {}

    with pytest.raises(ValueError, match="Slow does not give the positions of tokens in the text"):
        extract_triggers(["a"], bert()[0], Slow())
