"""The page and the notebook's card: they hold the explanation, to the digit, and no text is taken for HTML."""

from __future__ import annotations

import base64
import html
import json
import re
import sys
import zlib
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from made_explanations import made

from captum_attattr import explain
from captum_attattr.cli import main
from captum_attattr.colours import colour, palette
from captum_attattr.demo import load_reviews
from captum_attattr.report import Report, packing
from captum_attattr.text.overview import Overview
from captum_attattr.tree.attribution_tree import AttributionTree

HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'> & <!-- \u2028"


class Page(HTMLParser):
    """The elements of a page, and the texts of its scripts by type."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.scripts, self.words, self.inside = [], [], [], None
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "script":
            self.scripts.append([dict(attributes), ""])

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1][1] += data
        else:
            self.words.append(data)

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    def sentences(self):
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("class") == "sentence"]


def unpacked(packed, shape):
    """As the page does it."""
    kind = {8: "<i1", 16: "<i2"}[packed["bits"]]
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(packed["numbers"])), kind).reshape(shape)
    return torch.from_numpy(numbers * np.array(packed["scales"]).reshape(*shape[:2], 1, 1))


@pytest.fixture(scope="module")
def hostile():
    explanation = made(6)
    tokens = ["<s>", *explanation.tokens[1:3], HOSTILE, "&lt;", "</s>"]
    return replace(explanation, text=HOSTILE, text_pair=HOSTILE, tokens=tokens, labels=["bad", HOSTILE])


# What the page holds


@pytest.mark.parametrize("count", [1, 3, 40])
def test_matrices_are_packed_to_half_a_step(count):
    matrices = made(count).attributions
    packed = packing.pack(matrices)
    steps = matrices.abs().amax((2, 3)).double() / 32767
    assert packed["scales"] == pytest.approx(steps.flatten().tolist())
    error = (unpacked(packed, matrices.shape) - matrices).abs().amax((2, 3))
    assert bool((error <= 0.505 * steps).all())


def test_a_head_of_zeros_and_heads_of_other_sizes_keep_their_own_scales():
    matrices = torch.stack([torch.zeros(2, 2), torch.full((2, 2), 1e-30), torch.full((2, 2), -1e20)])[None]
    torch.testing.assert_close(unpacked(packing.pack(matrices), matrices.shape).float(), matrices)


def test_coarse_heads_take_less_than_a_byte_a_pair():
    reviews = [text for text, _ in load_reviews()[:6]]
    for explanation in explain([f"{one} {other}" for one, other in zip(reviews[::2], reviews[1::2])]):
        entries, most = explanation.attributions.numel(), 1 if len(explanation.tokens) >= 25 else 1.2
        assert len(packing.as_script(packing.sentence(explanation, packing._COARSE))) < most * entries
        assert len(packing.as_script(packing.sentence(explanation))) < 5 * entries


@pytest.mark.parametrize("how", [{"layers": [1, 4]}, {"layerwise": [1, 4]}])
def test_the_page_holds_the_explanation(how):
    explanation = explain("A warm film, unputdownable.", text_pair="Is it?", n_steps=20, **how)
    (page,) = Page(Report(explanation).html).sentences()
    words, view = explanation.words, Overview(explanation.words)
    for units, e in ((page["words"], words), (page["pieces"], explanation)):
        assert (units["tokens"], units["names"], units["special"]) == (e.tokens, e.token_names, e.special)
        assert units["second"] == e.second_text_start
    owners = page["words"]["owners"]
    assert [words.tokens[owner] for owner in owners[5:8]] == ["unputdownable"] * 3
    for name, value in {
        "text": explanation.text, "pair": "Is it?", "labels": ["negative", "positive"], "headline": view.headline,
        "sum": view.sum_of_parts, "prediction": explanation.prediction, "target": explanation.target,
        "output": explanation.output, "received": pytest.approx(view.received.tolist(), rel=1e-4),
    }.items():  # fmt: skip
        assert page[name] == value, name
    assert page["settings"]["method"] == "gausslegendre"
    assert f"torch {torch.__version__}" in page["settings"]["versions"]
    apart = [e for e in (explanation, explanation.layerwise) if e is not None]
    for path, e in zip(page["paths"], apart, strict=True):
        assert_path(path, e)


def assert_path(path, e):
    for name, matrices in (("shares", e.attributions), ("attention", e.attention)):
        bound = float(matrices.abs().max()) / 32767
        torch.testing.assert_close(unpacked(path[name], matrices.shape).float(), matrices, rtol=0, atol=bound)
    total = e.attributions.sum((0, 1))
    found = unpacked(path["allShares"], (1, 1, *total.shape))[0, 0].float()
    torch.testing.assert_close(found, total, rtol=0, atol=float(total.abs().max()) / 32767)
    for name, value in {
        "name": e.settings["path"], "addUp": e.layers_add_up, "ranking": e.sums_only_rank, "reader": e.reader,
        "layers": e.layers, "heads": 12, "baseline": e.baseline_output.tolist(), "delta": e.delta.tolist(),
    }.items():  # fmt: skip
        assert path[name] == value, name


def test_large_pages_have_coarser_heads_but_the_same_map_of_all_of_them(monkeypatch):
    explanation = made(9)
    assert packing.steps_of([explanation]) == 32767
    monkeypatch.setattr(packing, "_MOST_FINE", 2 * explanation.attributions.numel() - 1)
    assert packing.steps_of([explanation]) == 31
    (page,) = Page(Report(explanation).html).sentences()
    (path,) = page["paths"]
    steps = explanation.attributions.abs().amax((2, 3)).double() / 31
    error = (unpacked(path["shares"], explanation.attributions.shape) - explanation.attributions).abs().amax((2, 3))
    assert bool((error <= 0.505 * steps).all())
    total = explanation.attributions.sum((0, 1))
    bound = float(total.abs().max()) / 32767
    found = unpacked(path["allShares"], (1, 1, 9, 9))[0, 0].float()
    torch.testing.assert_close(found, total, rtol=0, atol=bound)
    assert "rounded to 1/31 of its largest, its attention to 1/15" in Report(explanation).html


def test_the_page_holds_the_trees():
    explanation = explain("How old are you?", text_pair="What is your age?", n_steps=4, path="joint")
    packed = packing.sentence(explanation)["paths"][0]["tree"]
    assert [threshold for threshold, _ in packed["thresholds"]] == list(packing.THRESHOLDS)
    for threshold, count in packed["thresholds"]:
        tree = AttributionTree(explanation, tau=threshold)
        edges = packed["edges"][:count]
        assert [tuple(edge[:5]) for edge in edges] == [tuple(edge) for edge in tree.edges]
        assert [edge for *edge, crosses in edges if crosses] == [list(edge) for edge in tree.crossing_edges]
        assert packed["total"] == tree.total
    counts = [count for _, count in packed["thresholds"]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_page_of_layerwise_attributions_asks_no_one_for_attention(recwarn):
    packing.sentence(made(4))  # the page itself says what such attributions are
    assert not recwarn.list


def test_a_single_token_has_no_tree():
    packed = packing.sentence(replace(made(3), **_first_token_only(made(3))))["paths"][0]["tree"]
    assert packed["edges"] == []
    assert {count for _, count in packed["thresholds"]} == {0}


def _first_token_only(explanation):
    matrices = {name: getattr(explanation, name)[..., :1, :1] for name in ("attributions", "attention")}
    return {**matrices, "tokens": ["film"], "special": [False]}


def test_on_the_joint_path_there_is_one_sum():
    explanation = replace(made(4), delta=torch.zeros(1), settings={"output": "logit", "path": "joint"})
    (page,) = packing.sentence(explanation)["paths"]
    assert page["norms"] == pytest.approx([float(explanation.attributions.norm())])
    assert len(page["baseline"]) == len(page["delta"]) == 1


def test_several_sentences_are_held_in_order():
    pages = Page(Report([made(4), made(5), made(3)]).html).sentences()
    assert [len(page["pieces"]["tokens"]) for page in pages] == [4, 5, 3]


# No text is taken for HTML, nothing comes from outside


def test_text_stays_text(hostile):
    page = Page(Report(hostile, title=HOSTILE).html)
    assert len(page.tags("script")) == 5
    assert page.tags("img") == []
    (sentence,) = page.sentences()
    assert sentence["pieces"]["tokens"] == hostile.tokens
    assert sentence["text"] == sentence["pair"] == sentence["labels"][1] == HOSTILE
    assert "".join(page.words).count(HOSTILE) == 2  # the title, and the heading


def test_only_the_page_s_own_scripts_may_run_and_nothing_may_be_fetched(hostile):
    page = Page(Report(hostile).html)
    (policy,) = [meta["content"] for meta in page.tags("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    programs = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    allowed = [f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in programs]
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data: blob:", "style-src 'unsafe-inline'", f"script-src {' '.join(allowed)}",
    ]  # fmt: skip
    assert len(allowed) == 2
    assert not [attributes for _, attributes in page.elements if attributes.keys() & {"src", "href"}]


# Saving and showing


def test_a_page_is_saved_in_a_new_folder(tmp_path):
    explanation = made(4)
    path = Report(explanation).save(tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == Report(explanation).html
    assert Report([explanation]).save(str(tmp_path / "other.html")).read_bytes() == path.read_bytes()


def test_in_a_notebook_the_page_stands_in_a_frame_of_its_own(hostile):
    report = Report(hostile)
    (frame,) = Page(report._repr_html_()).elements
    assert frame[0] == "iframe"
    assert frame[1]["srcdoc"] == report.html


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ValueError, match="The report cannot be written to"):
        Report(made(3)).save(tmp_path)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "at least one explanation, got an empty list"),
        ([None], TypeError, r"as explain\(\) returns them; got a NoneType"),
        ("A film.", TypeError, "got a str"),
    ],
)
def test_a_report_of_something_else(given, error, message):
    with pytest.raises(error, match=message):
        Report(given)


def test_without_bokeh_the_error_says_what_to_install_and_the_card_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.resources", None)
    with pytest.raises(ImportError, match=r"pip install 'captum-attattr\[report\]'"):
        Report(made(3)).save("page.html")
    assert made(3)._repr_html_().startswith("<div")


# The card


def test_the_card_says_what_the_explanation_says():
    explanation = replace(made(5), layers=[1, 4, 7])
    page = Page(explanation._repr_html_())
    tokens = [span for span in page.tags("span") if "receives" in span.get("title", "")]
    scores = explanation.token_scores()
    assert [span["title"] for span in tokens] == [f"receives {score:+.4f}" for score in scores.tolist()]
    strongest = int(scores.abs().argmax())
    assert f"background: {colour(1 if scores[strongest] > 0 else -1)}" in tokens[strongest]["style"]
    heads = {cell["title"] for cell in page.tags("td") if "title" in cell}
    assert heads == {
        f"layer {layer}, head {head}: {score:+.4f}"
        for layer, row in zip(explanation.layers, explanation.head_scores().tolist(), strict=True)
        for head, score in enumerate(row)
    }
    view = Overview(explanation)
    for score in [pair.score for pair in view.strongest_between(6)] + [score for _, score in view.strongest_reads(6)]:
        assert f"{score:+.3f}" in page.words
    assert "good 0.750" in page.words


def test_text_in_the_card_stays_text(hostile):
    page = Page(hostile._repr_html_())
    assert {tag for tag, _ in page.elements} == {"div", "b", "span", "table", "tr", "td"}
    assert "".join(page.words).count(HOSTILE) >= 2


def test_the_card_of_a_regression_model_and_of_nothing_at_all():
    explanation = made(3, scale=0.0)
    alone = replace(explanation, labels=["LABEL_0"], probabilities=torch.tensor([0.7]), target=0, output=0.7)
    alone = replace(alone, settings={**alone.settings, "output": "given"})
    assert "<b>output 0.700</b>" in alone._repr_html_()
    assert "Between words" not in explanation._repr_html_()


def test_the_card_stays_small():
    assert len(made(128, layers=12, heads=12)._repr_html_()) < 80_000
    assert "layer 3, head 1" not in made(4, layers=32, heads=32)._repr_html_()


def test_the_palette_is_signed_and_white_at_zero():
    colours = [tuple(int(name[i : i + 2], 16) for i in (1, 3, 5)) for name in palette(41)]
    assert colours[20] == (255, 255, 255)
    assert all(red > blue for red, _, blue in colours[:19])
    assert all(blue > red for red, _, blue in colours[22:])
    assert colour(-9) == palette()[0]
    assert re.fullmatch(r"#[0-9a-f]{6}", html.unescape(colour(0.3)))


# From the command line


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run ``captum-attattr explain`` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["explain", "A warm film.", "Dull, a film!", "--steps", "2", "--output", "answers", *words])
        return code, *capsys.readouterr()

    return run


def test_the_command_writes_one_page_for_all_texts(command):
    code, out, _ = command("--html")
    assert code == 0
    assert out.endswith("page  answers/explanations.html\n")
    pages = Page(Path("answers/explanations.html").read_text(encoding="utf-8")).sentences()
    assert [page["text"] for page in pages] == ["A warm film.", "Dull, a film!"]
    code, out, _ = command("--html", "--json")
    assert [answer["files"]["page"] for answer in json.loads(out)] == ["answers/explanations.html"] * 2


def test_the_command_says_what_to_install_before_it_starts(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.resources", None)
    code, out, err = command("--html")
    assert (code, out) == (2, "")
    assert "pip install 'captum-attattr[report]'" in err
    assert list(Path("answers").iterdir()) == []


def test_without_the_flag_there_is_no_page(command):
    _, out, _ = command()
    assert "page" not in out
    assert {path.suffix for path in Path("answers").iterdir()} == {".png", ".safetensors"}
