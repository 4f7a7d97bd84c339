"""ablate: the heads of Table 4's rows; those of one seed are trained in one pass over the stored features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glpose.options import HeadOptions, IndexOptions, index_problem
from glpose.row_names import choose_names
from glpose.tables.ablation import Row, table_rows
from glpose.training import Trained
from stages import train
from stages.config import PipelineConfig
from stages.stage import Context, Stage, shown_output
from stages.train import Training, load_training, train_units, write_heads
from store.errors import ConfigError, TrainingError
from store.folder import Attempt

VERSION = 1
SEED = "@seed"  # between the training and the seed in a unit's name


@dataclass
class Run:
    """What is still to make, and heads that were trained beside another's, until their own turn comes.

    alone: units of a group in which a training failed. training: what the heads of `seed` are trained on.
    """

    waiting: list[str]
    trained: dict[str, Trained] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)
    training: Training | None = None
    seed: int = -1


def asked_rows(config: PipelineConfig) -> list[Row]:
    """The rows of the pipeline's Table 4 that are asked for.

    ConfigError for a row that does not exist, or that needs more than is stored.
    """
    every = all_rows(config)
    names = choose_names([row.name for row in every], config.ablate.rows, "the ablation", "--rows, ablate.rows")
    rows = [row for row in every if row.name in names]
    for row in rows:
        check_reach(f"row {row.name!r} of the ablation", row.heads, config.index, config)
    return rows


def all_rows(config: PipelineConfig) -> list[Row]:
    """All rows of the pipeline's Table 4."""
    return table_rows(config.train.heads, config.ablate)


def units(context: Context, everything: bool) -> list[str]:
    """One unit per training and seed of the rows that are asked for, such as `k=2@seed1`; seed by seed."""
    config = context.config
    trainings = dict.fromkeys(row.training for row in asked_rows(config))
    seeds = range(config.train.seed, config.train.seed + config.ablate.seeds)
    return [f"{training}{SEED}{seed}" for seed in seeds for training in trainings]


def split_unit(unit: str) -> tuple[str, int]:
    """Training and seed of a unit."""
    training, _, seed = unit.rpartition(SEED)
    return training, int(seed)


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """The recipe of every row: all that changes training, but the seed, which is in the units' names."""
    return {name: value for name, value in train.parameters(config).items() if name != "seed"}


def inputs(context: Context, unit: str) -> str:
    """Digest of the features and references of all videos of the training split, and of the layer that heads read."""
    return train.inputs(context, unit)


def prepare(context: Context) -> Run:
    """Find what is to do; features are loaded when the first heads are trained."""
    from stages.run import survey  # here, as it knows this stage

    return Run(survey(STAGE, context, look=False).todo)


def make(context: Context, shared: Run, unit: str, attempt: Attempt) -> str:
    """Write one row's heads and their log; the first unit of a group trains the whole group."""
    if unit not in shared.trained:
        group = _group(shared, unit, context.config.runtime.together)
        try:
            shared.trained |= _train(context, shared, group)
        except TrainingError:
            if len(group) == 1:
                raise
            shared.alone.update(group)  # one has failed, and must not take the others along
            shared.trained |= _train(context, shared, [unit])
    assert shared.training is not None
    return write_heads(context, shared.training, shared.trained.pop(unit), attempt)


def _group(shared: Run, unit: str, together: int | None) -> list[str]:
    """The unit and those of its seed that come after it, to be trained in one pass."""
    later = shared.waiting[shared.waiting.index(unit) + 1 :]
    seed = split_unit(unit)[1]
    others = [other for other in later if split_unit(other)[1] == seed and other not in shared.alone]
    return [unit] if unit in shared.alone else [unit, *others][:together]


def _train(context: Context, shared: Run, group: list[str]) -> dict[str, Trained]:
    """Train the heads of units of one seed, as `train` would with that seed."""
    config, seed = context.config, split_unit(group[0])[1]
    recipe = config.train.model_copy(update={"seed": seed})
    seeded = context.configured(config.model_copy(update={"train": recipe}))
    if shared.training is None or (seed != shared.seed and recipe.validation > 0):  # which videos are held out differs
        shared.training = None  # makes room for the other
        shared.training = load_training(seeded, [row.heads for row in asked_rows(config)])
    shared.seed = seed
    heads = {row.training: row.heads for row in asked_rows(config)}
    return train_units(seeded, shared.training, "ablate", {unit: heads[split_unit(unit)[0]] for unit in group})


def check_reach(row: str, heads: HeadOptions, index: IndexOptions, config: PipelineConfig) -> None:
    """ConfigError where a row's heads need more than the pipeline stores, or references that its index does not give.

    index: what the row's references are of.
    """
    if problem := index_problem(heads, index):
        raise ConfigError(f"{row}: {problem}, or choose other rows with --rows")
    stored = {"extract.k": (heads.k, config.extract.k), "index.n": (heads.n, config.index.n)}
    for option, (needed, there) in stored.items():
        if needed > there:
            raise ConfigError(
                f"{row} needs {option} >= {needed}, it is {there}: store more "
                f"({option.split('.')[0]} with --set {option}={needed} --force), or choose other rows with --rows"
            )


STAGE = Stage(
    name="ablate",
    version=VERSION,
    after=lambda config: ("extract", "index"),
    parameters=parameters,
    units=units,
    inputs=inputs,
    prepare=prepare,
    make=make,
    finish=lambda context: [f"  heads in {shown_output(context, 'ablate')}"],
)
