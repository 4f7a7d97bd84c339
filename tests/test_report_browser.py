"""The report in Chromium: laptop and phone, light and dark, keyboard, and nothing asked of any network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import SIZES, Opened, chromium, opened_page, until
from playwright.sync_api import Browser
from small_pipelines import finish_project, glpose_stage

SECTIONS = ["results", "joints", "curves", "recall", "side-by-side", "inspector",
            "training", "store", "stages", "options", "record"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small pipeline that has run."""
    folder = finish_project(tmp_path_factory.mktemp("browser"))
    code, printed = glpose_stage(folder / "pipelines.yaml", "report")
    assert code == 0, printed
    return folder / "work" / "report.html"


@pytest.fixture
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    """The report at a size and in a theme; by default on a laptop, in light. At the end nothing may have gone wrong."""
    size, scheme = getattr(request, "param", ("laptop", "light"))
    with opened_page(browser, report, size, scheme) as found:
        yield found


VIEWS = pytest.mark.parametrize(
    "opened", [(size, scheme) for size in SIZES for scheme in ("light", "dark")], indirect=True, ids="-".join
)


@VIEWS
def test_all_sections_are_there_and_nothing_is_wider_than_the_page(opened: Opened) -> None:
    page = opened.page
    assert page.locator("main > section").evaluate_all("all => all.map(one => one.id)") == SECTIONS
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("svg[role=img]").count() > 10
    narrow = page.locator(".panel svg").evaluate_all("all => Math.min(...all.map(one => one.clientWidth))")
    assert narrow >= 280  # so that 12 px text is 10 at least


@VIEWS
def test_charts_have_the_colours_of_the_theme(opened: Opened) -> None:
    page = opened.page
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paints = "all => new Set(all.map(one => getComputedStyle(one).fill)).size"
    assert page.locator(".panel text").evaluate_all(paints) >= 2  # titles, and axes set back
    bright = "one => getComputedStyle(one).fill.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)"
    assert (page.locator(".panel text").first.evaluate(bright) > 384) == dark
    ground = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0)"
    )
    assert (page.evaluate(ground) < 384) == dark


def test_wide_tables_scroll_by_themselves_and_by_keyboard(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = Opened(context, report).page
    table = page.locator("#results .scroll")
    assert table.evaluate("box => box.scrollWidth > box.clientWidth && box.tabIndex === 0")
    table.focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#results .scroll').scrollLeft > 0")
    context.close()


def test_the_theme_can_be_chosen_and_is_kept(opened: Opened) -> None:
    page, ground = opened.page, "getComputedStyle(document.body).backgroundColor"
    page.evaluate("document.addEventListener('themechange', event => { window.told = event.detail; })")
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(ground)
    assert dark != light and page.evaluate("window.told") == "dark"
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(ground) == light


def test_the_keyboard_reaches_everything_and_shows_where_it_is(opened: Opened) -> None:
    page, focused = opened.page, "document.activeElement.textContent.trim()"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the results"
    assert page.locator(".skip").evaluate("link => link.getBoundingClientRect().left >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.reload()
    order = []
    for _ in range(4):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    assert order == ["Skip to the results", "Dark theme", "Results", "AP by joint"]


def test_sections_are_reached_by_the_contents(opened: Opened) -> None:
    page = opened.page
    links = page.locator("nav a")
    assert links.evaluate_all("all => all.map(one => one.hash.slice(1))") == SECTIONS
    links.filter(has_text="Options").click()
    until(page, "document.getElementById('options').getBoundingClientRect().top < innerHeight / 2")
    until(page, "document.querySelector('nav a[aria-current]').hash === '#options'")


def test_a_row_of_a_chart_can_be_hidden(opened: Opened) -> None:
    page = opened.page
    button = page.locator("#curves .legend button").first
    shown = "all => all.length > 0 && all.every(one => getComputedStyle(one).display !== 'none')"
    hidden = "all => all.every(one => getComputedStyle(one).display === 'none')"
    assert page.locator("#curves .panels .s0").evaluate_all(shown)
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("#curves .panels .s0").evaluate_all(hidden)
    assert page.locator("#curves .panels .s1, #joints .panels .s0").evaluate_all(shown)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#curves .panels .s0").evaluate_all(shown)


def test_what_is_to_be_copied_is_copied_or_selected(opened: Opened) -> None:
    page = opened.page
    block = page.locator("#record .copied").last
    block.get_by_role("button").click()
    until(page, "/Copied|Selected/.test([...document.querySelectorAll('.copied button')].pop().textContent)")
    assert "glpose-stage run" in block.locator("pre").inner_text()


def test_without_scripts_all_sections_are_readable(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    found = Opened(context, report)
    assert found.page.locator("main > section").count() == len(SECTIONS)
    assert found.page.locator("#theme").is_hidden() and found.complaints == []
    context.close()
