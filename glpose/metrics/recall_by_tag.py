"""Recall of joints by what makes them hard (`glpose.data.tags`): PCKh@0.5 and PCK@0.1 by tag, on PoseTrack18 files.

People are assigned as for AP (`metrics.posetrack`). Then every annotated joint that AP counts is right or wrong; one
that the person's prediction lacks is wrong. Tags are of annotated joints, so this is recall: false positives have none.

| measure | a predicted joint is right within |
|---|---|
| PCKh@0.5 | half the head size, as for AP |
| PCK@0.1 | 0.1 x the larger side of the extent of the person's annotated joints |

The extent, not the box: boxes may be of visible pixels alone, and would be the stricter the more of somebody is
hidden. It is of the joints in the frame, and 0 for a single one, which is then wrong unless it is met exactly.

A person is matched where a prediction is assigned to it. That takes one joint within half the head size, so that people
missed altogether leave the recall of matched people, and rows of a table differ in whom they are of. The same over all
annotated people stands beside it (`_all`): those unmatched are wrong throughout, and rows are of the same joints.

Three steps: `joint_table` (a row per joint), `count_by_tag` (per video and tag: what a bootstrap over videos draws
from), `recall` (percent).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from glpose.data import posetrack18
from glpose.data.annotations import Annotations, keypoint_boxes, read_annotation_json
from glpose.data.json_files import stem_of
from glpose.data.tags import BY_ITSELF, BY_OTHERS, UNOCCLUDED, no_tags
from glpose.keypoints import POSETRACK
from glpose.metrics import posetrack
from glpose.metrics.posetrack_files import parse_video, read_video

EXTENT_SHARE = 0.1  # of the larger side of the extent, inclusive: PCK@0.1
# Faster than half a head size per frame a joint leaves, from one frame to the next, the distance within which it counts
# as right: the pose of the frame before would be wrong. In head sizes, not px, since crops scale people to one size.
RAPID = posetrack.MATCH_DISTANCE
# Blur of up to 1 px is what sensors and compression do to a picture that is in focus.
DEFOCUSED = 1.0  # px

TAGS = (
    "all", "visible", "self-occluded", "occluded by others", "occluded", "rapid", "slow", "defocused", "sharp",
)  # fmt: skip
ACTION = "action: "  # before an action's name, as a tag
COUNTS = ("people", "people_all", "joints", "joints_all", "right_pckh50", "right_pck10")


def joint_table(gt_dir: str | Path, pred_dir: str | Path) -> pd.DataFrame:
    """One row per annotated joint that AP counts, of two folders of PoseTrack18 files that pair by name.

    video: the annotation file's name. frame: in that file, 0-based. annotation: number of the person in the file, in
    frame order. track: its id, -1 without. joint: its name. distance: px from the prediction of that joint, NaN without
    one. head_size: px, as for AP, NaN without a head box. extent: px, the larger side of the person's annotated joints.
    matched: whether a prediction is assigned to the person. occlusion, speed, defocus, action: the tags, -1, NaN and ""
    where there are none. DataError as `metrics.posetrack.evaluate` raises it, and for annotations in another form than
    PoseTrack18's.
    """
    pairs, _ = posetrack.pair_folders(Path(gt_dir), Path(pred_dir))
    return pd.concat([_of_video(gt, pred) for gt, pred in pairs], ignore_index=True)


def count_by_tag(joints: pd.DataFrame) -> pd.DataFrame:
    """Counts of a `joint_table`, one row per tag and video that has joints; every video has all tags.

    people: matched ones with a joint of the tag. people_all: matched or not. joints, joints_all: those joints of them.
    right_pckh50, right_pck10: joints that are right.
    """
    codes, videos = pd.factorize(joints["video"], sort=True)
    distance, matched = joints["distance"].to_numpy(), joints["matched"].to_numpy()
    with np.errstate(all="ignore"):  # head boxes without extent
        # the first divided, as the evaluator does, to agree with it to the last digit
        right_pckh50 = distance / joints["head_size"].to_numpy() <= posetrack.MATCH_DISTANCE
        right_pck10 = distance <= EXTENT_SHARE * joints["extent"].to_numpy()
    annotation = joints["annotation"].to_numpy()
    person = codes * (1 + annotation.max(initial=0)) + annotation  # a number of its own

    def per_video(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(codes[chosen], minlength=len(videos))

    def people(chosen: np.ndarray) -> np.ndarray:
        _, first = np.unique(person[chosen], return_index=True)
        return np.bincount(codes[chosen][first], minlength=len(videos))

    found = []
    for tag, chosen in tag_masks(joints).items():
        columns = {
            "people": people(chosen & matched),
            "people_all": people(chosen),
            "joints": per_video(chosen & matched),
            "joints_all": per_video(chosen),
            "right_pckh50": per_video(chosen & right_pckh50),
            "right_pck10": per_video(chosen & right_pck10),
        }
        found.append(pd.DataFrame({"video": videos, "tag": tag, **columns}))
    return pd.concat(found, ignore_index=True)


def recall(counts: pd.DataFrame) -> pd.DataFrame:
    """Recall of all videos of `count_by_tag` together, one row per tag; a video that stands twice counts twice.

    people, unmatched: annotated people with a joint of the tag to whom a prediction is assigned, and not. joints: of
    the matched ones. pckh50, pck10: percent of them that are right, NaN without any. joints_all, pckh50_all,
    pck10_all: of all people.
    """
    codes, tags = pd.factorize(counts["tag"])
    people, people_all, joints, joints_all, right_pckh50, right_pck10 = (
        np.bincount(codes, counts[name].to_numpy(), len(tags)).astype(np.int64) for name in COUNTS
    )
    with np.errstate(invalid="ignore"):  # no joints of a tag
        return pd.DataFrame(
            {
                "tag": tags,
                "people": people,
                "unmatched": people_all - people,
                "joints": joints,
                "pckh50": 100 * right_pckh50 / joints,
                "pck10": 100 * right_pck10 / joints,
                "joints_all": joints_all,
                "pckh50_all": 100 * right_pckh50 / joints_all,
                "pck10_all": 100 * right_pck10 / joints_all,
            }
        )


def recall_of_rows(joints: pd.DataFrame) -> pd.DataFrame:
    """`recall` of several joint tables in one, told apart by the column `row`, which becomes the first."""
    parts = []
    for row, own in joints.groupby("row", sort=False):
        table = recall(count_by_tag(own))
        table.insert(0, "row", row)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def tag_masks(joints: pd.DataFrame) -> dict[str, np.ndarray]:
    """Tag -> (N,) bool of N rows of a `joint_table`: TAGS, then one per action.

    A joint may have several, and of those that exclude each other neither where nobody says.
    """
    occlusion, sigma = joints["occlusion"].to_numpy(), joints["defocus"].to_numpy()
    with np.errstate(all="ignore"):  # head boxes without extent
        speed = joints["speed"].to_numpy() / joints["head_size"].to_numpy()  # head sizes per frame
    masks = (
        np.ones(len(joints), bool),
        occlusion == UNOCCLUDED,
        occlusion == BY_ITSELF,
        occlusion == BY_OTHERS,
        (occlusion == BY_ITSELF) | (occlusion == BY_OTHERS),
        speed > RAPID,
        speed <= RAPID,
        sigma > DEFOCUSED,
        sigma <= DEFOCUSED,
    )
    action = joints["action"].to_numpy()
    actions = {ACTION + name: action == name for name in sorted(set(action) - {""})}
    return dict(zip(TAGS, masks, strict=True)) | actions


def _of_video(gt: Path, pred: Path | None) -> pd.DataFrame:
    """The joint table of one video. pred: None stands for a missing file: nobody is matched."""
    content = read_annotation_json(gt)
    annotated, notes = parse_video(gt, content), posetrack18.parse(gt, content)
    truth, found, owner, _ = posetrack.pair_people(annotated, None if pred is None else read_video(pred))
    taken = owner >= 0
    distance, matched = np.full(truth.has.shape, np.nan), np.zeros(len(truth.frame), bool)
    distance[owner[taken]] = posetrack.distances(truth.xy[owner[taken]], found.xy[taken])
    matched[owner[taken]] = True
    person, joint = np.nonzero(truth.has)
    row = truth.person[person]  # both readers list people by frame, then in the file's order
    tags = notes.tags or no_tags(len(notes.frame), len(POSETRACK))
    return pd.DataFrame(
        {
            "video": stem_of(gt),
            "frame": truth.frame[person],
            "annotation": row,
            "track": notes.person[row],
            "joint": pd.Categorical.from_codes(joint, list(POSETRACK.joints)),
            "distance": distance[person, joint],
            "head_size": truth.head_size[person],
            "extent": _extents(notes)[row],
            "matched": matched[person],
            "occlusion": tags.occlusion[row, joint],
            "speed": tags.speed[row, joint],
            "defocus": tags.defocus[row],
            "action": np.array(tags.action, dtype=object)[row],
        }
    )


def _extents(notes: Annotations) -> np.ndarray:
    """(n,) the larger side, in px, of the extent of each person's annotated joints."""
    box_xyxy = keypoint_boxes(notes.keypoints, margin=0)
    return (box_xyxy[:, 2:] - box_xyxy[:, :2]).max(axis=1, initial=-np.inf)
