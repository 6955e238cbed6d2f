"""Forward functions in which the examples of a batch meet or change places are refused; modules keep what they kept."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_agree
from oracles import direct_attribution
from tiny_models import DEVICE, FAMILIES, case
from torch import nn

from captum_attattr import AttentionFunction, SelfAttentionAttribution, attention_layers
from captum_attattr.demo import load_demo
from captum_attattr.engine.nearness import near
from captum_attattr.engine.rows_read import Shadows
from captum_attattr.faithfulness import HeadRemoval, leave_one_out

# Some of these functions index by numbers of their own, which no GPU stands (see test_batches.py).
pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="functions that read out of range stop a GPU")
BERT = FAMILIES[0]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
REFUSED = "reorders or mixes the examples of a batch"


def attribute(forward, layers, c, path="layerwise", **options):
    options = {"target": 1, "n_steps": 4, "additional_forward_args": c.mask, **options}
    return SelfAttentionAttribution(forward, layers, path=path).attribute(c.inputs, **options)


def of_different_lengths(batch):
    """A case whose examples are 7, 6, 5, ... tokens long."""
    c = case(BERT, batch=batch, padded=False)
    for row in range(batch):
        c.mask[row, 7 - row :], c.inputs[row, 7 - row :] = 0, 0
    return c


# Rows that move


def sorted_by_length(c):
    def forward(ids, mask):
        order = mask.sum(1).argsort(stable=True)
        return c.forward(ids[order], mask[order])[order.argsort()]

    return forward


def without_repetition(c):
    def forward(ids, mask):
        both, places = torch.cat([ids, mask], 1).unique(dim=0, return_inverse=True)
        return c.forward(*both.chunk(2, 1))[places]

    return forward


def sorted_and_left(descending):
    def of(c):
        def forward(ids, mask):
            order = mask.sum(1).argsort(stable=True, descending=descending)
            return c.forward(ids[order], mask[order])

        return forward

    return of


MOVED = {
    "sorted by length, the longest first, as the batch is": sorted_and_left(True),
    "sorted by length, the shortest first": sorted_and_left(False),
    "sorted by length and brought back": sorted_by_length,
    "without repetition": without_repetition,
    "turned around and back": lambda c: lambda ids, mask: c.forward(ids.flip(0), mask.flip(0)).flip(0),
    "turned around": lambda c: lambda ids, mask: c.forward(ids, mask).flip(0),
    "shifted": lambda c: lambda ids, mask: c.forward(ids, mask).roll(1, 0),
    "neighbours exchanged": lambda c: lambda ids, mask: c.forward(ids, mask)[torch.arange(len(ids)) ^ 1],
}

MET = {
    "less the first": lambda y: y - y[:1],
    "less the last": lambda y: y - y[-1:],
    "less the one before": lambda y: y - y.roll(1, 0),
    "less the mean": lambda y: y - y.mean(0),
    "less the mean, which has no gradient": lambda y: y - y.detach().mean(0),
    "less a hundredth of a millionth of the mean": lambda y: y - 1e-8 * y.mean(0),
    "over the largest": lambda y: y / y.abs().amax(0),
    "softmax over the batch": lambda y: y.log().softmax(0),
    "sorted by the output": lambda y: y.sort(0).values,
    "sums so far": lambda y: y.cumsum(0),
    "normalised": lambda y: nn.functional.batch_norm(y, None, None, training=True),
}


@both_paths
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("how", MOVED)
def test_rows_that_move_are_refused(how, batch, path):
    if how == "neighbours exchanged" and batch == 3:
        pytest.skip("of an even number only")
    c = of_different_lengths(batch)
    with pytest.raises(ValueError, match=REFUSED):
        attribute(MOVED[how](c), attention_layers(c.model), c, path)


@pytest.mark.parametrize("how", ["turned around and back", "turned around", "shifted"])
def test_steps_that_move_are_refused(how):
    """A batch of one has nothing to move, but its steps are rows as well."""
    c = case(BERT, batch=1)
    with pytest.raises(ValueError, match=REFUSED):
        attribute(MOVED[how](c), attention_layers(c.model), c)


def test_where_equal_rows_become_one_they_run_one_by_one():
    c = case(BERT, batch=1)
    layers = attention_layers(c.model)
    plain = attribute(c.forward, layers, c)
    for one, other in zip(attribute(MOVED["without repetition"](c), layers, c), plain, strict=True):
        assert_agree(one, other)


@both_paths
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", MET)
def test_rows_that_meet_are_refused(how, batch, path):
    if how == "normalised" and batch == 1:
        pytest.skip("torch refuses one row")
    c = of_different_lengths(batch)
    with pytest.raises(ValueError, match=REFUSED):
        attribute(lambda *args: MET[how](c.forward(*args)), attention_layers(c.model), c, path)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("how", ["less the first", "less the mean"])
def test_rows_that_meet_inside_the_model_are_refused(how, block, batch):
    c = of_different_lengths(batch)
    module = c.model.bert.encoder.layer[block].output
    module.register_forward_hook(lambda module, args, output: output + MET[how](output))
    with pytest.raises(ValueError, match=REFUSED):
        attribute(c.forward, attention_layers(c.model), c)


BETWEEN = {
    "the next": lambda h: torch.cat([h[:-1] + 0.5 * h[1:], h[-1:]]),
    "the one before": lambda h: torch.cat([h[:1], h[1:] + 0.5 * h[:-1]]),
    "the one two before, from four rows on": lambda h: h if len(h) < 4 else h + 0.5 * h.roll(2, 0),
}


@both_paths
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", BETWEEN)
def test_rows_that_meet_between_attention_layers_are_refused(how, batch, path):
    """A batch of one meets nobody, but its steps do."""
    c = of_different_lengths(batch)
    c.model.bert.encoder.layer[0].register_forward_hook(lambda module, args, output: BETWEEN[how](output))
    with pytest.raises(ValueError, match=REFUSED):
        attribute(c.forward, attention_layers(c.model), c, path)


@pytest.mark.parametrize("never", [-1e4, -1e9, float("-inf")])
@pytest.mark.parametrize("how", ["less the mean", "less the one before", "over the largest"])
def test_a_label_that_is_ruled_out_hides_nothing(how, never):
    c = of_different_lengths(3)
    out = torch.tensor([0.0, 0.0, never], dtype=torch.float64)
    with pytest.raises(ValueError, match=REFUSED):
        attribute(lambda *args: MET[how](c.forward(*args)) + out, attention_layers(c.model), c)


@both_paths
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("labels", [1, 2])
def test_outputs_that_are_near_zero_are_not_taken_for_rows_that_meet(labels, batch, path):
    """The trained model in float32, with a bias by which the last example's outputs are rounding alone."""
    model, tokenizer = load_demo()
    texts = ["A warm, funny and engaging film.", "Flat and dull.", "The plot was interesting but it was long."][-batch:]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)

    def function(bias):
        return lambda ids, mask: (model(ids, mask).logits - bias)[:, -labels:].squeeze(-1)

    with torch.no_grad():
        bias = model(**inputs).logits[-1]
    settings = {
        "target": 1 if labels == 2 else None, "additional_forward_args": inputs["attention_mask"], "tolerance": 1e-3,
    }  # fmt: skip
    found, plain = (
        SelfAttentionAttribution(function(one), attention_layers(model), path=path).attribute(
            inputs["input_ids"], **settings
        )
        for one in (bias, torch.zeros(2))
    )
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3 * float(other.norm()))


@pytest.mark.parametrize("text", ["The romance has", "Flat and dull."])
def test_outputs_near_zero_of_a_model_whose_last_layer_hardly_counts(text):
    """Rounding comes from the whole model, so it may be large beside what the last layer's attention changes."""
    model, tokenizer = load_demo()
    model.bert.encoder.layer = model.bert.encoder.layer[:2]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        bias = model(ids).logits[:, 1]
    method = SelfAttentionAttribution(lambda some: model(some).logits[:, 1] - bias, attention_layers(model))
    method.attribute(ids, tolerance=0.01)
    assert bool(method.convergence.converged.all())


def test_numbers_in_half_precision_are_compared_beyond_its_range():
    one, other = torch.tensor([[4e4, 5e4], [6e4, 3.4e4]], dtype=torch.float16)
    assert not near(one, other, 0.01)
    assert near(one, one + 32, 0.01)


@pytest.mark.parametrize("lengths", [(3, 5, 7), (7, 5, 3), (5, 7, 3), (7, 3, 7)])
@pytest.mark.parametrize("before", [False, True], ids=["at once", "after texts of one length"])
def test_outputs_that_depend_on_the_longest_example_are_refused(lengths, before):
    c = case(BERT, batch=3, padded=False)
    method = SelfAttentionAttribution(
        lambda ids, mask: c.forward(ids, mask) * mask.sum(1).max() / 7, attention_layers(c.model)
    )
    if before:
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=2)
    for row, length in enumerate(lengths):
        c.mask[row, length:], c.inputs[row, length:] = 0, 0
    with pytest.raises(ValueError, match=REFUSED):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=2)


def test_a_module_that_is_set_to_training_is_checked_again():
    c = case(BERT, batch=3)
    norm = nn.BatchNorm1d(3).double().eval()
    method = SelfAttentionAttribution(lambda *args: norm(c.forward(*args)), attention_layers(c.model))
    settings = {"target": 1, "additional_forward_args": c.mask, "n_steps": 2}
    method.attribute(c.inputs, **settings)
    norm.train()
    with pytest.raises(ValueError, match=REFUSED):
        method.attribute(c.inputs, **settings)


@both_paths
@pytest.mark.parametrize("how", ["less the mean", "less the one before"])
def test_rows_that_meet_are_refused_where_outputs_are_near_zero(how, path):
    model, tokenizer = load_demo()
    inputs = tokenizer(["A warm, funny film.", "Flat and dull.", "So long."], return_tensors="pt", padding=True)
    with torch.no_grad():
        bias = model(**inputs).logits[-1]
    method = SelfAttentionAttribution(
        lambda ids, mask: MET[how](model(ids, mask).logits - bias), attention_layers(model), path=path
    )
    with pytest.raises(ValueError, match=REFUSED):
        method.attribute(inputs["input_ids"], target=1, additional_forward_args=inputs["attention_mask"], n_steps=2)


@pytest.mark.filterwarnings("ignore:Replaying from")
@pytest.mark.parametrize("never", [0.0, -1e4, float("-inf")])
def test_replays_are_tried_on_the_labels_that_are_not_ruled_out(never):
    """State that is changed aside of what modules hand back: a replay that leaves it out is another model."""
    c = of_different_lengths(2)
    layers, position = attention_layers(c.model), torch.ones(32, dtype=torch.float64)
    out = torch.tensor([0.0, 0.0, never], dtype=torch.float64)

    def forward(ids, mask):
        def added(module, args, output):
            output.add_(position)  # in place: the module itself handed back something else

        hook = c.model.bert.embeddings.dropout.register_forward_hook(added)
        try:
            hidden = c.model.bert.embeddings(ids)
            hidden += position
            return c.model.classifier(c.model.bert(inputs_embeds=hidden, attention_mask=mask).pooler_output) + out
        finally:
            hook.remove()

    ours = attribute(forward, layers, c, n_steps=8)
    for layer, one in zip(layers, ours, strict=True):
        (theirs,), _ = direct_attribution(
            c.model, lambda: forward(c.inputs, c.mask)[:, 1], [layer], padding=c.padding, n_steps=8
        )
        assert (one - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_that_meet_in_what_cancels_are_not_refused(batch):
    """The largest of the whole batch is subtracted before the exponential: the same but for rounding."""
    c = of_different_lengths(batch)
    layers = attention_layers(c.model)

    def forward(ids, mask):
        logits = c.model(ids, mask).logits
        powers = (logits - logits.max()).exp()
        return powers / powers.sum(-1, keepdim=True)

    ours = attribute(forward, layers, c, n_steps=8)
    (theirs,), _ = direct_attribution(
        c.model, lambda: c.forward(c.inputs, c.mask)[:, 1], layers[:1], padding=c.padding, n_steps=8
    )
    assert (ours[0] - theirs).abs().max() <= 1e-9 * theirs.abs().max()


def test_a_second_batch_is_looked_at_for_itself():
    """Sorting by length leaves a batch of equal lengths as it is, and is right for it."""
    c = case(BERT, batch=3, padded=False)
    layers = attention_layers(c.model)
    forward = sorted_by_length(c)
    method = SelfAttentionAttribution(forward, layers)
    ours = method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=8)
    for layer, one in zip(layers, ours, strict=True):
        (theirs,), _ = direct_attribution(c.model, lambda: c.forward(c.inputs, c.mask)[:, 1], [layer], n_steps=8)
        assert (one - theirs).abs().max() <= 1e-9 * theirs.abs().max()
    c.mask[1, 4:] = 0
    with pytest.raises(ValueError, match=REFUSED):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask)


def test_one_at_a_time_is_right_where_a_batch_is_refused():
    c = of_different_lengths(3)
    layers = attention_layers(c.model)
    for row in range(3):
        ids, mask = c.inputs[row : row + 1], c.mask[row : row + 1]
        ours = SelfAttentionAttribution(sorted_by_length(c), layers).attribute(
            ids, target=1, additional_forward_args=mask
        )
        theirs = SelfAttentionAttribution(c.forward, layers).attribute(ids, target=1, additional_forward_args=mask)
        for one, other in zip(ours, theirs, strict=True):
            assert other.abs().max() > 1e-6
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_whoever_else_replays_refuses_them_too():
    c = of_different_lengths(3)
    forward, layers = sorted_by_length(c), attention_layers(c.model)
    function = AttentionFunction(forward, layers, c.inputs, c.mask)
    with pytest.raises(ValueError, match=REFUSED):
        function(*function.attention)
    with pytest.raises(ValueError, match=REFUSED):
        leave_one_out(HeadRemoval(forward, layers, c.inputs, c.mask, target=1))


# What modules keep


class Meter:
    """Statistics in an object of the user's own, out of anybody's reach."""

    def __init__(self):
        self.values = []


class Observer(nn.Module):
    """Hands on what it gets, and keeps statistics of it in every way there is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))
        self.register_buffer("replaced", torch.zeros((), dtype=torch.float64))
        self.normalisation = nn.BatchNorm1d(32, dtype=torch.float64)
        self.calls, self.largest, self.meter = 0, torch.zeros((), dtype=torch.float64), Meter()

    def forward(self, hidden):
        mean = hidden.detach().mean()
        self.average.mul_(0.9).add_(mean, alpha=0.1)
        self.replaced = 0.9 * self.replaced + 0.1 * mean
        self.largest = torch.maximum(self.largest, mean)
        if self.calls == 0:
            self.first = mean
        self.calls += 1
        self.meter.values.append(float(mean))
        self.normalisation.train()(hidden.detach().flatten(0, -2))
        return hidden

    def state(self):
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "meter"}
        kept |= self.state_dict()
        return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in kept.items()}


@pytest.fixture
def observed():
    """A case with an observer on each block; those of the upper two have seen something before."""
    c = case(BERT)
    observers = [Observer() for _ in range(3)]
    for observer, block in zip(observers, c.model.bert.encoder.layer, strict=True):
        block.output.observer = observer
        block.output.register_forward_hook(lambda module, args, output: module.observer(output))
        if observer is not observers[0]:
            observer(torch.ones(2, 3, 32, dtype=torch.float64))
    return c, observers


@both_paths
@pytest.mark.parametrize("options", [{}, {"tolerance": 0.01}, {"return_convergence_delta": True}], ids=str)
def test_running_statistics_stay_and_see_no_nan(observed, path, options):
    c, observers = observed
    before, output = [observer.state() for observer in observers], c.forward(c.inputs, c.mask)
    for observer, state in zip(observers, before, strict=True):
        assert observer.state() != state  # a pass of the user's own does count
    before = [observer.state() for observer in observers]
    ours = attribute(c.forward, attention_layers(c.model), c, path, **options)
    assert [observer.state() for observer in observers] == before
    assert all(torch.isfinite(torch.tensor(observer.meter.values)).all() for observer in observers)
    plain = case(BERT)
    theirs = attribute(plain.forward, attention_layers(plain.model), plain, path, **options)
    for one, other in zip(*((x[0] if isinstance(x, tuple) else x) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert torch.equal(c.forward(c.inputs, c.mask), output)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_running_statistics_stay_after_an_exception(observed, kind):
    c, observers = observed
    before = [observer.state() for observer in observers]
    calls = []

    def forward(*args):
        output = c.forward(*args)
        calls.append(args)
        if len(calls) > 4:
            raise kind("thrown by the test")
        return output

    with pytest.raises(kind, match="thrown by the test"):
        attribute(forward, attention_layers(c.model), c)
    assert [observer.state() for observer in observers] == before


def test_replays_later_on_leave_statistics_and_what_the_user_did_meanwhile(observed):
    c, observers = observed
    function = AttentionFunction(c.forward, attention_layers(c.model), c.inputs, c.mask)
    c.forward(c.inputs, c.mask)
    observers[1].calls = 100
    before = [observer.state() for observer in observers]
    for _ in range(2):
        function(*(0.5 * attention for attention in function.attention))
        assert [observer.state() for observer in observers] == before


class Bank(nn.Module):
    """Hands on what it gets, and keeps it in a buffer of 1.25 MiB."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.zeros(5000, 32, dtype=torch.float64))

    def forward(self, hidden):
        self.bank[: len(hidden)] = hidden.detach()[:, 0]
        return hidden


class Table(nn.Module):
    """Hands on what it gets, and makes a table as long as the longest input so far."""

    def forward(self, hidden):
        if not hasattr(self, "_length") or self._length < hidden.shape[1]:
            self._length, self._weights = hidden.shape[1], torch.ones(hidden.shape[1], dtype=torch.float64)
        return hidden * self._weights[: hidden.shape[1], None]


@both_paths
@pytest.mark.parametrize("kind", [Bank, Table])
def test_what_modules_keep_is_put_back_together(kind, path):
    c = case(BERT)
    keeper = c.model.bert.encoder.layer[1].output.keeper = kind()
    c.model.bert.encoder.layer[1].output.register_forward_hook(lambda module, args, output: module.keeper(output))
    before = {name: value.clone() for name, value in keeper.named_buffers()}, sorted(vars(keeper))
    attribute(c.forward, attention_layers(c.model), c, path)
    assert sorted(vars(keeper)) == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in keeper.named_buffers())
    c.forward(c.inputs, c.mask)  # it runs as before


def test_a_buffer_that_is_too_large_to_put_back_is_told_of(monkeypatch):
    monkeypatch.setattr("captum_attattr.engine.module_state._LARGEST_COPY", 2**20)
    c = case(BERT)
    c.model.bert.encoder.layer[1].output.keeper = Bank()
    c.model.bert.encoder.layer[1].output.register_forward_hook(lambda module, args, output: module.keeper(output))
    with pytest.warns(UserWarning, match=r"A buffer of the model, of shape \(5000, 32\), is written to by each pass"):
        attribute(c.forward, attention_layers(c.model), c)


@both_paths
def test_the_module_whose_method_is_given_keeps_what_it_had(path):
    class Counting(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.model, self.calls = c.model, 0
            self.register_buffer("average", torch.zeros((), dtype=torch.float64))

        def forward(self, ids, mask):
            output = self.model(ids, mask).logits
            self.calls += 1
            self.average += output.detach().mean()
            return output

    c = case(BERT)
    model = Counting(c)
    attribute(model.forward, attention_layers(model), c, path)
    assert (model.calls, float(model.average)) == (0, 0.0)


# Shadows


def shadowed(compute):
    own, other = torch.arange(4.0), torch.full((4,), float("nan"))
    shadows = Shadows(own, other)
    with shadows:
        result = compute(own)
    return result, shadows.look_up(result)


@pytest.mark.parametrize(
    ("compute", "is_seen"),
    [
        (lambda x: x + 1, True),
        (lambda x: (x * 1e-30).sum() + 1e30, True),
        (lambda x: torch.stack([torch.ones(4), x]).max(0).values, True),
        (lambda x: torch.split(x.clone().mul_(2), 2)[1], True),
        (lambda x: torch.ones(4), False),
        (lambda x: torch.ones(4) * float(x.sum()), False),
        (lambda x: torch.zeros(4).add_(x), False),  # written into what has no shadow: not followed
        (lambda x: torch.arange(4.0) * x.long(), False),
        (lambda x: torch.nn.functional.one_hot(x.long(), 4), False),
        (lambda x: torch.ones(4)[(x > 0).long()], False),
        (lambda x: torch.where(x > -1, x, -x), False),  # at another point it may choose otherwise
        (lambda x: x.nan_to_num(), False),
        (lambda x: x if x[0] < 1 else -x, False),
    ],
)
def test_shadows_follow_what_is_computed(compute, is_seen):
    result, shadow = shadowed(compute)
    assert torch.isfinite(result).all()
    assert (shadow is not None) == is_seen
    if is_seen:
        assert shadow.shape == result.shape
        assert torch.isnan(shadow).all()


def test_shadows_of_what_is_not_read_are_clean():
    own = torch.arange(4.0)
    shadows = Shadows(own, torch.tensor([0.0, float("nan"), 2.0, 3.0]))
    with shadows:
        result = own[2:].sum() * 2
    assert float(result) == float(shadows.look_up(result)) == 10
