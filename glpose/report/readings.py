"""What a person's weights, mask and errors come to, in a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glpose.options import HeadOptions, IndexOptions

MOST = 0.5  # of the weight: "most of it"
EVEN = 0.2  # of 1 / n: weights that are no farther from it are "almost even"
T_OF = {"inverse": "1 / |offset|", "linear": "k + 1 - |offset|", "exponential": "exp(1 - |offset|)", "uniform": "1"}
CHOSEN = {
    "most_similar": "the most similar by {features}",
    "least_similar": "a control: the least similar by {features}",
    "random": "a control: some drawn at random",
    "other_video": "a control: the most similar by {features}",
    "oracle": "a control: those whose true poses are nearest",
}
COMPARED = {"pooled": "their pooled features", "pose": "where the backbone sees their joints"}
WARPED = " Their features are warped onto the key frame's pose."
NEARLY = 0.05  # of an error: a change below it is none
SAME = 0.1  # px: likewise


def about_local(heads: HeadOptions) -> str:
    """What is to be known of the local crops of such heads."""
    if not heads.k:
        return "These heads use no local frames: the key frame is all that they see of this box."
    if heads.inputs == "key_copies":
        return "A control: in place of the frames before and after, these heads see copies of the key frame."
    which = "before" if heads.causal else "before and after"
    text = f"The same box in the frames {which}.{WARPED if heads.aligns else ''}"
    if not heads.weighted:
        return f"{text} A control: every frame weighs 1."
    total = ", made to sum to 1" if heads.normalise_local else ""
    return f"{text} A frame weighs {T_OF[heads.local_weight]} (T of Eq. 2){total}."


def about_references(heads: HeadOptions, index: IndexOptions) -> str:
    """What is to be known of the references of such heads, as `index` chose them."""
    if not heads.n:
        return "These heads use no references."
    pool = f"a pool of {index.pool}" if isinstance(index.pool, int) else "all"
    scope = "all videos of the split" if index.scope == "dataset" else "the video"
    near = f" more than {index.exclude_window} frames {'before' if index.causal else 'away'}"
    if index.select == "other_video":
        scope, near = "other videos", ""
    text = f"Of {pool} people of {scope}{near}, {CHOSEN[index.select].format(features=COMPARED[index.embedding])}."
    if heads.inputs == "key_copies":
        return f"{text} A control: the heads do not see them, but copies of the key frame, all of one weight."
    text += WARPED if heads.aligns else ""
    if not heads.weighted:
        return f"{text} A control: every reference weighs 1."
    means = " Each channel has weights of its own; these are their means." if heads.per_channel else ""
    return (
        f"{text} Weights are a softmax of the similarities (Eq. 3), so that differences count, not sizes: one that is "
        f"{heads.temperature:g} more similar weighs 2.7 times as much.{means}"
    )


def about_outcomes(heads: HeadOptions, flip: bool) -> str:
    """What is to be known of mask and heatmaps of such heads."""
    found = []
    if not heads.enhancement:
        found.append("These heads have no enhancement, so there is no mask.")
    elif heads.mask == "channel":
        found.append("Each channel has a mask of its own; what is shown is their mean.")
    if flip:
        found.append(
            "Heatmaps are means of the clean and the mirrored crop's (flip test), the mask is the clean one's."
        )
    return " ".join(found)


def of_weights(weights: np.ndarray, slots: int, same_person: Sequence[bool | None]) -> str:
    """On the weights (m,) of the references that are there, of so many slots. same_person: of each; None: not known."""
    if not slots:
        return "These heads use no references."
    if not len(weights):
        return "There are no references: nobody else was in the pool, so their slots hold zeros."
    share = weights / weights.sum()
    if len(share) == 1:
        text = "There is one reference"
    elif np.abs(share * len(share) - 1).max() <= EVEN:
        text = f"The non-local weight is spread almost evenly over {len(share)} references"
    elif share.max() >= MOST:
        text = f"{_most(share.max())} is on one reference"
    else:
        needed = int(np.searchsorted(np.cumsum(np.sort(share)[::-1]), 0.9) + 1)
        text = f"{needed} of {len(share)} references share nine tenths of the non-local weight"
    known = [same for same in same_person if same is not None]
    if not known:
        return f"{text}."
    return f"{text}; {_count(sum(known), len(known))} the same person at another time."


def of_errors(errors: Mapping[str, np.ndarray], labels: Mapping[str, str], joints: Sequence[str], size: float) -> str:
    """How far two sources' joints are off, and where they differ most.

    errors: of two sources, what is looked at first: (J,) px, NaN where not annotated. size: of the person, px.
    """
    (first, own), (second, other) = errors.items()
    if not np.isfinite(own).any():
        return "This person is not annotated: there is no error to tell."
    mean, before = float(np.nanmean(own)), float(np.nanmean(other))
    word = "the same" if _close(mean, before) else "better" if mean < before else "worse"
    change = np.where(np.isfinite(own), own - other, 0)
    joint = int(np.abs(change).argmax())
    share = f" ({percent(mean / size)} of the person's size)" if np.isfinite(size) else ""
    text = (
        f"{labels[first]}: joints are off by {mean:.1f} px{share}; {labels[second]}: {before:.1f} px, so it is {word}."
    )
    if abs(change[joint]) < SAME:
        return text
    name = joints[joint].replace("_", " ")
    return f"{text} Most changed: {name}, {other[joint]:.1f} to {own[joint]:.1f} px."


def of_sources(means: Mapping[str, float], whole: float) -> str:
    """What taking a source away does. means: what is left, in words -> mean error, px. whole: with everything, px."""
    found = []
    for words, mean in means.items():
        how = "almost nothing changes" if _close(mean, whole) else "it is worse" if mean > whole else "it is better"
        found.append(f"{words} {how} ({mean:.1f} px)")
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def of_mask(mask: np.ndarray, at_joints: np.ndarray, joints: Sequence[str]) -> str:
    """On a mask (H, W). at_joints: (J,) its values where the joints are, NaN outside of the crop."""
    low, high = float(mask.min()), float(mask.max())
    text = f"The mask lies between {low:.2f} and {high:.2f}, {mask.mean():.2f} on average"
    if not np.isfinite(at_joints).any():
        return f"{text}."
    joint = int(np.nanargmax(at_joints))
    name, value = joints[joint].replace("_", " "), at_joints[joint]
    return f"{text}; of the joints, {name} takes most from the aggregate ({value:.2f})."


def percent(share: float) -> str:
    """Such as 93 %, or 0.4 %; above 99 % with a digit more, as 100 % would say that nothing else is there."""
    digits = 0 if 0.01 <= share < 0.99 or share in (0, 1) else 1
    return f"{min(100 * share, 99.9) if share < 1 else 100 * share:.{digits}f} %"


def _most(share: float) -> str:
    if share >= 0.9995:
        return "All of the non-local weight"
    return f"{'Nearly all' if share >= 0.95 else 'Most'} of the non-local weight ({percent(share)})"


def _count(some: int, all_: int) -> str:
    if all_ == 1:
        return "it is" if some else "it is not"
    return f"{some} of {all_} references are" if some not in (0, all_) else "all are" if some else "none is"


def _close(one: float, other: float) -> bool:
    return abs(one - other) < max(SAME, NEARLY * other)
