"""Rows that the output does not read are not computed above the last attention, and never at the result's cost."""

from __future__ import annotations

import pytest
import torch
from oracles import direct_attribution
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.engine.rows_read import OnlyRows

BY_NAME = {family.name: family for family in FAMILIES}


def last_token(c):
    return lambda ids, mask=None: c.model(ids).logits[:, -1].softmax(-1)


def body_of(model):
    return next(module for name, module in model.named_modules() if name in ("bert", "model", "base_model"))


READERS = {
    "bert's first": ("bert", lambda c: c.forward, 1),
    "roberta's first": ("roberta", lambda c: c.forward, 1),
    "distilbert's first": ("distilbert", lambda c: c.forward, 1),
    "electra's first": ("electra", lambda c: c.forward, 1),
    "vit's first": ("vit", lambda c: c.forward, 1),
    "llama's last": ("llama", lambda c: lambda ids, mask=None: c.model.model(ids)[0][:, -1] ** 2, 1),
    "qwen3's last": ("qwen3", lambda c: lambda ids, mask=None: c.model.model(ids)[0][:, -1] ** 2, 1),
    "gpt2's last": ("gpt2", last_token, None),  # a reshape to the whole length in between: all rows, as before
    "mean": ("bert", lambda c: lambda ids, mask=None: c.model.bert(ids)[0].mean(1), None),
    "maximum": ("bert", lambda c: lambda ids, mask=None: c.model.bert(ids)[0].amax(1), None),
    "a token in between": ("bert", lambda c: lambda ids, mask=None: c.model.bert(ids)[0][:, 3], None),
    "first two": ("bert", lambda c: lambda ids, mask=None: c.model.bert(ids)[0][:, :2].sum(1), None),
    "first, and the mean of the inputs": (
        "bert",
        lambda c: lambda ids, mask=None: c.model(ids).logits + c.model.bert.embeddings(ids)[..., :1].mean(1),
        None,
    ),
    "first, without nan": ("bert", lambda c: lambda ids, mask=None: c.model.bert(ids)[0].nan_to_num().mean(1), None),
}


def run(c, forward, tracked):
    """Attributions, and how many rows of the sequence the last block's dense layers saw in replays."""
    lengths = []
    hooks = [
        module.register_forward_hook(lambda m, a, o: lengths.append(a[0].shape[1]) if torch.is_grad_enabled() else None)
        for module in tracked
    ]
    method = SelfAttentionAttribution(forward, attention_layers(c.model))
    found = method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=3)
    for hook in hooks:
        hook.remove()
    return found, lengths


def wide_layers_of_the_last_block(model):
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    found = [m for m in blocks[-1].modules() if type(m).__name__ in ("Linear", "Conv1D")]
    return [m for m in found if 48 in tuple(m.weight.shape)] or found[-1:]


@pytest.mark.parametrize("reader", READERS)
def test_only_rows_that_are_read_are_run_and_the_result_is_the_same(reader, monkeypatch):
    name, forward_of, expected = READERS[reader]
    c = case(BY_NAME[name], batch=2, padded=False)
    tracked = wide_layers_of_the_last_block(c.model)
    found, lengths = run(c, forward_of(c), tracked)
    monkeypatch.setattr("captum_attattr.engine.trials.CANDIDATES", ())
    whole, whole_lengths = run(c, forward_of(c), tracked)
    assert lengths
    assert lengths[-1] == (expected or whole_lengths[-1])
    assert min(whole_lengths) > 1
    for one, other in zip(found, whole, strict=True):
        assert other.abs().max() > 1e-9
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)


def test_a_maximum_that_the_first_row_wins():
    """Its other rows have no gradient at the model's own attention, and are read all the same."""
    c = case(BY_NAME["bert"], batch=1)
    bonus = torch.zeros(7, dtype=torch.float64, device=c.inputs.device)
    bonus[0] = 0.5

    def forward(ids):
        return (c.model.bert(ids)[0][..., 3] + bonus).amax(1)

    method = SelfAttentionAttribution(forward, attention_layers(c.model)[1])
    _, delta = method.attribute(c.inputs, n_steps=400, return_convergence_delta=True)
    assert delta.abs() < 1e-4


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_which_rows_are_read_may_depend_on_what_the_first_says(path):
    """At the model's own attention it is sure, and no other row is read; on the way from none it is not."""
    c = case(BY_NAME["bert"], batch=1)
    head = lambda hidden: c.model.classifier(hidden)
    margin = head(c.model.bert(c.inputs)[0][:, 0])[0, 0].detach() - 0.01

    def forward(ids):
        hidden = c.model.bert(ids)[0]
        first = head(hidden[:, 0])
        unsure = margin - first[:, :1]
        return torch.where(unsure < 0, first, first + 20 * unsure * head(hidden.mean(1)))

    layer = attention_layers(c.model)[-1]
    method = SelfAttentionAttribution(forward, layer, path=path)
    ours = method.attribute(c.inputs, target=1, n_steps=20)
    (theirs,), _ = direct_attribution(c.model, lambda: forward(c.inputs)[:, 1], [layer])
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_a_batch_whose_examples_read_different_rows(path):
    """The last real token: another row in a padded example."""
    c = case(BY_NAME["llama"], batch=3)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    _, delta = method.attribute(
        c.inputs, target=1, additional_forward_args=c.mask, n_steps=60, return_convergence_delta=True
    )
    assert torch.stack(list(delta)).abs().max() < 1e-4


def test_a_second_batch_that_reads_other_rows():
    """What was found about the first batch does not hold for it."""
    c = case(BY_NAME["bert"], batch=2, padded=False)

    def forward(ids, place):
        return c.model.bert(ids)[0][torch.arange(len(ids)), place] ** 2

    method = SelfAttentionAttribution(forward, attention_layers(c.model))
    for places in ([0, 0], [0, 3], [6, 6], [0, 0]):
        _, deltas = method.attribute(
            c.inputs,
            target=1,
            additional_forward_args=torch.tensor(places),
            n_steps=60,
            return_convergence_delta=True,
        )
        assert max(float(delta.abs().max()) for delta in deltas) < 1e-6


def test_a_forward_function_that_refuses_nan_is_left_as_it_is():
    c = case(BY_NAME["bert"], batch=1)

    def forward(ids):
        hidden = c.model.bert(ids)[0]
        if not bool(torch.isfinite(hidden).all()):
            raise FloatingPointError("NaN")
        return hidden[:, 0]

    layers = attention_layers(c.model)
    ours = SelfAttentionAttribution(forward, layers).attribute(c.inputs, target=1)
    theirs = SelfAttentionAttribution(lambda ids: c.model.bert(ids)[0][:, 0], layers).attribute(c.inputs, target=1)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)


PICKS = {
    "by index": lambda logits, rows: logits[torch.arange(2), rows],
    "gather": lambda logits, rows: logits.gather(1, rows[:, None, None].expand(2, 1, 3)),
    "take_along_dim": lambda logits, rows: torch.take_along_dim(logits, rows[:, None, None], 1),
    "index_select": lambda logits, rows: logits.index_select(1, rows),
}


@pytest.mark.parametrize("pick", PICKS)
def test_a_row_that_was_left_out_is_not_read(pick):
    """Where a model picks the last token by its number, this must be seen before a GPU reads outside of a tensor."""
    only, states = OnlyRows(slice(-1, None), 7), torch.randn(2, 7, 3)

    def head():
        only.begin()
        logits = states * 2
        assert PICKS[pick](logits, torch.tensor([0, 0])).shape[0] == 2
        return PICKS[pick](logits, torch.tensor([0, 6]))

    with pytest.raises(IndexError, match="there is no row 6 among 1"):
        only.during(head)
