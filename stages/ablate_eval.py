"""ablate_eval: the scores of every row of Table 4 on the evaluation split; no predictions are kept."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from glpose.scoring import write_recall
from stages import evaluate
from stages.ablate import asked_rows, units
from stages.config import PipelineConfig
from stages.eval_rows import HEADS, HRNET
from stages.evaluate import evaluated_videos, predict, scorer, truth_digests
from stages.stage import Context, Stage, no_lines
from stages.train import Split, load_split, split_digest
from store.atomic import write_json
from store.folder import Attempt
from store.record import fingerprint, number_or_none

VERSION = 1
SCORES = "scores.json"
UNUSED = {"overlay", "submission", "variants", "k", "n", HEADS, HRNET}  # of eval's parameters: not for these scores


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """What changes the scores of rows, which see as many frames and references as they were trained with."""
    return {name: value for name, value in evaluate.parameters(config).items() if name not in UNUSED}


def inputs(context: Context, unit: str) -> str:
    """Digest of the row's heads, and of the evaluation split's features, references and annotations."""
    return fingerprint([context.commit("ablate", unit).digest, split_digest(context, "eval"), truth_digests(context)])


def prepare(context: Context) -> Split:
    """Load the evaluation split, with what the rows that are asked for need of it."""
    heads = [row.heads for row in asked_rows(context.config)]
    return load_split(context, "eval", k=max(own.k for own in heads), n=max(own.n for own in heads))


def make(context: Context, shared: Split, unit: str, attempt: Attempt) -> str:
    """Write one row's scores, and its recall by tag where there are tags."""
    config = context.config
    videos = evaluated_videos(context, shared, {unit: predict(config, shared, context.output("ablate", unit))[-1]})
    options = config.eval.model_copy(update={"submission": False})
    with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
        scores = scorer(config)(Path(folder), videos, options)
    write_json(attempt.path / SCORES, scores.results[unit])
    if scores.joints is not None:
        write_recall(attempt.path, scores.joints)
    mean = number_or_none(scores.mean[unit])
    attempt.meta = {"metric": scores.metric, "mean": mean, "videos": len(videos)}
    return f"{scores.metric} {'-' if mean is None else format(mean, '.2f')}"


STAGE = Stage(
    name="ablate_eval",
    version=VERSION,
    after=lambda config: ("extract", "index", "ablate"),
    parameters=parameters,
    units=units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=no_lines,
)
