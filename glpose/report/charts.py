"""Charts of the report: matplotlib's SVG, whose colours follow the page's theme and whose marks tell their numbers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from glpose.report.page import SERIES, template

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 336  # px of a panel: the whole width of a phone, so that its text is never scaled down there
PX = 1 / 96  # inches; matplotlib's points are 1/72
TEXT_PX = 12
APART = 0.22  # of the distance of two categories, between the marks of one
MARKERS, DASHES = "os^Dv*", ("-", "-", "--", "-.", ":", (0, (6, 1)))  # by series, so that colour alone tells nothing
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# Colours that matplotlib writes and nothing else has -> the page's variables, which they become.
VARIABLES = ("text", "muted", "line", "page", *(f"series-{number}" for number in range(SERIES)))
STAND_INS = {name: f"#0a0b{number:02x}" for number, name in enumerate(VARIABLES)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
    "svg.hashsalt": "glpose",  # the same chart is the same file
    "font.family": "sans-serif",
    "font.size": TEXT_PX * 0.75,
    "axes.titlesize": TEXT_PX * 0.75,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "axes.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": STAND_INS["text"],
    "axes.labelcolor": STAND_INS["muted"],
    "axes.titlecolor": STAND_INS["text"],
    "xtick.color": STAND_INS["muted"],
    "ytick.color": STAND_INS["muted"],
    "axes.edgecolor": STAND_INS["muted"],
    "grid.color": STAND_INS["line"],
    "text.parse_math": False,  # names may hold dollars
}


@dataclass(frozen=True)
class Line:
    """One line of a panel. x, y: (K,), None where there is no value. spread: (K,) error bars, or none.

    series: of its colour, mark and dashes, and of the legend's button that hides it. tips: (K,) what its marks say when
    pointed at; none: no marks, and `name` is what the whole line says. steps: y[i] holds from x[i - 1] to x[i].
    """

    name: str
    series: int
    x: Sequence[float]
    y: Sequence[float | None]
    tips: Sequence[str] = ()
    spread: Sequence[float] = ()
    steps: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart of lines. x_range, y_range: None for what the lines take. x_ticks: None for matplotlib's.

    corner: text by series, in the corner below the lines.
    """

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_ticks: Sequence[float] | None = None
    log: bool = False
    corner: Sequence[str] = ()


@dataclass(frozen=True)
class Dots:
    """Categories below each other, a dot for each series' value. values: series name -> (categories,), None absent.

    groups: sizes of runs of categories that are kept a little apart; none: all together. The axis begins at 0.
    """

    title: str
    x_title: str
    categories: Sequence[str]
    values: Mapping[str, Sequence[float | None]]
    groups: Sequence[int] = field(default_factory=tuple)
    digits: int = 1


def charts(name: str, label: str, panels: Sequence[Panel | Dots], legend: Sequence[str]) -> Markup:
    """Panels beside each other, as many as fit, with a legend of the series that hides and shows them.

    name: what ids within begin with: one of its own for each call, the section's anchor or with more behind it. label:
    what they show, for who cannot see them. legend: name by series; a single one has none.
    """
    drawn = [
        line_chart(panel, f"{name}-{number}") if isinstance(panel, Panel) else dot_chart(panel, f"{name}-{number}")
        for number, panel in enumerate(panels)
    ]
    swatches = [_swatch(series, f"{name}-s{series}") for series in range(len(legend))]
    return template("charts.html", label=label, panels=drawn, legend=list(zip(legend, swatches, strict=True)))


def line_chart(panel: Panel, name: str) -> Markup:
    """One panel of lines as SVG. name: what its ids begin with."""
    with _Canvas(WIDTH, 250) as canvas:
        axes = canvas.axes
        for line in panel.lines:
            _draw_line(axes, line)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.x_title)
        axes.set_ylabel(panel.y_title)
        for series, text in enumerate(panel.corner):
            place, color = 0.06 + 0.1 * (len(panel.corner) - 1 - series), STAND_INS[f"series-{series % SERIES}"]
            axes.text(0.04, place, text, transform=axes.transAxes, color=color, gid=f"{series}|", weight="bold")
        if panel.log:
            _plain_log(axes)
        if panel.x_range:
            axes.set_xlim(*panel.x_range)
        if panel.y_range:
            axes.set_ylim(*panel.y_range)
        if panel.x_ticks is not None:
            axes.set_xticks(list(panel.x_ticks))
        return canvas.svg(name, f"{panel.title}: {panel.y_title} against {panel.x_title}")


def dot_chart(chart: Dots, name: str) -> Markup:
    """One panel of categories and dots as SVG. name: what its ids begin with."""
    places = _places(len(chart.categories), chart.groups)
    with _Canvas(WIDTH, 70 + 21 * (places[-1] + 1)) as canvas:
        axes = canvas.axes
        for place, *values in zip(places, *chart.values.values(), strict=True):  # the spread of each category
            known = [value for value in values if value is not None and math.isfinite(value)]
            if known:
                axes.plot([min(known), max(known)], [place, place], color=STAND_INS["line"], linewidth=2.2, zorder=1)
        for series, (row, values) in enumerate(chart.values.items()):
            aside = APART * (series - (len(chart.values) - 1) / 2)  # equal values do not cover each other
            for place, category, value in zip(places, chart.categories, values, strict=True):
                if value is not None and math.isfinite(value):
                    _mark(axes, series, value, place + aside, f"{row}, {category}: {value:.{chart.digits}f}")
        axes.set_yticks(places, chart.categories)
        axes.set_ylim(places[-1] + 0.7, -0.7)
        axes.tick_params(axis="y", labelcolor=STAND_INS["text"])
        axes.grid(False, axis="y")
        axes.set_xlim(left=0)
        axes.set_title(chart.title)
        axes.set_xlabel(chart.x_title)
        return canvas.svg(name, f"{chart.title}: {chart.x_title}, by {', '.join(chart.values)}")


def _plain_log(axes: Axes) -> None:
    """A logarithmic axis with numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_line(axes: Axes, line: Line) -> None:
    x = list(line.x)
    y = [math.nan if value is None else value for value in line.y]
    color, dashes = STAND_INS[f"series-{line.series % SERIES}"], DASHES[line.series % len(DASHES)]
    style = "steps-pre" if line.steps else "default"
    axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.5, drawstyle=style, gid=f"{line.series}|{line.name}")
    for row, tip in enumerate(line.tips):
        if math.isfinite(y[row]):
            _mark(axes, line.series, x[row], y[row], tip, small=len(x) > 12)
    for row, spread in enumerate(line.spread):
        if spread:
            ends = [y[row] - spread, y[row] + spread]
            axes.plot([x[row]] * 2, ends, color=color, linewidth=1, marker="_", gid=f"{line.series}|± {spread:.2f}")


def _mark(axes: Axes, series: int, x: float, y: float, tip: str, *, small: bool = False) -> None:
    """One mark that says its numbers; a ring of the page's colour keeps marks that overlap apart."""
    marker, color = MARKERS[series % len(MARKERS)], STAND_INS[f"series-{series % SERIES}"]
    axes.plot(
        [x], [y], marker=marker, markersize=4 if small else 6.5, color=color, markeredgecolor=STAND_INS["page"],
        markeredgewidth=0.7, linestyle="none", gid=f"{series}|{tip}", zorder=3, clip_on=False,
    )  # fmt: skip


def _places(count: int, groups: Sequence[int]) -> list[float]:
    """Where categories stand, 1 apart, and 0.5 more between groups."""
    starts = {sum(groups[:number]) for number in range(1, len(groups))}
    places, place = [], 0.0
    for number in range(count):
        place += 0.5 if number in starts else 0
        places.append(place)
        place += 1
    return places


def _swatch(series: int, name: str) -> Markup:
    """The line and mark of a series, for the legend."""
    with _Canvas(34, 14) as canvas:
        canvas.axes.set_axis_off()
        canvas.axes.set_position((0, 0, 1, 1))
        color, dashes = STAND_INS[f"series-{series % SERIES}"], DASHES[series % len(DASHES)]
        canvas.axes.plot([0, 1], [0, 0], color=color, linestyle=dashes, linewidth=1.5)
        canvas.axes.plot([0.5], [0], marker=MARKERS[series % len(MARKERS)], color=color, markersize=6)
        return canvas.svg(name, "", fixed=True)


class _Canvas:
    """A figure of one pair of axes while it is drawn in the report's style. Use it in a `with` block."""

    def __init__(self, width: float, height: float) -> None:
        import matplotlib

        self._size = width, height
        self._style = matplotlib.rc_context(STYLE)

    def __enter__(self) -> _Canvas:
        from matplotlib.figure import Figure  # no pyplot: nothing is shown on a screen

        self._style.__enter__()
        layout = "constrained" if self._size[1] > 20 else None
        self.figure: Figure = Figure(figsize=(self._size[0] * PX, self._size[1] * PX), layout=layout)
        self.axes: Axes = self.figure.add_subplot()
        return self

    def __exit__(self, *error: object) -> None:
        self._style.__exit__(None, None, None)

    def svg(self, name: str, label: str, *, fixed: bool = False) -> Markup:
        """The picture as an element of HTML. name: what ids begin with. label: in words; "" for decoration.

        fixed: as large as drawn, not as wide as what it stands in.
        """
        drawn = io.StringIO()
        self.figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        return _as_html(drawn.getvalue(), name, label, self._size if fixed else None)


def _as_html(text: str, name: str, label: str, size: tuple[float, float] | None) -> Markup:
    """Matplotlib's SVG without what a page has no use for, and ids that no other chart has."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text)
    for element in [*root.findall(f"{{{SVG}}}metadata"), *root.findall(f"{{{SVG}}}defs")[:1]]:
        root.remove(element)  # the first defs: a style that the page has too
    used = set(re.findall(r"[\"(]#([\w-]+)[\")]", text))
    for element in root.iter():
        own = element.attrib.pop("id", "")
        series, bar, tip = own.partition("|")
        if bar:
            element.set("class", f"series s{series}")
            if tip:
                title = ElementTree.Element(f"{{{SVG}}}title")
                title.text = tip
                element.insert(0, title)
        elif own in used:
            element.set("id", f"{name}-{own}")
        for key, value in element.attrib.items():
            element.set(key, re.sub(r"^(#|url\(#)", rf"\g<1>{name}-", value))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    if size is not None:
        root.set("width", f"{size[0]:g}")
        root.set("height", f"{size[1]:g}")
    for key, value in ({"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}).items():
        root.set(key, value)
    html = re.sub(r"font-family: [^;\"]*; ", "", ElementTree.tostring(root, encoding="unicode"))
    for variable, color in STAND_INS.items():
        html = html.replace(color, f"var(--{variable})")
    return Markup(html)
