"""Sections of the report that let a result be cited and made again: options, fingerprints, versions, the command."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import yaml
from markupsafe import Markup
from pydantic import BaseModel

from glpose.options import DEMO_CLIPS
from glpose.report.page import Section
from glpose.report.tables import copyable, details, html_table, paragraph
from glpose.tables.table import Cell, Column, Table
from stages.config import PipelineConfig, flat
from stages.report_state import made_at, states
from stages.stage import Context
from store.record import Record, fingerprint

PAPER = "doi 10.1145/3519305"
LIBRARIES = (
    "torch", "torchvision", "numpy", "zarr", "h5py", "faiss-gpu", "faiss-cpu", "opencv-python-headless", "pandas",
    "pyarrow", "scipy", "pycocotools",
)  # fmt: skip
DEMO = "demo"  # data.root of the clips that ship, wherever they lie
DIGEST = 64  # hexadecimal digits


def options_section(context: Context) -> Section:
    """Every option of the pipeline, those that are not the defaults first."""
    config = context.config
    other, defaults = _paths(changes(config)), _default_values(config)
    rows: list[dict[str, Cell]] = [
        {
            "option": key,
            "value": _shown(value),
            "default": _shown(defaults[key]) if key in defaults else "none",
            "meaning": meaning,
            "source": "changed" if key in other else "default",
        }
        for key, value, meaning in flat(config)
    ]
    titles = {"option": "option", "value": "value", "default": "default", "meaning": "meaning"}
    columns = [Column(key, title) for key, title in titles.items()]
    own = [{**row, "source": ""} for row in rows if row["source"] == "changed"]
    changed = Table("", "Options that are not the defaults", columns, own)
    every = Table("", "All options", columns, rows)
    intro = f"{len(own)} of {len(rows)} options are not the defaults, which follow the paper."
    folded = details("All options, the changed ones in bold", html_table(every, every.title))
    return Section("Options", "options", paragraph(intro) + html_table(changed, changed.title) + folded)


def record_section(context: Context) -> Section:
    """Fingerprints, digests, versions, and how to make the same again."""
    config, name = context.config, context.config.name
    records = {stage: record for stage in states(context) if (record := context.folder(stage).record_in_force())}
    rows: list[dict[str, Cell]] = [
        {
            "stage": stage,
            "version": record["version"],
            "record": fingerprint(record),
            "contents": fingerprint({unit: commit.digest for unit, commit in sorted(context.commits(stage).items())}),
        }
        for stage, record in records.items()
    ]
    titles = {"stage": "stage", "version": "code", "record": "fingerprint", "contents": "of what it made"}
    stages = Table("", "Fingerprints of the stages", [Column(key, title) for key, title in titles.items()], rows)
    files = [{"file": what, "digest": digest} for what, digest in _digests(context, records).items()]
    digests = Table("", "Files, by SHA-256", [Column("file", "file"), Column("digest", "SHA-256")], files)
    versions = Table(
        "", "Versions", [Column("name", "name"), Column("version", "version")],
        [{"name": package, "version": version} for package, version in _versions().items()],
    )  # fmt: skip
    verbs = ["run", *(["ablate"] if "ablate" in records else []), "report"]
    parts = [
        Markup("<h3>To cite it</h3>\n"), copyable(_citation(context, records)),
        Markup("<h3>To make it again</h3>\n"),
        paragraph(f"Save this as {name}.yaml; it holds all that is not a default. Paths in it are as they were here."),
        copyable(recipe(config)),
        copyable("\n".join(f"glpose-stage {verb} -p {name} --config {name}.yaml" for verb in verbs)),
        Markup("<h3>Fingerprints</h3>\n"),
        paragraph(
            "A stage's fingerprint is of all options that change its results, of its own and of the stages before it, "
            "with files by their contents. Where two are equal, the same was asked for; where the other digests are "
            "equal too, the same came out, byte by byte."
        ),
        html_table(stages, stages.title), html_table(digests, digests.title) if files else Markup(""),
        Markup("<h3>Versions</h3>\n"), paragraph("Of what wrote this page."), html_table(versions, versions.title),
    ]  # fmt: skip
    return Section("To cite and repeat", "record", Markup("").join(parts), style=STYLE)


STYLE = "#record td:not(.short):not(.number) { overflow-wrap: anywhere; min-width: 17rem; }"  # digests


def recipe(config: PipelineConfig) -> str:
    """A configuration file of this pipeline alone, which says all that is not a default but the work folder."""
    own = {key: value for key, value in changes(config).items() if key != "work"}
    return yaml.safe_dump({"pipelines": {config.name: own}}, sort_keys=False, allow_unicode=True).rstrip()


def changes(config: PipelineConfig) -> dict[str, Any]:
    """Options that are not the defaults, nested as in a configuration file; with the kind where a block has several."""
    return {key: value for key, value in _changes(config, None).items() if key != "name"}


def _changes(options: BaseModel, base: BaseModel | None) -> dict[str, Any]:
    """base: of the same class, what stands where nothing is set; None: the class's own defaults."""
    dumped, found = options.model_dump(mode="json"), {}
    for key, field in type(options).model_fields.items():
        value = getattr(options, key)
        default = getattr(base, key) if base is not None else field.get_default(call_default_factory=False)
        if isinstance(value, BaseModel):
            inner = _changes(value, default if type(default) is type(value) else None)
            if type(default) is not type(value) and "kind" in type(value).model_fields:
                inner = {"kind": dumped[key]["kind"], **inner}
            if inner:
                found[key] = inner
        elif (base is None and field.is_required()) or value != default:
            found[key] = DEMO if value == DEMO_CLIPS else dumped[key]
    return found


def _default_values(config: PipelineConfig) -> dict[str, Any]:
    """Key path -> default, of options that have one: of the data and cluster by their own kinds."""
    return dict(_defaults(config, None, ""))


def _defaults(options: BaseModel, base: BaseModel | None, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, field in type(options).model_fields.items():
        value = getattr(options, key)
        default = getattr(base, key) if base is not None else field.get_default(call_default_factory=False)
        if isinstance(value, BaseModel):
            yield from _defaults(value, default if type(default) is type(value) else None, f"{prefix}{key}.")
        elif base is not None or not field.is_required():
            yield prefix + key, default


def _paths(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Key paths of nested values."""
    found: set[str] = set()
    for key, value in values.items():
        found |= _paths(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def _shown(value: Any) -> str:
    if value == DEMO_CLIPS:
        return DEMO
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(_shown, value)) if isinstance(value, tuple | list) else str(value)


def _digests(context: Context, records: Mapping[str, Record]) -> dict[str, str]:
    """Checkpoints and other files that stages were given, and the heads that train has made."""
    found = {}
    for stage, record in records.items():
        for key, value in _leaves(record["parameters"], f"{stage}."):
            if isinstance(value, str) and len(value) == DIGEST and set(value) <= set("0123456789abcdef"):
                found[key] = value
    for unit, commit in sorted(context.commits("train").items()) if "train" in records else ():
        found |= {
            f"{unit}/{name}": digest for name, (_, digest) in commit.files.items() if name.endswith(".safetensors")
        }
    return found


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _versions() -> dict[str, str]:
    found = {"GLPose": metadata.version("glpose"), "Python": platform.python_version()}
    for package in LIBRARIES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # one of two, as of FAISS
            continue
    return found


def _citation(context: Context, records: Mapping[str, Record]) -> str:
    """What tells this result from all others, in a few lines."""
    last = list(records)[-1]
    day = max(map(made_at, context.commits(last).values()), default="")
    lines = [
        f"GLPose {metadata.version('glpose')} ({PAPER}), pipeline {context.config.name}, {last} of {day}",
        f"{last} fingerprint {fingerprint(records[last])}",
    ]
    if space := feature_space(context):
        lines.append(f"feature space {space}")
    return "\n".join(lines)


def feature_space(context: Context) -> str:
    """The id of the feature space, as extract has noted it; "" before extract."""
    return next((commit.meta["space"] for commit in states(context)["extract"].counted.values()), "")
