"""The command line: help, exit codes, messages, and what an installed package brings along."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
from command_line import glpose_stage
from posetrack_builders import POSE, elsewhere, person, scored, video17

from glpose.keypoints import POSETRACK
from stages.cli import app
from stages.config import flat, load_pipeline

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "pipelines.yaml"
HEAVY = ("torch", "torchvision", "zarr", "pandas", "numpy", "cv2", "pyarrow", "faiss", "h5py", "scipy")

COMMANDS: Mapping[str, Any] = typer.main.get_group(app).commands


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


# ------------------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["score", "--help"]])
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['glpose-stage', *{arguments!r}]\n"
        "from stages.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('imported:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = run_python(code, tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert "imported: []" in done.stdout


def test_the_commands() -> None:
    verbs = {"detect", "extract", "index", "train", "eval"}
    assert verbs | {"run", "render", "pretrain", "status", "config", "score"} <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    assert command.help and len(command.help) > 20
    assert [option.name for option in command.params if not option.help] == []
    shown = glpose_stage(capsys, name, "--help")
    assert shown.code == 0 and shown.err == ""
    assert f"Usage: glpose-stage {name}" in shown.out and command.help.split()[0] in shown.out


# ------------------------------------------------------------------------------------------------------- exit codes
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "-p"],
        ["run", "-p", "demo", "--nonsense"],
        ["score", "--gt", "x"],
        ["config", "demo"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    outcome = glpose_stage(capsys, *arguments)
    assert outcome.code == 2
    assert "Usage: glpose-stage" in outcome.err + outcome.out or "Error" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "-p", "dmo"], "no pipeline 'dmo'; did you mean 'demo'?"),
        (["train", "-p", "posetrack16"], "did you mean 'posetrack"),
        (["status", "-p", "zzz"], "no pipeline 'zzz'; there are bonn, demo,"),
        (["config", "-p", "demo", "--set", "index.m=3"], "index.m: unknown key; valid are n,"),
        (["detect", "-p", "demo", "--set", "index.n"], "--set takes key=value"),
        (["score", "--gt", "a", "--pred", "b", "--joints", "some"], "--joints is annotated or visible, not 'some'"),
    ],
)
def test_what_cannot_be_understood_exits_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    outcome = glpose_stage(capsys, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.error and len(outcome.error.splitlines()) <= 2


def test_a_configuration_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = glpose_stage(capsys, "run", "-p", "demo", "--config", tmp_path / "gone.yaml")
    assert outcome.code == 2 and "gone.yaml does not exist (--config)" in outcome.error


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.config.load_pipeline", interrupted)
    outcome = glpose_stage(capsys, "config", "-p", "demo", "--config", SHIPPED)
    assert outcome.code == 130 and outcome.error == "interrupted; the same command goes on from here"


def test_a_defect_is_not_hidden(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("stages.config.load_pipeline", broken)
    with pytest.raises(ZeroDivisionError):
        glpose_stage(capsys, "config", "-p", "demo", "--config", SHIPPED)


# ----------------------------------------------------------------------------------------------------------- config
@pytest.mark.parametrize("name", ["demo", "posetrack17"])
def test_config_prints_every_option_as_it_stands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = glpose_stage(capsys, "config", "-p", name, "--config", SHIPPED, "--set", "index.pool=all")
    assert shown.code == 0 and shown.err == ""
    expected = flat(load_pipeline(SHIPPED, name, ["index.pool=all"]))
    lines = shown.out.splitlines()
    assert len(lines) == len(expected)
    for line, (key, value, meaning) in zip(lines, expected, strict=True):
        assert line.startswith(f"{key} = {value}") and line.endswith(meaning)
    assert "index.pool = all    # " in shown.out


# ------------------------------------------------------------------------------------------------------------ score
def score_files(folder: Path) -> tuple[Path, Path]:
    """Two people without an annotated nose; one is predicted well, in one of two frames."""
    few = {j: xy for j, xy in POSE.items() if POSETRACK.joints[j] != "nose"}
    far = {j: (x + 3000, y) for j, (x, y) in few.items()}
    gt, pred = folder / "gt", folder / "pred"
    write(gt / "v.json", video17([person(few), person(far, track=1)], [person(few)]))
    write(pred / "v.json", video17([person(scored(POSE), head=None)], [person(elsewhere(POSE), head=None)]))
    return gt, pred


def test_score_writes_the_documented_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, pred = score_files(tmp_path)
    target = tmp_path / "new" / "scores.json"
    done = glpose_stage(capsys, "score", "--gt", gt, "--pred", pred, "--json", target)
    assert done.code == 0
    assert "AP, percent; 1 videos, 2 frames with people; joints: annotated" in done.out and "Ankle" in done.out
    text = target.read_text()
    assert "NaN" not in text
    numbers = json.loads(text)
    assert {"ap", "mean", "groups", "precision", "recall"} <= set(numbers)
    for key in ("ap", "precision", "recall"):
        assert list(numbers[key]) == list(POSETRACK.joints)
    assert list(numbers["groups"]) == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"]
    assert numbers["ap"]["nose"] is None and numbers["groups"]["Head"] is None  # without a nose there is no Head
    assert numbers["recall"]["left_knee"] == pytest.approx(100 / 3)
    assert numbers["mean"] == pytest.approx(numbers["ap"]["left_knee"]) and 0 < numbers["mean"] < 100


def test_score_says_what_is_wrong_with_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, pred = score_files(tmp_path)
    (pred / "v.json").unlink()
    done = glpose_stage(capsys, "score", "--gt", gt, "--pred", pred)
    assert done.code == 0 and done.err.startswith("note: ") and "v.json" in done.err


@pytest.mark.parametrize(
    ("broken", "words"),
    [("gt", "gone"), ("pred", "gone"), ("json", "Is a directory"), ("file", "is not readable JSON")],
)
def test_score_fails_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str, words: str) -> None:
    gt, pred = score_files(tmp_path)
    if broken == "file":
        (pred / "v.json").write_text('{"annolist": [')
    paths = {"gt": gt, "pred": pred, "json": tmp_path / "scores.json"} | (
        {} if broken == "file" else {broken: tmp_path if broken == "json" else tmp_path / "gone"}
    )
    outcome = glpose_stage(capsys, "score", *(part for key, path in paths.items() for part in (f"--{key}", path)))
    assert outcome.code == 1
    assert words in outcome.err.splitlines()[-1] and "Traceback" not in outcome.err
    assert not (tmp_path / "scores.json").exists()


# ------------------------------------------------------------------------------------------------------- installing
@pytest.mark.slow
def test_an_installed_wheel_brings_pipelines_and_weights(tmp_path: Path) -> None:
    own = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []  # else pip fetches it
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *own, "-w", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = tmp_path.glob("glpose-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "stages/pipelines.yaml" in names
    assert {name.split("/")[0] for name in names} - {"glpose", "stages", "store"} == {
        f"{wheel.name.rsplit('-', 3)[0]}.dist-info"
    }
    assert [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    listed = ["git", "ls-files", "glpose", "stages", "store"]
    tracked = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    others = {name for name in tracked if not name.endswith(".py")}  # weights, clips, pages and their scripts, tables
    assert {Path(name).suffix for name in others} >= {".safetensors", ".mp4", ".html", ".js", ".json", ".npz"}
    assert not others - set(names)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_python(
        "from stages.config import find_config, list_pipelines\n"
        "from glpose.models.checkpoints import resolve_checkpoint\n"
        "path = find_config(None); print(path); print(*list_pipelines(path)); print(resolve_checkpoint('demo'))",
        elsewhere,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert done.returncode == 0, done.stderr
    path, pipelines, weights = done.stdout.splitlines()
    assert Path(path) == tmp_path / "site" / "stages" / "pipelines.yaml"
    assert "demo" in pipelines.split()
    assert Path(weights).is_relative_to(tmp_path / "site") and Path(weights).is_file()
