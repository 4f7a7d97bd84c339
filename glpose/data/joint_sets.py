"""A joint set of one's own, from a small YAML file.

    name: my_robot
    joints: [nose, left_hand, right_hand]          # the order of every (J, ...) array
    flip_pairs: [[left_hand, right_hand]]          # what a mirror exchanges; [] where nothing
    groups: {Head: [nose], Hand: [left_hand, right_hand]}  # rows of result tables; every joint in exactly one
    sigmas: {nose: 0.026, left_hand: 0.062, right_hand: 0.062}  # of OKS; or a list in the order of joints
    limbs: [[nose, left_hand], [nose, right_hand]]  # to draw; may be left out
    upper_body: [nose, left_hand, right_hand]      # for half-body augmentation; may be left out

It says what mmpose says in a dataset's `metainfo`:

| ours | mmpose |
|---|---|
| name | `dataset_name` |
| joints | `keypoint_info`: `name`, in the order of `id` |
| flip_pairs | `keypoint_info`: `swap`, each pair once |
| groups | none |
| sigmas | `sigmas` |
| limbs | `skeleton_info`: `link` |
| upper_body | `keypoint_info`: those of `type` "upper" |
| none: every joint weighs the same | `joint_weights` |
| none: colours tell people apart | `color` |
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from glpose.keypoints import JointSet
from store.errors import DataError

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Sigma = Annotated[float, Field(gt=0)]


class JointSetFile(BaseModel):
    """The YAML as it stands: keys and types are right; whether its names agree is for `_disagreements` to say."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    joints: Names
    flip_pairs: tuple[tuple[Name, Name], ...]
    groups: Annotated[dict[Name, Names], Field(min_length=1)]
    sigmas: dict[Name, Sigma]
    limbs: tuple[tuple[Name, Name], ...] = ()
    upper_body: tuple[Name, ...] = ()

    @field_validator("sigmas", mode="before")
    @classmethod
    def _by_name(cls, sigmas: Any, info: ValidationInfo) -> Any:
        """A list in the order of joints as a mapping."""
        joints: Sequence[str] = info.data.get("joints", ())
        if not isinstance(sigmas, list) or not joints:
            return sigmas
        if len(sigmas) != len(joints):
            raise ValueError(f"{len(joints)} joints need {len(joints)} values, it has {len(sigmas)}")
        return dict(zip(joints, sigmas, strict=True))


def read_joint_set(path: Path) -> JointSet:
    """Read a joint set. DataError in one line, naming the file and the key, for whatever does not fit."""
    content = _read_yaml(path)
    try:
        file = JointSetFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"joint set {path}: {_explain(dict(error.errors()[0]))}") from None
    if problem := next(_disagreements(file), None):
        raise DataError(f"joint set {path}: {problem}")
    index = {joint: position for position, joint in enumerate(file.joints)}
    return JointSet(
        name=file.name,
        joints=file.joints,
        flip_pairs=tuple((index[a], index[b]) for a, b in file.flip_pairs),
        groups={group: tuple(index[joint] for joint in members) for group, members in file.groups.items()},
        limbs=tuple((index[a], index[b]) for a, b in file.limbs),
        upper_body=tuple(index[joint] for joint in file.upper_body),
        sigmas=tuple(file.sigmas[joint] for joint in file.joints),
    )


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"joint set {path} does not exist") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DataError(f"joint set {path}{line} is not YAML: {error.problem}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"joint set {path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        keys = ", ".join(JointSetFile.model_fields)
        raise DataError(f"joint set {path} holds no mapping of keys to values; its keys are {keys}")
    return content


def _disagreements(file: JointSetFile) -> Iterator[str]:
    """What is wrong with names that are each of the right type; a line each."""
    members = [joint for names in file.groups.values() for joint in names]
    paired = [joint for pair in file.flip_pairs for joint in pair]
    lists = {
        "flip_pairs": paired,
        "groups": members,
        "limbs": [joint for pair in file.limbs for joint in pair],
        "upper_body": file.upper_body,
        "sigmas": list(file.sigmas),
    }
    if twice := _repeated(file.joints):
        yield f"joints names {twice!r} twice"
    for key, names in lists.items():
        for name in names:
            if name not in file.joints:
                near = difflib.get_close_matches(name, file.joints, 1)
                yield f"{key} names {name!r}, which is not in joints" + (f"; did you mean {near[0]!r}?" if near else "")
    for key, pairs in (("flip_pairs", file.flip_pairs), ("limbs", file.limbs)):
        for a, b in pairs:
            if a == b:
                yield f"{key} pairs {a!r} with itself" + ("; leave it out" if key == "flip_pairs" else "")
    if twice := _repeated(paired):
        yield f"flip_pairs pairs {twice!r} twice; a joint has one mirror image"
    if twice := _repeated(members):
        yield f"groups names {twice!r} twice; a joint counts in one group"
    if twice := _repeated(file.upper_body):
        yield f"upper_body names {twice!r} twice"
    for joint in file.joints:
        if joint not in members:
            yield f"groups leaves out {joint!r}, which would count in no average; put it into a group"
        if joint not in file.sigmas:
            yield f"sigmas has no value for {joint!r}"


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _explain(error: dict[str, Any]) -> str:
    """One pydantic error in words: the key, what is wrong, what would be right."""
    # positions in lists say less than the value; pydantic marks what is wrong with a mapping's key as "[key]"
    where, given = ".".join(part for part in error["loc"] if isinstance(part, str) and part != "[key]"), error["input"]
    if error["type"] in ("extra_forbidden", "invalid_key"):
        valid = list(JointSetFile.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), valid, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
        return f"unknown key {error['loc'][-1]!r}; {hint}"
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return f"{where} is missing"
    if error["type"] in ("missing", "too_long"):
        return f"{where} needs pairs of joints, not {given!r}"
    if error["type"] == "too_short":
        return f"{where} is empty"
    if error["type"] == "string_too_short":
        return f"{where}: a name is empty"
    if error["type"] == "value_error":
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    wanted = error["msg"].removeprefix("Input ").replace("tuple", "list").replace("dictionary", "mapping of names")
    quote = "; put it in quotes" if error["type"] == "string_type" and not isinstance(given, list | dict) else ""
    none = "; write [] for none" if given is None and wanted.endswith("list") else ""
    return f"{where} {wanted}, not {given!r}{quote}{none}"
