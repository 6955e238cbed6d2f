"""Head importance over data in every form, and runs that are broken off and taken up again."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from accelerate.data_loader import DataLoaderShard
from datasets import Dataset
from tiny_classifiers import bert, byte_level, gpt2
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from captum_attattr.files.examples import Example
from captum_attattr.heads import Measure, Taylor
from captum_attattr.heads.head_importance import HeadImportance

TEXTS = [
    ("a warm funny film", 2), ("how unwatchable", 0), ("about films and filmmaking, unfunny and unwatchable", 0),
    ("a film", 1), ("how warming, how watchable!", 2),
]  # fmt: skip


@pytest.fixture(scope="module")
def classifier():
    model, tokenizer = bert()
    return model.double(), tokenizer


@pytest.fixture(scope="module")
def expected(classifier):
    """Each text alone."""
    model, tokenizer = classifier
    found = HeadImportance(model, measure="taylor")
    for text, label in TEXTS:
        found.update(tokenizer(text, return_tensors="pt"), [label])
    return found.compute()


def assert_same(found, expected):
    assert found.examples == expected.examples
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.standard_deviation, expected.standard_deviation, rtol=1e-8, atol=1e-12)


def run(classifier, data, **options):
    model, tokenizer = classifier
    return HeadImportance(model, measure="taylor").run(data, **{"tokenizer": tokenizer, "batch_size": 2, **options})


def tokenized(tokenizer):
    rows = Dataset.from_list([{"sentence": text, "label": label, "idx": 7} for text, label in TEXTS])
    return rows.map(lambda row: tokenizer(row["sentence"]))


# Forms of data


def test_texts(classifier, expected):
    assert_same(run(classifier, TEXTS), expected)


def test_examples(classifier, expected):
    examples = [Example(text, None, str(label)) for text, label in TEXTS]
    assert_same(run(classifier, examples), expected)


def test_pairs_of_texts(classifier):
    model, tokenizer = classifier
    found = run(classifier, [Example("a film", "a warm film", "1"), Example("a funny film", "how unwatchable", "0")])
    alone = HeadImportance(model, measure="taylor")
    alone.update(tokenizer("a film", "a warm film", return_tensors="pt"), [1])
    alone.update(tokenizer("a funny film", "how unwatchable", return_tensors="pt"), [0])
    assert_same(found, alone.compute())


def test_a_data_set_of_tokenized_items(classifier, expected):
    assert_same(run(classifier, tokenized(classifier[1]), tokenizer=None), expected)


def test_a_data_set_of_tensors_without_a_mask(classifier, expected):
    rows = tokenized(classifier[1]).remove_columns(["attention_mask", "token_type_ids"]).with_format("torch")
    assert_same(run(classifier, rows), expected)


def test_a_data_set_of_images():
    torch.manual_seed(0)
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    model = hf.ViTForImageClassification(config).double().eval()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    rows = [{"pixel_values": image, "labels": torch.tensor(place % 2)} for place, image in enumerate(images)]

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, place):
            return rows[place]

    found = HeadImportance(model, measure="taylor").run(Images(), batch_size=2)
    whole = HeadImportance(model, measure="taylor")
    whole.update({"pixel_values": images}, [0, 1, 0])
    assert_same(found, whole.compute())


def test_a_loader_with_a_collator(classifier, expected):
    rows = tokenized(classifier[1]).remove_columns(["sentence", "idx"])
    loader = DataLoader(rows, batch_size=3, collate_fn=hf.DataCollatorWithPadding(classifier[1]))
    assert_same(run(classifier, loader, tokenizer=None), expected)


def test_batches_of_inputs_and_labels(classifier, expected):
    batch = classifier[1]([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in TEXTS])
    assert_same(run(classifier, [(dict(batch), labels)]), expected)
    assert_same(run(classifier, ((dict(batch), labels) for _ in range(1))), expected)


def test_a_loader_of_tensors(classifier):
    ids = torch.arange(200, 212).view(4, 3)
    labels = torch.tensor([0, 1, 2, 0])
    whole = HeadImportance(classifier[0], measure="taylor")
    whole.update(ids, labels)
    assert_same(run(classifier, DataLoader(TensorDataset(ids, labels), batch_size=3)), whole.compute())


def test_texts_of_like_length_share_a_batch(classifier):
    shapes = []

    class Noting(Measure):
        name = "noting"

        def scores(self, examples):
            shapes.append(tuple(examples.inputs[0].shape))
            return [torch.zeros(len(examples.inputs[0]), 2) for _ in examples.layers]

    for data in (TEXTS, tokenized(classifier[1])):
        HeadImportance(classifier[0], measure=Noting()).run(data, tokenizer=classifier[1], batch_size=2)
    lengths = sorted(len(classifier[1](text)["input_ids"]) for text, _ in TEXTS)
    assert shapes == [(2, lengths[1]), (2, lengths[3]), (1, lengths[4])] * 2


def test_a_decoder_without_a_padding_token():
    tokenizer = byte_level(special=("<e>",), wrapped=False, eos_token="<e>")
    model = gpt2(tokenizer).double()
    found = HeadImportance(model, measure="taylor").run(TEXTS, tokenizer=tokenizer)
    alone = HeadImportance(model, measure="taylor")
    for text, label in TEXTS:
        alone.update(tokenizer(text, return_tensors="pt"), [label])
    assert_same(found, alone.compute())


def test_labels_are_not_needed_for_the_predicted_one(classifier):
    model, tokenizer = classifier
    found = HeadImportance(model, measure="taylor", target="predicted")
    assert found.run([(text, None) for text, _ in TEXTS], tokenizer=tokenizer).examples == 5


def test_the_progress_bar_counts_examples(classifier, capsys):
    run(classifier, TEXTS, show_progress=True)
    shown = capsys.readouterr().err
    assert "Heads by taylor" in shown
    assert "5/5" in shown
    run(classifier, TEXTS)
    assert capsys.readouterr().err == ""


def test_runs_and_batches_add_up(classifier, expected):
    model, tokenizer = classifier
    found = HeadImportance(model, measure="taylor")
    found.run(TEXTS[:2], tokenizer=tokenizer)
    found.update(tokenizer(TEXTS[2][0], return_tensors="pt"), [TEXTS[2][1]])
    assert_same(found.run(TEXTS[3:], tokenizer=tokenizer), expected)
    found.reset()
    assert_same(found.run(TEXTS, tokenizer=tokenizer), expected)


def test_the_labels_of_a_batch_may_be_in_it(classifier, expected):
    batch = classifier[1]([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    found = HeadImportance(classifier[0], measure="taylor")
    found.update({**batch, "labels": torch.tensor([label for _, label in TEXTS])})
    assert_same(found.compute(), expected)


# Data that cannot be used


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([], ValueError, "The data are empty"),
        (iter([]), ValueError, "There are no examples"),
        ("reviews.tsv", TypeError, "data must be a DataLoader"),
        ({"input_ids": [1]}, TypeError, "data must be a DataLoader"),
        (3, TypeError, "data must be a DataLoader"),
        ([torch.zeros(2, 3).long()], TypeError, r"A batch must be a mapping \(with 'labels' in it\), or \(inputs"),
        ([(1, 2, 3)], TypeError, "got 3 parts"),
        ([("a film", 3)], ValueError, "has the label '3'; the model has 0 "),
        ([("a film", "sad")], ValueError, "has the label 'sad'; the model has 0 "),
        ([("a film", None)], ValueError, "The batch has no labels"),
        (Dataset.from_list([]), ValueError, "The data are empty"),
        (Dataset.from_list([{"sentence": "a film", "label": 0}]), ValueError, "tokenize first"),
        (TensorDataset(torch.zeros(2, 3)), TypeError, "An item of a data set must be a mapping"),
    ],
)
def test_bad_data(classifier, data, error, words):
    with pytest.raises(error, match=words):
        run(classifier, data)


@pytest.mark.parametrize("batch_size", [0, 1.5, True])
def test_bad_batch_size(classifier, batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        run(classifier, TEXTS, batch_size=batch_size)


def test_texts_need_a_tokenizer(classifier):
    with pytest.raises(TypeError, match="run\\(data, tokenizer=tokenizer\\)"):
        run(classifier, TEXTS, tokenizer=None)


ROWS = TensorDataset(torch.arange(200, 230).view(10, 3), torch.zeros(10).long())


@pytest.mark.parametrize(
    "loader",
    [DataLoader(ROWS, sampler=DistributedSampler(ROWS, num_replicas=2, rank=0)), DataLoaderShard(ROWS)],
    ids=["sampler", "accelerate"],
)
def test_loaders_that_deal_out_parts_are_refused(classifier, loader):
    with pytest.raises(ValueError, match="gives each process its own part already"):
        run(classifier, loader)


# Broken off and taken up again


class StopError(Exception):
    pass


class Stopping(Taylor):
    """Taylor, which ends in an error at some batch; it notes the examples that it sees."""

    stop_at, seen = None, 0

    def scores(self, examples):
        cls = type(self)
        if cls.stop_at is not None and cls.seen >= cls.stop_at:
            raise StopError
        cls.seen += len(examples.inputs[0])
        return super().scores(examples)


@pytest.mark.parametrize("stop_at", [0, 1, 2, 4, 5])
def test_nothing_is_lost_or_counted_twice(classifier, tmp_path, stop_at):
    model, tokenizer = classifier
    state = tmp_path / "new" / "state.json"
    whole = HeadImportance(model, measure="taylor").run(TEXTS, tokenizer=tokenizer, batch_size=1)
    Stopping.stop_at, Stopping.seen = stop_at, 0
    if stop_at < len(TEXTS):
        with pytest.raises(StopError):
            HeadImportance(model, measure=Stopping()).run(TEXTS, tokenizer=tokenizer, batch_size=1, checkpoint=state)
    Stopping.stop_at = None
    found = HeadImportance(model, measure=Stopping()).run(TEXTS, tokenizer=tokenizer, batch_size=1, checkpoint=state)
    assert Stopping.seen == found.examples == len(TEXTS)
    assert torch.equal(found.scores, whole.scores)
    assert torch.equal(found.standard_deviation, whole.standard_deviation)
    again = HeadImportance(model, measure=Stopping()).run(TEXTS, tokenizer=tokenizer, batch_size=1, checkpoint=state)
    assert Stopping.seen == len(TEXTS)  # a run that is done has nothing left to do
    assert torch.equal(again.scores, whole.scores)


def checkpointed(classifier, state, data=TEXTS, measure="taylor", batch_size=2, **options):
    model, tokenizer = classifier
    return HeadImportance(model, measure=measure, **options).run(
        data, tokenizer=tokenizer, batch_size=batch_size, checkpoint=state
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measure": "attention"}, "the measure was {'name': 'taylor'}, now it is {'name': 'attention'}"),
        ({"output": "logit"}, "the output was 'probability', now it is 'logit'"),
        ({"target": "predicted"}, "the target was 'gold', now it is 'predicted'"),
        ({"batch_size": 3}, "the batch size was 2, now it is 3"),
        ({"data": TEXTS[:4]}, "the number of examples was 5, now it is 4"),
        ({"data": [*TEXTS[:4], ("a funny film", 0)]}, "the data was"),
        ({"data": iter([])}, "the number of examples was 5, now it is None"),
    ],
)
def test_a_run_with_other_settings_is_refused(classifier, tmp_path, change, words):
    checkpointed(classifier, tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(ValueError, match="is of a run with other settings") as caught:
        checkpointed(classifier, tmp_path / "state", **change)
    assert words in str(caught.value)
    assert (tmp_path / "state").read_bytes() == before


def test_a_run_with_another_model_is_refused(classifier, tmp_path):
    checkpointed(classifier, tmp_path / "state")
    other, tokenizer = bert()
    other.double().bert.encoder.layer[0].output.dense.bias.data[0] += 1e-9
    with pytest.raises(ValueError, match="the model's weights was"):
        checkpointed((other, tokenizer), tmp_path / "state")
    wider, _ = bert(layer_norm_eps=1e-5)
    with pytest.raises(ValueError, match="the model's configuration was"):
        checkpointed((wider.double(), tokenizer), tmp_path / "state")


def test_a_loader_that_shuffles_is_refused(classifier, tmp_path):
    loader = DataLoader(ROWS, batch_size=1, shuffle=True)
    torch.manual_seed(0)
    checkpointed(classifier, tmp_path / "state", loader)
    with pytest.raises(ValueError, match="its first 10 batches differ from these"):
        checkpointed(classifier, tmp_path / "state", loader)


def test_data_that_end_before_the_state_does(classifier, tmp_path):
    checkpointed(classifier, tmp_path / "state", DataLoader(ROWS, batch_size=1))
    with pytest.raises(ValueError, match="its first 10 batches differ from these"):
        checkpointed(classifier, tmp_path / "state", DataLoader(Subset(ROWS, range(4)), batch_size=1))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"settings": {}, "batches": "x", "digest": "", "moments": null}'])
def test_a_damaged_state(classifier, tmp_path, text):
    (tmp_path / "state").write_text(text)
    with pytest.raises(ValueError, match=r"is no checkpoint, or is damaged: .* Delete it to start anew"):
        checkpointed(classifier, tmp_path / "state")


def test_a_state_that_cannot_be_written(classifier, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be"):
        checkpointed(classifier, tmp_path / "file" / "state")


def test_a_checkpoint_is_for_a_run_from_the_start(classifier, tmp_path):
    model, tokenizer = classifier
    found = HeadImportance(model, measure="taylor")
    found.run(TEXTS, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"must be the first: call reset\(\)"):
        found.run(TEXTS, tokenizer=tokenizer, checkpoint=tmp_path / "state")


@pytest.mark.parametrize("name", ["attattr", "taylor", "attention", "ablation", "random"])
def test_state_dict(classifier, name):
    model, tokenizer = classifier
    first = HeadImportance(model, measure=name)
    first.run(TEXTS[:3], tokenizer=tokenizer)
    second = HeadImportance(model, measure=name)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for one in (first, second):
        one.run(TEXTS[3:], tokenizer=tokenizer)
    assert torch.equal(first.compute().scores, second.compute().scores)
    assert second.compute().examples == 5


def test_the_state_of_another_measure_is_refused(classifier):
    state = HeadImportance(classifier[0], measure="taylor").state_dict()
    with pytest.raises(ValueError, match="The state is of a run with other settings: there the measure was"):
        HeadImportance(classifier[0], measure="random").load_state_dict(state)
