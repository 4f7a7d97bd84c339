"""The documents: commands, options, links, code and the notebook in them are tried; generated pages are current."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
import typer.main
import yaml
from nbclient import NotebookClient
from pydantic import BaseModel
from small_pipelines import RENDERED, write_pipeline

from glpose.data.joint_sets import read_joint_set
from stages.ablate import asked_rows
from stages.cli import app, main
from stages.config import PipelineConfig, load_pipeline
from store.errors import ConfigError

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "pipelines.yaml"
COMMANDS: dict[str, Any] = dict(typer.main.get_group(app).commands)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
WRITTEN = [path for path in DOCUMENTS if path.name not in ("commands.md", "configuration.md")]  # by hand

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
PROGRAM = re.compile(r"(\S*/)?glpose-stage\)?")  # as a word of a shell, maybe of $(which glpose-stage)
RUN = re.compile(r"<!-- run: [^>]*-->(.*?)(?=^## )", re.DOTALL | re.MULTILINE)
UsageError = typer.BadParameter.__mro__[1]  # of the parser, which typer does not name itself
PLACEHOLDER = "NAME"  # of a pipeline; other placeholders (DIR, FILE, HOST) stand where any text may
FILES = (".json", ".md", ".h5", ".faiss", ".py", ".parquet")  # index.faiss is a file, index.pool an option


class Command(NamedTuple):
    """A glpose-stage command in a document. whole: one to be typed, not a name in a sentence."""

    where: str
    words: tuple[str, ...]
    whole: bool


def fences(text: str, *languages: str) -> Iterator[str]:
    for _, language, block in FENCE.findall(text):
        if language in languages:
            yield block


def shell_lines(block: str) -> Iterator[str]:
    """Lines of a shell block, continued ones joined, with the values of its own variables put in."""
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ")
        if match := re.match(r"for (\w+) in (.+?); do$", line):
            variables[match[1]] = match[2].split()[0]
        elif match := re.match(r"([A-Z]+)=(\S+)$", line):
            variables[match[1]] = match[2]
        for name, value in variables.items():
            line = re.sub(rf"\${name}\b", value, line)
        yield line


def commands_of(text: str, where: str) -> Iterator[Command]:
    for block in fences(text, "", "bash"):
        for line in shell_lines(block):
            if "glpose-stage" not in line or line.startswith(("error", "Usage")):
                continue
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), ";"]:
                if word in ("&&", ";", "|"):
                    names = [
                        position for position, word in enumerate(words) if re.fullmatch(r"(\S*/)?glpose-stage\)?", word)
                    ]
                    if names:
                        yield Command(where, tuple(words[names[-1] + 1 :]), True)
                    words = []
                else:
                    words.append(word)
    for code in INLINE.findall(FENCE.sub("", text)):
        if code.startswith("glpose-stage "):
            yield Command(where, tuple(shlex.split(" ".join(code.split())))[1:], False)


def all_commands() -> list[Command]:
    return [found for path in WRITTEN for found in commands_of(path.read_text(), path.relative_to(ROOT).as_posix())]


def pipelines_in(path: Path) -> dict[str, Any]:
    """Pipelines that a document shows."""
    blocks = [yaml.safe_load(block) for block in fences(path.read_text(), "yaml")]
    return {name: own for block in blocks if "pipelines" in block for name, own in block["pipelines"].items()}


@dataclass(frozen=True)
class Files:
    """What a document's reader has: the shipped pipelines and those that the document shows, and the latter alone."""

    shipped: Path
    own: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    folder, shipped = tmp_path_factory.mktemp("configs"), yaml.safe_load(SHIPPED.read_text())
    made = {}
    for path in WRITTEN:
        shown = pipelines_in(path)
        both = folder / f"{path.stem}-both.yaml", folder / f"{path.stem}-own.yaml"
        both[0].write_text(yaml.safe_dump({**shipped, "pipelines": {**shipped["pipelines"], **shown}}))
        both[1].write_text(yaml.safe_dump({"pipelines": shown}))
        made[path.relative_to(ROOT).as_posix()] = Files(*both)
    return made


# ------------------------------------------------------------------------------------------------------------ commands
def test_there_are_commands() -> None:
    found = all_commands()
    assert len([command for command in found if command.whole]) > 60
    assert {command.words[0] for command in found} >= {"run", "status", "detect", "extract", "index", "train", "eval"}


def check_command(command: Command, files: dict[str, Files]) -> None:
    """Raises unless it parses, its pipeline exists, and its settings are options that take these values."""
    name, *words = command.words
    assert name in COMMANDS, f"there is no command {name!r}"
    words = ["demo" if word == PLACEHOLDER else word for word in words]
    parser = COMMANDS[name]
    if not command.whole and "-p" not in words:  # a name in a sentence, maybe with an option
        options = {flag for option in parser.params for flag in option.opts}
        assert {word for word in words if word.startswith("-")} <= options
        return
    values = parser.make_context(name, list(words)).params  # raises for unknown and missing options
    if "pipeline" not in values:
        return
    settings = list(values.get("settings") or [])
    settings += [f"ablate.{key}={values[key]}" for key in ("rows", "seeds") if name == "ablate" and values[key]]
    own = files[command.where]
    config = load_pipeline(own.own if values["config"] else own.shipped, values["pipeline"], settings)
    if name == "ablate":
        assert asked_rows(config)


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: f"{command.where}: {' '.join(command.words)}")
def test_command_is_one(command: Command, files: dict[str, Files]) -> None:
    check_command(command, files)


def test_other_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = (ROOT / "pyproject.toml").read_text()
    for path in WRITTEN:
        text = path.read_text()
        code = "\n".join([*fences(text, "", "bash"), *INLINE.findall(FENCE.sub("", text))])
        for target in re.findall(r"^make ([\w-]+)", code, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"
        for script in re.findall(r"\bpython ((?:benchmarks|tools)/\w+\.py)", code):
            assert (ROOT / script).is_file(), f"{path.name}: {script}"
        for extra in re.findall(r"-e '\.\[(\w+)\]'", code):
            assert re.search(rf"^{extra} = \[", extras, re.MULTILINE), f"{path.name}: extra {extra}"


@pytest.mark.parametrize(
    "words",
    [
        "runn -p demo", "run", "run -p demo --sett a=1", "run -p nonsense", "run -p demo --set index.nn=4",
        "run -p demo --set index.pool=most", "ablate -p demo --rows k=77",
    ],
)  # fmt: skip
def test_wrong_commands_are_found(words: str, files: dict[str, Files]) -> None:
    (command,) = commands_of(f"```\n$ glpose-stage {words}\n```\n", "docs/index.md")
    with pytest.raises((AssertionError, ConfigError, UsageError)):
        check_command(command, files)


# ------------------------------------------------------------------------------------------------------------- options
def option_keys() -> tuple[set[str], set[str]]:
    """Every option's key, and every block's."""
    options: set[str] = set()
    blocks: set[str] = set()

    def walk(prefix: str, annotation: Any) -> None:
        for class_ in classes_of(annotation):
            blocks.add(prefix)
            for name, field in class_.model_fields.items():
                key = f"{prefix}.{name}" if prefix else name
                options.add(key)
                walk(key, field.annotation)

    walk("", PipelineConfig)
    return options, blocks


def classes_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for argument in typing.get_args(annotation) for found in classes_of(argument)]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_options_in_sentences_exist(path: Path) -> None:
    options, blocks = option_keys()
    first = {key for key in blocks if key}
    wrong = []
    for code in INLINE.findall(FENCE.sub("", path.read_text())):
        match = re.match(r"([a-z_]+(?:\.[a-z_0-9]+)+)(=|: |$)", code)
        if match and match[1].split(".")[0] in first and not match[1].endswith(FILES) and match[1] not in options:
            wrong.append(code)
    assert wrong == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_yaml_in_documents_is_right(path: Path, files: dict[str, Files], tmp_path: Path) -> None:
    for block in fences(path.read_text(), "yaml"):
        content = yaml.safe_load(block)
        if "pipelines" in content:
            for name in content["pipelines"]:
                load_pipeline(files[path.relative_to(ROOT).as_posix()].shipped, name)
        else:
            (tmp_path / "joints.yaml").write_text(block)
            assert len(read_joint_set(tmp_path / "joints.yaml")) == len(content["joints"])


# ----------------------------------------------------------------------------------------------------------- generated
@pytest.mark.parametrize("name", ["configuration", "commands"])
def test_generated_pages_are_current(name: str) -> None:
    page = runpy.run_path(str(ROOT / "tools" / "reference.py"))[name]()
    assert (ROOT / "docs" / f"{name}.md").read_text() == page, "write them again: python tools/reference.py"


def test_every_option_has_a_row() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    options, blocks = option_keys()
    kinds = {key for key in options if key.endswith(".kind")}
    assert [key for key in sorted(options - blocks - kinds - {"name"}) if f"| `{key}` |" not in page] == []
    without_meaning = [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert [line for line in without_meaning if ".kind`" not in line] == []


# ------------------------------------------------------------------------------------------------------------ the demo
@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose pipelines.yaml has a small `demo`, which has run."""
    folder = tmp_path_factory.mktemp("demo")
    path = write_pipeline(folder, RENDERED)
    (own,) = yaml.safe_load(path.read_text())["pipelines"].values()
    path.write_text(yaml.safe_dump({"pipelines": {"demo": {**own, "work": "work/demo"}}}))
    return folder


@pytest.fixture(scope="module")
def quick_start(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """The quick start's commands, run in their order, as they are written; each with its exit code."""
    (section,) = RUN.findall((ROOT / "docs" / "index.md").read_text())
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(demo)
        for command in commands_of(section, "docs/index.md"):
            if command.whole:
                ran.append((" ".join(command.words), run_here(command.words)))
    return ran


def run_here(words: tuple[str, ...]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["glpose-stage", *words])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_the_quick_start_runs(quick_start: list[tuple[str, int]], demo: Path) -> None:
    assert len(quick_start) >= 6 and quick_start[0] == ("run -p demo", 0)
    assert [line for line, code in quick_start if code] == []
    assert (demo / "people.csv").read_text().startswith("video,proposal,frame,")
    pictures = demo / "work" / "demo" / "eval" / "latest" / "results"
    assert {path.suffix for path in pictures.iterdir()} >= {".png", ".mp4"}


@pytest.mark.parametrize("name", ["README.md", "docs/api.md", "docs/inspector.md", "docs/store-format.md"])
def test_python_in_documents_runs(
    name: str, demo: Path, quick_start: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo)
    blocks = list(fences((ROOT / name).read_text(), "python"))
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})


def test_the_notebook_runs(demo: Path, quick_start: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "store.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(demo)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert len(shown) > 10 and not any(output.output_type == "error" for output in shown)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "store.ipynb", as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


# ------------------------------------------------------------------------------------------------------------ the site
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    page = (tmp_path / "site" / "method.html").read_text()
    assert page.count("<math") >= 6 and "$$" not in page
    assert "store.Store" in (tmp_path / "site" / "api.html").read_text()
    assert (tmp_path / "site" / "source" / "glpose" / "models" / "glpose.py.html").is_file()
    loaded = [
        link
        for path in (tmp_path / "site").glob("*.html")
        for link in re.findall(r'(?:src|<link[^>]*href)="(https?:[^"]+)', path.read_text())
    ]
    assert loaded == []  # it is read without a network
