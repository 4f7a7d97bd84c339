"""One HTML page of sections that works from disk: every style, script and picture is inside the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import jinja2
from markupsafe import Markup

# Colours by theme, as CSS variables: --text ... The series of charts, --series-0 ..., are in the order of their rows.
THEMES = {
    "light": {
        "page": "#ffffff", "panel": "#f6f5f1", "text": "#1e1d1a", "muted": "#5f5d57", "line": "#d9d6ce",
        "accent": "#185a88", "good": "#1b7145", "bad": "#b0281f",
        "series-0": "#77746c", "series-1": "#1c67a0", "series-2": "#bf560f", "series-3": "#377a3b",
        "series-4": "#87509f", "series-5": "#a12c4c",
    },
    "dark": {
        "page": "#17181b", "panel": "#202227", "text": "#e8e5de", "muted": "#aaa79f", "line": "#3a3d44",
        "accent": "#86bfe6", "good": "#78c795", "bad": "#f2938a",
        "series-0": "#a09d95", "series-1": "#6cb0e2", "series-2": "#ef9a5e", "series-3": "#86c483",
        "series-4": "#c79cdc", "series-5": "#ee8ea5",
    },
}  # fmt: skip
SERIES = sum(name.startswith("series-") for name in THEMES["light"])
ANCHOR = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Section:
    """A part of the page. html: its body below the heading, which is taken as it is: escape what comes from users.

    anchor: what its ids and CSS classes begin with. script: plain JavaScript, run in a function of its own after the
    page has loaded. style: CSS. Both may use the page's variables, `THEMES`, and `.scroll` around what is too wide for
    a phone; the page sends the event `themechange` to `document` when the theme is another.
    """

    title: str
    anchor: str
    html: str
    script: str = ""
    style: str = ""

    def __post_init__(self) -> None:
        """ValueError for an anchor that is no id, and for a script or style that would end its own element."""
        if not ANCHOR.fullmatch(self.anchor):
            raise ValueError(f"anchor {self.anchor!r}: use a-z, 0-9 and '-', a letter first")
        for name, text in (("script", self.script), ("style", self.style)):
            if re.search(rf"</{name}|<!--", text, re.IGNORECASE):
                raise ValueError(f"the {name} of section {self.anchor!r} holds </{name} or <!--: write <\\/{name}")


class LeftOut(Exception):
    """A section has nothing to show; the message says why, in a line."""


def render_page(
    title: str,
    lead: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    left_out: Mapping[str, str],
    note: str = "",
) -> str:
    """The whole page. lead: a sentence on what was run. facts: what holds for everything, name -> value.

    left_out: title of a section that is not there -> why. note: the pipeline's own. All text is escaped but the
    sections' html. ValueError where two sections share an anchor.
    """
    anchors = [section.anchor for section in sections]
    if len(set(anchors)) < len(anchors):
        raise ValueError(f"two sections share an anchor: {', '.join(anchors)}")
    return _environment().get_template("page.html").render(
        title=title, lead=lead, facts=facts, sections=sections, left_out=left_out, note=note, themes=THEMES
    )  # fmt: skip


def template(name: str, **values: object) -> Markup:
    """A part of a page from a template of this folder; all values are escaped but `Markup`."""
    return Markup(_environment().get_template(name).render(**values))


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("glpose.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
