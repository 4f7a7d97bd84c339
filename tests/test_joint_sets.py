"""Joint sets of one's own: what the YAML means, and one plain line for each way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from glpose.data.joint_sets import read_joint_set
from glpose.keypoints import JHMDB, POSETRACK, JointSet
from store.errors import DataError

ROBOT: dict[str, Any] = {
    "name": "my_robot",
    "joints": ["nose", "left_hand", "right_hand", "tail"],
    "flip_pairs": [["left_hand", "right_hand"]],
    "groups": {"Head": ["nose"], "Hand": ["right_hand", "left_hand"], "Rest": ["tail"]},
    "sigmas": {"tail": 0.1, "nose": 0.026, "left_hand": 0.062, "right_hand": 0.063},
    "limbs": [["nose", "left_hand"], ["tail", "nose"]],
    "upper_body": ["nose", "left_hand"],
}


def write(folder: Path, **changes: Any) -> Path:
    """The robot's file with other values of some keys; None leaves a key out."""
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (ROBOT | changes).items() if v is not None}, sort_keys=False))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_joint_set(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and "Error" not in message
    return message.split(path.name, 1)[1]


def as_yaml(joints: JointSet, sigmas: list[float]) -> dict[str, Any]:
    """A joint set in the words of its file."""
    name = joints.joints.__getitem__
    return {
        "name": joints.name,
        "joints": list(joints.joints),
        "flip_pairs": [[name(a), name(b)] for a, b in joints.flip_pairs],
        "groups": {group: [name(j) for j in members] for group, members in joints.groups.items()},
        "sigmas": sigmas,
        "limbs": [[name(a), name(b)] for a, b in joints.limbs],
        "upper_body": [name(j) for j in joints.upper_body],
    }


def test_names_become_indices(tmp_path: Path) -> None:
    joints = read_joint_set(write(tmp_path))
    assert joints == JointSet(
        name="my_robot",
        joints=("nose", "left_hand", "right_hand", "tail"),
        flip_pairs=((1, 2),),
        groups={"Head": (0,), "Hand": (2, 1), "Rest": (3,)},
        limbs=((0, 1), (3, 0)),
        upper_body=(0, 1),
        sigmas=(0.026, 0.062, 0.063, 0.1),
    )
    assert joints.flip_order == [0, 2, 1, 3]
    assert list(joints.groups) == ["Head", "Hand", "Rest"]  # the order of tables is the file's


def test_what_may_be_left_out(tmp_path: Path) -> None:
    joints = read_joint_set(write(tmp_path, limbs=None, upper_body=None, flip_pairs=[]))
    assert (joints.limbs, joints.upper_body, joints.flip_pairs) == ((), (), ())


@pytest.mark.parametrize("joints", [POSETRACK, JHMDB], ids=lambda joints: joints.name)
def test_our_own_sets_can_be_written_so(joints: JointSet, tmp_path: Path) -> None:
    sigmas = [(1 + j) / 100 for j in range(len(joints))]
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump(as_yaml(joints, sigmas), sort_keys=False))
    read = read_joint_set(path)
    assert read.sigmas == tuple(sigmas)
    assert as_yaml(read, sigmas) == as_yaml(joints, sigmas)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    import glpose.data.joint_sets as module

    lines = (module.__doc__ or "").splitlines()
    path = tmp_path / "example.yaml"
    path.write_text("\n".join(line[4:] for line in lines if line.startswith("    ")))
    assert read_joint_set(path).name == "my_robot"


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"joints": ["nose", "left_hand", "right_hand", "nose"]}, ": joints names 'nose' twice"),
        ({"flip_pairs": [["left_hand", "rihgt_hand"]]},
         ": flip_pairs names 'rihgt_hand', which is not in joints; did you mean 'right_hand'?"),
        ({"flip_pairs": [["nose", "nose"]]}, ": flip_pairs pairs 'nose' with itself; leave it out"),
        ({"flip_pairs": [["left_hand", "right_hand"], ["tail", "left_hand"]]},
         ": flip_pairs pairs 'left_hand' twice; a joint has one mirror image"),
        ({"flip_pairs": [["left_hand"]]}, ": flip_pairs needs pairs of joints, not ['left_hand']"),
        ({"flip_pairs": [["nose", "tail", "left_hand"]]},
         ": flip_pairs needs pairs of joints, not ['nose', 'tail', 'left_hand']"),
        ({"groups": {"Head": ["nose"], "Hand": ["left_hand", "right_hand"]}},
         ": groups leaves out 'tail', which would count in no average; put it into a group"),
        ({"groups": {"All": ["nose", "left_hand", "right_hand", "tail"], "Head": ["nose"]}},
         ": groups names 'nose' twice; a joint counts in one group"),
        ({"groups": {"All": ["nose", "left_hand", "right_hand", "elephant"]}},
         ": groups names 'elephant', which is not in joints"),
        ({"groups": {"All": ROBOT["joints"], "None": []}}, ": groups.None is empty"),
        ({"groups": {}}, ": groups is empty"),
        ({"groups": [["nose"]]}, ": groups should be a valid mapping of names, not [['nose']]"),
        ({"groups": {1: ["nose"]}}, ": groups should be a valid string, not 1; put it in quotes"),
        ({"limbs": [["nose", "hand"]]}, ": limbs names 'hand', which is not in joints; did you mean 'left_hand'?"),
        ({"limbs": [["nose", "nose"]]}, ": limbs pairs 'nose' with itself"),
        ({"upper_body": ["noose"]}, ": upper_body names 'noose', which is not in joints; did you mean 'nose'?"),
        ({"upper_body": ["nose", "nose"]}, ": upper_body names 'nose' twice"),
        ({"sigmas": [0.1, 0.2, 0.3]}, ": sigmas: 4 joints need 4 values, it has 3"),
        ({"sigmas": {"nose": 0.1, "left_hand": 0.1, "right_hand": 0.1}}, ": sigmas has no value for 'tail'"),
        ({"sigmas": ROBOT["sigmas"] | {"tali": 0.1}}, ": sigmas names 'tali', which is not in joints; did you mean"),
        ({"sigmas": [0.1, 0.2, 0.3, 0]}, ": sigmas.tail should be greater than 0, not 0"),
        ({"sigmas": [0.1, -0.2, 0.3, 1]}, ": sigmas.left_hand should be greater than 0, not -0.2"),
        ({"sigmas": [0.1, 0.2, float("nan"), 1]}, ": sigmas.right_hand should be a finite number, not nan"),
        ({"sigmas": [float("inf"), 0.2, 0.3, 1]}, ": sigmas.nose should be a finite number, not inf"),
        ({"sigmas": [0.1, "wide", 0.3, 1]}, ": sigmas.left_hand should be a valid number"),
        ({"sigmas": None}, ": sigmas is missing"),
        ({"name": None}, ": name is missing"),
        ({"name": 7}, ": name should be a valid string, not 7; put it in quotes"),
        ({"name": ""}, ": name: a name is empty"),
        ({"joints": ["nose", ""]}, ": joints: a name is empty"),
        ({"joints": None}, ": joints is missing"),
        ({"joints": []}, ": joints is empty"),
        ({"joints": ["nose", False]}, ": joints should be a valid string, not False; put it in quotes"),
        ({"joints": "nose"}, ": joints should be a valid list, not 'nose'"),
        ({"flip_pair": []}, ": unknown key 'flip_pair'; did you mean 'flip_pairs'?"),
        ({"joint_weights": [1]}, ": unknown key 'joint_weights'; did you mean 'joints'?"),
        ({"colour": "red"}, ": unknown key 'colour'; valid are name, joints, flip_pairs, groups, sigmas, limbs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_a_line(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path, **changes)).startswith(problem)


def test_an_empty_value_is_no_empty_list(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("flip_pairs:\n- - left_hand\n  - right_hand\n", "flip_pairs:\n"))
    assert refusal(path) == ": flip_pairs should be a valid list, not None; write [] for none"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("name: robot\njoints: [nose, tail\ngroups: {}\n", ", line 3 is not YAML: expected ',' or ']'"),
        ("name: robot\n\tjoints: [nose]\n", ", line 2 is not YAML: found character '\\t'"),
        ("", " holds no mapping of keys to values; its keys are name, joints, flip_pairs"),
        ("- nose\n- tail\n", " holds no mapping of keys to values"),
        ("nose", " holds no mapping of keys to values"),
        ("name: !!python/object:os.system {}\n", ", line 1 is not YAML: could not determine a constructor"),
        ("name: \x00\n", " is not readable YAML: unacceptable character"),
        ("name: 2024-99-99\n", " is not readable YAML: month must be in 1..12"),
        ("1: [nose]\n", ": name is missing"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_mapping(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    assert refusal(path).startswith(problem)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.yaml") == " does not exist"
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    assert "is not readable YAML" in refusal(tmp_path / "latin.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "is not readable YAML" in refusal(tmp_path / "folder.yaml")
