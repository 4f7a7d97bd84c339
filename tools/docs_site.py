"""MkDocs hooks: equations become MathML, and what the documents link to in the rest of the checkout becomes pages.

Documents are read on the code host too, so their links are paths of the checkout; a link to a file that is not there
ends a strict build.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
SOURCES = "source"  # folder of the site that such pages are in
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".csv": "text", ".md": "markdown"}

LINK = re.compile(r"(?<!!)\]\((\.\./[^)#\s]+)")
DISPLAY = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"\$`([^`]+)`\$")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

log = get_plugin_logger("site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file and folder outside docs/ that a document links to."""
    wanted = set()
    for file in files.documentation_pages():
        if file.src_uri.endswith(".md") and file.abs_src_path:
            text = FENCED.sub("", Path(file.abs_src_path).read_text())
            wanted |= {_target(file.src_uri, link) for link in LINK.findall(text)}
    for target in sorted(wanted):
        path = ROOT / target
        if not path.exists():
            log.warning(f"a document links to {target}, which does not exist")
            continue
        files.append(File.generated(config, _page(target), content=_shown(path, target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links out of docs/ to those pages, and write equations as MathML."""
    if page.file.src_uri.startswith(f"{SOURCES}/"):
        return markdown
    parts: list[str] = []
    end = 0
    for fence in FENCED.finditer(markdown):  # what stands in code stays as it is
        parts += [_rewritten(markdown[end : fence.start()], page.file.src_uri), fence.group()]
        end = fence.end()
    return "".join([*parts, _rewritten(markdown[end:], page.file.src_uri)])


def _rewritten(text: str, src_uri: str) -> str:
    def relink(match: re.Match[str]) -> str:
        page = _page(_target(src_uri, match.group(1)))
        return f"]({posixpath.relpath(page, posixpath.dirname(src_uri) or '.')}"

    text = LINK.sub(relink, text)
    text = DISPLAY.sub(lambda match: "\n" + convert(match.group(1), display="block") + "\n", text)
    return INLINE.sub(lambda match: convert(match.group(1)), text)


def _target(src_uri: str, link: str) -> str:
    """Path in the checkout that a document's link leads to."""
    return os.path.normpath(posixpath.join("docs", posixpath.dirname(src_uri), link))


def _page(target: str) -> str:
    return f"{SOURCES}/{target}.md"


def _shown(path: Path, target: str) -> str:
    """The page of a file, or of a folder: the names in it."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(("_", ".")))
        return "\n".join([f"# `{target}/`", "", *(f"- `{name}`" for name in names)])
    return f"# `{target}`\n\n~~~~~~{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n~~~~~~\n"
