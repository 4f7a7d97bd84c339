"""What Cascade R-CNN learns from: which regions are people, which are not, and the losses of its RPN and three heads.

Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018, with the values of mmdetection's `cascade_rcnn_r50_fpn`, but for
two: all anchors take part, also those across the image's edge, and the heads choose among 1,000 proposals, as when
detecting.
Boxes are (x1, y1, x2, y2) px of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, box_iou

from glpose.models.cascade_rcnn import PERSON, PROPOSAL_STDS, STAGE_STDS, CascadeRCNN, encode_boxes

RPN_POSITIVE, RPN_NEGATIVE = 0.7, 0.3  # IoU with a person: at least, below
RPN_SAMPLES, RPN_POSITIVE_SHARE = 256, 0.5
RPN_BETA = 1 / 9  # of the smooth L1 loss

STAGE_IOU = (0.5, 0.6, 0.7)
STAGE_WEIGHTS = (1.0, 0.5, 0.25)
POSITIVE_SHARE = 0.25
IGNORED_SHARE = 0.5  # of a box within an ignored region, above which it is nobody's counterexample


class People(NamedTuple):
    """One image's annotation: boxes of n people, and of m regions in which people may be unannotated."""

    boxes: Tensor  # (n, 4)
    ignored: Tensor  # (m, 4)


class Sample(NamedTuple):
    """Chosen boxes of one image: the positive ones first."""

    rows: Tensor  # (s,) int64
    people: Tensor  # (positives,) int64, whom each positive one shows


def cascade_losses(
    model: CascadeRCNN, images: Tensor, people: Sequence[People], regions: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Losses of a batch by name; their sum is to be minimised.

    images: (B, 3, H, W) normalised, as `to_input` makes them; H and W multiples of 32. people: of each image, clipped
    to it. regions: drawn per image for each head. generator: on the CPU, draws them.
    """
    image_size = (images.shape[2], images.shape[3])
    levels = list(model.backbone(images).values())
    predicted = model.rpn.predict(levels)
    anchors = torch.cat([level.anchors for level in predicted])
    logits = torch.cat([level.logits for level in predicted], dim=1)  # (B, A)
    deltas = torch.cat([level.deltas for level in predicted], dim=1)  # (B, A, 4)
    losses = _rpn_losses(anchors, logits, deltas, people, generator)
    with torch.no_grad():
        proposals = [boxes for boxes, _ in model.rpn.propose(predicted, image_size)]
    levels = [level.float() for level in levels]
    return losses | _head_losses(model, levels, proposals, people, image_size, regions, generator)


def match(boxes: Tensor, people: People, positive: float, negative: float, each_person: bool) -> Tensor:
    """Whom each box (N, 4) shows: (N,) int64, the person of largest IoU, -1 nobody, -2 what is not to be said.

    positive: the least IoU of a match. negative: the largest of nobody's box. each_person: the boxes nearest to a
    person, of an IoU of `negative` at least, show it in any case.
    """
    nobody = boxes.new_full((len(boxes),), -1, dtype=torch.int64)
    if len(people.ignored):
        shared = share_within(boxes, people.ignored).amax(dim=1)
        nobody[shared > IGNORED_SHARE] = -2
    if not len(people.boxes):
        return nobody
    iou = box_iou(boxes, people.boxes)  # (N, n)
    best, person = iou.max(dim=1)
    found = torch.where(best >= negative, torch.full_like(nobody, -2), nobody)
    found = torch.where(best >= positive, person, found)
    if each_person:
        nearest = iou.amax(dim=0)  # (n,)
        rows, owners = torch.nonzero((iou == nearest) & (nearest >= negative), as_tuple=True)
        found[rows] = owners
    return found


def share_within(boxes: Tensor, regions: Tensor) -> Tensor:
    """(N, m) share of each box (N, 4) that lies within each region (m, 4)."""
    low = torch.maximum(boxes[:, None, :2], regions[:, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    return (high - low).clamp(min=0).prod(dim=2) / box_area(boxes).clamp(min=1e-6)[:, None]


def draw(matched: Tensor, count: int, positive_share: float, generator: torch.Generator) -> Sample:
    """At most `count` boxes at random, people's up to their share, nobody's for the rest. matched: (N,) of `match`."""
    positive, negative = torch.nonzero(matched >= 0)[:, 0], torch.nonzero(matched == -1)[:, 0]
    positive = _some(positive, int(count * positive_share), generator)
    negative = _some(negative, count - len(positive), generator)
    return Sample(torch.cat([positive, negative]), matched[positive])


def _some(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]


def _rpn_losses(
    anchors: Tensor, logits: Tensor, deltas: Tensor, people: Sequence[People], generator: torch.Generator
) -> dict[str, Tensor]:
    chosen, wanted, moved, targets = [], [], [], []
    for own, own_logits, own_deltas in zip(people, logits, deltas, strict=True):
        matched = match(anchors, own, RPN_POSITIVE, RPN_NEGATIVE, each_person=True)
        sample = draw(matched, RPN_SAMPLES, RPN_POSITIVE_SHARE, generator)
        positives = len(sample.people)
        chosen.append(own_logits[sample.rows])
        wanted.append((torch.arange(len(sample.rows), device=logits.device) < positives).float())
        moved.append(own_deltas[sample.rows[:positives]])
        targets.append(encode_boxes(anchors[sample.rows[:positives]], own.boxes[sample.people], PROPOSAL_STDS))
    count = max(1, sum(map(len, chosen)))
    right = F.binary_cross_entropy_with_logits(torch.cat(chosen), torch.cat(wanted), reduction="sum") / count
    place = F.smooth_l1_loss(torch.cat(moved), torch.cat(targets), beta=RPN_BETA, reduction="sum") / count
    return {"rpn_class": right, "rpn_box": place}


def _head_losses(
    model: CascadeRCNN,
    levels: Sequence[Tensor],
    proposals: list[Tensor],
    people: Sequence[People],
    image_size: tuple[int, int],
    regions: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Each head learns from the boxes that the one before has made; annotated boxes are among the candidates of all."""
    losses = {}
    for stage, (iou, weight) in enumerate(zip(STAGE_IOU, STAGE_WEIGHTS, strict=True)):
        boxes, wanted, classes, given = [], [], [], []
        for own, candidates in zip(people, proposals, strict=True):
            candidates = torch.cat([own.boxes, candidates])
            sample = draw(match(candidates, own, iou, iou, each_person=False), regions, POSITIVE_SHARE, generator)
            boxes.append(candidates[sample.rows])
            wanted.append(own.boxes[sample.people])
            labels = torch.full_like(sample.rows, model.num_classes)  # the background is the last class
            labels[: len(sample.people)] = PERSON
            classes.append(labels)
            given.append(sample.rows < len(own.boxes))
        images = torch.cat([torch.full_like(labels, image) for image, labels in enumerate(classes)])
        labels, regions_px = torch.cat(classes), torch.cat(boxes)
        refined = model.roi_heads.refine(stage, levels, regions_px, images, image_size)
        count = max(1, len(labels))
        people_rows = labels == PERSON
        targets = encode_boxes(regions_px[people_rows], torch.cat(wanted), STAGE_STDS[stage])
        right = F.cross_entropy(refined.logits, labels, reduction="sum") / count
        place = F.smooth_l1_loss(refined.deltas[people_rows], targets, reduction="sum") / count
        losses[f"class_{stage + 1}"], losses[f"box_{stage + 1}"] = weight * right, weight * place
        made = refined.boxes.detach()
        kept = ~torch.cat(given)  # what was annotated stays out: the next head gets it as it is
        proposals = [made[kept & (images == image)] for image in range(len(people))]
    return losses
