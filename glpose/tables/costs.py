"""What heads cost beside their accuracy: parameters, floating-point operations, stored bytes, and time here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from glpose.data.resident import map_bytes, positions_within
from glpose.extraction import local_offsets
from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet
from glpose.options import HeadOptions
from glpose.tables.table import Cell, Column, Table
from store.schema import FeatureSchema

REPEATS = 5  # timed passes, of which the median counts
CONVENTION = "one multiply-add is 2 FLOPs; convolutions and matrix products are counted, nothing else"


@dataclass(frozen=True)
class Costs:
    """Of one variant of the heads, per proposal.

    flops: of a forward pass. bytes: of the maps of its own, key and local, that it reads. backbone_flops: of the crops
    that these are of; None where the backbone is no HRNet.
    """

    parameters: int
    flops: int
    backbone_flops: int | None
    bytes: int


def head_costs(heads: HeadOptions, schema: FeatureSchema, num_joints: int) -> Costs:
    """Count what heads on features of this schema cost; nothing is computed (meta tensors)."""
    own = 1 + (len(_offsets(heads)) if heads.inputs == "features" else 0)
    with torch.device("meta"):
        model = _model(heads, schema, num_joints)
        flops = count_flops(model, *_inputs(torch.empty(1, _maps(heads), *schema.map_shape), heads))
    crop = backbone_flops(schema)
    return Costs(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        backbone_flops=None if crop is None else own * crop,
        bytes=own * map_bytes(schema),
    )


def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of a forward pass, by `CONVENTION`."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()


def backbone_flops(schema: FeatureSchema) -> int | None:
    """Operations of one crop through an HRNet up to the features that are stored; None for another backbone."""
    if not schema.backbone.startswith("hrnet_w"):
        return None
    with torch.device("meta"):
        net = HRNet(schema.channels, num_joints=1, stages=3).eval()
        crop = torch.empty(1, 3, schema.height * schema.stride, schema.width * schema.stride)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            net.features(crop)
    return counter.get_total_flops()


def frames_per_second(
    variants: Mapping[str, HeadOptions], schema: FeatureSchema, num_joints: int, device: torch.device, batch_size: int
) -> dict[str, float]:
    """Key frames of one person each that heads take a second on this device, in batches, by variant.

    Passes of all variants take turns, so that all are measured at the same load of the machine; medians count.
    """
    models = {name: _model(heads, schema, num_joints).to(device).eval() for name, heads in variants.items()}
    most = max(map(_maps, variants.values()))
    maps = torch.rand(batch_size, most, *schema.map_shape, device=device)
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(REPEATS + 1):  # the first ones warm up
            for name, model in models.items():
                inputs = _inputs(maps, variants[name])
                began = time.perf_counter()
                model(*inputs).sum().item()  # waits for a GPU
                times[name].append(time.perf_counter() - began)
    return {name: batch_size / statistics.median(own[1:]) for name, own in times.items()}


def cost_table(
    variants: Mapping[str, HeadOptions], schema: FeatureSchema, num_joints: int, device: torch.device, batch_size: int
) -> Table:
    """A row per variant: name -> heads. Frames per second are measured now, on `device`."""
    speeds = frames_per_second(variants, schema, num_joints, device, batch_size)
    rows: list[dict[str, Cell]] = []
    for name, heads in variants.items():
        costs = head_costs(heads, schema, num_joints)
        rows.append(
            {
                "variant": name,
                "k": heads.k,
                "n": heads.n,
                "parameters": costs.parameters,
                "gflops": costs.flops / 1e9,
                "backbone_gflops": None if costs.backbone_flops is None else costs.backbone_flops / 1e9,
                "frames_per_second": speeds[name],
                "bytes_per_proposal": costs.bytes,
            }
        )
    columns = [
        Column("variant", "variant"),
        Column("k", "k"),
        Column("n", "n"),
        Column("parameters", "parameters"),
        Column("gflops", "GFLOPs", digits=3),
        Column("backbone_gflops", "backbone GFLOPs", digits=3),
        Column("frames_per_second", "frames/s"),
        Column("bytes_per_proposal", "store bytes"),
    ]
    where = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    about = {
        "device": where,
        "threads": str(torch.get_num_threads()),
        "batch": str(batch_size),
        "backbone": schema.backbone,
        "dtype": schema.dtype,
    }
    notes = [
        f"GFLOPs: {CONVENTION}",
        "all but parameters are per proposal (one person in one key frame): GFLOPs and frames/s of the heads alone; "
        "backbone GFLOPs and store bytes of its own key and local crops, computed once (references are others' maps)",
    ]
    return Table("costs", "What the heads cost", columns, rows, about, "", notes)


def _offsets(heads: HeadOptions) -> tuple[int, ...]:
    """Of the local frames that heads see."""
    offsets = local_offsets(heads.k)
    return tuple(offsets[position] for position in positions_within(offsets, heads.k, heads.causal))


def _maps(heads: HeadOptions) -> int:
    return 1 + len(_offsets(heads)) + heads.n


def _model(heads: HeadOptions, schema: FeatureSchema, num_joints: int) -> GLPoseHeads:
    return GLPoseHeads(schema.channels, num_joints, _offsets(heads), heads)


def _inputs(maps: Tensor, heads: HeadOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What heads are given, of maps (B, M, C, H, W): the first one as key, then local ones, then references."""
    local, end = 1 + len(_offsets(heads)), _maps(heads)
    channels = (maps.shape[2],) if heads.per_channel else ()
    return maps[:, 0], maps[:, 1:local], maps[:, local:end], maps.new_ones(len(maps), heads.n, *channels)
