"""The kinds of fault that a data set can have: those that stop a run or falsify its numbers, and those to know of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of fault. words: what is counted. stops: a run would stop, or its numbers would be wrong."""

    words: str
    stops: bool


KINDS = {
    "unusable": Kind("videos that cannot be opened", True),
    "unscorable": Kind("annotations that cannot be scored", True),
    "box_file": Kind("box files that cannot be used", True),
    "shifted": Kind("videos whose images are numbered otherwise than the annotation says", True),
    "missing": Kind("frames without an image", True),
    "unreadable": Kind("images that are cut off or cannot be read", True),
    "damaged": Kind("images with damage that decodes to something else", True),
    "twice": Kind("frames whose image the annotation names twice", True),
    "size": Kind("images of another size", True),
    "misfit": Kind("videos with most boxes outside the frame", True),
    "counts": Kind("counts other than the published ones", False),
    "numbering": Kind("videos not numbered as the format has it", False),
    "gaps": Kind("videos whose frame numbers do not rise by one", False),
    "unlisted": Kind("videos with images that the annotation does not list", False),
    "nframes": Kind("videos whose nframes is not the number of frames listed", False),
    "no_mask": Kind("clips with boxes of the joints, for want of puppet masks", False),
    "no_box": Kind("frames without a box in the box file", False),
    "unknown": Kind("images of the box file that are no frame", False),
    "no_area": Kind("boxes without area, or not finite (detect leaves them out)", False),
    "outside": Kind("boxes outside the frame (detect leaves them out)", False),
    "beyond": Kind("boxes more than half outside the frame", False),
    "no_joints": Kind("people without joints", False),
    "far_joint": Kind("joints more than a frame's width outside the frame", False),
    "same_track": Kind("track ids twice in a frame", False),
    "no_head": Kind("people with joints but no head box (scoring matches nothing to them)", False),
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    kind: of KINDS. video: "" where it is of the whole data set. frame: 0-based; None: of the whole video. what: in
    words, with names and numbers.
    """

    kind: str
    video: str
    frame: int | None
    what: str


def px(size: tuple[int, int]) -> str:
    """(height, width) in words."""
    return f"{size[1]} x {size[0]} px"
