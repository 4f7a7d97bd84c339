"""What is compared to find out what helps: rows, controls, comparisons and sizes, fixed before anything runs.

Rows are the paper's complete heads with some options changed; references of a row are of an index with some options
changed. `docs/evidence.md` is written from this file and what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glpose.models.glpose import single_frame
from glpose.options import HeadOptions, IndexOptions


@dataclass(frozen=True)
class Row:
    """Heads that are trained and scored. heads, index: options that differ from the pipeline's."""

    name: str
    about: str
    heads: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    single: bool = False

    def head_options(self, base: HeadOptions) -> HeadOptions:
        """The heads of this row."""
        own = single_frame(base) if self.single else base
        return HeadOptions.model_validate({**own.model_dump(), **self.heads})

    def index_options(self, base: IndexOptions) -> IndexOptions:
        """The index that its references are of."""
        return IndexOptions.model_validate({**base.model_dump(), **self.index})


@dataclass(frozen=True)
class Comparison:
    """Row a against row b, and what it tells."""

    a: str
    b: str
    question: str


@dataclass(frozen=True)
class Tier:
    """What of the experiment is run: rows, how many trainings of each, and how many clips they learn from.

    The first training is on the pipeline's own backbone, each other one on a backbone of its own, with other seeds.
    ending: of the names of its work folders, those of tiers of the same clips alike.
    """

    trainings: int
    rows: tuple[str, ...]
    train_clips: int = 60
    ending: str = ""


EVERY_K, EVERY_N = 4, 6  # of rows that do not say otherwise
ORACLE = {"select": "oracle", "pool": "all"}
POSE = {"embedding": "pose", "pool": "all"}
_ALL = [
    Row("single", "the key frame alone, the blocks and a head, no enhancement", single=True),
    Row("copies", "complete heads that are shown the key frame in every slot", {"inputs": "key_copies"}),
    Row("local", "local frames alone (n = 0)", {"n": 0}),
    Row("nonlocal", "non-local references alone (k = 0)", {"k": 0}),
    Row("glpose", f"complete: k = {EVERY_K}, n = {EVERY_N}"),
    Row("oracle", "complete, references nearest in true pose", index=ORACLE),
    Row("oracle_nonlocal", "references nearest in true pose, alone (k = 0)", {"k": 0}, ORACLE),
    Row("pose", "complete, references nearest in the pose that the backbone sees", index=POSE),
    Row("prior_pose", "the same, correcting the backbone's own heatmaps", {"prior": "frames"}, POSE),
    Row("aligned", "complete, what it sees warped onto the key frame's pose", {"align": "pose"}),
    Row("aligned_prior", "the same, correcting the backbone's own heatmaps", {"align": "pose", "prior": "frames"}),
    Row("random", "complete, references drawn at random", index={"select": "random"}),
    Row("least_similar", "complete, the least similar references", index={"select": "least_similar"}),
    Row("other_video", "complete, references of other clips", index={"select": "other_video", "scope": "dataset"}),
    *(Row(f"k={k}", f"complete but k = {k}", {"k": k}) for k in (1, 2, 3)),
    *(Row(f"n={n}", f"complete but n = {n}", {"n": n}) for n in (1, 2, 3, 4, 5)),
    Row("no_enhancement", "without feature enhancement, as the text of § 3.4 reads", {"enhancement": False}),
    Row("head_mlp", "MLP head", {"head": "mlp"}),
    Row("head_5x5", "5x5 head", {"head": "5x5"}),
    Row("per_channel", "similarities per channel", {"per_channel": True}),
    Row("pool_all", "the whole clip as pool", index={"pool": "all"}),
    Row("cosine", "cosine similarity", index={"similarity": "cosine"}),
    Row("temperature_10", "similarities divided by 10: softer weights", {"temperature": 10.0}),
    Row("normalised_local", "local weights that sum to 1", {"normalise_local": True}),
    Row("unweighted", "without the weights of Eq. 2 and 3", {"weighted": False}),
    Row("prior_key", "complete, correcting the backbone's own heatmaps of the key frame", {"prior": "key"}),
    Row("prior_frames", "complete, correcting the backbone's own heatmaps of all frames, fused", {"prior": "frames"}),
    Row("prior_copies", "the same, shown the key frame in every slot", {"prior": "frames", "inputs": "key_copies"}),
    Row("prior_single", "single, correcting the backbone's own heatmaps", {"prior": "key"}, single=True),
]
ROWS = {row.name: row for row in _ALL}


COMPARISONS = (
    Comparison("glpose", "copies", "does it help to see other frames, beyond the heads' size?"),
    Comparison("copies", "single", "does the heads' size help by itself?"),
    Comparison("local", "copies", "do local frames help?"),
    Comparison("nonlocal", "copies", "do non-local references help, alone?"),
    Comparison("glpose", "local", "do non-local references help beside local frames?"),
    Comparison("oracle", "local", "would perfect references help beside local frames?"),
    Comparison("oracle", "glpose", "does retrieval lose what perfect references give?"),
    Comparison("oracle", "copies", "would perfect references help, beyond the heads' size?"),
    Comparison("pose", "glpose", "does retrieval that knows the pose help?"),
    Comparison("pose", "copies", "does it help to see other frames, with references of that kind?"),
    Comparison("oracle", "pose", "does that retrieval lose what perfect references give?"),
    Comparison("prior_pose", "prior_frames", "does it help heads that correct the backbone's heatmaps?"),
    Comparison("aligned", "glpose", "does it help to warp what is seen onto the key frame's pose?"),
    Comparison("aligned", "copies", "does it help to see other frames, warped that way?"),
    Comparison("aligned_prior", "prior_frames", "does it help heads that correct the backbone's heatmaps?"),
    Comparison("aligned_prior", "prior_copies", "does it help such heads to see other frames, warped that way?"),
    Comparison("oracle_nonlocal", "nonlocal", "the same without local frames?"),
    Comparison("glpose", "random", "is it similarity that helps?"),
    Comparison("glpose", "least_similar", "is it similarity that helps?"),
    Comparison("glpose", "other_video", "is it the same clip that helps?"),
    Comparison("glpose", "no_enhancement", "does feature enhancement help?"),
    Comparison("glpose", "head_mlp", "does the head matter?"),
    Comparison("head_5x5", "glpose", "does the head matter?"),
    Comparison("per_channel", "glpose", "does the reading of Eq. 3 matter?"),
    Comparison("pool_all", "glpose", "does the pool matter?"),
    Comparison("cosine", "glpose", "does the similarity matter?"),
    Comparison("temperature_10", "glpose", "does the temperature matter?"),
    Comparison("normalised_local", "glpose", "does the scale of the local weights matter?"),
    Comparison("unweighted", "glpose", "do the weights matter?"),
    Comparison("prior_frames", "prior_copies", "do other frames help, where the backbone reads each of them first?"),
    Comparison("prior_frames", "prior_key", "does it help to fuse its heatmaps?"),
    Comparison("prior_frames", "prior_single", "is that more than a single frame, read the same way?"),
    Comparison("prior_frames", "glpose", "is that better than the paper's?"),
    Comparison("prior_key", "glpose", "does it help to start from the backbone's own heatmaps?"),
)
# Rows in order of k and of n: their slope is tested, not steps of 0.1.
TRENDS = {
    "k": (("nonlocal", 0), ("k=1", 1), ("k=2", 2), ("k=3", 3), ("glpose", EVERY_K)),
    "n": (("local", 0), ("n=1", 1), ("n=2", 2), ("n=3", 3), ("n=4", 4), ("n=5", 5), ("glpose", EVERY_N)),
}
TEST_CLIPS, DRAWS = 80, 2000
TIERS = {
    "small": Tier(1, ("single", "copies", "local", "nonlocal", "glpose", "oracle")),
    "full": Tier(3, tuple(ROWS)),  # its first training is all of tier small, and uses what that has made
    # as many clips as PoseTrack2017 has to train on (250), the first 60 of them those of the other tiers
    "large": Tier(
        3, ("single", "copies", "local", "glpose", "oracle", "pose", "prior_copies", "prior_frames"), 240, "-large"
    ),
}
