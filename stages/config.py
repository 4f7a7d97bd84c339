"""From pipelines.yaml and --set to one frozen, checked configuration."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from glpose.options import (
    TAKES_MOST_SIMILAR,
    AblateOptions,
    ClusterOptions,
    CropOptions,
    DataOptions,
    DetectOptions,
    EvalOptions,
    EvidenceOptions,
    ExtractOptions,
    FinetuneOptions,
    IndexOptions,
    NoCluster,
    Options,
    PretrainOptions,
    RuntimeOptions,
    SplitOptions,
    TrainDetectorOptions,
    TrainOptions,
    index_problem,
)
from store.errors import ConfigError, StoreError
from store.folder import check_unit_name
from store.places import Place, place

FILE = "pipelines.yaml"
KINDS = {"data": DataOptions, "cluster": ClusterOptions}  # blocks whose other keys depend on their `kind`


def _work(value: Any) -> Place:
    if not value or not isinstance(value, str | Path):  # else YAML's null would be a folder of that name
        raise ValueError(f"should be a folder, or s3://BUCKET/PREFIX, as text, not {value!r}")
    return place(value)


class PipelineConfig(Options):
    """One pipeline. `note`: printed with every result."""

    name: str
    work: Annotated[Place, PlainValidator(_work), PlainSerializer(str)] = Field(
        description="where outputs go: a folder, or s3://BUCKET/PREFIX"
    )
    note: str = ""
    data: DataOptions
    pretrain: PretrainOptions = PretrainOptions()
    train_detector: TrainDetectorOptions = TrainDetectorOptions()
    detect: DetectOptions = DetectOptions()
    extract: ExtractOptions = ExtractOptions()
    crops: CropOptions = CropOptions()
    index: IndexOptions = IndexOptions()
    train: TrainOptions = TrainOptions()
    finetune: FinetuneOptions = FinetuneOptions()
    eval: EvalOptions = EvalOptions()
    ablate: AblateOptions = AblateOptions()
    evidence: EvidenceOptions = EvidenceOptions()
    runtime: RuntimeOptions = Field(default=RuntimeOptions(), description="speed settings; never part of a record")
    cluster: ClusterOptions = Field(
        default=NoCluster(), description="who runs the stages that go video by video; never part of a record"
    )

    @model_validator(mode="after")
    def _stages_agree(self) -> PipelineConfig:
        heads = self.train.heads
        if heads.k > self.extract.k:
            raise ValueError(f"train.heads.k = {heads.k} needs extract.k >= {heads.k}, it is {self.extract.k}")
        if heads.n > self.index.n:
            raise ValueError(f"train.heads.n = {heads.n} needs index.n >= {heads.n}, it is {self.index.n}")
        if self.train.augment == "views" and self.extract.views == 1:
            raise ValueError("train.augment: views needs some in the store: set extract.views=4, say, and run extract")
        if self.eval.flip and not self.extract.mirror:
            raise ValueError(
                "eval.flip needs mirrored views in the store: set extract.mirror=true and run extract again"
            )
        if problem := index_problem(heads, self.index):
            raise ValueError(f"train.heads: {problem}")
        sources = {self.detect.train.source, self.detect.eval.source}
        if self.index.select == "oracle" and sources != {"annotations"}:
            raise ValueError(
                "index.select oracle compares annotated poses: it needs detect.train.source and detect.eval.source "
                "annotations"
            )
        return self

    @model_validator(mode="after")
    def _fewer_are_evaluated(self) -> PipelineConfig:
        heads = self.train.heads
        for name, fewer, trained in (("k", self.eval.k, heads.k), ("n", self.eval.n, heads.n)):
            if fewer is None or fewer == trained:
                continue
            if fewer > trained:
                raise ValueError(f"eval.{name} = {fewer}, but the heads have places for train.heads.{name} = {trained}")
            if heads.inputs == "key_copies":
                raise ValueError(f"eval.{name} means nothing to heads with train.heads.inputs key_copies: set it null")
        if self.eval.n not in (None, heads.n) and self.index.select not in TAKES_MOST_SIMILAR:
            raise ValueError(f"eval.n keeps the most similar references, not those of index.select {self.index.select}")
        if self.eval.k not in (None, heads.k) and self.extract.edge != "repeat_key":
            raise ValueError(
                "eval.k puts the key frame in the place of others, which heads meet in training with extract.edge "
                f"repeat_key alone: train with train.heads.k = {self.eval.k} instead"
            )
        return self

    @model_validator(mode="after")
    def _crops_hold_every_view(self) -> PipelineConfig:
        crops, views = self.crops, self.finetune
        if views.rotation > crops.rotation or views.scale[1] > crops.scale or (views.half_body and not crops.half_body):
            raise ValueError(
                "the crop store must hold every view of finetune: crops.rotation >= finetune.rotation, crops.scale >= "
                "the end of finetune.scale, and crops.half_body unless finetune.half_body is 0"
            )
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
    for layer in [*_lineage(path, content["pipelines"], name), _parse_settings(settings)]:
        values = _merge(values, layer)
    if "name" in values:
        raise ConfigError(f"{path}, pipeline {name!r}: name is what -p says and cannot be set")
    try:
        values = {"work": f"work/{name}", **_with_split_defaults(values), "name": check_unit_name(name)}
        return PipelineConfig.model_validate(values)
    except StoreError as error:
        raise ConfigError(f"{path}, pipeline {name!r}: {str(error).removeprefix('video ')}") from None
    except ValidationError as error:
        heading = f"{path}, pipeline {name!r}:" if not settings else f"{path}, pipeline {name!r} and --set:"
        raise ConfigError("\n  ".join([heading, *_explanations(error)])) from None


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("pipelines"), dict):
        raise ConfigError(f"{path} needs a mapping 'pipelines' of names to settings")
    if extra := {str(key) for key in content} - {"defaults", "pipelines"}:
        raise ConfigError(f"{path}: unknown key {sorted(extra)[0]!r}; at the top stand 'defaults' and 'pipelines'")
    blocks = {"defaults": content.get("defaults"), **content["pipelines"]}
    for name, block in blocks.items():
        if not isinstance(name, str):
            raise ConfigError(f"{path}: pipeline {name!r} is no text: put its name in quotes")
        if block is not None and not isinstance(block, dict):
            raise ConfigError(f"{path}: {name!r} needs a mapping of keys to settings, not {block!r}")
    return {"defaults": content.get("defaults") or {}, "pipelines": content["pipelines"]}


def _lineage(path: Path, pipelines: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Own keys of the pipeline and of all that it extends, the most general first."""
    layers: list[dict[str, Any]] = []
    seen: list[str] = []
    while True:
        if name not in pipelines:
            near = difflib.get_close_matches(name, pipelines, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(pipelines))}"
            asked = f", which {seen[-1]!r} extends" if seen else ""
            raise ConfigError(f"{path} has no pipeline {name!r}{asked}{hint}")
        if name in seen:
            raise ConfigError(f"{path}: pipelines extend each other in a circle: {' -> '.join([*seen, name])}")
        seen.append(name)
        own = dict(pipelines[name] or {})
        parent = own.pop("extends", None)
        layers.insert(0, own)
        if parent is None:
            return layers
        name = str(parent)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("kind") in (None, old.get("kind")):
            out[key] = _merge(old, value)
        else:
            out[key] = value
    return out


def _with_split_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Complete the splits of a data set by its kind's own defaults (subset: train), which one key set would undo."""
    data = values.get("data")
    if not isinstance(data, dict):
        return values
    kind = next((class_ for class_ in _option_classes(DataOptions) if _kind(class_) == data.get("kind")), Options)
    own = {key: field.default for key, field in kind.model_fields.items() if isinstance(field.default, SplitOptions)}
    whole = {key: {**own[key].model_dump(), **data[key]} for key in own if isinstance(data.get(key), dict)}
    return {**values, "data": {**data, **whole}}


def _kind(data: type[BaseModel]) -> str:
    return data.model_fields["kind"].default


def _parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """All --set as one layer, so that their order does not matter where one of them changes data.kind."""
    layer: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = key.split(".")
        if not equals or not all(path):
            raise ConfigError(f"--set takes key=value, such as index.n=4, not {setting!r}")
        block = layer
        for part in path[:-1]:
            inner = block.get(part)
            block[part] = dict(inner) if isinstance(inner, dict) else {}
            block = block[part]
        block[path[-1]] = _parse_value(setting, text, _types_at(path))
    return layer


def _parse_value(setting: str, text: str, types_: Sequence[Any]) -> Any:
    """The value of a --set: text as it stands where the option is text (060470979, *_test, yes), else YAML."""
    texts = [_accepted(type_) for type_ in types_]
    if any(accepted <= {str, Path, type(None)} and accepted & {str, Path} for accepted in texts):
        if text in ("null", "~") and any(type(None) in accepted for accepted in texts):
            return None
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    list_of_text = any(typing.get_origin(type_) is tuple and str in typing.get_args(type_) for type_ in types_)
    try:
        return yaml.load(text, yaml.BaseLoader if list_of_text else yaml.SafeLoader)  # the base loader knows text only
    except yaml.YAMLError:
        raise ConfigError(f"--set {setting}: the value is not YAML") from None


def _explanations(error: ValidationError) -> list[str]:
    """One line per option that does not fit: its full path, what is wrong, what would be right."""
    lines: dict[str, list[str]] = {}
    for entry in error.errors():
        where, what = _explain(dict(entry))
        lines.setdefault(where, []).append(what)  # a union of types gives an entry for each of them
    return [f"{where}: {'; or: '.join(whats)}" if where else "; ".join(whats) for where, whats in lines.items()]


def _explain(error: dict[str, Any]) -> tuple[str, str]:
    names, model = _known_part(error["loc"])
    where, given = ".".join(names), error["input"]
    if error["type"] in ("extra_forbidden", "invalid_key"):
        valid = [name for name in model.model_fields if model is not PipelineConfig or name != "name"]
        key = str(error["loc"][-1])
        near = difflib.get_close_matches(key, valid, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
        return ".".join([*names, key]), f"unknown key; {hint}"
    if where in KINDS and error["type"] != "value_error":
        kind = given.get("kind") if isinstance(given, dict) and error["type"] != "missing" else None
        kinds = [_kind(class_) for class_ in _option_classes(KINDS[where])]
        near = [] if kind is None else difflib.get_close_matches(str(kind), kinds, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(kinds)}"
        return f"{where}.kind", f"is missing; {hint}" if kind is None else f"there is no {kind!r}; {hint}"
    if error["type"] == "missing":
        if isinstance(error["loc"][-1], int):
            return where, f"has too few values: {given!r}"
        return where, f"is missing; give it with --set {where}=VALUE"
    if error["type"] in ("model_type", "model_attributes_type"):
        return where, f"is a block of options ({', '.join(model.model_fields)}), not {given!r}"
    if error["type"] == "value_error":
        return where, error["msg"].removeprefix("Value error, ")
    wanted = error["msg"].removeprefix("Input ").replace(" tuple", " list").split(", ")[0]
    quote = "; put it in quotes" if error["type"] == "string_type" and not isinstance(given, list | dict) else ""
    return where, f"{wanted}, not {given!r}{quote}"


def _known_part(location: Sequence[int | str]) -> tuple[list[str], type[BaseModel]]:
    """Of an error's location, the names of options, and the innermost option class that they lead to.

    Positions in lists are left out, and so are what pydantic puts in for the members of unions: kinds, types.
    """
    names: list[str] = []
    model: type[BaseModel] = PipelineConfig
    members: list[type[BaseModel]] = []
    for part in location:
        kinds = {_kind(class_): class_ for class_ in members if "kind" in class_.model_fields}
        if part in kinds:
            model, members = kinds[part], []
        elif part in model.model_fields:
            names.append(str(part))
            members = _option_classes(model.model_fields[str(part)].annotation)
            model = members[0] if members else model
    return names, model


def _types_at(path: Sequence[str]) -> list[Any]:
    """Types that the option of a key path can have: several where data sets of different kinds share a key."""
    classes: list[type[BaseModel]] = [PipelineConfig]
    found: list[Any] = []
    for part in path:
        found = [class_.model_fields[part].annotation for class_ in classes if part in class_.model_fields]
        classes = [class_ for annotation in found for class_ in _option_classes(annotation)]
    return found


def _accepted(annotation: Any) -> set[Any]:
    """Members of a union, or the type alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(typing.get_args(annotation))
    return {annotation}


def _option_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [found for argument in typing.get_args(annotation) for found in _option_classes(argument)]
    return []
