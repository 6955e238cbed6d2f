"""The layer-by-head map: Captum's picture with the numbers that it takes off."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from captum_attattr.heads.importance import Importance
from captum_attattr.pictures.head_map import visualize_head_importance


def importance(scores, measure="attattr"):
    return Importance(scores, torch.zeros_like(scores), 60, measure, {"output": "probability"})


def draw(scores, **options):
    figure, axes = visualize_head_importance(scores, **{"use_pyplot": False, **options})
    figure.canvas.draw()
    return figure, axes


def texts(labels):
    return [label.get_text() for label in labels if label.get_text()]


def test_the_picture_holds_the_scores_themselves():
    scores = torch.rand(6, 12, dtype=torch.float64) / 300
    figure, axes = draw(importance(scores))
    image = axes.images[0]
    np.testing.assert_array_equal(np.asarray(image.get_array()), scores.numpy())
    assert image.get_clim() == (0, float(scores.max()))
    bar = figure.axes[1]
    assert bar.get_ylim() == (0, float(scores.max()))
    assert bar.get_ylabel() == "probability"


def test_layers_and_heads_are_numbered():
    _, axes = draw(torch.rand(6, 12))
    assert texts(axes.get_yticklabels()) == [str(layer) for layer in range(6)]
    assert texts(axes.get_xticklabels()) == [str(head) for head in range(12)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "layer")
    assert axes.yaxis.get_ticks_position() == "left"


def test_of_many_heads_some_numbers_are_left_out():
    _, axes = draw(torch.rand(48, 40))
    labels = texts(axes.get_xticklabels())
    assert labels == [str(head) for head in range(0, 40, 3)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (24, 1)])
def test_small_models(shape):
    _, axes = draw(torch.rand(shape))
    assert texts(axes.get_xticklabels())[0] == "0"
    assert axes.images[0].get_array().shape == shape


def test_negative_scores_have_another_colour_and_zero_is_white():
    scores = torch.tensor([[0.5, -0.2], [0.0, 0.1]])
    _, axes = draw(importance(scores, "ablation"))
    image = axes.images[0]
    assert image.get_clim() == (-0.5, 0.5)
    colours = image.to_rgba(image.get_array())
    assert colours[1, 0, :3].min() > 0.95
    assert colours[0, 0, 2] > colours[0, 0, 1]  # purple
    assert colours[0, 1, 0] > colours[0, 1, 2]  # orange


def test_units_and_title_name_the_measure():
    figure, axes = draw(importance(torch.rand(2, 2), "ablation_accuracy"))
    assert figure.axes[1].get_ylabel() == "accuracy"
    assert axes.get_title() == "Importance of each head by ablation_accuracy, 60 examples"
    assert draw(torch.rand(2, 2), title="mine")[1].get_title() == "mine"


def test_heads_that_are_gone_are_grey():
    scores = torch.tensor([[0.5, float("nan")], [0.2, 0.1]])
    _, axes = draw(importance(scores))
    image = axes.images[0]
    colours = image.to_rgba(image.get_array(), bytes=True)
    assert tuple(colours[0, 1]) == (217, 217, 217, 255)
    assert tuple(colours[0, 0]) != (217, 217, 217, 255)


@pytest.mark.parametrize("scores", [torch.zeros(2, 3), torch.full((2, 3), float("nan")), torch.full((2, 3), 1e-9)])
@pytest.mark.filterwarnings("error")
def test_maps_that_captum_refuses_or_warns_of(scores):
    _, axes = draw(scores)
    np.testing.assert_array_equal(axes.images[0].get_array().filled(np.nan), scores.numpy())


def test_one_s_own_axes():
    own, (left, right) = plt.subplots(1, 2)
    figure, axes = visualize_head_importance(torch.rand(2, 3), (own, right), show_colorbar=False, use_pyplot=False)
    assert (figure, axes) == (own, right)
    assert len(own.axes) == 2
    assert not left.images
    plt.close(own)


def test_with_pyplot_as_in_captum(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    figure, axes = visualize_head_importance(torch.rand(2, 3), cmap="viridis", fig_size=(4, 3))
    assert shown == [1]
    assert figure.number in plt.get_fignums()
    assert axes.images[0].get_cmap().name == "viridis"
    assert tuple(figure.get_size_inches()) == (4, 3)
    plt.close(figure)


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [([[1, 2]], TypeError, "got list"), (torch.rand(3), ValueError, r"got the shape \(3,\)"),
     (torch.rand(2, 0), ValueError, r"got the shape \(2, 0\)")],
)  # fmt: skip
def test_what_is_no_map(scores, error, words):
    with pytest.raises(error, match=words):
        visualize_head_importance(scores)
