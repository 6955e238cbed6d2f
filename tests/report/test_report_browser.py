"""The page in a real browser: what it shows is the explanation, and it answers to clicks, keys and sliders.

Skipped where there is no Chromium or no Playwright to drive it; CI machines that are to run it install both.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from driven_pages import browser, click, data, map_of, place_of, ready, tab
from made_explanations import made
from PIL import Image

from captum_attattr.colours import colour
from captum_attattr.report import Report
from captum_attattr.tree.attribution_tree import AttributionTree

__all__ = ["browser", "tab"]

COUNT, LAYERS, HEADS = 7, 3, 4
HOSTILE = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script></script>"


def assert_shows(page, explanation, layer=None, head=None):
    layers, heads = (slice(None) if one is None else slice(one, one + 1) for one in (layer, head))
    attributions, attention = (m[layers, heads].double() for m in (explanation.attributions, explanation.attention))
    bound = 1e-4 * float(explanation.attributions.abs().max())
    torch.testing.assert_close(map_of(page, "shares").double(), attributions.sum((0, 1)), rtol=0, atol=bound)
    torch.testing.assert_close(map_of(page, "attention").double(), attention.mean((0, 1)), rtol=0, atol=1e-4)


def presses(page):
    return [b.get_attribute("aria-pressed") == "true" for b in page.query_selector_all("#tokens button")]


def colours_of_tokens(page):
    names = page.eval_on_selector_all("#tokens button", "(all) => all.map((one) => one.style.backgroundColor)")
    return [tuple(int(part) for part in name[4:-1].split(",")) for name in names]


def rgb(number):
    name = colour(number)
    return tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))


@pytest.fixture(scope="module")
def explanation():
    return replace(made(COUNT, LAYERS, HEADS), layers=[2, 3, 5])


def test_the_page_opens_on_everything(tab, explanation):
    page = tab(explanation)
    assert_shows(page, explanation)
    assert page.inner_text("#shown") == "Shown: all layers, all heads"
    assert page.eval_on_selector_all("#tokens button", "(all) => all.map((b) => b.textContent)") == explanation.tokens
    scores = explanation.token_scores()
    assert colours_of_tokens(page) == [rgb(part) for part in (scores / scores.abs().max()).tolist()]
    cells = data(page, "heads source")
    heads = explanation.head_scores()
    for row, head, name, says in zip(cells["row"], cells["head"], cells["colour"], cells["says"], strict=True):
        assert name == colour(float(heads[row, head] / heads.abs().max()))
        assert says.startswith(f"layer {explanation.layers[row]}, head {head}: ")
        assert float(says.split()[-1].replace("\u2212", "-")) == pytest.approx(float(heads[row, head]), abs=2e-3)
    assert len(cells["row"]) == LAYERS * HEADS


def test_the_map_on_the_screen_has_the_colours_of_the_attributions(tab, explanation):
    page = tab(explanation)
    scores = explanation.pair_scores()
    strongest = int(scores.abs().argmax())
    query, key = divmod(strongest, COUNT)
    x, y = place_of(page, "shares", key, query)
    picture = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    wanted = rgb(1 if scores[query, key] > 0 else -1)
    assert np.abs(picture[int(y) + 3, int(x) + 3] - wanted).max() <= 3


def test_a_click_on_a_head_shows_its_pairs_and_another_one_shows_everything(tab, explanation):
    page = click(tab(explanation), "heads", 3, 1)
    assert_shows(page, explanation, layer=1, head=3)
    assert page.inner_text("#shown") == "Shown: layer 3, head 3"
    matrix = explanation.attributions[1, 3]
    strongest = page.query_selector("#pairs button").inner_text().split("\n")
    query, key = divmod(int(matrix.abs().argmax()), COUNT)
    names = explanation.token_names
    assert strongest[0].strip() == f"{names[query]} \u2192 {names[key]}"
    assert float(strongest[-2].replace("\u2212", "-")) == pytest.approx(float(matrix[query, key]), abs=2e-4)
    page.wait_for_timeout(500)  # sooner it would be a double click
    click(page, "heads", 3, 1)
    assert_shows(page, explanation)


def test_keys_move_over_the_heads_and_escape_shows_everything(tab, explanation):
    page = tab(explanation)
    page.focus("#heads")
    page.keyboard.press("ArrowRight")
    assert_shows(page, explanation, layer=2, head=0)
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    assert_shows(page, explanation, layer=1, head=0)
    page.keyboard.press("Escape")
    assert_shows(page, explanation)


def test_sliders_go_through_layers_and_heads(tab, explanation):
    page = tab(explanation)
    page.focus("#layer")
    page.keyboard.press("ArrowRight")
    assert_shows(page, explanation, layer=0)
    assert page.inner_text("#layer-name") == page.get_attribute("#layer", "aria-valuetext") == "layer 2"
    page.focus("#head")
    page.keyboard.press("End")
    assert_shows(page, explanation, layer=0, head=HEADS - 1)
    page.click("#all")
    assert page.input_value("#layer") == page.input_value("#head") == "0"


def test_a_token_lights_its_partners_and_the_heads_between_them(tab, explanation):
    page = tab(explanation)
    page.click("#tokens button >> nth=2")
    assert presses(page) == [place == 2 for place in range(COUNT)]
    scores = explanation.pair_scores()
    partners = scores[2] + scores[:, 2]
    partners[2] = scores[2, 2]
    page.mouse.move(0, 0)
    assert colours_of_tokens(page) == [rgb(part) for part in (partners / partners.abs().max()).tolist()]
    name = explanation.token_names[2]
    assert all(name in pair.split(" \u2192 ") for pair in page.locator("#pairs span:first-child").all_inner_texts())
    attributions = explanation.attributions
    through = attributions[:, :, 2].sum(-1) + attributions[:, :, :, 2].sum(-1) - attributions[:, :, 2, 2]
    drawn = [float(says.split()[-1].replace("\u2212", "-")) for says in data(page, "heads source")["says"]]
    torch.testing.assert_close(torch.tensor(drawn), through.flatten(), rtol=0, atol=1e-3)
    page.click("#tokens button >> nth=2")
    assert not any(presses(page))


def test_tokens_are_one_stop_of_the_tab_key_and_arrows_move_among_them(tab, explanation):
    page = tab(explanation)
    page.focus("#tokens button >> nth=0")
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert presses(page) == [place == COUNT - 2 for place in range(COUNT)]
    stops = page.eval_on_selector_all("#tokens button", "(all) => all.map((button) => button.tabIndex)")
    assert stops == [0 if place == COUNT - 2 else -1 for place in range(COUNT)]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#tokens')") is None


@pytest.mark.parametrize("side", ["received", "sent", "first"])
def test_tokens_can_show_either_side(tab, explanation, side):
    page = tab(explanation)
    page.check(f"input[value={side}]")
    scores = explanation.token_scores(side)
    assert colours_of_tokens(page) == [rgb(part) for part in (scores / scores.abs().max()).tolist()]


def test_pointing_at_a_pair_names_it_and_a_click_chooses_its_row(tab, explanation):
    page = tab(explanation)
    page.mouse.move(*place_of(page, "attention", 3, 1))
    ready(page)
    names, attribution = explanation.token_names, float(explanation.pair_scores()[1, 3])
    words = page.inner_text("#pair")
    assert words.startswith(f"{names[1]} \u2192 {names[3]} attribution ")
    assert float(words.split("attribution ")[1].split(",")[0].replace("\u2212", "-")) == pytest.approx(
        attribution, abs=1e-3
    )
    assert words.endswith(f"attention {float(explanation.attention[:, :, 1, 3].mean()):.3f}")
    click(page, "shares", 3, 1)
    assert presses(page) == [place == 1 for place in range(COUNT)]


def test_heads_can_be_coloured_layer_by_layer(tab, explanation):
    page = tab(explanation)
    page.check("#alike")
    heads = explanation.head_scores(normalize="max", within_layer=True)
    assert data(page, "heads source")["colour"] == [colour(part) for part in heads.flatten().tolist()]


def test_the_tree_is_the_attribution_tree_at_each_threshold(tab, explanation):
    page = tab(explanation)
    assert page.inner_text("#threshold-name") == "2%"
    page.focus("#threshold")
    page.keyboard.press("Home")
    for threshold, name in ((0.005, "0.5%"), (0.01, "1%"), (0.02, "2%"), (0.05, "5%")):
        assert page.inner_text("#threshold-name") == name
        tree = AttributionTree(explanation.attributions, explanation.tokens, tau=threshold, layers=explanation.layers)
        nodes, edges = data(page, "nodes source"), data(page, "edges source")
        assert nodes["token"] == sorted(tree.nodes)
        heights = dict(zip(nodes["token"], nodes["y"], strict=True))
        ranks = {token: rank for rank, token in enumerate(nodes["token"])}
        rows = {edge.layer: heights[edge.key] for edge in tree.edges}  # layers without an edge share a row
        assert sorted(rows, key=rows.get) == sorted(rows)
        assert [heights[edge.key] for edge in tree.edges] == [rows[edge.layer] for edge in tree.edges] == edges["y1"]
        assert edges["y0"] == [rows[edge.layer] + 1 for edge in tree.edges]
        assert [round(x) for x in edges["x0"]] == [ranks[edge.query] for edge in tree.edges]
        assert edges["x1"] == [ranks[edge.key] for edge in tree.edges]
        assert edges["colour"] == ["#542788" if edge.attribution > 0 else "#b35806" for edge in tree.edges]
        sizes = [abs(edge.attribution) for edge in tree.edges]
        np.testing.assert_allclose(edges["width"], np.array(sizes) * edges["width"][0] / sizes[0], atol=0.5)
        written = zip(nodes["raises"], nodes["lowers"], strict=True)
        numbers = dict(zip(nodes["token"], map("".join, written), strict=True))
        assert numbers.pop(tree.nodes[0]) == ""
        for edge in tree.edges:
            assert float(numbers[edge.key].replace("\u2212", "-")) == pytest.approx(edge.attribution, abs=6e-5)
        assert f"those of less than {name} of the total" in page.inner_text("#tree-hint")
        page.keyboard.press("ArrowRight")
    top = data(page, "nodes source")
    place = top["token"].index(tree.nodes[0])
    click(page, "tree", top["x"][place], top["y"][place])
    assert presses(page) == [token == top["token"][place] for token in range(COUNT)]


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_the_page_says_that_layerwise_attributions_do_not_add_up(tab, explanation, path):
    deltas = torch.zeros(1 if path == "joint" else LAYERS)
    page = tab(replace(explanation, delta=deltas, settings={"output": "logit", "path": path}))
    note = "These are layerwise attributions, which do not add up over layers."
    assert (note in page.inner_text("#tree-hint")) == (path == "layerwise")


def test_several_sentences_each_with_its_own_answer(tab, explanation):
    others = [made(4), replace(made(3), labels=["LABEL_0"], probabilities=torch.tensor([0.75]), target=0)]
    others.insert(1, replace(others[1], settings={**others[1].settings, "output": "given"}))
    page = tab(explanation, *others)
    click(page, "heads", 0, 0)
    page.click("#after")
    ready(page)
    assert_shows(page, others[0])
    page.select_option("#sentence", "2")
    ready(page)
    assert_shows(page, others[1])
    assert page.inner_text("#answer") == "Explained: the model\u2019s output, 0.7500"
    page.click("#after")
    ready(page)
    assert page.inner_text("#answer") == "Prediction: LABEL_0. Explained: probability of \u201cLABEL_0\u201d, 0.7500"
    page.click("#after")
    ready(page)
    assert_shows(page, explanation)


def test_a_pair_shows_where_its_second_text_begins(tab):
    pair = replace(made(8), text_pair="a film", special=[place in (0, 4, 7) for place in range(8)])
    page = tab(pair)
    lines = page.evaluate(
        """() => ["width", "height"].map((side) => Bokeh.documents[0].get_model_by_name(`shares ${side}`))
        .map(({ visible, location }) => [visible, location])"""
    )
    assert lines == [[True, 4.5], [True, 4.5]]
    page.focus("#threshold")
    page.keyboard.press("Home")
    tree = AttributionTree(pair.attributions, tau=0.005, segments=[None, 0, 0, 0, None, 1, 1, None])
    dashed = [name == "dashed" for name in data(page, "edges source")["dash"]]
    assert dashed == [edge in tree.crossing_edges for edge in tree.edges]
    assert any(dashed)


def test_the_foot_says_settings_and_completeness(tab, explanation):
    settings = {"output": "probability", "path": "layerwise", "method": "gausslegendre", "baseline": "no attention"}
    page = tab(replace(explanation, settings=settings, delta=torch.tensor([1e-6, -2.0, 0.0])))
    assert "gausslegendre" in page.inner_text("#settings")
    assert [row.split("\t")[0] for row in page.locator("#completeness tr").all_inner_texts()][1:] == [
        "layer 2", "layer 3", "layer 5",
    ]  # fmt: skip
    assert page.locator("#completeness td.wide").all_inner_texts() == ["-2e+0"]


def test_of_many_labels_the_most_probable_are_named(tab, explanation):
    names = [f"label {number}" for number in range(12)]
    many = replace(explanation, labels=names, probabilities=torch.arange(12) / 66, target=3)
    page = tab(many)
    words = page.inner_text("#labels").split()
    assert words[:3] == ["label", "11", "0.167"]
    assert words[-3:] == ["and", "4", "more"]


def test_hostile_text_is_shown_and_not_run(tab):
    tokens = ["<s>", HOSTILE, "$$x$$", "\\(y\\)", "&lt;b>", "</s>"]
    page = tab(replace(made(6), text=HOSTILE, tokens=tokens, labels=["bad", HOSTILE]))
    assert page.eval_on_selector_all("#tokens button", "(all) => all.map((b) => b.textContent)") == tokens
    for place in range(6):
        page.mouse.move(*place_of(page, "shares", place, 1))
        nodes = data(page, "nodes source")
        if place in nodes["token"]:
            rank = nodes["token"].index(place)
            page.mouse.move(*place_of(page, "tree", nodes["x"][rank], nodes["y"][rank]))
            ready(page)
    assert HOSTILE in page.inner_text("#answer")
    assert page.evaluate("window.hit") is None
    assert page.query_selector("main img, main script") is None


def test_in_a_notebook_s_frame_it_works_as_well(browser, explanation):
    page = browser.new_page(viewport={"width": 1000, "height": 1000})
    page.set_content(Report(explanation)._repr_html_())
    frame = page.frames[1]
    frame.wait_for_selector("#main[aria-busy=false]")
    assert len(frame.query_selector_all("#tokens button")) == COUNT
    page.close()


@pytest.fixture(scope="module")
def large():
    """As BERT-base with 128 tokens: most attention on few tokens, most attributions small."""
    explanation = made(128, layers=12, heads=12)
    attention = (3 * explanation.attributions).softmax(-1)
    return replace(explanation, attributions=1e-3 * explanation.attributions**3, attention=attention)


def test_128_tokens_12_layers_12_heads_open_within_2_seconds_and_answer_at_once(tab, large):
    """In seconds of the page's own processor time, which does not depend on what else the machine is doing."""
    page = tab(large)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def seconds():
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "ThreadTime")

    opening = seconds()
    assert opening < 2
    click(page, "heads", 5, 7)
    assert_shows(page, large, layer=7, head=5)
    assert seconds() - opening < 0.5
