"""The rows of a comparison: what eval has written, heads that are asked for their poses now, files of other systems."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glpose.comparison import Protocol
from glpose.models.checkpoints import read_head_options
from glpose.options import HeadOptions
from glpose.scoring import PREDICTIONS, EvaluatedVideo
from stages.ablate import SEED, all_rows
from stages.config import PipelineConfig
from stages.eval_rows import heads_poses
from stages.eval_rows import labels as extra_labels
from stages.evaluate import UNIT, evaluated_videos, predict, row_labels
from stages.run import STAGES, survey
from stages.stage import Context
from stages.tables import evaluated
from stages.train import Split, load_split, variants
from store.errors import CheckpointError, ConfigError, NotCommitted, RecordMismatch
from store.folder import as_unit_name
from store.places import Place, texts

Put = Callable[[Sequence[EvaluatedVideo], Path, str], list[str]]
TRUTH = "ground truth"  # the last row
LOCAL_ONLY = "n=0"  # of the ablation; the paper's figure has it between the single frame and all


@dataclass(frozen=True)
class Row:
    """One system. name: as options and files call it. label: as pictures do.

    put(videos, out, name): its predictions of some videos, below `out`; the videos that it has. late: these are
    computed when they are asked for, so that fewer videos take less time.
    """

    name: str
    label: str
    put: Put
    late: bool = False

    def write(self, videos: Sequence[EvaluatedVideo], out: Path) -> list[str]:
        """Its predictions of some videos, below `out` as `glpose.scoring` has them; names of the videos that it has."""
        return self.put(videos, out, self.name)


def find_rows(
    context: Context,
    protocol: Protocol,
    names: Sequence[str] | None,
    heads: Mapping[str, Path],
    predictions: Mapping[str, Path],
) -> list[Row]:
    """The rows that are asked for: of the pipeline (None: what there is), heads and prediction files, by name.

    ConfigError for an unknown name, or one that stands twice or is no file name; NotCommitted where a row has no
    results yet; CheckpointError for a file that holds no heads, or heads of more frames or references than are stored.
    """
    config = context.config
    ablation = {row.name: row.training for row in all_rows(config)}
    own = _own_rows(context, bool(heads or predictions)) if names is None else list(names)
    every = [*own, *heads, *predictions]
    if repeated := [name for name in every if every.count(name) > 1 or name == TRUTH]:
        raise ConfigError(f"two rows are called {repeated[0]!r}: give one of them another name")
    if odd := [name for name in (*heads, *predictions) if as_unit_name(name) != name]:
        raise ConfigError(f"a row cannot be called {odd[0]!r}: use letters, digits, '-', '_' and '.'")
    labels = row_labels(config)
    if unknown := [name for name in own if name not in labels and name not in ablation]:
        raise ConfigError(f"there is no row {unknown[0]!r}: --rows takes {', '.join([*labels, *ablation])}")
    written = [name for name in own if name in labels]
    if written:
        evaluated(config)  # or it has not finished, or not with these options
    options = {name: read_head_options(path) for name, path in heads.items()}
    options |= {row.name: row.heads for row in all_rows(config) if row.name in own and row.name not in written}
    reach = _reach(config, options)

    def row(name: str) -> Row:
        if name in written:
            return Row(name, labels[name], _from_eval(context, protocol, name))
        if name in heads:
            return Row(
                name,
                name,
                _from_heads(context, protocol, reach, lambda c, s: heads_poses(c, s, heads[name])),
                late=True,
            )
        if name in predictions:
            return Row(name, name, _from_files(protocol, predictions[name]))
        unit = f"{ablation[name]}{SEED}{config.train.seed}"
        if unit not in _trained(context):
            raise NotCommitted(
                f"row {name!r} of the ablation is not trained: glpose-stage ablate -p {config.name} --rows {name}"
            )
        label = f"local only (k={options[name].k}, n=0)" if name == LOCAL_ONLY else f"{name} (ablation)"
        return Row(name, label, _from_heads(context, protocol, reach, lambda c, s: _of_training(c, s, unit)), late=True)

    return [row(name) for name in every]


def _own_rows(context: Context, others: bool) -> list[str]:
    """What the pipeline has: the single frame, local only if that row of the ablation is trained, GLPose, then others.

    NotCommitted where eval has not finished and there are no `others` to show.
    """
    config = context.config
    try:
        evaluated(config)
    except (NotCommitted, RecordMismatch):
        if others:
            return []
        raise
    own, extra = sorted(variants(config), reverse=True), list(extra_labels(config))
    local = [LOCAL_ONLY] if f"{LOCAL_ONLY}{SEED}{config.train.seed}" in _trained(context) else []
    return [*own[:-1], *local, own[-1], *extra]


def _trained(context: Context) -> set[str]:
    """Units of the ablation that are trained as configured."""

    def look() -> set[str]:
        try:
            return set(survey(STAGES["ablate"], context, look=False).done)
        except (
            NotCommitted,
            RecordMismatch,
            ConfigError,
        ):  # not run, or of other features, or rows beyond what is stored
            return set()

    return context.once("trained rows of the ablation", look)


def _reach(config: PipelineConfig, options: Mapping[str, HeadOptions]) -> tuple[int, int]:
    """The k and n to load, for all heads. CheckpointError where more is needed than is stored."""
    for name, own in options.items():
        if own.k > config.extract.k or own.n > config.index.n:
            raise CheckpointError(
                f"row {name!r} needs k = {own.k}, n = {own.n}; stored are extract.k = {config.extract.k}, "
                f"index.n = {config.index.n}"
            )
    return max((own.k for own in options.values()), default=0), max((own.n for own in options.values()), default=0)


def _from_eval(context: Context, protocol: Protocol, name: str) -> Put:
    def write(videos: Sequence[EvaluatedVideo], out: Path, key: str) -> list[str]:
        source: Place = context.output("eval", UNIT) / PREDICTIONS / name
        if isinstance(source, Path):
            return protocol.take(source, videos, out, key)
        with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
            for file, text in texts(source, "*.json").items():
                (Path(folder) / file).write_text(text)
            return protocol.take(Path(folder), videos, out, key)

    return write


def _from_files(protocol: Protocol, source: Path) -> Put:
    return lambda videos, out, key: protocol.take(source, videos, out, key)


def _from_heads(
    context: Context, protocol: Protocol, reach: tuple[int, int], poses: Callable[[Context, Split], np.ndarray]
) -> Put:
    """Poses of stored proposals. reach: k and n to load. poses: of all proposals of the split that it is given."""
    config = context.config

    def write(videos: Sequence[EvaluatedVideo], out: Path, key: str) -> list[str]:
        names = [video.ref.name for video in videos]
        loaded = None if config.index.scope == "dataset" else names  # references may be of any video
        split = context.once(
            f"compared split {loaded} {reach}", lambda: load_split(context, "eval", loaded, k=reach[0], n=reach[1])
        )
        protocol.write(out, evaluated_videos(context, split, {key: poses(context, split)}, names), config.eval)
        return names

    return write


def _of_training(context: Context, split: Split, unit: str) -> np.ndarray:
    """Poses by heads of the ablation, which see all that they were trained with."""
    whole = context.config.eval.model_copy(update={"k": None, "n": None})
    config = context.config.model_copy(update={"eval": whole})
    return predict(config, split, context.output("ablate", unit))[-1]
