"""The report in a real browser: it draws, it filters, it fits a phone, it can be used by keyboard."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vl_convert", reason="vl-convert-python is not installed; the extra report has it")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; the extra test has it")

from memreplay.core.reporting.report import write_report  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; Debian's package is called chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [make(folder / "first"), make(folder / "second", ("er", "der++"), hostile="a <b>bold</b> name")]
    return write_report(runs, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # root, as in a container, has no sandbox
        alone = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=alone)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, drawn; whatever it complains of, or asks the network for, fails the test."""
    options = {"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})}
    context = browser.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            complaints.append(request.url)

    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", asked)
    page.goto(report.as_uri())
    drawn(page, 1)
    yield page
    assert complaints == []
    assert page.evaluate("window.broken") is None
    context.close()


def drawn(page: Any, times: int) -> None:
    """Waits until the charts have been drawn so often; what Playwright waits with itself the page's policy forbids."""
    until = time.monotonic() + 60
    while int(page.evaluate("document.documentElement.dataset.drawn || 0")) < times:
        assert time.monotonic() < until, "the charts were not drawn within a minute"
        page.wait_for_timeout(50)


def test_every_chart_is_drawn_and_has_a_table(opened: Any) -> None:
    charts = opened.locator(".chart")
    assert charts.count() >= 12
    assert opened.locator(".chart svg.marks").count() == charts.count()
    for chart in charts.all():
        assert chart.locator("tbody tr").count() >= 1
    for section in ("accuracy", "sessions", "forgetting", "adaptation", "cost", "training", "memory", "evidence"):
        assert opened.locator(f"#{section}").is_visible(), section


def test_a_run_can_be_left_out(opened: Any) -> None:
    table = opened.locator('[data-chart^="final base"] tbody')
    assert "second · er" in table.text_content()
    opened.get_by_label("second", exact=True).uncheck()
    drawn(opened, 2)
    assert "second" not in table.text_content()
    assert "er" in table.text_content()
    assert opened.locator('.memory[data-run="second"]').is_hidden()
    assert opened.locator('.card[data-run="second"]').is_hidden()


def test_a_method_can_be_left_out(opened: Any) -> None:
    opened.locator("#methods").get_by_label("none", exact=True).uncheck()
    drawn(opened, 2)
    assert "first · none" not in opened.locator('[data-chart="forgetting"] tbody').text_content()
    assert opened.locator("#chosen").text_content() == "2 of 3"
    opened.locator("#none").click()
    drawn(opened, 3)
    assert opened.locator('[data-chart="forgetting"]').count() == 0


def test_a_key_of_the_legend_hides_its_figures_and_keeps_the_focus(opened: Any) -> None:
    chart = opened.locator('[data-chart^="final base"]')
    key = chart.get_by_role("button", name="novel")
    key.focus()
    opened.keyboard.press("Enter")
    drawn(opened, 2)
    assert chart.get_by_role("button", name="novel").get_attribute("aria-pressed") == "false"
    assert "novel" not in chart.locator("tbody").text_content()
    assert opened.evaluate("document.activeElement.textContent") == "novel"


def test_a_value_is_told_on_hover(opened: Any) -> None:
    point = opened.locator('[data-chart^="final base"] svg .mark-symbol path').first
    point.scroll_into_view_if_needed()
    point.hover()
    tip = opened.locator("#tip")
    assert tip.is_visible()
    assert "71.0 ± 12.7" in tip.text_content()  # of 70 and 72


def test_shots_are_chosen(opened: Any) -> None:
    table = opened.locator('[data-chart="adaptation novel"] tbody')
    assert "15" in table.text_content()  # 5 shots are the first choice: 10 + 5
    opened.get_by_label("1-shot").check()
    drawn(opened, 2)
    assert table.locator("tr").count() == 4 * 2  # recall on and off after 1 and 10 steps, in both runs
    assert "15" not in table.text_content()
    assert "11" in table.text_content()


def test_classes_and_predictions_are_found(opened: Any) -> None:
    opened.get_by_label("Find a class").fill("DOG")
    shown = [group for group in opened.locator(".class").all() if group.is_visible()]
    assert {group.get_attribute("data-class") for group in shown} == {"dog"}
    opened.get_by_label("Find a class").fill("zebra")
    assert opened.locator("#no-class").is_visible()
    opened.get_by_label("mistakes").uncheck()
    opened.get_by_label("right", exact=True).uncheck()
    assert opened.locator("#no-case").is_visible()


def test_light_and_dark(opened: Any) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(paper) == "rgb(247, 246, 243)"
    opened.emulate_media(color_scheme="dark")
    drawn(opened, 2)
    dark = opened.evaluate(paper)
    assert dark == "rgb(15, 18, 22)"
    opened.get_by_role("button", name="Colours: as the system").click()  # now light, whatever the system says
    assert opened.evaluate(paper) == "rgb(247, 246, 243)"
    opened.get_by_role("button", name="Colours: light").click()
    assert opened.evaluate(paper) == dark


@pytest.mark.parametrize("opened", [{"viewport": {"width": 390, "height": 844}}], indirect=True)
def test_a_phone_needs_no_scrolling_sideways(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth") == 390


def test_the_tab_key_reaches_everything_and_shows_where_it_is(opened: Any) -> None:
    reached = set()
    for _ in range(60):
        opened.keyboard.press("Tab")
        told = opened.evaluate(
            """() => { const at = document.activeElement; const label = at.closest('label');
            const shown = [at, label].filter(Boolean).some((one) => getComputedStyle(one).outlineStyle !== 'none');
            return [at.id || at.className || at.tagName, shown, !!(at.textContent || label || at.ariaLabel)] }"""
        )
        name, shown, labelled = told
        assert shown, f"{name} does not show that it has the focus"
        assert labelled, f"{name} has no label"
        reached.add(name)
    assert {"skip", "theme", "key"} <= reached
