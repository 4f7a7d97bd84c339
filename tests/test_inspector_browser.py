"""The retrieval inspector in Chromium: people, joints and points by mouse and by key, and what is drawn then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Opened, chromium, opened_page, until
from playwright.sync_api import Browser
from small_pipelines import finish_project, glpose_stage

from glpose.keypoints import POSETRACK
from stages.report import INSPECTOR

CHOSEN = "#inspector-people [aria-selected=true]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this file."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small pipeline with seven people in the inspector."""
    folder = finish_project(tmp_path_factory.mktemp("inspector-browser"))
    code, printed = glpose_stage(folder / "pipelines.yaml", "report", "--people", "7")
    assert code == 0 and INSPECTOR in printed, printed
    return folder / "work" / "report.html"


@pytest.fixture
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    """The report at a size and in a theme; by default on a laptop, in light. At the end nothing may have gone wrong."""
    size, scheme = getattr(request, "param", ("laptop", "light"))
    with opened_page(browser, report, size, scheme) as found:
        yield found


def who(opened: Opened) -> str:
    return opened.page.locator("#inspector-who").inner_text()


# how many pixels of a canvas are painted
PAINTED = """one => {
  const image = one.getContext("2d").getImageData(0, 0, one.width, one.height);
  return image.data.filter((value, at) => at % 4 == 3 && value).length;
}"""


@pytest.mark.parametrize(
    "opened",
    [("laptop", "light"), ("laptop", "dark"), ("phone", "light"), ("phone", "dark")],
    indirect=True,
    ids="-".join,
)
def test_a_person_is_shown_with_all_that_goes_in_and_comes_out(opened: Opened) -> None:
    page = opened.page
    assert page.locator("#inspector-people button").count() == 7
    assert page.locator("#inspector-local > li").count() == 3  # k = 1
    assert page.locator("#inspector-local .inspector-key-frame").count() == 1
    assert page.locator("#inspector-references > li").count() == 2
    titles = page.locator("#inspector-outcomes b").all_inner_texts()
    assert titles == [
        "Truth", "Mask of Eq. 5", "GLPose", "without local frames", "without references", "key frame alone",
        "single-frame heads",
    ]  # fmt: skip
    assert page.locator("#inspector-errors tbody tr").count() == len(POSETRACK) + 1
    assert page.locator("#inspector-readings li").count() >= 3
    assert page.locator("#inspector-scatter circle").count() > 7
    until(page, f"[...document.querySelectorAll('#inspector-outcomes canvas')].every(one => ({PAINTED})(one) > 50)")
    assert page.locator("#inspector img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = "all => Math.max(...all.map(one => one.getBoundingClientRect().right)) <= innerWidth"
    assert page.locator("#inspector-outcomes > li, #inspector-head, #inspector-scatter").evaluate_all(wide)


def test_people_are_chosen_by_mouse_key_and_button(opened: Opened) -> None:
    page = opened.page
    names = page.locator("#inspector-people button").evaluate_all("all => all.map(one => one.title)")
    first = who(opened)
    page.locator("#inspector-people button").nth(2).click()
    assert page.locator(CHOSEN).get_attribute("title") == names[2] and who(opened) != first
    page.keyboard.press("ArrowRight")
    assert page.locator(CHOSEN).get_attribute("title") == names[3]
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")  # nobody is before the first
    assert page.locator(CHOSEN).get_attribute("title") == names[0] and who(opened) == first
    assert page.locator("#inspector-previous").is_disabled()
    page.keyboard.press("End")
    assert page.locator(CHOSEN).get_attribute("title") == names[-1]
    assert page.locator("#inspector-count").inner_text() == "7 of 7" and page.locator("#inspector-next").is_disabled()
    page.locator("#inspector-previous").click()
    assert page.locator(CHOSEN).get_attribute("title") == names[-2]
    assert page.locator("#inspector-people button[tabindex='0']").count() == 1  # one stop for the tab key
    page.locator("#inspector-scatter").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(CHOSEN).get_attribute("title") == names[-1]


def test_the_list_can_be_of_a_kind_or_a_video(opened: Opened) -> None:
    page, filter_ = opened.page, opened.page.locator("#inspector-filter")
    for value in filter_.locator("option").evaluate_all("all => all.map(one => one.value)"):
        filter_.select_option(value)
        shown = page.locator("#inspector-people button").count()
        assert 0 < shown <= 7 and page.locator("#inspector-count").inner_text() == f"1 of {shown}"
    filter_.select_option("why:gain")
    gains = page.locator("#inspector-people .inspector-good")
    assert gains.count() == page.locator("#inspector-people button").count() > 0


def test_a_point_of_the_map_chooses_its_person(opened: Opened) -> None:
    page = opened.page
    page.locator("#inspector-filter").select_option("why:loss")
    other = page.locator("#inspector-scatter .inspector-choice:not(.inspector-elsewhere)").first
    title = other.locator("title").text_content()
    other.dispatch_event("click")
    assert page.locator("#inspector-scatter .inspector-chosen title").text_content() == title
    assert title is not None and title.lower().startswith(who(opened).split(" of ")[0].lower())
    assert page.locator("#inspector-count").inner_text().endswith("of 7")  # the list is of all again
    assert page.locator("#inspector-scatter .inspector-reference, #inspector-scatter line").count() >= 2
    plain = page.locator("#inspector-scatter .inspector-spot:not(.inspector-choice):not(.inspector-chosen)").first
    before = who(opened)
    frame = re.findall(r"frame (\d+)", plain.locator("title").text_content() or "")[0]
    plain.dispatch_event("click")
    told = page.locator("#inspector-point").inner_text()
    assert who(opened) == before and "ot among the people" in told and re.search(rf"frame\s+{frame}\b", told)
    for colour in page.locator("#inspector-colour option").evaluate_all("all => all.map(one => one.value)"):
        page.locator("#inspector-colour").select_option(colour)
        fills = page.locator("#inspector-scatter circle").evaluate_all(
            "all => new Set(all.map(one => getComputedStyle(one).fill)).size"
        )
        assert fills > 1, colour


def test_a_joint_is_chosen_by_the_list_or_its_row(opened: Opened) -> None:
    page = opened.page
    canvas = page.locator("#inspector-outcomes canvas").nth(1)
    until(page, f"({PAINTED})(document.querySelectorAll('#inspector-outcomes canvas')[1]) > 50")
    every = canvas.evaluate("one => one.toDataURL()")
    page.locator("#inspector-joint").select_option(label="left wrist")
    assert canvas.evaluate("one => one.toDataURL()") != every
    assert page.locator("#inspector-errors tr[aria-current] th").inner_text() == "left wrist"
    assert page.locator("#inspector-outcomes").get_by_text("heatmap peak").count() == 5
    page.locator("#inspector-errors").get_by_role("button", name="nose").click()
    assert page.locator("#inspector-joint option:checked").inner_text() == "nose"
    page.locator("#inspector-errors").get_by_role("button", name="nose").click()
    assert page.locator("#inspector-joint option:checked").inner_text().startswith("all joints")
    assert canvas.evaluate("one => one.toDataURL()") == every
    page.locator("#inspector-heat").uncheck()
    assert canvas.evaluate(PAINTED) == 0
    bones = page.locator("#inspector-outcomes .inspector-bone")
    drawn = bones.count()
    page.locator("#inspector-pose").uncheck()
    assert 0 < bones.count() < drawn  # the truth's are left
