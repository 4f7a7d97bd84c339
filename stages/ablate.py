"""ablate: the heads of Table 4's rows; several of one seed are trained in one pass over the stored features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from glpose.data.dataset import joint_set
from glpose.models.glpose import GLPoseHeads
from glpose.options import HeadOptions
from glpose.tables.ablation import Row, choose_rows, table_rows
from glpose.training import train_heads
from stages import train
from stages.config import PipelineConfig
from stages.stage import Context, Stage, shown_output
from stages.train import Split, load_split, split_digest, write_heads
from store.errors import ConfigError, TrainingError
from store.folder import Attempt

VERSION = 1
SEED = "@seed"  # between the training and the seed in a unit's name

Trained = tuple[GLPoseHeads, list[float]]  # heads, and the loss of every epoch


@dataclass
class Run:
    """The training split, the units that are still to make, and heads that were trained together with another's."""

    split: Split
    waiting: list[str]
    trained: dict[str, Trained] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)  # units of a group in which a training failed


def rows_of(config: PipelineConfig) -> list[Row]:
    """All rows of the pipeline's Table 4."""
    return table_rows(config.train.heads, config.ablate)


def units(context: Context, everything: bool) -> list[str]:
    """One unit per training and seed of the rows that are asked for, such as `k=2@seed1`.

    ConfigError for a row that does not exist, or that needs more than is stored.
    """
    config = context.config
    rows = choose_rows(rows_of(config), config.ablate.rows)
    for row in rows:
        _check_reach(row, config)
    trainings = dict.fromkeys(row.training for row in rows)
    first = config.train.seed
    return [f"{training}{SEED}{seed}" for seed in range(first, first + config.ablate.seeds) for training in trainings]


def split_unit(unit: str) -> tuple[str, int]:
    """Training and seed of a unit."""
    training, _, seed = unit.rpartition(SEED)
    return training, int(seed)


def parameters(config: PipelineConfig) -> dict[str, Any]:
    """The recipe of every row: all that changes training, but the seed, which is in the units' names."""
    return {name: value for name, value in train.parameters(config).items() if name != "seed"}


def inputs(context: Context, unit: str) -> str:
    """Digest of the features and references of all videos of the training split."""
    return context.once("train split", lambda: split_digest(context, "train"))


def load_widest(context: Context, split: str) -> Split:
    """Load what all rows that are asked for need of a split."""
    config = context.config
    rows = choose_rows(rows_of(config), config.ablate.rows)
    widest = {name: max(getattr(row.heads, name) for row in rows) for name in ("k", "n")}
    heads = config.train.heads.model_copy(update=widest)
    wide = config.model_copy(update={"train": config.train.model_copy(update={"heads": heads})})
    return load_split(replace(context, config=wide), split)


def prepare(context: Context) -> Run:
    """Load the training split, once for all rows and seeds."""
    from stages.run import survey  # here, as it knows this stage

    return Run(load_widest(context, "train"), survey(STAGE, context, look=False).todo)


def make(context: Context, shared: Run, unit: str, attempt: Attempt) -> str:
    """Write one row's heads and their losses; the first unit of a group trains all of the group."""
    if unit not in shared.trained:
        group = _group(shared, unit, context.config.runtime.together)
        try:
            shared.trained |= _train(context, shared.split, group)
        except TrainingError:
            if len(group) == 1:
                raise
            shared.alone.update(group)  # one has failed, and must not take the others along
            shared.trained |= _train(context, shared.split, [unit])
        finally:
            shared.waiting = [other for other in shared.waiting if other not in shared.trained]
    model, losses = shared.trained.pop(unit)
    return write_heads(attempt, model, losses, shared.split.features, joint_set(context.config.data))


def _group(shared: Run, unit: str, together: int) -> list[str]:
    """The unit and others of its seed that wait, to be trained in one pass."""
    if unit in shared.alone:
        return [unit]
    seed = split_unit(unit)[1]
    waiting = [other for other in shared.waiting if split_unit(other)[1] == seed and other not in shared.alone]
    return [unit, *(other for other in waiting if other != unit)][:together]


def _train(context: Context, split: Split, group: list[str]) -> dict[str, Trained]:
    """Train the heads of units of one seed. TrainingError where any of their losses is not finite."""
    config = context.config
    heads = {row.training: row.heads for row in rows_of(config)}
    _, seed = split_unit(group[0])
    variants = {unit: heads[split_unit(unit)[0]] for unit in group}
    return _train_variants(config, split, seed, variants)


def _train_variants(
    config: PipelineConfig, split: Split, seed: int, variants: Mapping[str, HeadOptions]
) -> dict[str, Trained]:
    recipe = config.train.model_copy(update={"seed": seed})
    found: dict[str, Trained] = {}
    for name, heads in variants.items():
        losses: list[float] = []
        model = train_heads(
            split.features, split.references, len(joint_set(config.data)), heads, recipe, config.index,
            report=lambda epoch, epochs, loss, losses=losses: losses.append(loss),
        )  # fmt: skip
        found[name] = (model, losses)
    return found


def _check_reach(row: Row, config: PipelineConfig) -> None:
    stored = {"extract.k": (row.heads.k, config.extract.k), "index.n": (row.heads.n, config.index.n)}
    for option, (needed, there) in stored.items():
        if needed > there:
            raise ConfigError(
                f"row {row.name!r} of the ablation needs {option} >= {needed}, it is {there}: store more "
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
