"""The page in a real browser: what it shows is the explanation, and it answers to clicks, keys and sliders.

Skipped where there is no Chromium or no Playwright to drive it; CI machines that are to run it install both.
"""

from __future__ import annotations

import csv
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
from captum_attattr.text.overview import Overview
from captum_attattr.tree.attribution_tree import AttributionTree

__all__ = ["browser", "tab"]

COUNT, LAYERS, HEADS = 6, 3, 4
HOSTILE = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script></script>"


def assert_shows(page, explanation, layer=None, head=None, special=False):
    """The maps are those of these heads, by words, of the words of the text or of all tokens."""
    words = explanation.words
    own = [place for place, added in enumerate(words.special) if special or not added]
    layers, heads = (slice(None) if one is None else slice(one, one + 1) for one in (layer, head))
    attributions, attention = (m[layers, heads].double() for m in (words.attributions, words.attention))
    bound = 1e-4 * float(words.attributions.abs().max())
    shares, weights = attributions.sum((0, 1))[own][:, own], attention.mean((0, 1))[own][:, own]
    torch.testing.assert_close(map_of(page, "shares").double(), shares, rtol=0, atol=bound)
    torch.testing.assert_close(map_of(page, "attention").double(), weights, rtol=0, atol=1e-4)


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
    """Of words without pieces, so that places in the maps are those of the tokens."""
    return replace(made(COUNT, LAYERS, HEADS), layers=[2, 3, 5]).words


def number_in(words):
    return float(words.replace("\u2212", "-").replace("+", ""))


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
        assert number_in(says.split()[-1]) == pytest.approx(float(heads[row, head]), rel=6e-3)
    assert len(cells["row"]) == LAYERS * HEADS


def test_the_map_on_the_screen_has_the_colours_of_the_attributions(tab, explanation):
    page = tab(explanation)
    scores = explanation.pair_scores()[1:-1, 1:-1]
    query, key = divmod(int(scores.abs().argmax()), COUNT - 2)
    x, y = place_of(page, "shares", key, query)
    picture = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    wanted = rgb(1 if scores[query, key] > 0 else -1)
    assert np.abs(picture[int(y) + 3, int(x) + 3] - wanted).max() <= 3


def test_a_click_on_a_head_shows_its_pairs_and_another_one_shows_everything(tab, explanation):
    page = click(tab(explanation), "heads", 3, 1)
    assert_shows(page, explanation, layer=1, head=3)
    assert page.inner_text("#shown") == "Shown: layer 3, head 3"
    matrix = explanation.attributions[1, 3].clone()
    matrix[[0, -1]] = 0
    matrix[:, [0, -1]] = 0
    strongest = page.query_selector("#pairs button").inner_text().split("\n")
    query, key = divmod(int(matrix.abs().argmax()), COUNT)
    names = explanation.token_names
    assert strongest[0].strip() == f"{names[query]} \u2192 {names[key]}"
    assert number_in(strongest[-2]) == pytest.approx(float(matrix[query, key]), rel=6e-3)
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
    drawn = [number_in(says.split()[-1]) for says in data(page, "heads source")["says"]]
    torch.testing.assert_close(torch.tensor(drawn), through.flatten(), rtol=6e-3, atol=1e-3)
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


@pytest.mark.parametrize("side", ["received", "sent", "read"])
def test_words_can_show_either_side(tab, side):
    explanation = made(5)
    explanation.attributions[-1, :, 1:] = 0  # the first token alone is read
    page = tab(explanation)
    page.check(f"input[value={side}]")
    scores = explanation.pair_scores()[0] if side == "read" else explanation.token_scores(side)
    assert colours_of_tokens(page) == [rgb(part) for part in (scores / scores.abs().max()).tolist()]


def test_pointing_at_a_pair_names_it_and_a_click_chooses_its_row(tab, explanation):
    """Row 0 and column 2 of the map of words are tokens 1 and 3."""
    page = tab(explanation)
    page.mouse.move(*place_of(page, "attention", 2, 0))
    ready(page)
    names, attribution = explanation.token_names, float(explanation.pair_scores()[1, 3])
    words = page.inner_text("#pair")
    assert words.startswith(f"{names[1]} \u2192 {names[3]} attribution ")
    assert number_in(words.split("attribution ")[1].split(",")[0]) == pytest.approx(attribution, rel=6e-3)
    assert words.endswith(f"attention {float(explanation.attention[:, :, 1, 3].mean()):.3f}")
    click(page, "shares", 2, 0)
    assert presses(page) == [place == 1 for place in range(COUNT)]


def test_keys_move_over_the_map_and_enter_chooses_the_row(tab, explanation):
    page = tab(explanation)
    page.focus("#shares")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    names = explanation.token_names
    assert page.inner_text("#pair").startswith(f"{names[2]} \u2192 {names[2]} ")
    page.keyboard.press("Enter")
    assert presses(page) == [place == 2 for place in range(COUNT)]


def test_special_tokens_join_the_map_on_request(tab, explanation):
    page = tab(explanation)
    page.check("#special")
    assert_shows(page, explanation, special=True)
    assert page.inner_text("#shares-title").startswith("All pairs: net ")


def test_the_headings_are_the_overview(tab, explanation):
    """The first things to be seen: the answer, what is read, and how much is between words."""
    joint = replace(explanation, delta=torch.zeros(1), settings={"output": "log-odds", "path": "joint"})
    joint = replace(joint, attributions=joint.attributions.clone())
    joint.attributions[-1, :, 1:] = 0
    view, page = Overview(joint), tab(joint)
    assert page.inner_text("#answer") == view.headline
    assert page.inner_text("#sum") == view.sum_of_parts
    title = page.inner_text("#reads-title")
    assert title.startswith("What [CLS] reads: ")
    assert number_in(title.split(": ")[1]) == pytest.approx(float(view.reads.sum()), rel=6e-3)
    bars = [row.split("\n") for row in page.locator("#reads button").all_inner_texts()]
    assert [bar[0] for bar in bars] == joint.token_names
    found = [number_in(bar[-1]) for bar in bars]
    assert found == pytest.approx(view.reads.tolist(), rel=6e-3)
    title = page.inner_text("#shares-title")
    net, rest = title.removeprefix("Between words: net ").split(", ")
    assert number_in(net) == pytest.approx(float(view.between.sum()), rel=6e-3)
    assert f"{100 * view.part_between:.2g}% of all magnitude" in rest


def test_words_or_pieces(tab):
    explanation = made(7)
    page = tab(explanation)
    names = "(all) => all.map((b) => b.textContent)"
    assert page.eval_on_selector_all("#tokens button", names) == explanation.words.tokens
    assert_shows(page, explanation)
    page.select_option("#units", "pieces")
    ready(page)
    assert page.eval_on_selector_all("#tokens button", names) == explanation.tokens
    own = range(1, 6)
    expected = explanation.pair_scores()[own][:, own]
    torch.testing.assert_close(map_of(page, "shares").float(), expected, rtol=0, atol=1e-3)


def test_joint_or_layerwise(tab, explanation):
    joint = replace(
        explanation, attributions=-explanation.attributions, delta=torch.zeros(1),
        settings={"output": "probability", "path": "joint"}, layerwise=explanation,
    )  # fmt: skip
    page = tab(joint)
    assert_shows(page, joint)
    assert page.locator("#completeness tr").count() == 2
    page.select_option("#path", "1")
    ready(page)
    assert_shows(page, explanation)
    assert "a ranking, not shares" in page.inner_text("#shares-title")
    assert page.locator("#completeness tr").count() == 1 + LAYERS


def test_a_zoom_can_be_undone(tab, explanation):
    page = tab(explanation)
    assert page.is_hidden("#unzoom")
    start, stop = place_of(page, "shares", 0.6, 0.6), place_of(page, "shares", 2.4, 2.4)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*stop, steps=5)
    page.mouse.up()
    ready(page)
    page.click("#unzoom")
    assert page.is_hidden("#unzoom")


def test_the_address_leads_to_what_is_shown(tab, explanation):
    other = made(4)
    page = tab(explanation, other)
    click(page, "heads", 3, 1)
    page.check("#special")
    page.click("#tokens button >> nth=2")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    ready(page)
    assert_shows(page, explanation, layer=1, head=3, special=True)
    assert presses(page) == [place == 2 for place in range(COUNT)]
    page.select_option("#sentence", "1")
    ready(page)
    assert "number=1" in page.url
    page.goto(page.url.split("#")[0] + "#number=99&layer=77&token=x&scale=none")
    page.reload()
    ready(page)
    assert_shows(page, other, special=False)


def test_the_map_is_saved_as_a_table(tab, explanation):
    page = tab(explanation)
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "attributions.csv"
    rows = list(csv.reader(download.value.path().read_text().splitlines()))
    names = explanation.token_names[1:-1]
    assert rows[0] == ["", *names]
    assert [row[0] for row in rows[1:]] == names
    numbers = torch.tensor([[float(number) for number in row[1:]] for row in rows[1:]])
    torch.testing.assert_close(numbers, explanation.pair_scores()[1:-1, 1:-1], rtol=1e-3, atol=1e-3)


def test_the_looks_of_the_head_under_the_pointer_are_drawn(tab, explanation):
    """The last layer is on top of the small maps."""
    page = tab(explanation)
    box = page.locator("#thumbs").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 5)
    assert page.inner_text("#lines-title") == "Looks: layer 5, head 0"
    strongest = page.locator("#lines line").last.get_attribute("stroke")
    matrix = explanation.attributions[2, 0]
    top = matrix.flatten()[matrix.abs().argmax()]
    assert strongest == ("#542788" if top > 0 else "#b35806")
    page.mouse.click(box["x"] + 30, box["y"] + 5)
    assert_shows(page, explanation, layer=2, head=0)


def test_several_texts_begin_with_a_list_of_them(tab, explanation):
    other = replace(made(4), probabilities=torch.tensor([0.9, 0.1]))
    page = tab(explanation, other)
    rows = page.locator("#list button")
    assert [row.split("\n")[0] for row in rows.all_inner_texts()] == ["good 0.750", "bad 0.900"]
    colours = rows.nth(1).locator("span span").evaluate_all("(all) => all.map((one) => one.style.backgroundColor)")
    scores = other.token_scores()
    wanted = [rgb(part) for part in (scores / scores.abs().max()).tolist()]
    assert [tuple(int(part) for part in name[4:-1].split(",")) for name in colours] == wanted
    rows.nth(1).click()
    ready(page)
    assert_shows(page, other)
    assert tab(explanation).is_hidden("#texts")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(tab, explanation, scheme):
    """Contrast of at least 4.5 to 1 (WCAG AA) for all text on the page's own grounds."""
    page = tab(explanation)
    page.emulate_media(color_scheme=scheme)
    page.reload()
    ready(page)
    pairs = page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, p, label, button, summary, dt, dd, td, th, .number, .hint")]
        .filter((one) => one.offsetParent).map((one) => {
            let below = one;
            while (getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)" && below.parentElement)
                below = below.parentElement;
            return [getComputedStyle(one).color, getComputedStyle(below).backgroundColor, one.textContent.slice(0, 20)];
        })"""
    )
    assert len(pairs) > 30
    low = [(words, front, back) for front, back, words in pairs if contrast(front, back) < 4.5]
    assert low == []


def contrast(front, back):
    """Of two CSS colours, as the Web Content Accessibility Guidelines define it."""

    def luminance(name):
        parts = [int(part) / 255 for part in name[name.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(front), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [1440, 420])
def test_nothing_is_cut_at_either_size_or_in_print(tab, explanation, width):
    page = tab(explanation, made(30))
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).printColorAdjust") == "exact"
    assert page.is_hidden("#csv")


def test_heads_can_be_coloured_layer_by_layer(tab, explanation):
    page = tab(explanation)
    page.select_option("#scale", "layer")
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
            assert number_in(numbers[edge.key]) == pytest.approx(edge.attribution, rel=6e-3)
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
    assert page.inner_text("#answer").startswith("output 0.750: every token reads ")
    page.click("#after")
    ready(page)
    assert page.inner_text("#answer").startswith("LABEL_0 0.750: every token reads ")
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
    assert lines == [[True, 2.5], [True, 2.5]]  # after three words of the first text
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
        "layer 5", "layer 3", "layer 2",
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
        page.mouse.move(*place_of(page, "shares", min(place, 3), 1))
        nodes = data(page, "nodes source")
        if place in nodes["token"]:
            rank = nodes["token"].index(place)
            page.mouse.move(*place_of(page, "tree", nodes["x"][rank], nodes["y"][rank]))
            ready(page)
    assert HOSTILE in page.inner_text("#sum")
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
