"""What is learnt from a split: joints as heatmap points, and which of them count (Eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glpose.augmentation import crop_keypoints
from glpose.data.windows import SplitFeatures
from glpose.geometry import frame_to_heatmap
from glpose.heatmaps import STRIDE
from glpose.keypoints import JointSet, least_flag
from glpose.options import TrainOptions
from glpose.references import References
from store.errors import TrainingError


@dataclass(frozen=True)
class Examples:
    """A split with what is learnt from it.

    joints: J of them. points: (P, V, J, 2) float32, heatmap px, in each of the V views held. weight: (P, V, J) float32,
    v_m of Eq. 6. trainable: (P,) bool. fixed: the references that `index` stored, of every proposal.
    """

    split: SplitFeatures
    joints: JointSet
    points: np.ndarray
    weight: np.ndarray
    trainable: np.ndarray
    fixed: References

    @property
    def views(self) -> int:
        """How many views of every proposal there are."""
        return self.points.shape[1]

    def rows_of(self, videos: Sequence[str]) -> np.ndarray:
        """Rows of some videos that can be trained on, rising within each."""
        rows = np.concatenate([np.arange(*self.split.spans[video]) for video in videos])
        return rows[self.trainable[rows]]


def make_examples(split: SplitFeatures, fixed: References, joints: JointSet, options: TrainOptions) -> Examples:
    """Points and weights of every annotated proposal. TrainingError where none has a joint inside its crop."""
    size = (split.schema.height, split.schema.width)
    keypoints = np.zeros((len(split), len(joints), 3))
    for row, own in enumerate(split.table["keypoints"]):
        if own is not None:
            keypoints[row] = own
    least = least_flag(options.joints)
    if split.affines is None:
        points = frame_to_heatmap(keypoints[..., :2], split.regions, size)[:, None]
        inside = ((points >= 0) & (points < [size[1], size[0]])).all(axis=-1)
        weight = (keypoints[:, None, :, 2] >= least) & inside
    else:
        crop_size = (size[0] * STRIDE, size[1] * STRIDE)
        every = np.broadcast_to(keypoints[:, None], (*split.affines.shape[:2], *keypoints.shape[1:]))
        seen = crop_keypoints(every, split.affines, joints, crop_size)
        points, weight = seen[..., :2] / STRIDE, seen[..., 2] >= least
    trainable = np.asarray(weight[:, 0].any(axis=-1))
    if not trainable.any():
        raise TrainingError(
            "no proposal of the train split has an annotated joint inside its crop: heads can only be trained on "
            "annotated videos (detect.train.source: annotations)"
        )
    return Examples(split, joints, points.astype(np.float32), weight.astype(np.float32), trainable, fixed)
