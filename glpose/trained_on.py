"""What a heads' checkpoint says of the features that it was trained on, so that nobody need repeat it to use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from glpose.keypoints import JointSet
from glpose.models.checkpoints import read_heads_metadata
from glpose.options import ExtractOptions, HeadOptions, IndexOptions
from store.errors import CheckpointError

# Of `extract`, what says nothing of the clean crops of other people's videos: there, the backbone goes by its space.
ELSEWHERE = {"checkpoint", "width", "codec", "views", "augmentation", "view_seed", "mirror"}


@dataclass(frozen=True)
class TrainedOn:
    """How features and references are made that heads can read, and the joints that they predict, in their order."""

    heads: HeadOptions
    extract: ExtractOptions
    index: IndexOptions
    joints: JointSet


def describe(extract: ExtractOptions, index: IndexOptions, joints: JointSet) -> dict[str, str]:
    """The metadata that `read_trained_on` reads, beside that of the heads themselves."""
    return {
        "extract": extract.model_dump_json(exclude=ELSEWHERE),
        "index": index.model_dump_json(),
        "joint_set": json.dumps(asdict(joints)),
    }


def read_trained_on(path: str | Path) -> TrainedOn:
    """Read it from heads as `train` or `finetune` saved them.

    CheckpointError where the file holds no heads, or was written by a release that did not describe them.
    """
    metadata = read_heads_metadata(path)
    try:
        return TrainedOn(
            heads=HeadOptions.model_validate_json(metadata["heads"]),
            extract=ExtractOptions.model_validate_json(metadata["extract"]),
            index=IndexOptions.model_validate_json(metadata["index"]),
            joints=_joint_set(metadata["joint_set"]),
        )
    except KeyError as error:
        raise CheckpointError(
            f"{path} does not say what its heads were trained on (no {error} in its metadata), as an earlier release "
            "wrote it: train again, with --set work=DIR to keep both"
        ) from None
    except (ValueError, TypeError) as error:  # pydantic's and JSON's errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: what it says its heads were trained on is malformed ({reason})") from None


def check_joints(path: str | Path, joints: JointSet) -> None:
    """CheckpointError where heads predict other joints than these, or in another order."""
    own = read_trained_on(path).joints
    if own.joints == joints.joints:
        return
    order = "the same joints in another order" if set(own.joints) == set(joints.joints) else f"{len(joints)} joints"
    raise CheckpointError(
        f"the heads of {path} predict {len(own)} joints ({own.name}), the pipeline's data has {order} ({joints.name})"
    )


def _joint_set(text: str) -> JointSet:
    found = json.loads(text)
    return JointSet(
        name=found["name"],
        joints=tuple(found["joints"]),
        flip_pairs=tuple((a, b) for a, b in found["flip_pairs"]),
        groups={name: tuple(members) for name, members in found["groups"].items()},
        limbs=tuple((a, b) for a, b in found["limbs"]),
        upper_body=tuple(found["upper_body"]),
        sigmas=tuple(found["sigmas"]),
    )
