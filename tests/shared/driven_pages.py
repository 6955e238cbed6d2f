"""Pages in a headless browser: opened, read and clicked on; and a fault in any of them fails the test."""

from __future__ import annotations

import shutil

import pytest
import torch

from captum_attattr.report import Report

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright, which drives the browser, is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium or Chrome on the path", allow_module_level=True)

# As root and in containers; and a browser that asks nobody for anything by itself.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, tmp_path):
    """Opens explanations in a tab of its own; fails on any error, console message or request to the outside."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))

    def opened(*explanations):
        path = Report(list(explanations)).save(tmp_path / "page.html")
        page.goto(path.as_uri())
        return ready(page)

    yield opened
    assert said == []
    outside = {url.split("#")[0] for url in asked if not url.startswith(("data:", "blob:", "about:"))}
    assert outside == {(tmp_path / "page.html").as_uri()}
    page.close()


def ready(page):
    page.wait_for_selector("#main[aria-busy=false]")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


def data(page, source):
    """The columns of a source of a Bokeh figure, as they are drawn."""
    columns = page.evaluate(
        """(name) => Object.entries(Bokeh.documents[0].get_model_by_name(name).data).map(([key, value]) => [key,
        key === "image" ? Array.from(value[0]) : Array.from(value)])""",
        source,
    )
    return dict(columns)


def map_of(page, name):
    drawn = data(page, f"{name} source")
    return torch.tensor(drawn["image"]).reshape(int(drawn["high"][0]), int(drawn["wide"][0]))


def place_of(page, figure, x, y):
    """Where on the screen a point of a figure is."""
    return page.evaluate(
        """([name, x, y]) => {
            const view = Object.values(Bokeh.index).find((view) => view.model.name === name);
            view.el.scrollIntoView({ block: "center" });
            const { left, top } = view.el.getBoundingClientRect();
            return [left + view.frame.x_scale.compute(x), top + view.frame.y_scale.compute(y)];
        }""",
        [figure, x, y],
    )


def click(page, figure, x, y):
    page.mouse.click(*place_of(page, figure, x, y))
    return ready(page)
