"""What makes a joint hard: occlusion, speed, defocus, and the action that its person does.

Fields of ours in PoseTrack18 files, each optional, null or absent where nobody says:

| field | of | |
|---|---|---|
| `occlusion` | an annotation | per joint, in the order of `keypoints`, one of `OCCLUSION` |
| `speed` | an annotation | per joint, how far it moves in the picture, px per frame; null where not known |
| `action` | an annotation | a name |
| `defocus` | an image | standard deviation of the lens blur, px |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Values of `occlusion`. UNTAGGED: outside of the frame, not annotated, or nobody says.
UNTAGGED, UNOCCLUDED, BY_ITSELF, BY_OTHERS = -1, 0, 1, 2
OCCLUSION = {
    UNTAGGED: "untagged",
    UNOCCLUDED: "visible",
    BY_ITSELF: "hidden by the person's own body",
    BY_OTHERS: "hidden by another person or a thing",
}
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Tags:
    """Of n people with J joints.

    occlusion: (n, J) int8, one of OCCLUSION. speed: (n, J) float32, px per frame, NaN where not known. defocus: (n,)
    float32, sigma of the blur of the person's frame in px, NaN where not known. action: n names, empty where not known.
    """

    occlusion: np.ndarray
    speed: np.ndarray
    defocus: np.ndarray
    action: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> Tags:
        """Those of some people, in this order."""
        return Tags(
            occlusion=self.occlusion[list(rows)],
            speed=self.speed[list(rows)],
            defocus=self.defocus[list(rows)],
            action=tuple(self.action[row] for row in rows),
        )


def no_tags(people: int, joints: int) -> Tags:
    """Tags of people of whom nobody says anything."""
    return Tags(
        occlusion=np.full((people, joints), UNTAGGED, np.int8),
        speed=np.full((people, joints), np.nan, np.float32),
        defocus=np.full(people, np.nan, np.float32),
        action=("",) * people,
    )


def read_tags(
    images: Sequence[dict[str, Any]],
    people: Sequence[dict[str, Any]],
    frame: Sequence[int],
    order: Sequence[int | None],
    joints: int,
) -> Tags | None:
    """Tags of the annotations of a PoseTrack18 file, in its order; None where no entry has any of the fields.

    frame: of every annotation, its place in `images`. order: for every joint of the file, its index among the `joints`
    of ours, None for those that we drop. ValueError, naming the annotation or frame, where a field is malformed.
    """
    kept = [column for column, here in enumerate(order) if here is not None]
    ours = [here for here in order if here is not None]
    tags, action, said = no_tags(len(people), joints), [], []
    for row, person in enumerate(people):
        try:
            occlusion, speed = (_per_joint(person, field, len(order)) for field in ("occlusion", "speed"))
            if occlusion is not None:
                tags.occlusion[row, ours] = np.array([_occlusion(value) for value in occlusion])[kept]
            if speed is not None:
                tags.speed[row, ours] = np.array([_length(value, "speed") for value in speed])[kept]
            action.append(_name(person.get("action")))
        except ValueError as error:
            raise ValueError(f"annotation {row}: {error}") from None
        said += [occlusion, speed, action[-1] or None]
    sigma = np.full(len(images), np.nan, np.float32)
    for index, image in enumerate(images):
        try:
            sigma[index] = _length(image.get("defocus"), "defocus")
        except ValueError as error:
            raise ValueError(f"frame {index}: {error}") from None
    if np.isnan(sigma).all() and all(value is None for value in said):
        return None
    return Tags(tags.occlusion, tags.speed, sigma[list(frame)], tuple(action))


def _per_joint(person: dict[str, Any], field: str, joints: int) -> list[Any] | None:
    values = person.get(field)
    if values is not None and not isinstance(values, list):
        raise ValueError(f"its {field} is {values!r:.40}, not a list")
    if values is not None and len(values) != joints:
        raise ValueError(f"its {field} has {len(values)} values, {joints} joints need {joints}")
    return values


def _occlusion(value: Any) -> int:
    if type(value) is not int or value not in OCCLUSION:
        raise ValueError(f"its occlusion holds {value!r:.40}: it is one of {', '.join(map(str, OCCLUSION))}")
    return value


def _length(value: Any, field: str) -> float:
    """A number of px, NaN for null."""
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ValueError(f"its {field} holds {value!r:.40}: it is px, from 0 on")
    return float(value)


def _name(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its action is {value!r:.40}, not a name")
    return value or ""
