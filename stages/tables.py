"""tables: Tables 1-3 of the paper with ours below the published rows, and what the heads cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import store
from glpose.data.dataset import joint_set
from glpose.models.checkpoints import resolve_checkpoint
from glpose.options import JHMDBData
from glpose.runtime import choose_device
from glpose.tables.comparison import Ours, comparison_table
from glpose.tables.costs import cost_table
from glpose.tables.figures import Figures, figures, mean_of
from glpose.tables.table import Table
from stages.ablate import all_rows
from stages.ablation import finished_scores
from stages.config import PipelineConfig, list_pipelines, load_pipeline
from stages.console import say
from stages.eval_rows import HRNET
from stages.evaluate import UNIT, row_labels, variant_labels
from stages.run import STAGES, run_stages, stages_of, survey
from stages.stage import Context, split_videos
from stages.table_files import about, comparison_notes, table_folder
from stages.train import variants
from store.errors import ConfigError, NotCommitted, RecordMismatch
from store.places import read_json

CPU_BATCH = 4  # proposals per timed pass: larger ones are no faster there
SPLITS = 3  # of Sub-JHMDB


@dataclass(frozen=True)
class Evaluated:
    """What eval has committed of a pipeline. results: variant -> figures."""

    config: PipelineConfig
    backbone: str
    metric: str
    videos: int
    results: Mapping[str, Figures]


def tables(configs: Sequence[PipelineConfig], console: Console, *, run: bool = False) -> None:
    """Print and save a pipeline's table, and what its heads cost.

    configs: the pipeline and, of JHMDB, its other splits. run: run first what is missing of all of them. NotCommitted
    where eval has not finished for the pipeline itself.
    """
    for config in configs if run else ():
        say(console, f"{config.name} in {config.work}")
        context = Context(config)
        run_stages(stages_of(context), context, console)
    folder = table_folder(configs[0])
    for table in (result_table(configs), costs(configs[0])):
        written = table.write(folder)
        say(console, f"{table.text()}\n  {', '.join(written)} in {folder}")


def with_other_splits(path: Path, config: PipelineConfig, settings: Sequence[str]) -> list[PipelineConfig]:
    """A pipeline and, of JHMDB's data, those of the file that differ from it in the split and the work folder alone."""
    found = {config.data.split: config} if isinstance(config.data, JHMDBData) else {}
    for name in list_pipelines(path) if found else ():
        try:
            other = load_pipeline(path, name, settings)
        except ConfigError:  # of other data, which the settings are not for
            continue
        alike = _recipe(other) == _recipe(config) and other.work != config.work
        if alike and isinstance(other.data, JHMDBData):
            found.setdefault(other.data.split, other)
    return [config, *(other for _, other in sorted(found.items()) if other is not config)]


def result_table(configs: Sequence[PipelineConfig]) -> Table:
    """Table 1, 2 or 3, by the kind of data, with all rows of eval; of three splits, their mean too."""
    first, notes = evaluated(configs[0]), []
    splits = {first.config.name: first}
    for config in configs[1:]:
        try:
            splits[config.name] = evaluated(config)
        except (NotCommitted, RecordMismatch) as error:
            notes.append(f"{config.name} is missing: {str(error).splitlines()[0]}")
    rows: list[Ours] = []
    for variant, words in row_labels(first.config).items():
        label = f"{words}, ours"
        parts = [found for found in splits.values() if variant in found.results]
        for part in sorted(parts, key=_split):
            name = f"{label}, split {_split(part)}" if isinstance(part.config.data, JHMDBData) else label
            rows.append(_ours(name, variant, part, part.results[variant]))
        if len(parts) == SPLITS:
            mean = mean_of([part.results[variant] for part in parts])
            rows.append(_ours(f"{label}, mean of {SPLITS} splits", variant, first, mean))
    if isinstance(first.config.data, JHMDBData) and len(splits) < SPLITS:
        notes.append(
            f"a mean needs all {SPLITS} splits, each with a pipeline and a work folder of its own; --run runs them all"
        )
    config, data = first.config, first.config.data
    notes += comparison_notes(config, first.videos)
    return comparison_table(
        rows, data.kind, first.metric, about(config, first.videos), config.note, notes,
        rivals=not isinstance(data, JHMDBData) or data.splits == "sub_splits",
    )  # fmt: skip


def evaluated(config: PipelineConfig) -> Evaluated:
    """What eval has found under this configuration. NotCommitted where it has not finished, or inputs have changed."""
    context = Context(config)
    found = survey(STAGES["eval"], context)
    if found.changes or UNIT not in found.done:
        what = f" with these parameters ({found.changes[0]})" if found.changes else ""
        raise NotCommitted(f"eval of {config.name!r} is not finished{what}: glpose-stage run -p {config.name}")
    folder = context.output("eval", UNIT)
    scores, facts = read_json(folder / "scores.json"), read_json(folder / "context.json")
    results = {variant: figures(result) for variant, result in scores.items()}
    video = split_videos(context, "eval")[0]
    return Evaluated(
        config, context.commit("extract", video).meta["backbone"], facts["metric"], facts["videos"], results
    )


def costs(config: PipelineConfig) -> Table:
    """What the variants of `train` cost, and the rows of an ablation that are finished; speed is measured now."""
    context, labels = Context(config), variant_labels(config)
    chosen = {labels[name]: heads for name, heads in variants(config).items()}
    finished = finished_scores(context).scores
    for row in all_rows(config):
        if row.name == row.training and row.training in finished and row.heads not in chosen.values():
            chosen[row.label] = row.heads
    schema = store.open(config.work).features(split_videos(context, "eval")[0]).schema
    device = choose_device(config.runtime)
    batch = config.runtime.batch_size if device.type == "cuda" else min(CPU_BATCH, config.runtime.batch_size)
    return cost_table(chosen, schema, len(joint_set(config.data)), device, batch)


def _ours(method: str, variant: str, found: Evaluated, results: Figures) -> Ours:
    config = found.config
    if variant == HRNET:  # its name says which one
        return Ours(method, None, f"weights {resolve_checkpoint(config.eval.single_frame_hrnet or '').name}", results)
    weights = resolve_checkpoint(config.extract.checkpoint).name
    return Ours(method, found.backbone.replace("hrnet_w", "HRNet-W"), f"weights {weights}", results)


def _split(found: Evaluated) -> int:
    return found.config.data.split if isinstance(found.config.data, JHMDBData) else 0


def _recipe(config: PipelineConfig) -> PipelineConfig:
    """A configuration without what tells the splits of a data set apart."""
    data = config.data.model_copy(update={"split": 1}) if isinstance(config.data, JHMDBData) else config.data
    return config.model_copy(update={"name": "", "work": Path(), "data": data})
