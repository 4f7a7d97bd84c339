"""`glpose-stage`: the command line. Heavy imports stand inside the commands, so that --help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stages.stage import Context

# What OpenCV and its FFmpeg say of a damaged file, before our own error says it plainly.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GLPose: human poses in video from precomputed features. `glpose-stage run -p demo` shows the whole way.",
)

Pipeline = Annotated[str, typer.Option("-p", "--pipeline", help="Name of a pipeline in pipelines.yaml.")]
Config = Annotated[Path | None, typer.Option("--config", help="Another pipelines.yaml.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one option, such as index.n=4; repeatable."),
]
Videos = Annotated[
    str,
    typer.Option("--videos", metavar="PATTERN", help="Only videos whose name matches; then `run` ends before train."),
]
Force = Annotated[bool, typer.Option("--force", help="Make anew what was made with other parameters.")]
Plan = Annotated[bool, typer.Option("--plan", help="Print what would run, and stop.")]


Strict = Annotated[
    bool, typer.Option("--strict", help="Fail videos with unreadable frames, where detection would go on without them.")
]


@app.callback()
def _before_any_command(context: typer.Context) -> None:
    if _by_torchrun() and context.invoked_subcommand != "train":
        from store.errors import ConfigError

        raise ConfigError("torchrun is for train alone: run the other commands without it (docs/training.md)")


def _by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@app.command()
def run(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    videos: Videos = "*",
    force: Force = False,
    plan: Plan = False,
    strict: Strict = False,
) -> None:
    """Run all stages of a pipeline; what is done already is skipped."""
    _run(None, _context(pipeline, config, _strict(settings, strict), videos), force=force, plan=plan)


@app.command()
def detect(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    videos: Videos = "*",
    force: Force = False,
    plan: Plan = False,
    strict: Strict = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE", help="Draw boxes of a few frames there, as .jpg or .png.")
    ] = None,
) -> None:
    """Find the person boxes of every video."""
    context = _context(pipeline, config, _strict(settings, strict), videos)
    _run("detect", context, force=force, plan=plan)
    if sheet is not None and not plan:
        from stages.box_sheet import write_box_sheet

        _print([f"{write_box_sheet(context, sheet)}"])


def _strict(settings: list[str] | None, strict: bool) -> list[str]:
    return [*(settings or []), "detect.strict=true"] if strict else settings or []


def _run(name: str | None, context: Context, *, force: bool, plan: bool) -> None:
    """Run one stage, or all of a pipeline, or say what would run."""
    from rich.console import Console

    from stages.run import STAGES, run_stages, stages_of

    stages = stages_of(context) if name is None else [STAGES[name]]
    if plan:
        from stages.status import plan_lines

        return _print(plan_lines(stages, context))
    if _by_torchrun():  # train
        from stages.together import train_together

        return train_together(context, Console(), force=force)
    run_stages(stages, context, Console(), force=force)


def _stage_command(name: str, summary: str) -> None:
    def command(
        pipeline: Pipeline,
        config: Config = None,
        settings: Settings = None,
        videos: Videos = "*",
        force: Force = False,
        plan: Plan = False,
    ) -> None:
        _run(name, _context(pipeline, config, settings, videos), force=force, plan=plan)

    app.command(name, help=summary)(command)


_stage_command("render", "Render the clips of a pipeline with rendered data.")


@app.command()
def extract(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    videos: Videos = "*",
    force: Force = False,
    plan: Plan = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Then store image crops of the train split too, which finetune reads.")
    ] = False,
) -> None:
    """Store backbone features of every box and of its neighbouring frames."""
    context = _context(pipeline, config, settings, videos)
    _run("extract", context, force=force, plan=plan)
    if crops:
        _run("crops", context, force=force, plan=plan)


_stage_command("index", "Find every person's most similar references, in the video or the whole split.")
_stage_command("train", "Train the heads on stored features.")
_stage_command("eval", "Score the evaluation split; write predictions and pictures.")


@app.command()
def ablate(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="PATTERNS", help="Only these rows, such as k=*,head=5x5; default all."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="N", help="Trainings per row; default 1.")] = None,
    force: Force = False,
    plan: Plan = False,
) -> None:
    """Run the paper's Table 4 from one store: train its rows, score them, print and save the table and its plot."""
    asked = {"ablate.rows": rows, "ablate.seeds": seeds}
    chosen = [*(settings or []), *(f"{key}={value}" for key, value in asked.items() if value is not None)]
    context = _context(pipeline, config, chosen, "*")
    from rich.console import Console

    from stages.ablation import ablate as run_ablation
    from stages.ablation import plan as plan_ablation

    if plan:
        return _print(plan_ablation(context))
    run_ablation(context, Console(), force=force)


@app.command()
def evidence(
    tier: Annotated[str, typer.Option("--tier", help="small (about an hour on two cores), full, or large.")] = "small",
    pipeline: Pipeline = "rendered-v1",
    config: Config = None,
    settings: Settings = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="PATTERNS", help="Only these rows, such as k=*,oracle.")
    ] = None,
    trainings: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N trainings of each row.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For evidence.md and evidence.json.")] = Path(
        "work/evidence"
    ),
    force: Force = False,
) -> None:
    """Find out on rendered clips what helps: train the rows, their controls, and write tables with intervals."""
    context = _context(pipeline, config, settings, "*")
    from rich.console import Console

    from stages.evidence_report import evidence as find_evidence

    console = Console()
    console.print(
        f"{find_evidence(context.config, tier, out, console, rows=rows, trainings=trainings, force=force)}",
        highlight=False,
    )


@app.command()
def tables(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    run: Annotated[
        bool, typer.Option("--run", help="Run first what is missing; of Sub-JHMDB, all three splits.")
    ] = False,
) -> None:
    """Print the paper's Table 1, 2 or 3 with ours below what is published, and what the heads cost; save both."""
    context = _context(pipeline, config, settings, "*")
    from rich.console import Console

    from stages.config import find_config
    from stages.tables import tables as print_tables
    from stages.tables import with_other_splits

    print_tables(with_other_splits(find_config(config), context.config, settings or []), Console(), run=run)


@app.command()
def compare(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    videos: Videos = "*",
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="NAMES", help="Rows of eval and the ablation, such as single_frame,n=0,glpose."),
    ] = None,
    heads: Annotated[
        list[str] | None, typer.Option("--heads", metavar="NAME=FILE", help="A row by other heads; repeatable.")
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option("--predictions", metavar="NAME=PATH", help="A row of any system's files; repeatable."),
    ] = None,
    of: Annotated[str | None, typer.Option(help="Row whose gains are shown; default the last.")] = None,
    against: Annotated[str | None, typer.Option(help="Row that they are gains over; default the first.")] = None,
    gains: Annotated[int, typer.Option(min=0, help="Frames of the largest gain.")] = 3,
    losses: Annotated[int, typer.Option(min=0, help="Frames of the largest loss.")] = 3,
    frames: Annotated[
        list[str] | None, typer.Option("--frames", metavar="VIDEO:FRAME", help="This frame instead; repeatable.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Count hidden, rapid or defocused joints alone.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole/--crop", help="Whole frames, or the person in them who changes most.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="PNG to write; its table goes beside it.")
    ] = None,
) -> None:
    """Show the same frames side by side, a row per system and the truth, inaccurate joints ringed: Figure 5."""
    context = _context(pipeline, config, settings, videos)
    from stages.compare import Request
    from stages.compare import compare as compare_rows
    from stages.compare_options import named_files, named_frames, named_rows

    request = Request(
        rows=named_rows(rows), heads=named_files("--heads", heads),
        predictions=named_files("--predictions", predictions), of=of, against=against,
        gains=gains, losses=losses, frames=named_frames(frames), tag=tag, whole=whole,
    )  # fmt: skip
    _print(compare_rows(context, request, out))


@app.command()
def pretrain(
    pipeline: Pipeline,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write (.safetensors).")],
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Train a single-frame HRNet, on rendered frames or the train split; interrupted, it goes on where it was."""
    context = _context(pipeline, config, settings, "*")
    from rich.console import Console

    from stages.pretrain import pretrain as pretrain_stage

    pretrain_stage(context, out, Console())


@app.command()
def finetune(
    pipeline: Pipeline,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the new backbone and its heads.")],
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Train backbone and heads on from augmented crops (extract --crops); interrupted, it goes on where it was."""
    context = _context(pipeline, config, settings, "*")
    from rich.console import Console

    from stages.finetune import finetune as finetune_stage

    finetune_stage(context, out, Console())


@app.command("train-detector")
def train_detector(
    pipeline: Pipeline,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write (.safetensors).")],
    config: Config = None,
    settings: Settings = None,
    videos: Annotated[str, typer.Option("--videos", metavar="PATTERN", help="Only videos whose name matches.")] = "*",
) -> None:
    """Train the person detector on the train split's boxes, or on rendered ones; interrupted, it goes on."""
    context = _context(pipeline, config, settings, videos)
    from rich.console import Console

    from stages.train_detector import train_detector as train_detector_stage

    train_detector_stage(context, out, Console())


@app.command()
def predict(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Video files, folders of images, or folders of such.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Each video's files are written to DIR/VIDEO/.")],
    heads: Annotated[
        str | None, typer.Option(metavar="FILE", help="Heads of train or finetune; default demo-heads, which ship.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="FILE", help="HRNet that the heads were trained with; default demo.")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Cascade R-CNN, or FILE.py:FUNCTION; default demo-detector, which ships."),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="COCO results JSON to take boxes from, without a detector.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out boxes below this score; default 0.2.")
    ] = None,
    start: Annotated[int, typer.Option(min=0, metavar="FRAME", help="First frame to look at, from 0.")] = 0,
    end: Annotated[
        int | None, typer.Option(min=1, metavar="FRAME", help="Frame to end before; default: after the last.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Look at frames start, start + N, ... only.")] = 1,
    no_video: Annotated[bool, typer.Option("--no-video", help="Draw no overlay video.")] = False,
    show_boxes: Annotated[bool, typer.Option("--show-boxes", help="Draw boxes and numbers, too.")] = False,
    work: Annotated[
        Path | None,
        typer.Option("--work", metavar="DIR", help="Keep boxes and features there; another run goes on from them."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what was made with other options.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
) -> None:
    """Find poses in videos of your own, with the weights that ship or others: overlay, Parquet, JSON."""
    from rich.console import Console

    from glpose.options import RuntimeOptions
    from glpose.prediction import predict_options
    from stages.predict import predict as predict_videos

    options = predict_options(
        {"heads": heads, "backbone": backbone, "detector": detector, "boxes": boxes, "min_score": min_score}
        | {"start": start, "end": end, "every": every, "video": not no_video, "show_boxes": show_boxes}
    )
    predict_videos(videos, out, options, RuntimeOptions(device=device), Console(), work=work, force=force)


@app.command()
def status(pipeline: Pipeline, config: Config = None, settings: Settings = None, videos: Videos = "*") -> None:
    """Say what every stage has done, what is missing or stale and why, and what the next run would make."""
    context = _context(pipeline, config, settings, videos)
    from stages.status import status as status_lines

    _print(status_lines(context))


@app.command()
def verify(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    fast: Annotated[bool, typer.Option("--fast", help="Look at sizes only, not at contents.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Remove what killed runs left behind.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Have the next run make damaged units again.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what was made of videos that the data set has no longer.")
    ] = False,
) -> None:
    """Check every finished output: checksums, shards, counts, embeddings; exit code 1 if anything is wrong."""
    context = _context(pipeline, config, settings, "*")
    from rich.console import Console

    from stages.verify import verify as verify_outputs

    verify_outputs(context, Console(), clean=clean, repair=repair, fast=fast, prune=prune)


@app.command()
def report(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: report.html in the work folder.")
    ] = None,
    people: Annotated[
        int | None, typer.Option("--people", min=0, help="So many people in the retrieval inspector; 0 leaves it out.")
    ] = None,
) -> None:
    """Write what a pipeline has found as one HTML page: tables, curves, costs, and all that it takes to do it again."""
    context = _context(pipeline, config, settings, "*")
    from stages.report import write_report

    _print(write_report(context, out, people))


@app.command()
def inspect(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    video: Annotated[str | None, typer.Option(help="One video.", show_default=False)] = None,
    where: Annotated[
        str | None, typer.Option(metavar="QUERY", help='Rows, such as "score < 0.5 and frame > 10".')
    ] = None,
    neighbours: Annotated[bool, typer.Option("--neighbours", help="Who was retrieved for whom.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows there as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows there as Parquet.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many to print.")] = 10,
) -> None:
    """Look into a feature store: its arrays and sizes, its proposals, filtered; export them."""
    context = _context(pipeline, config, settings, "*")
    from stages.inspection import inspect as inspect_store

    _print(inspect_store(context, video=video, where=where, neighbours=neighbours, csv=csv, parquet=parquet, rows=rows))


@app.command()
def export(
    pipeline: Pipeline,
    hdf5: Annotated[
        Path | None, typer.Option("--hdf5", metavar="FILE", help="Write features, proposals and neighbours there.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", metavar="FILE", help="Write trained heads there.")] = None,
    config: Config = None,
    settings: Settings = None,
    videos: Annotated[str, typer.Option("--videos", metavar="PATTERN", help="HDF5: of videos that match.")] = "*",
    split: Annotated[str | None, typer.Option(help="HDF5: of videos of the train or eval split.")] = None,
    variant: Annotated[str, typer.Option(help="ONNX: which heads, glpose or single_frame.")] = "glpose",
) -> None:
    """Write the store to one self-describing HDF5 file, to share or archive, or trained heads to an ONNX file."""
    if (hdf5 is None) == (onnx is None):
        raise typer.BadParameter("give one of --hdf5 FILE and --onnx FILE")
    context = _context(pipeline, config, settings, videos)
    from rich.console import Console

    from stages.export import export as export_store
    from stages.export import export_onnx

    if hdf5 is not None:
        export_store(context, hdf5, Console(), split=split)
    if onnx is not None:
        export_onnx(context, variant, onnx, Console())


@app.command("import")
def import_hdf5(
    hdf5: Annotated[Path, typer.Option("--hdf5", metavar="FILE", help="File that export has written.")],
    work: Annotated[str, typer.Option("--work", metavar="DIR", help="New folder; store.open reads it.")],
) -> None:
    """Make a feature store of an exported file again, bit for bit."""
    from rich.console import Console

    from stages.export import import_

    import_(hdf5, work, Console())


@app.command("check-data")
def check_data(
    pipeline: Pipeline,
    config: Config = None,
    settings: Settings = None,
    videos: Videos = "*",
    full: Annotated[
        bool, typer.Option("--full", help="Decode every image, not three per video: finds damage inside.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every fault there, one by one.")
    ] = None,
) -> None:
    """Walk a data set and say what is wrong with it, before anything is computed; exit code 1 for faults."""
    context = _context(pipeline, config, settings, videos)
    from rich.console import Console

    from stages.check_data import check_data as check

    check(context, Console(), full=full, json_file=json_file)


@app.command("config")
def show_config(pipeline: Pipeline, config: Config = None, settings: Settings = None) -> None:
    """Print every option of a pipeline as it stands, with its meaning."""
    from stages.config import flat

    for key, value, meaning in flat(_context(pipeline, config, settings, "*").config):
        typer.echo(f"{key} = {value}" + (f"    # {meaning}" if meaning else ""))


@app.command()
def score(
    gt: Annotated[list[Path], typer.Option("--gt", help="Folder of annotation files; for oks, the file.")],
    pred: Annotated[list[Path], typer.Option("--pred", help="Folder of prediction files of the same names.")],
    metric: Annotated[str, typer.Option(help="ap (poseval's), pckh, pck (Sub-JHMDB) or oks (COCO).")] = "ap",
    joints: Annotated[str, typer.Option(help="annotated (as poseval) or visible.")] = "annotated",
    strict_poseval: Annotated[
        bool, typer.Option("--strict-poseval", help="PCKh with poseval's quirks, to the digit.")
    ] = False,
    alpha: Annotated[float | None, typer.Option(help="PCK's share of the person's size; 0.2.")] = None,
    size: Annotated[str | None, typer.Option(help="PCK's size of a person: box (max of w, h) or torso.")] = None,
    joint_set: Annotated[
        Path | None, typer.Option("--joint-set", metavar="FILE", help="YAML of the joints, for oks and own data.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there as well.")
    ] = None,
) -> None:
    """Score any predictions against any ground truth; give --gt and --pred thrice for the mean over three splits."""
    from stages.score import score as score_files

    report = score_files(
        gt, pred, metric=metric, joints=joints, strict_poseval=strict_poseval, alpha=alpha, size=size,
        joint_set=joint_set, json_file=json_file,
    )  # fmt: skip
    for note in report.notes:
        typer.echo(note, err=True)
    _print(report.lines)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app(prog_name="glpose-stage")
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes an exit with 130 of an interruption, without a word
        if isinstance(end, SystemExit) and end.code != 130:
            raise
        _fail("interrupted; the same command goes on from here", 130)
    except OSError as error:  # a folder that cannot be written, a full disk: nothing that a traceback explains better
        from store.places import is_store_failure

        if is_store_failure(error):
            _fail(f"the object store failed ({error}); the same command goes on from here", 1)
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 1)
    except Exception as error:
        from store.errors import ConfigError, GLPoseError  # here, as the store's own imports take half a second
        from store.places import is_store_failure

        if is_store_failure(error):
            _fail(f"the object store failed ({error}); the same command goes on from here", 1)
        if not isinstance(error, GLPoseError):
            raise
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)


def _context(pipeline: str, config: Path | None, settings: list[str] | None, videos: str) -> Context:
    from stages.config import find_config, load_pipeline

    loaded = load_pipeline(find_config(config), pipeline, settings or [])
    from stages.stage import Context

    return Context(loaded, videos)


def _print(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
