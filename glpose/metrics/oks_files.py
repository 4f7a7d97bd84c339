"""COCO-style keypoint annotations and results as pycocotools takes them, whatever they lack.

| missing in an annotation | taken instead |
|---|---|
| `id`, or one that repeats | its number; the ids of annotations and poses are never used |
| `iscrowd` | 0 |
| `num_keypoints` | the number of joints with v > 0, which also bounds a larger one |
| `bbox` | the extent of its joints, widened by 30 % as for training |
| `area` | 0.53 x the area of its box, at least 1 px^2 (mmpose) |

Images whose `is_labeled` is false are left out, with what is predicted there; pycocotools does not know that key. The
area of a predicted pose is that of its `bbox` or, as COCO's own result files have none, of its joints' extent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from glpose.data.annotations import MALFORMED, explain, keypoint_boxes
from glpose.data.coco import choose_category
from glpose.keypoints import JointSet
from glpose.metrics.coco_entries import CATEGORY
from store.errors import DataError

BOX_SHARE = 0.53  # area of a person over that of its box (mmpose)

_Value = TypeVar("_Value")


class Pose(NamedTuple):
    """An annotated or predicted person.

    entry: as pycocotools takes it, without an id. keypoints: (J, 3) x, y in frame px and flag or score, in the joint
    set's order. box: (4,) xyxy frame px.
    """

    entry: dict[str, Any]
    keypoints: np.ndarray
    box: np.ndarray

    @property
    def image(self) -> int:
        """Number of its image."""
        return self.entry["image_id"]

    @property
    def counts(self) -> bool:
        """Of an annotated person: whether it is to be found, not ignored."""
        return self.entry["num_keypoints"] > 0 and not self.entry["iscrowd"]


class Layout(NamedTuple):
    """What an annotation file declares.

    images: id -> 1, 2, ... in the order of the ids, None for an image that is not labelled. categories: all ids.
    category: id of the scored one. size: how many joints it names. columns: (J,) where ours are among them.
    """

    images: dict[Any, int | None]
    categories: list[Any]
    category: Any
    size: int
    columns: list[int]


def read_annotated(content: Any, joints: JointSet, name: str) -> tuple[Layout, list[Pose]]:
    """The people of an annotation file, in its order; `name` is what messages call the file.

    DataError, naming the entry, where something is malformed, or no category names all of our joints.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{name} is not a COCO-style annotation file: it has no list {key!r}")
    categories = _ids(content["categories"], "category", name)
    try:
        category, columns = choose_category(content["categories"], joints, name)
    except MALFORMED as error:
        raise DataError(f"{name} is malformed: categories: {explain(error)}") from None
    images = _images(content["images"], name)
    layout = Layout(images, categories, category["id"], len(category["keypoints"]), columns)
    return layout, _each(content["annotations"], "annotation", name, lambda entry: _annotation(entry, layout))


def read_predicted(content: Any, layout: Layout, name: str) -> list[Pose]:
    """The poses of a result file, in its order, joints in the order of the annotation file. DataError as above."""
    if not isinstance(content, list):
        raise DataError(f"{name} holds a {type(content).__name__}; COCO results are a list of poses")
    return _each(content, "pose", name, lambda entry: _prediction(entry, layout))


def _images(images: list[Any], name: str) -> dict[Any, int | None]:
    """Id -> number; pycocotools goes through images by their sorted ids, here whole numbers before texts."""
    ids = _ids(images, "image", name)
    ordered = sorted(ids, key=lambda value: (isinstance(value, str), value))
    numbers: dict[Any, int | None] = {value: n for n, value in enumerate(ordered, 1)}
    unlabelled = [value for value, image in zip(ids, images, strict=True) if not image.get("is_labeled", True)]
    return {**numbers, **dict.fromkeys(unlabelled)}


def _ids(entries: list[Any], what: str, name: str) -> list[Any]:
    ids = _each(entries, what, name, lambda entry: _id(entry["id"]))
    if len(set(ids)) < len(ids):
        raise DataError(f"{name} is malformed: the {what} id {Counter(ids).most_common(1)[0][0]!r} stands twice")
    return ids


def _id(value: Any) -> int | str:
    if not isinstance(value, int | str):
        raise ValueError(f"its id {value!r} is neither a whole number nor a text")
    return value


def _each(entries: list[Any], what: str, name: str, read: Callable[[dict[str, Any]], _Value | None]) -> list[_Value]:
    """read(entry) of every entry but those that give None; DataError naming file and entry where one fails."""
    values = []
    for number, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise TypeError(f"it is a {type(entry).__name__}, not an object")
            values.append(read(entry))
        except MALFORMED as error:
            raise DataError(f"{name} is malformed: {what} {number}: {explain(error)}") from None
    return [value for value in values if value is not None]


def _annotation(entry: dict[str, Any], layout: Layout) -> Pose | None:
    image = _scored_image(entry, layout)
    if image is None:
        return None
    keypoints = _annotated_joints(entry, layout)
    if entry.get("bbox"):
        x, y, width, height = _numbers(entry, "bbox", 4).tolist()
    else:
        x, y, x2, y2 = np.nan_to_num(keypoint_boxes(keypoints[None], margin=0.3)[0]).tolist()
        width, height = x2 - x, y2 - y
    area = max(BOX_SHARE * width * height, 1.0)
    if entry.get("area") is not None:
        area = float(_numbers(entry, "area", 1)[0])
    if not 0 <= area < math.inf:
        raise ValueError(f"its area is {area:g}")
    annotated = int((keypoints[:, 2] > 0).sum())
    stated = entry.get("num_keypoints")
    known = {
        "image_id": image,
        "category_id": CATEGORY,
        "keypoints": keypoints.ravel(),
        "num_keypoints": annotated if stated is None else min(annotated, int(stated)),
        "bbox": [x, y, width, height],
        "area": area,
        "iscrowd": int(bool(entry.get("iscrowd"))),
    }
    return Pose(known, keypoints, np.array([x, y, x + width, y + height]))


def _prediction(entry: dict[str, Any], layout: Layout) -> Pose | None:
    image = _scored_image(entry, layout)
    if image is None:
        return None
    keypoints = _numbers(entry, "keypoints", 3 * layout.size).reshape(-1, 3)[layout.columns]
    box = np.concatenate([keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)])
    if entry.get("bbox"):
        box = _numbers(entry, "bbox", 4)
        box[2:] += box[:2]
    known = {
        "image_id": image,
        "category_id": CATEGORY,
        "keypoints": keypoints.ravel(),
        "area": float((box[2:] - box[:2]).prod()),
        "score": float(_numbers(entry, "score", 1)[0]),
    }
    return Pose(known, keypoints, box)


def _scored_image(entry: dict[str, Any], layout: Layout) -> int | None:
    """Number of its image; None where that is not labelled, or the category not the scored one."""
    image, category = entry["image_id"], entry["category_id"]
    if image not in layout.images:
        raise ValueError(f"the annotations have no image {image!r}")
    if category not in layout.categories:
        raise ValueError(f"the annotations have no category {category!r}")
    return layout.images[image] if category == layout.category else None


def _annotated_joints(entry: dict[str, Any], layout: Layout) -> np.ndarray:
    """(J, 3); zeros for joints with v = 0, whatever x and y are, and for a person with a box alone."""
    if not entry.get("keypoints"):
        return np.zeros((len(layout.columns), 3))
    keypoints = _numbers(entry, "keypoints", 3 * layout.size, finite=False).reshape(-1, 3)[layout.columns]
    keypoints[keypoints[:, 2] <= 0] = 0.0
    return _finite(keypoints, "keypoints")


def _numbers(entry: dict[str, Any], key: str, count: int, *, finite: bool = True) -> np.ndarray:
    values = np.array(entry[key], np.float64).ravel()
    if len(values) != count:
        raise ValueError(f"its {key} has {len(values)} numbers, not {count}")
    return _finite(values, key) if finite else values


def _finite(values: np.ndarray, key: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"its {key} holds something that is not a finite number")
    return values
