"""Tensors of Cascade R-CNN checkpoints into our network: mmdetection's names, ours, and which network they are of.

mmdetection 2.x and 3.x spell them alike. Ours are the names of `CascadeRCNN.state_dict()`, as training saves them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from glpose.models.cascade_rcnn import ARCHITECTURES, STAGE_STDS, CascadeRCNN
from glpose.models.checkpoints import misfits
from store.errors import CheckpointError

# Our name's start -> mmdetection's. All tensors are equal under both names, in shape and in order.
KEY_MAP = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"roi_heads\.box_head\.(\d)\.fc6\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
    (r"roi_heads\.box_head\.(\d)\.fc7\.", r"roi_head.bbox_head.\1.shared_fcs.1."),
    (r"roi_heads\.box_predictor\.(\d)\.cls_score\.", r"roi_head.bbox_head.\1.fc_cls."),
    (r"roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"roi_head.bbox_head.\1.fc_reg."),
)

# Tells a Cascade R-CNN in either spelling, and what stands before its names.
CASCADE_TENSOR = re.compile(r"(|.*?\.)(?:rpn_head|roi_head\.bbox_head\.\d|rpn\.head|roi_heads)\.")
OUR_TENSOR = re.compile(r"(rpn\.head|roi_heads)\.")
# Within these every tensor must be known (others would change the boxes); anything else is left out, and so are masks.
CASCADE_MODULE = re.compile(r"(backbone|neck|rpn_head|roi_head|rpn|roi_heads)\.(?!mask_head\.)")


def mmdetection_name(name: str) -> str:
    """The name in mmdetection of a tensor of `CascadeRCNN.state_dict()`. ValueError for other names."""
    for ours, theirs in KEY_MAP:
        if (match := re.match(ours, name)) is not None:
            return match.expand(theirs) + name[match.end() :]
    raise ValueError(f"{name!r} is no tensor of CascadeRCNN")


def cascade_from_tensors(tensors: Mapping[str, Tensor], where: str) -> CascadeRCNN:
    """The network that a checkpoint's tensors are of: float32, CPU, eval mode, sharing no memory with them.

    where: the checkpoint's name in messages. Raises CheckpointError for tensors that are missing, misshapen or, within
    the network's own modules, unknown, under the names that the checkpoint uses. num_batches_tracked may be missing.
    """
    prefixes = sorted({match[1] for name in tensors if (match := CASCADE_TENSOR.match(name))})
    if not prefixes:
        raise CheckpointError(f"{where} holds no R-CNN")
    if len(prefixes) > 1:
        names = ", ".join(prefixes)
        raise CheckpointError(f"{where} holds {len(prefixes)} detectors, under {names}: pass a dict of one")
    start = len(prefixes[0])
    own = {name[start:]: tensor for name, tensor in tensors.items() if name.startswith(prefixes[0])}
    own = {name: tensor for name, tensor in own.items() if CASCADE_MODULE.match(name)}
    ours = any(OUR_TENSOR.match(name) for name in own)

    architecture, num_classes = _architecture(own, where), _num_classes(own)
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
        model = CascadeRCNN(architecture, num_classes)
    spelling = {name: name if ours else mmdetection_name(name) for name in model.state_dict()}
    if problems := misfits(own, {spelling[name]: tensor for name, tensor in model.state_dict().items()}):
        raise CheckpointError(
            f"{where} does not fit Cascade R-CNN on {architecture} with {num_classes} classes: tensors {problems}"
        )
    counter = torch.zeros((), dtype=torch.int64)
    values = {
        name: own.get(spelling[name], counter).detach().to("cpu", blank.dtype, copy=True)
        for name, blank in model.state_dict().items()
    }
    model.load_state_dict(values, assign=True)
    return model.eval()


def _architecture(tensors: Mapping[str, Tensor], where: str) -> str:
    """The name in ARCHITECTURES of the backbone. CheckpointError for one that we do not build."""
    blocks = [int(match[1]) for name in tensors if (match := re.match(r"backbone\.(?:body\.)?layer3\.(\d+)\.", name))]
    depth = max(blocks, default=-1) + 1
    is_conv2 = re.compile(r"backbone\.(body\.)?layer1\.\d\.conv2\.weight")
    convs = sorted({tuple(tensor.shape) for name, tensor in tensors.items() if is_conv2.fullmatch(name)})
    for name, kind in ARCHITECTURES.items():
        inner = kind.groups * kind.width_per_group * kind.stem // 64
        if kind.layers[2] == depth and (inner, inner // kind.groups, 3, 3) in convs:
            return name
    raise CheckpointError(
        f"{where} has another backbone than {', '.join(ARCHITECTURES)}: "
        f"{depth} blocks in layer3, conv2 of layer1 {' or '.join(map(str, convs)) or 'missing'}"
    )


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    """Classes besides the background, as most of the box heads' tensors have it; 80 where all are missing."""
    names = [f"roi_heads.box_predictor.{stage}.cls_score." for stage in range(len(STAGE_STDS))]
    rows = Counter(
        tensors[spelled].shape[0]
        for name in names
        for leaf in ("weight", "bias")
        for spelled in (name + leaf, mmdetection_name(name + leaf))
        if spelled in tensors and tensors[spelled].ndim and tensors[spelled].shape[0] > 1
    )
    return rows.most_common(1)[0][0] - 1 if rows else 80
