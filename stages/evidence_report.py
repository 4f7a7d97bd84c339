"""evidence, the command: every row of a tier trained and scored, then what is shown, as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from glpose.data.rendered.sets import labels_digest
from glpose.evidence import COMPARISONS, DRAWS, ROWS, TEST_CLIPS, TIERS, TRENDS, Tier
from glpose.metrics.resampling import MEASURES, Draws, Measured, detectable, draw, interval, over_draws, slopes
from glpose.models.checkpoints import read_metadata
from stages.config import PipelineConfig
from stages.console import say
from stages.detect import boxes_in_words
from stages.evidence import asked_rows, read_measured
from stages.pretrain import pretrain, recipe_of
from stages.run import STAGES, run_stage, run_stages, stages_of
from stages.stage import Context, split_videos
from store.atomic import replacing, write_json
from store.errors import ConfigError, StoreError

MARK = "<!-- written by glpose-stage evidence: -->"
WORDS = {"ap": "AP", "occluded_pck": "PCK@0.1 of hidden joints"}
SEED = 2022  # of the draws
SPLITS = ("train", "eval")


def evidence(
    config: PipelineConfig,
    tier: str,
    out: Path,
    console: Console,
    *,
    rows: str | None = None,
    trainings: int | None = None,
    force: bool = False,
) -> Path:
    """Make what is missing of a tier, and write out/evidence.json and out/evidence.md, which is returned.

    rows: shell patterns; only these, and comparisons among them. trainings: only the first so many of each. force: make
    anew what was made with other parameters, backbones excepted. ConfigError for a tier that does not exist, and as of
    `stages.evidence.asked_rows`.
    What the Markdown file holds above its mark is kept.
    """
    if tier not in TIERS:
        raise ConfigError(f"there is no tier {tier!r}; there are {', '.join(TIERS)}")
    if config.data.kind != "rendered":
        raise ConfigError(f"the evidence is of rendered clips: pipeline {config.name!r} has {config.data.kind!r} data")
    path, size = out / "evidence.md", TIERS[tier]
    count = size.trainings if trainings is None else min(trainings, size.trainings)
    words = path.read_text(encoding="utf-8") if path.exists() else f"# Evidence\n\n{MARK}\n"
    if MARK not in words:
        raise StoreError(f"{path} has no line {MARK!r} below which to write: delete it, or choose another --out")
    found: dict[str, list[Measured]] = {}
    clips: list[str] = []
    labels: dict[str, str] = {}
    for number in range(count):
        own = _of_training(config, size, rows or ",".join(size.rows), number, console)
        asked_rows(own)  # what cannot be compared is told before hours of work
        context = Context(own)
        stages = [stage for stage in stages_of(context) if stage.name not in ("train", "eval")]
        say(console, f"[{tier}, training {number + 1} of {count}] {own.work}")
        run_stages(stages, context, console, force=force)
        context = Context(own)
        run_stage(STAGES["evidence"], context, console, force=force)
        labels = {split: labels_digest(context.video(v).path for v in split_videos(context, split)) for split in SPLITS}
        for row in STAGES["evidence"].units(context, True):
            clips, measured = read_measured(context.output("evidence", row))
            found.setdefault(row, []).append(measured)
    draws = draw(len(clips), count, DRAWS, SEED)
    content = {**summarise(tier, found, draws), "boxes": boxes_in_words(config), "labels": labels}
    write_json(out / "evidence.json", content)
    tables = markdown(content, len(clips))
    with replacing(path) as temporary:
        temporary.write_text(f"{words[: words.index(MARK)]}{MARK}\n\n{tables}", encoding="utf-8")
    return path


def _of_training(config: PipelineConfig, tier: Tier, rows: str, number: int, console: Console) -> PipelineConfig:
    """The pipeline of one training: its clips, its seed, and after the first a backbone of its own.

    Work folders lie beside the pipeline's own, which stays free for its other commands; backbones there too, one of
    each training for all tiers. StoreError where such a backbone is there and was trained with other options.
    """
    work = config.work.with_name(f"{config.work.name}{tier.ending}-{number}")
    changes: dict[str, Any] = {
        "work": work,
        "data": config.data.model_copy(update={"train_clips": tier.train_clips, "eval_clips": TEST_CLIPS}),
        "train": config.train.model_copy(update={"seed": config.train.seed + number}),
        "evidence": config.evidence.model_copy(update={"rows": rows}),
    }
    if number:
        path = Path(str(config.work.with_name(f"{config.work.name}-{number}.safetensors")))
        recipe = config.pretrain.model_copy(update={"seed": config.pretrain.seed + number})
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pretrain(Context(config.model_copy(update={"pretrain": recipe})), path, console)
        elif read_metadata(path).get("recipe") != recipe_of(recipe):
            raise StoreError(
                f"{path} was trained with other options: delete it, or choose other folders (--set work=DIR)"
            )
        changes["extract"] = config.extract.model_copy(update={"checkpoint": str(path)})
    return config.model_copy(update=changes)


def summarise(tier: str, found: Mapping[str, Sequence[Measured]], draws: Draws) -> dict[str, Any]:
    """Rows, contrasts and trends with their intervals, as docs/evidence.json holds them.

    found: row -> what each of its trainings scored on the same clips.
    """
    drawn = {name: {row: over_draws(own, name, draws) for row, own in found.items()} for name in MEASURES}
    rows = []
    for row, own in found.items():
        entry: dict[str, Any] = {"name": row, "seeds": len(own)}
        for name, prefix in (("ap", "ap"), ("occluded_pck", "occluded")):
            values = drawn[name][row]
            entry |= {name: float(values[0]), f"{prefix}_ci": list(interval(values))}
        rows.append(entry)
    contrasts = []
    for comparison in COMPARISONS:
        if comparison.a not in found or comparison.b not in found:
            continue
        for name, values in drawn.items():
            difference = values[comparison.a] - values[comparison.b]
            contrasts.append({"a": comparison.a, "b": comparison.b, "metric": name, **_shown(difference)})
    trends = []
    for over, members in TRENDS.items():
        if not all(row in found for row, _ in members):
            continue
        for name, values in drawn.items():
            slope = slopes([values[row] for row, _ in members], [at for _, at in members])
            trends.append({"over": over, "metric": name, **_shown(slope)})
    return {"tier": tier, "rows": rows, "contrasts": contrasts, "trends": trends}


def _shown(values: np.ndarray) -> dict[str, Any]:
    return {"diff": float(values[0]), "ci": list(interval(values)), "detectable": detectable(values)}


def markdown(content: Mapping[str, Any], clips: int) -> str:
    """The tables of docs/evidence.md. clips: that rows were tested on."""
    count = content["rows"][0]["seeds"]
    seeds = "one training a row" if count == 1 else f"{count} trainings a row, each on a backbone of its own"
    lines = [
        f"## Tier `{content['tier']}`",
        "",
        f"{TIERS[content['tier']].train_clips} clips to train on, {clips} to test on; {seeds}; "
        f"boxes: {content['boxes']}; "
        f"intervals of 95 % from {DRAWS} draws of clips{' and trainings' if count > 1 else ''}.",
        f"Digests of the clips' labels: train `{content['labels']['train']}`, test `{content['labels']['eval']}`.",
        "",
        "| row | | AP | | PCK@0.1 of hidden joints | |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        ap = f"{row['ap']:.1f} | {_range(row['ap_ci'])}"
        hidden = f"{row['occluded_pck']:.1f} | {_range(row['occluded_ci'])}"
        lines.append(f"| `{row['name']}` | {ROWS[row['name']].about} | {ap} | {hidden} |")
    lines += ["", "| comparison | | difference | 95 % | | would be found from |", "|---|---|---|---|---|---|"]
    questions = {(own.a, own.b): own.question for own in COMPARISONS}
    for own in content["contrasts"]:
        name = f"`{own['a']}` - `{own['b']}`, {WORDS[own['metric']]}"
        lines.append(f"| {name} | {questions[own['a'], own['b']]} | {_difference(own)} |")
    if content["trends"]:
        lines += ["", "| trend | slope | 95 % | | would be found from |", "|---|---|---|---|---|"]
        for own in content["trends"]:
            lines.append(f"| {WORDS[own['metric']]} per step of {own['over']} | {_difference(own)} |")
    return "\n".join(lines) + "\n"


def _range(ci: Sequence[float]) -> str:
    return f"{ci[0]:.1f} to {ci[1]:.1f}"


def _difference(own: Mapping[str, Any]) -> str:
    low, high = own["ci"]
    verdict = "not shown" if low <= 0 <= high else "better" if low > 0 else "worse"
    return f"{own['diff']:+.2f} | {low:+.2f} to {high:+.2f} | {verdict} | {own['detectable']:.2f}"
