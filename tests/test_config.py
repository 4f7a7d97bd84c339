"""pipelines.yaml and --set: what loads, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from glpose.options import FolderData, PoseTrack17Data, PoseTrack18Data
from stages.config import PipelineConfig, find_config, flat, list_pipelines, load_pipeline
from store.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "pipelines.yaml"
PIPELINES = list_pipelines(SHIPPED)
GROUPS = (
    "detect", "extract", "crops", "index", "train", "finetune", "eval", "ablate", "evidence", "pretrain",
    "train_detector", "runtime", "cluster",
)  # fmt: skip
# Options that the shipped `defaults` need not name: None means "no file", "any width", "torch's own choice", ...
OMITTED = {
    "detect.train.file", "detect.eval.file", "extract.width", "train.heads.width", "eval.pck.alpha", "eval.pck.size",
    "runtime.threads", "runtime.workers", "pretrain.init", "eval.heads", "eval.single_frame_hrnet",
}  # fmt: skip

BASE: dict[str, Any] = {"work": "out", "data": {"kind": "rendered"}}
P18: dict[str, Any] = {"kind": "posetrack18", "root": "x"}
REAL: dict[str, Any] = {"work": "out", "data": P18}


def write(folder: Path, content: Any) -> Path:
    path = folder / "some.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def load(folder: Path, *settings: str, defaults: Any = None, **pipelines: Any) -> PipelineConfig:
    """Load pipeline `p` of a file made of these pipelines."""
    content: dict[str, Any] = {"pipelines": {"p": BASE, **pipelines}}
    return load_pipeline(
        write(folder, content if defaults is None else {"defaults": defaults, **content}), "p", settings
    )


def refusal(folder: Path, *settings: str, **pipelines: Any) -> str:
    """The message with which a pipeline is refused."""
    with pytest.raises(ConfigError) as caught:
        load(folder, *settings, **pipelines)
    assert "\n\n" not in str(caught.value)
    return str(caught.value)


def option(config: PipelineConfig, key: str) -> Any:
    return {name: value for name, value, _ in flat(config)}[key]


def leaves(block: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in block.items():
        out |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


# ------------------------------------------------------------------------------------------------- the shipped file
@pytest.mark.parametrize("name", PIPELINES)
def test_every_shipped_pipeline_loads(name: str) -> None:
    config = load_pipeline(SHIPPED, name)
    assert config.name == name
    assert config.work == Path("work") / name
    assert (config.train.heads.k, config.train.heads.n) == (4, 6)  # the paper's


def test_the_pipelines_of_the_readme_are_shipped() -> None:
    assert {"demo", "bonn", "posetrack17", "posetrack18"} <= set(PIPELINES)
    kinds = {name: load_pipeline(SHIPPED, name).data for name in ("posetrack17", "posetrack18")}
    assert isinstance(kinds["posetrack17"], PoseTrack17Data)
    assert isinstance(kinds["posetrack18"], PoseTrack18Data)


def test_shipped_defaults_are_those_of_the_option_classes() -> None:
    shipped = leaves(yaml.safe_load(SHIPPED.read_text())["defaults"])
    own: dict[str, Any] = {}
    for group in GROUPS:
        default = PipelineConfig.model_fields[group].default
        assert isinstance(default, BaseModel)
        own |= leaves(json.loads(default.model_dump_json()), f"{group}.")
    assert set(shipped) <= set(own)
    assert set(own) - set(shipped) <= OMITTED <= set(own)
    assert {key: (value, own[key]) for key, value in shipped.items() if value != own[key]} == {}


def test_shipped_defaults_change_no_type() -> None:
    shipped = leaves(yaml.safe_load(SHIPPED.read_text())["defaults"])
    config = load_pipeline(SHIPPED, "posetrack18")
    for key, value in shipped.items():
        loaded = option(config, key)
        assert type(loaded) is (tuple if isinstance(value, list) else type(value)), key


def test_every_option_but_the_obvious_ones_says_what_it_means() -> None:
    rows = flat(load_pipeline(SHIPPED, "posetrack18"))
    assert len({key for key, _, _ in rows}) == len(rows) > 60
    assert {"extract.crop_scale", "train.heads.local_weight", "index.pool"} <= {key for key, _, text in rows if text}


# ------------------------------------------------------------------------------------------------- files, extending
def test_a_pipeline_is_its_defaults_then_what_it_extends_then_its_own(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        defaults={"index": {"n": 5, "pool": 11, "seed": 1}, "train": {"heads": {"n": 2}}},
        grand={**BASE, "index": {"pool": 12, "seed": 2, "min_score": 0.25}},
        parent={"extends": "grand", "index": {"seed": 3}},
        p={"extends": "parent", "train": {"lr": 0.5}},
    )
    assert config.index.model_dump(include={"n", "pool", "seed", "min_score"}) == {
        "n": 5, "pool": 12, "seed": 3, "min_score": 0.25,
    }  # fmt: skip
    assert (config.train.heads.n, config.train.lr) == (2, 0.5)


def test_a_pipeline_without_keys_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, f"defaults: {json.dumps(BASE)}\npipelines:\n  p:\n")
    assert load_pipeline(path, "p").data.kind == "rendered"


def test_circles_are_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, p={"extends": "q"}, q={"extends": "r"}, r={"extends": "p"})
    assert "circle: p -> q -> r -> p" in message


def test_what_is_extended_must_exist(tmp_path: Path) -> None:
    message = refusal(tmp_path, p={"extends": "parnet"}, parent=BASE)
    assert "no pipeline 'parnet', which 'p' extends; did you mean 'parent'?" in message
    assert "which 'p' extends" in refusal(tmp_path, p={"extends": ["parent"]}, parent=BASE)


def test_another_kind_of_data_replaces_the_block(tmp_path: Path) -> None:
    parent = {**BASE, "data": {"kind": "rendered", "frames": 7}}
    config = load(tmp_path, parent=parent, p={"extends": "parent", "data": {"kind": "folder", "root": "x"}})
    assert config.data == FolderData(root=Path("x"))
    assert option(load(tmp_path, parent=parent, p={"extends": "parent", "data": {"seed": 1}}), "data.frames") == 7


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_of_data_by_set_in_any_order(tmp_path: Path, order: int) -> None:
    settings = ["data.kind=posetrack17", "data.root=/there"][::order]
    assert load(tmp_path, *settings).data == PoseTrack17Data(root=Path("/there"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pipelines: [", "not readable YAML"),
        ("", "needs a mapping 'pipelines'"),
        ("- a", "needs a mapping 'pipelines'"),
        ("pipelines: [p]", "needs a mapping 'pipelines'"),
        ("pipelines: {p: 3}", "'p' needs a mapping of keys to settings, not 3"),
        ("pipelines: {p: {}}\ndefaults: [1]", "'defaults' needs a mapping"),
        ("pipelines: {p: {}, 17: {}}", "pipeline 17 is no text: put its name in quotes"),
        ("pipelines: {p: {}}\nruntime: {}", "unknown key 'runtime'"),
        ("pipelines: {p: {}}\n3: {}", "unknown key '3'"),
        ("pipelines: {p: {}}", "data.kind: is missing"),
        ("pipelines: {p: {data: {kind: rendered}, 5: 1}}", "  5: unknown key"),
        ("pipelines: {p: !!python/object/apply:os.getcwd []}", "not readable YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_pipeline(path, "p")
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00pipelines")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load_pipeline(path, "p")


def test_find_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(None).resolve() == SHIPPED
    with pytest.raises(ConfigError, match="--config"):
        find_config(tmp_path / "absent.yaml")
    mine = tmp_path / "pipelines.yaml"
    mine.write_text("pipelines: {}")
    assert find_config(None).resolve() == mine


def test_a_name_that_cannot_be_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path, {"pipelines": {"../p": BASE}})
    with pytest.raises(ConfigError, match="cannot be used as a folder name"):
        load_pipeline(path, "../p")


# ------------------------------------------------------------------------------------------------------------ --set
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("index.n=7", 7),
        ("index.pool=all", "all"),
        ("index.pool=30", 30),
        ("train.lr=1e-3", 1e-3),
        ("train.lr=1E-4", 1e-4),
        ("train.lr=2", 2.0),
        ("train.milestones=[2, 3]", (2, 3)),
        ("train.milestones=[]", ()),
        ("extract.crop_size=[64,48]", (64, 48)),
        ("extract.width=null", None),
        ("extract.width=48", 48),
        ("pretrain.batch_size=4", 4),
        ("eval.overlay=no", False),
        ("eval.overlay=true", True),
        ("runtime.threads=~", None),
        ("runtime.device=cuda:1", "cuda:1"),
        ("train.heads.head=5x5", "5x5"),
        # text stays as it is typed, whatever YAML would make of it
        ("note=", ""),
        ("note=yes", "yes"),
        ("note=1:30", "1:30"),
        ("note=2017-01-01", "2017-01-01"),
        ("note=boxes: mine # 1", "boxes: mine # 1"),
        ("note='quoted'", "quoted"),
        ("extract.checkpoint=0123", "0123"),
        ("work=2024", Path("2024")),
        ("pretrain.init=null", None),
        ("pretrain.init=007.pth", "007.pth"),
    ],
)
def test_set_reads_values_as_their_option_has_them(tmp_path: Path, setting: str, value: Any) -> None:
    found = option(load(tmp_path, setting), setting.partition("=")[0])
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize("name", ["060470979", "000001", "123", "1_000", "*_mpii_test", "[ab]*", "!x", "0x10", "null"])
def test_set_takes_video_names_as_they_are_typed(tmp_path: Path, name: str) -> None:
    assert option(load(tmp_path, f"data.train.videos={name}", p=REAL), "data.train.videos") == name


def test_set_unquotes_text(tmp_path: Path) -> None:
    assert option(load(tmp_path, 'data.train.videos="000001"', p=REAL), "data.train.videos") == "000001"


def test_set_of_data(tmp_path: Path) -> None:
    assert option(load(tmp_path, "data.eval.frames=[29, null]", p=REAL), "data.eval.frames") == (29, None)
    assert option(load(tmp_path, "data.eval.subset=", p=REAL), "data.eval.subset") == ""
    assert option(load(tmp_path, "data.train=null", p=REAL), "data.train") is None
    folder = {"data": {"kind": "folder"}}
    assert option(load(tmp_path, "data.files=[01.mp4, yes, 3]", p=folder), "data.files") == ("01.mp4", "yes", "3")


def test_one_key_of_a_split_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    config = load(tmp_path, "data.train.videos=0*", "data.eval.frames=[0, 9]", p=REAL)
    assert (option(config, "data.train.subset"), option(config, "data.train.videos")) == ("train", "0*")
    assert (option(config, "data.eval.subset"), option(config, "data.eval.frames")) == ("val", (0, 9))
    config = load(tmp_path, p={"work": "out", "data": P18 | {"train": {"subset": "test"}}})
    assert (option(config, "data.train.subset"), option(config, "data.eval.subset")) == ("test", "val")


def test_later_settings_win(tmp_path: Path) -> None:
    config = load(tmp_path, "index.n=7", "index.seed=1", "index.n=8")
    assert (config.index.n, config.index.seed) == (8, 1)


@pytest.mark.parametrize("setting", ["index.n", "=3", ".n=3", "index.=3", "index..n=3", ""])
def test_set_needs_key_and_value(tmp_path: Path, setting: str) -> None:
    assert "--set takes key=value" in refusal(tmp_path, setting)


def test_set_needs_yaml_where_the_option_is_no_text(tmp_path: Path) -> None:
    assert "--set train.milestones=[1: the value is not YAML" in refusal(tmp_path, "train.milestones=[1")


def test_paths_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    boxes = {"eval": {"source": "file", "file": "~/boxes.json"}}
    config = load(tmp_path, "work=~/out", p={"data": P18 | {"root": "~/data"}, "detect": boxes})
    assert config.work == tmp_path / "me" / "out"
    assert option(config, "data.root") == tmp_path / "me" / "data"
    assert config.detect.eval.file == tmp_path / "me" / "boxes.json"
    assert load(tmp_path, "work=~no such user/out").work == Path("~no such user/out")


# ---------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("value", [None, 2024, True, ["a", "b"], {"a": 1}, ""])
def test_a_work_folder_is_text(tmp_path: Path, value: Any) -> None:
    message = refusal(tmp_path, p={**BASE, "work": value})
    assert message.endswith(f"  work: should be a folder, or s3://BUCKET/PREFIX, as text, not {value!r}")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("indx.n=3", "indx: unknown key; did you mean 'index'?"),
        ("index.pol=3", "index.pol: unknown key; did you mean 'pool'?"),
        ("index.zzz=3", "index.zzz: unknown key; valid are n, scope,"),
        ("train.heads.tempreature=1", "train.heads.tempreature: unknown key; did you mean 'temperature'?"),
        ("detect.eval.fle=x", "detect.eval.fle: unknown key; did you mean 'file'?"),
        ("data.trian_clips=3", "data.trian_clips: unknown key; did you mean 'train_clips'?"),
        ("data.kind=foldr", "data.kind: there is no 'foldr'; did you mean 'folder'?"),
        ("data=3", "data.kind: is missing; valid are posetrack18, posetrack17,"),
        ("cluster.kind=lokal", "cluster.kind: there is no 'lokal'; did you mean 'local'?"),
        ("cluster=local", "cluster.kind: is missing; valid are none, local, address, slurm"),
        ("cluster={kind: local, wokers: 2}", "cluster.wokers: unknown key; did you mean 'workers'?"),
        ("cluster={kind: address, address: here}", "cluster: address 'here' is none of a Dask scheduler"),
        ("cluster.kind=address", "cluster.address: is missing; give it with --set cluster.address=VALUE"),
        ("data.kind=posetrack18", "data.root: is missing; give it with --set data.root=VALUE"),
        ("name=x", "name is what -p says"),
        ("index=4", "index: is a block of options (n, scope,"),
        ("index.n.x=4", "index.n: should be a valid integer, not {'x': 4}"),
        ("index.n=many", "index.n: should be a valid integer, not 'many'"),
        ("index.n=-1", "index.n: should be greater than or equal to 0, not -1"),
        ("index.pool=some", "index.pool: should be a valid integer, not 'some'; or: should be 'all', not 'some'"),
        ("train.epochs=2.5", "train.epochs: should be a valid integer, not 2.5"),
        ("train.epochs=0", "train.epochs: should be greater than or equal to 1, not 0"),
        ("train.lr=abc", "train.lr: should be a valid number, not 'abc'"),
        ("train.lr=nan", "train.lr: "),
        ("train.precision=float16", "train.precision: should be 'float32' or 'bfloat16', not 'float16'"),
        ("eval.overlay=perhaps", "eval.overlay: should be a valid boolean, not 'perhaps'"),
        ("extract.crop_size=[100, 96]", "extract: crop_size [100, 96] must be multiples of 16 pixels"),
        ("extract.crop_size=[0, 96]", "extract: crop_size [0, 96] must be multiples of 16 pixels"),
        ("extract.crop_size=[64]", "extract.crop_size: has too few values: [64]"),
        ("extract.crop_size=64", "extract.crop_size: should be a valid list, not 64"),
        ("index.pool=5", "index: a pool of 5 cannot give n = 6 references"),
        ("index.n=3", "train.heads.n = 6 needs index.n >= 6, it is 3"),
        ("extract.k=2", "train.heads.k = 4 needs extract.k >= 4, it is 2"),
        ("index.select=random index.n=8", "of which heads of n = 6 would see the most similar"),
        ("index.select=oracle index.n=4 train.heads.n=2", "index.select oracle chooses index.n = 4 references"),
        ("index.select=other_video", "index: select other_video looks for references in the other videos: it needs"),
        ("index.select=oracle detect.eval={source: file, file: boxes}", "index.select oracle compares annotated pos"),
        ("index={causal: true, scope: dataset}", "index: causal needs scope video"),
        ("train.heads.causal=true", "train.heads: causal heads need index.causal"),
        ("eval.n=7", "eval.n = 7, but the heads have places for train.heads.n = 6"),
        ("eval.k=5", "eval.k = 5, but the heads have places for train.heads.k = 4"),
        ("eval.k=2 extract.edge=clamp", "train with train.heads.k = 2 instead"),
        ("eval.n=2 index.select=random", "eval.n keeps the most similar references, not those of index.select random"),
        ("eval.n=2 train.heads.inputs=key_copies", "eval.n means nothing to heads with train.heads.inputs key_copies"),
        ("detect.eval.source=file", "detect.eval: `source: file` and `file: PATH` belong together"),
        ("detect.eval.file=boxes.json", "detect.eval: `source: file` and `file: PATH` belong together"),
    ],
)
def test_refusals_name_the_path_and_the_remedy(tmp_path: Path, setting: str, words: str) -> None:
    several = re.split(r" (?=\w+[.=])", setting)  # most are one
    message = refusal(tmp_path, *several)
    assert words in message
    assert "pydantic" not in message and "Input" not in message
    assert len(message.splitlines()) <= 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (P18 | {"anotations": "y"}, "data.anotations: unknown key; did you mean 'annotations'?"),
        (P18 | {"train": {"vidoes": "*"}}, "data.train.vidoes: unknown key; did you mean 'videos'?"),
        ({"kind": "posetrack17", "rot": "x"}, "data.rot: unknown key; did you mean 'root'?"),
        ({"kind": "posetrack17"}, "data.root: is missing"),
        ({"kind": "jhmdb", "root": "x", "spilt": 2}, "data.spilt: unknown key; did you mean 'split'?"),
        ({"kind": "folder", "filse": ["a.mp4"]}, "data.filse: unknown key; did you mean 'files'?"),
        ({"kind": "folder", "train": {"videos": "*"}}, "data.train: should be None"),
        ({"kind": "rendered", "framse": 3}, "data.framse: unknown key; did you mean 'frames'?"),
        ({"kind": "rendered", "people": [1, 2, 3]}, "data.people: "),
        ({"root": "x"}, "data.kind: is missing"),
        (P18 | {"train": {"frames": [5, 5]}}, "data.train: frames [5, 5] is not a range"),
        (P18 | {"train": {"frames": [-1, 5]}}, "data.train: frames [-1, 5] is not a range"),
        (P18 | {"train": {"frames": [7]}}, "data.train.frames: has too few values: [7]"),
        (P18 | {"eval": {"videos": 1}}, "data.eval.videos: should be a valid string, not 1; put it in quotes"),
    ],
)  # fmt: skip
def test_refusals_in_the_data_of_each_kind(tmp_path: Path, data: dict[str, Any], words: str) -> None:
    assert words in refusal(tmp_path, p={"work": "out", "data": data})


@pytest.mark.parametrize(
    "settings",
    [
        ["index={select: other_video, scope: dataset}", "train.heads.n=2", "eval.n=1"],
        ["index.select=random", "train.heads.n=0"],
        ["extract.edge=clamp", "eval.k=4"],
        ["index.select=oracle", "eval.n=6"],
        ["train.heads.causal=true", "train.heads.n=0"],
        ["index.causal=true"],
    ],
    ids=" ".join,
)
def test_what_goes_together(tmp_path: Path, settings: list[str]) -> None:
    load(tmp_path, *settings)


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    lines = refusal(tmp_path, p={**BASE, "index": {"m": 1}, "train": {"epochs": "x"}, "evall": {}}).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["index.m", "train.epochs", "evall"]
    assert lines[0].endswith("pipeline 'p':")


def test_a_config_cannot_be_changed(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        config.index.n = 3  # pyright: ignore[reportAttributeAccessIssue]
