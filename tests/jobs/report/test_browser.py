"""The page in a real Chromium: no error, no request, captions as text, what-if reckons, keys and labels reach all."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.report.pages import HOSTILE, made
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline.executors.local import LocalExecutor

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH: apt-get install chromium")


@dataclass
class Opened:
    """A page in a browser, with what the browser said and asked for."""

    page: Any
    url: str
    job: dict[str, Any]
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def told(self, cut: str, what: str) -> str:
        """One of the numbers of what-if."""
        found: str = self.page.locator(f"[data-slider={cut}] [data-out={what}]").inner_text()
        return found.replace("\xa0", " ")

    def bars(self, cut: str) -> tuple[float, float]:
        """Samples in the bars that stay and in those that go."""
        found = self.page.evaluate(
            f"document.getElementById('histogram-{cut}').data.map(d => d.y.reduce((a, b) => a + b))"
        )
        return found[0], found[1]


@pytest.fixture(scope="module")
def job(hostile: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """With the job's own page."""
    page = tmp_path_factory.mktemp("browser") / "index.html"
    return {**hostile, "html": str(page), "page": made(hostile, page)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def open_page(browser: Any, job: dict[str, Any]) -> Iterator[Callable[[str], Opened]]:
    """Opens it from disk in a light or dark window; each is opened once."""
    windows: dict[str, Opened] = {}

    def opened(scheme: str) -> Opened:
        if scheme not in windows:
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
            found = windows[scheme] = Opened(page, Path(job["html"]).as_uri(), job)
            page.on("console", lambda message: found.said.append(message.text))
            page.on("pageerror", lambda error: found.said.append(str(error)))
            page.on("dialog", lambda dialog: (found.said.append(f"alert {dialog.message}"), dialog.dismiss()))
            page.on("request", lambda request: found.asked.append(request.url))
            page.goto(found.url)
            page.wait_for_selector("html[data-ready=yes]")
        return windows[scheme]

    yield opened
    for window in windows.values():
        window.page.close()


@pytest.fixture
def light(open_page: Callable[[str], Opened]) -> Opened:
    return open_page("light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_error_no_request_and_both_schemes(open_page: Callable[[str], Opened], scheme: str) -> None:
    opened = open_page(scheme)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [opened.url]
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128"
    assert opened.page.evaluate(brightness) == (scheme == "light")
    drawn = opened.page.locator(".canvas .main-svg").count()
    assert drawn >= 4


def test_a_caption_with_a_script_is_shown_as_text(light: Opened) -> None:
    shown = light.page.locator("figcaption p").all_text_contents()
    for caption in HOSTILE:
        plain = re.sub("[\u2028\u202e]", " ", caption)
        assert any(text.startswith(plain) for text in shown)
    assert light.page.locator("script").count() == 3
    assert light.page.locator("[onerror], [onmouseover], main a[href^=http]").count() == 0
    assert light.said == []


def test_what_if_moves_the_numbers_and_goes_back(light: Opened) -> None:
    kept, dropped = light.bars("similarity")
    whole, before = kept + dropped, light.told("similarity", "threshold")
    assert light.told("similarity", "kept") == str(int(kept))
    light.page.locator("#slider-similarity").fill("0.5")
    assert light.told("similarity", "share") == "50.0 %"
    assert light.told("similarity", "kept") == str(int(whole / 2))
    assert light.told("similarity", "dropped") == str(int(whole - int(whole / 2)))
    assert light.bars("similarity")[0] == pytest.approx(whole / 2, abs=0.5)
    assert light.told("similarity", "set") == "--set policy.2.similarity.fraction=0.5"
    assert light.told("similarity", "threshold") != before
    light.page.locator("[data-slider=similarity] [data-reset]").click()
    assert light.told("similarity", "kept") == str(int(kept))
    assert light.told("similarity", "threshold") == before
    assert light.bars("similarity") == (kept, dropped)


def test_what_if_says_what_a_run_then_does(light: Opened) -> None:
    """The threshold and the quotas of another fraction, beside those of a job that has it."""
    light.page.locator("#slider-similarity").fill("0.4")
    said = float(light.told("similarity", "threshold").removeprefix("about "))
    light.page.locator("[data-slider=similarity] [data-reset]").click()
    light.page.locator("#slider-density").fill("0.75")
    shares = light.page.evaluate("document.getElementById('scatter-density').data[0].y")
    clusters = light.page.evaluate("document.getElementById('scatter-density').data[0].customdata")
    light.page.locator("[data-slider=density] [data-reset]").click()
    values = {name: light.job[name] for name in ("store", "pool", "embeddings", "limits")}
    policy = json.loads(json.dumps(light.job["policy"]))
    policy[2]["similarity"]["fraction"] = 0.4
    report = dict(run_job(parse({**values, "name": "a", "policy": policy[:3]}), LocalExecutor(2), lambda _: None).steps)
    histogram = light.job["page"].data["histograms"]["similarity"]
    bin_width = (histogram["high"] - histogram["low"]) / len(histogram["kept"])
    values_between = 1 / 20  # of so few samples the next one may lie far away
    assert said == pytest.approx(report["similarity"].report["threshold"], abs=bin_width + values_between)
    policy[2]["similarity"]["fraction"] = 0.8
    policy[3]["density"]["fraction"] = 0.75
    steps = dict(run_job(parse({**values, "name": "b", "policy": policy}), LocalExecutor(2), lambda _: None).steps)
    page = made({**light.job, "name": "b"}, Path(light.job["html"]).with_name("b.html"))
    scatter = page.data["scatters"]["density"]
    exact = dict(zip(scatter["cluster"], scatter["kept_share"], strict=True))
    size = dict(zip(scatter["cluster"], scatter["size"], strict=True))
    assert steps["density"].report["kept"] == sum(round(exact[j] * size[j]) for j in exact)
    for cluster, share in zip(clusters, shares, strict=True):
        assert share / 100 * size[cluster] == pytest.approx(exact[cluster] * size[cluster], abs=1)


def test_concepts_are_sorted_found_and_opened_by_keys(light: Opened) -> None:
    page = light.page
    head = page.locator("#concepts-density thead th", has_text="size").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    sizes = [int(text) for text in page.locator("#concepts-density tbody td:nth-child(2)").all_text_contents()]
    assert sizes == sorted(sizes, reverse=True)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    last = page.locator("#concepts-density tbody .open").last
    last.focus()
    page.keyboard.press("Enter")
    panel = page.locator(f"#{last.get_attribute('aria-controls')}")
    assert panel.is_visible()
    assert page.locator(".concept:visible").count() == 1
    assert last.get_attribute("aria-expanded") == "true"
    name = last.inner_text()
    page.locator("#search-density").fill(name)
    assert page.locator("#concepts-density tbody tr:visible").count() >= 1
    page.locator("#search-density").fill("no concept is called that")
    assert page.locator("#concepts-density tbody tr:visible").count() == 0
    assert page.locator("[data-found=density]").inner_text() == "0 found"
    page.locator("#search-density").fill("")


def test_the_tab_key_reaches_every_control_and_each_has_a_name(light: Opened) -> None:
    page = light.page
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "(e => e.id || e.dataset.scale || e.getAttribute('href') || e.textContent)(document.activeElement)"
        )
        if place in reached and place == "#main":
            break
        reached.add(place)
    assert {"#main", "#funnel", "#cut-density", "slider-similarity", "slider-density", "search-density"} <= reached
    assert {"similarity", "size", "complexity"} <= reached
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, button, [role=img], [role=region], section, nav, form, img')]"
        ".filter(e => "
        "!(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.alt || e.textContent.trim() "
        "|| (e.labels && e.labels.length))).map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    tree = page.locator("#cut-similarity").aria_snapshot()
    for line in (
        'heading "similarity" [level=2]',
        'slider "What if it kept"',
        'radio "log"',
        'img "Histogram of image-text',
    ):
        assert line in tree
    assert page.evaluate("document.querySelectorAll('h1').length") == 1


def test_a_log_scale_and_a_narrow_window(light: Opened) -> None:
    page = light.page
    page.locator("[data-scale=similarity][value=log]").check()
    assert page.evaluate("document.getElementById('histogram-similarity').layout.yaxis.type") == "log"
    page.set_viewport_size({"width": 400, "height": 800})
    for _ in range(100):  # plots follow a moment later; the page's own policy refuses a function that waits
        if page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
            break
        page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert light.said == []
