"""The retrieval inspector as a section of the report: its skeleton, its data, its script and style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from glpose.report.inspector_data import as_json
from glpose.report.page import Section, template

HERE = Path(__file__).parent
SCRIPTS = ("inspector.js", "inspector_outcomes.js", "inspector_scatter.js")  # one after the other in one function


def inspector(data: dict[str, Any], heads: str) -> Section:
    """The section. data: of `inspector_data.page_data`. heads: GLPose's, in words."""
    html = template("inspector.html", data=Markup(as_json(data)), heads=heads, people=len(data["people"]))
    script = "\n".join([*((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS), "start();"])
    return Section(
        "Retrieval inspector", "inspector", html, script, (HERE / "inspector.css").read_text(encoding="utf-8")
    )
