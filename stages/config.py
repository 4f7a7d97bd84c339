"""From pipelines.yaml and --set to one frozen, checked configuration."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from glpose.options import (
    DataOptions,
    DetectOptions,
    EvalOptions,
    ExtractOptions,
    IndexOptions,
    Options,
    PretrainOptions,
    RuntimeOptions,
    TrainOptions,
)
from store.errors import ConfigError
from store.folder import check_unit_name

FILE = "pipelines.yaml"


class PipelineConfig(Options):
    """One pipeline. `work`: the folder that its outputs go to. `note`: printed with every result."""

    name: str
    work: Path
    note: str = ""
    data: DataOptions
    pretrain: PretrainOptions = PretrainOptions()
    detect: DetectOptions = DetectOptions()
    extract: ExtractOptions = ExtractOptions()
    index: IndexOptions = IndexOptions()
    train: TrainOptions = TrainOptions()
    eval: EvalOptions = EvalOptions()
    runtime: RuntimeOptions = Field(default=RuntimeOptions(), description="speed settings; never part of a record")

    @model_validator(mode="after")
    def _stages_agree(self) -> PipelineConfig:
        heads = self.train.heads
        if heads.k > self.extract.k:
            raise ValueError(f"train.heads.k = {heads.k} needs extract.k >= {heads.k}, it is {self.extract.k}")
        if heads.n > self.index.n:
            raise ValueError(f"train.heads.n = {heads.n} needs index.n >= {heads.n}, it is {self.index.n}")
        return self


def find_config(path: Path | None) -> Path:
    """The configuration file: the one given, `pipelines.yaml` here, or the one that ships. ConfigError if absent."""
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"configuration file {path} does not exist (--config)")
        return path
    package = Path(__file__).parent
    candidates = [Path(FILE), package / FILE, package.parent / FILE]  # here, in a wheel, in a checkout
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ConfigError(f"there is no {FILE} here: name one with --config FILE")
    return found


def list_pipelines(path: Path) -> list[str]:
    """Names of the pipelines in a configuration file."""
    return sorted(_read(path)["pipelines"])


def load_pipeline(path: Path, name: str, settings: Sequence[str] = ()) -> PipelineConfig:
    """Resolve a pipeline: `defaults`, then what it extends, then its own keys, then `settings` ("stage.key=value").

    ConfigError, naming the key's full path and the nearest valid name, for anything that does not fit.
    """
    content = _read(path)
    values = content["defaults"]
    for layer in _lineage(path, content["pipelines"], name):
        values = _merge(values, layer)
    for setting in settings:
        values = _merge(values, _parse_setting(setting))
    values = {"work": f"work/{name}", **values, "name": check_unit_name(name)}
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        lines = [f"{path}, pipeline {name!r}:" if not settings else f"{path}, pipeline {name!r} and --set:"]
        raise ConfigError("\n  ".join([*lines, *(_explain(dict(entry)) for entry in error.errors())])) from None


def flat(config: BaseModel, prefix: str = "") -> list[tuple[str, Any, str]]:
    """Every option as (key path, value, description), in the order of the classes."""
    rows: list[tuple[str, Any, str]] = []
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if isinstance(value, BaseModel):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value, field.description or ""))
    return rows


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("pipelines"), dict):
        raise ConfigError(f"{path} needs a mapping 'pipelines' of names to settings")
    if extra := set(content) - {"defaults", "pipelines"}:
        raise ConfigError(f"{path}: unknown key {sorted(extra)[0]!r}; at the top stand 'defaults' and 'pipelines'")
    return {"defaults": content.get("defaults") or {}, "pipelines": content["pipelines"]}


def _lineage(path: Path, pipelines: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Own keys of the pipeline and of all that it extends, the most general first."""
    layers: list[dict[str, Any]] = []
    seen: list[str] = []
    while True:
        if name not in pipelines:
            near = difflib.get_close_matches(name, pipelines, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(pipelines))}"
            raise ConfigError(f"{path} has no pipeline {name!r}{hint}")
        if name in seen:
            raise ConfigError(f"{path}: pipelines extend each other in a circle: {' -> '.join([*seen, name])}")
        seen.append(name)
        own = dict(pipelines[name] or {})
        parent = own.pop("extends", None)
        layers.insert(0, own)
        if parent is None:
            return layers
        name = parent


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        other_kind = key == "data" and isinstance(value, dict) and isinstance(old, dict) and "kind" in value
        if isinstance(value, dict) and isinstance(old, dict) and not (other_kind and value["kind"] != old.get("kind")):
            out[key] = _merge(old, value)
        else:
            out[key] = value
    return out


def _parse_setting(setting: str) -> dict[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set takes key=value, such as index.n=4, not {setting!r}")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {setting}: the value is not YAML") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _explain(error: dict[str, Any]) -> str:
    path = [part for part in error["loc"] if not isinstance(part, int)]
    names = [str(part) for part in path if part not in ("posetrack18", "posetrack17", "folder", "generated")]
    where = ".".join(names)
    if error["type"] == "extra_forbidden":
        valid = _fields_at(PipelineConfig, [str(part) for part in path[:-1]])
        near = difflib.get_close_matches(names[-1], valid, 1, cutoff=0.5)
        return f"{where}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}")
    if error["type"] == "missing":
        return f"{where}: is missing; give it with --set {where}=VALUE"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Field names of the option class that a key path leads to; union members are named by their `kind`."""
    for part in path:
        if part not in model.model_fields:
            continue  # the tag of a union, chosen below
        members = _option_classes(model.model_fields[part].annotation)
        tagged = [m for m in members if "kind" in m.model_fields and m.model_fields["kind"].default in path]
        if not members:
            return []
        model = (tagged or members)[0]
    return list(model.model_fields)


def _option_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [found for argument in typing.get_args(annotation) for found in _option_classes(argument)]
    return []
