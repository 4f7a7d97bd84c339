"""compare: the paper's Figure 5 for any rows: the same frames once per system and once with the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from glpose.comparison import PROTOCOLS, TAGS, Protocol, tagged
from glpose.comparison_frames import Gain, frame_gains, gains_and_losses, person_gains
from glpose.data.dataset import joint_set
from glpose.metrics.paired_poses import PairedPoses
from glpose.scoring import GROUND_TRUTH, EvaluatedVideo
from glpose.side_by_side import View, draw_system, draw_truth, view_of_frame, view_of_person, write_sheet
from glpose.tables.table import Column, Table
from stages.compare_rows import TRUTH, Row, find_rows
from stages.detect import boxes_in_words
from stages.evaluate import evaluated_video, scorer
from stages.run import check_owner, claim_folder
from stages.stage import Context, split_videos
from store.errors import ConfigError, DataError
from store.places import writing_file
from store.tables import BOX

APART = 5  # frames of one video that are shown lie this far from each other
NAME = "compare"
PERSON_SIZE = (260, 320)  # width, height, px of a picture round one person
FRAME_WIDTH = 480  # px of a picture of the whole frame
NO_PROPOSALS = pd.DataFrame({name: np.zeros(0) for name in ("frame", *BOX, "score")})


@dataclass(frozen=True)
class Request:
    """What to compare, as the command's options say it.

    rows: of the pipeline, None: what it has. heads, predictions: name -> file. of, against: rows between whom frames
    are chosen; None: the last and the first. gains, losses: how many frames of each. frames: these instead, (video,
    frame). tag: count joints of this tag alone. whole: pictures of whole frames.
    """

    rows: Sequence[str] | None = None
    heads: Mapping[str, Path] = field(default_factory=dict)
    predictions: Mapping[str, Path] = field(default_factory=dict)
    of: str | None = None
    against: str | None = None
    gains: int = 3
    losses: int = 3
    frames: Sequence[tuple[str, int]] = ()
    tag: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class Shown:
    """A chosen frame, or a person in it. why: "gain", "loss" or "named".

    picture: the whole frame, BGR. pairs: row -> the poses of its video, without joints that are annotated nowhere: what
    networks say of those means nothing. mask: (P, J) joints that are counted.
    """

    why: str
    gain: Gain
    picture: np.ndarray
    pairs: Mapping[str, PairedPoses]
    mask: np.ndarray

    def right(self, row: str) -> int:
        """How many joints a row has right, of the person or of all in the frame."""
        return int((self.pairs[row].right & self.mask)[self._people(row)].sum())

    def joints(self) -> int:
        """How many joints count, of the person or of all in the frame."""
        return int(self.mask[self._people(next(iter(self.pairs)))].sum())

    def _people(self, row: str) -> np.ndarray:
        everybody = np.flatnonzero(self.pairs[row].frame == self.gain.frame)
        return everybody if self.gain.person is None else np.array([self.gain.person])


@dataclass(frozen=True)
class Comparison:
    """Rows and the frames to show of them, gains first.

    rows: name -> label. of, against: rows between whom the frames were chosen. right: when a joint is right, in words.
    tag: the joints that count are of it. notes: what is left out.
    """

    rows: Mapping[str, str]
    of: str
    against: str
    right: str
    tag: str | None
    frames: Sequence[Shown]
    notes: Sequence[str]


def compare(context: Context, request: Request, out: Path | None) -> list[str]:
    """Write the contact sheet and what it shows as CSV, Markdown and JSON beside it; the table, and where they are.

    out: a name that ends in .png; None: below the work folder. Errors as of `find_comparison`; StoreError for a work
    folder of others.
    """
    if out is not None and out.suffix != ".png":
        raise ConfigError(f"--out {out}: the sheet is a PNG, so give a name that ends in .png")
    check_owner(context)
    folder = context.config.work / NAME if out is None else out.parent
    name = NAME if out is None else out.stem
    found = find_comparison(context, request)
    shown = table(context, found, name)
    if out is None:
        claim_folder(context)  # before there is a file in it that is no stage's
    with writing_file(folder / f"{name}.png") as path:
        write_sheet(path, *_sheet(context, found), heading=shown.heading())
    written = [f"{name}.png", *shown.write(folder)]
    return [shown.text(), f"  {', '.join(written)} in {folder}"]


def find_comparison(context: Context, request: Request) -> Comparison:
    """The rows, and the frames to show of them with who is right where.

    Heads that frames are not chosen by are asked for poses of the chosen videos alone. ConfigError for options that do
    not go together, and videos or frames that are not evaluated; DataError where nobody is annotated; else as of
    `find_rows`.
    """
    config = context.config
    scored_by = scorer(config)  # ConfigError for data without annotations
    protocol = PROTOCOLS[scored_by]
    rows = find_rows(context, protocol, request.rows, request.heads, request.predictions)
    of, against = _opponents(rows, request)
    if request.tag is not None and request.tag not in TAGS:
        raise ConfigError(f"--tag is {', '.join(TAGS)}, not {request.tag!r}")
    videos = [evaluated_video(context, name, NO_PROPOSALS, {}) for name in _names(context, request)]
    first = [row for row in rows if row in (of, against) or not row.late]
    with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
        out = Path(folder)
        pairs, videos, notes = _pair(context, protocol, videos, first, out)
        masks = {video: own.counts for video, own in pairs[of.name].items()}
        if not any(mask.any() for mask in masks.values()):
            raise DataError("no joint is annotated in the evaluated frames: there is nothing to compare with")
        if request.tag is not None:
            held = tagged(out, videos, first[0].name, request.tag)
            masks = {video: mask & held[video] for video, mask in masks.items()}
    people = person_gains(pairs[of.name], pairs[against.name], masks)
    chosen = _chosen(people, videos, request)
    needed = [video for video in videos if video.ref.name in {one.video for _, one in chosen}]
    if late := [row for row in rows if row not in first]:
        with tempfile.TemporaryDirectory(prefix="glpose-") as folder:
            pairs |= _pair(context, protocol, needed, late, Path(folder))[0]
    pictures = _pictures(needed, [one for _, one in chosen])
    annotated = np.any([np.isfinite(own.truth[..., 0]).any(axis=0) for own in pairs[of.name].values()], axis=0)
    frames = [
        Shown(
            why,
            one,
            pictures[one.video, one.frame],
            {row.name: pairs[row.name][one.video].only(annotated) for row in rows},
            masks[one.video],
        )
        for why, one in chosen
    ]
    labels = {row.name: row.label for row in rows}
    return Comparison(labels, of.name, against.name, protocol.right(config.eval), request.tag, frames, notes)


def table(context: Context, found: Comparison, name: str) -> Table:
    """What is shown, with the joints that every row has right there."""
    about = {"pipeline": context.config.name, "boxes": boxes_in_words(context.config), "right": found.right}
    columns = [
        Column("number", "#"), Column("why", "shown"), Column("video", "video"), Column("frame", "frame"),
        Column("person", "person"), Column("gain", "gain"), Column("joints", _counted(found)),
        *(Column(f"right_{row}", label) for row, label in found.rows.items()),
    ]  # fmt: skip
    rows = [
        {
            "number": number, "why": one.why, "video": one.gain.video, "frame": one.gain.frame,
            "person": _person(found, one), "gain": one.gain.gain, "joints": one.joints(),
            **{f"right_{row}": one.right(row) for row in found.rows},
        }
        for number, one in enumerate(found.frames, 1)
    ]  # fmt: skip
    title = f"Right {_counted(found)}: gains and losses of {found.rows[found.of]} against {found.rows[found.against]}"
    return Table(name, title, columns, rows, about, context.config.note, found.notes)


def pictures_of(context: Context, found: Comparison) -> list[dict[str, np.ndarray]]:
    """Of every chosen frame a BGR picture per row, by its name, and of the truth, by TRUTH."""
    joints, drawn = joint_set(context.config.data), []
    for one in found.frames:
        view, frame = _view(one), one.gain.frame
        own = {row: draw_system(one.picture, view, pairs, frame, joints) for row, pairs in one.pairs.items()}
        drawn.append({**own, TRUTH: draw_truth(one.picture, view, one.pairs[found.of], frame, joints)})
    return drawn


def caption(found: Comparison, one: Shown) -> tuple[str, str]:
    """What is gained in a picture, and where it is from."""
    change = f"{one.right(found.against)} to {one.right(found.of)} of {one.joints()} {_counted(found)}"
    person = "" if one.gain.person is None else f", person {_person(found, one)}"
    return f"{one.why} {one.gain.gain:+d}: {change}", f"{one.gain.video}, frame {one.gain.frame}{person}"


def _counted(found: Comparison) -> str:
    return f"{found.tag} joints" if found.tag else "joints"


def _person(found: Comparison, one: Shown) -> int | None:
    """Number of the person among those annotated in the frame, from 0; None: everybody."""
    if one.gain.person is None:
        return None
    return int((one.pairs[found.of].frame[: one.gain.person] == one.gain.frame).sum())


def _opponents(rows: Sequence[Row], request: Request) -> tuple[Row, Row]:
    """The rows between whom frames are chosen."""
    named = {row.name: row for row in rows}
    if len(rows) < 2:
        raise ConfigError(f"a comparison needs two rows; there is {', '.join(named) or 'none'}: name more with --rows")
    for option, name in (("--of", request.of), ("--against", request.against)):
        if name is not None and name not in named:
            raise ConfigError(f"{option} {name!r} is none of the rows {', '.join(named)}")
    of = (
        named[request.of]
        if request.of is not None
        else next(row for row in reversed(rows) if row.name != request.against)
    )
    against = named[request.against] if request.against is not None else next(row for row in rows if row is not of)
    if of is against:
        raise ConfigError(f"--of and --against are both {of.name!r}: choose two rows")
    return of, against


def _names(context: Context, request: Request) -> list[str]:
    """Videos of the evaluation split that frames may be of."""
    names = [name for name in split_videos(context, "eval") if name in {ref.name for ref in context.videos}]
    if not names:
        raise ConfigError(f"no video that matches {context.pattern!r} has frames in the eval split")
    if unknown := [video for video, _ in request.frames if video not in names]:
        near = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        raise ConfigError(f"--frames: {unknown[0]!r} is no video of the eval split; there are {near}")
    return names


def _pair(
    context: Context, protocol: Protocol, videos: list[EvaluatedVideo], rows: Sequence[Row], out: Path
) -> tuple[dict[str, dict[str, PairedPoses]], list[EvaluatedVideo], list[str]]:
    """Row -> video -> pairs, of the videos that all of these rows have; those videos; what is left out."""
    options = context.config.eval
    protocol.write(out, videos, options)
    had = {row.name: set(row.write(videos, out)) for row in rows}
    kept = [video for video in videos if all(video.ref.name in names for names in had.values())]
    if not kept:
        raise DataError(f"no video has predictions of all of the rows {', '.join(had)}")
    notes = []
    for row, names in had.items():
        if lost := len(videos) - len(names):
            notes.append(f"{lost} of {len(videos)} videos are left out: {row} has no predictions of them")
    for video in videos:
        if video not in kept:
            (out / GROUND_TRUTH / f"{video.ref.name}.json").unlink(missing_ok=True)
    return {row.name: protocol.pair(out, kept, row.name, options) for row in rows}, kept, notes


def _chosen(people: Sequence[Gain], videos: Sequence[EvaluatedVideo], request: Request) -> list[tuple[str, Gain]]:
    """What to show, and why: what is named, or the largest gains and losses."""
    gains = frame_gains(people) if request.whole else people
    if not request.frames:
        up, down = gains_and_losses(gains, request.gains, request.losses, APART)
        if not up and not down:
            raise DataError("there is no gain and no loss: name frames with --frames VIDEO:FRAME")
        return [*(("gain", one) for one in up), *(("loss", one) for one in down)]
    return [("named", _named(*frame, gains, videos)) for frame in dict.fromkeys(request.frames)]


def _named(video: str, frame: int, gains: Sequence[Gain], videos: Sequence[EvaluatedVideo]) -> Gain:
    """What to show of a frame: of several people the first whose gain or loss is the largest."""
    span = next(((own.start, own.stop) for own in videos if own.ref.name == video), None)
    if span is None:
        raise DataError(f"--frames {video}:{frame}: not all rows have predictions of that video")
    if not span[0] <= frame < span[1]:
        raise ConfigError(f"--frames {video}:{frame}: evaluated are the frames {span[0]} to {span[1] - 1}")
    there = [one for one in gains if (one.video, one.frame) == (video, frame)]
    if not there:
        others = sorted({one.frame for one in gains if one.video == video}, key=lambda other: abs(other - frame))[:3]
        near = f"; annotated nearby: {', '.join(map(str, sorted(others)))}" if others else ""
        raise DataError(f"--frames {video}:{frame}: no joint that counts is annotated there{near}")
    return max(there, key=lambda one: abs(one.gain))


def _pictures(videos: Sequence[EvaluatedVideo], chosen: Sequence[Gain]) -> dict[tuple[str, int], np.ndarray]:
    """(video, frame) -> the frame, BGR."""
    found = {}
    for video in videos:
        frames = [one.frame for one in chosen if one.video == video.ref.name]
        found |= {(video.ref.name, frame): picture for frame, picture in video.video.frames.read(frames)}
    return found


def _view(one: Shown) -> View:
    person = one.gain.person
    if person is None:
        return view_of_frame(one.picture, FRAME_WIDTH)
    pairs = list(one.pairs.values())
    found = [own.found[person] for own in pairs]
    return view_of_person(pairs[0].truth[person], found, one.picture, person, PERSON_SIZE)


def _sheet(
    context: Context, found: Comparison
) -> tuple[list[tuple[str, list[np.ndarray], list[str]]], list[tuple[str, str]]]:
    """Rows and captions as `write_sheet` takes them."""
    drawn = pictures_of(context, found)
    rows = [
        (label, [own[row] for own in drawn], [f"{one.right(row)}/{one.joints()}" for one in found.frames])
        for row, label in found.rows.items()
    ]
    rows.append((TRUTH, [own[TRUTH] for own in drawn], ["" for _ in drawn]))
    return rows, [caption(found, one) for one in found.frames]
