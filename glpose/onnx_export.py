"""Trained heads as an ONNX file, for runtimes other than torch; compared with onnxruntime before it is kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from glpose.models.glpose import GLPoseHeads
from store.atomic import replacing
from store.errors import CheckpointError, ConfigError

OPSET = 18  # not torch's newest, for runtimes that are older
TOLERANCE = 1e-4  # of heatmaps, whose targets have peak 1


class _ByName(nn.Module):
    """Heads whose inputs may be left out where there are none of them."""

    def __init__(self, heads: GLPoseHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        key: Tensor,
        local: Tensor | None = None,
        references: Tensor | None = None,
        similarity: Tensor | None = None,
    ) -> Tensor:
        no_maps, no_values = key[:, None][:, :0], key[:, :0, 0, 0]
        return self.heads(
            key,
            no_maps if local is None else local,
            no_maps if references is None else references,
            no_values if similarity is None else similarity,
        )


def input_shapes(heads: GLPoseHeads, channels: int, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes, without the batch, of what the heads read, by the names of the arguments of `GLPoseHeads.forward`.

    size: (H, W) of the maps. Heads without local frames or references, or fed copies of the key frame, read less.
    """
    options, maps = heads.options, (channels, *size)
    shapes: dict[str, tuple[int, ...]] = {"key": maps}
    if heads.offsets and options.inputs == "features":
        shapes["local"] = (len(heads.offsets), *maps)
    if options.n and options.inputs == "features":
        shapes["references"] = (options.n, *maps)
        shapes["similarity"] = (options.n, channels) if options.per_channel else (options.n,)
    return shapes


def write_onnx(
    heads: GLPoseHeads, channels: int, size: tuple[int, int], path: Path, metadata: Mapping[str, str]
) -> float:
    """Write heads in eval mode to `path`: named float32 inputs of any batch, output `heatmaps` (B, J, H, W).

    size: (H, W) of the maps. Returns the largest difference between onnxruntime's heatmaps and torch's, of random maps.
    ConfigError where the packages are not installed, CheckpointError where the difference is above 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError:
        raise ConfigError("export --onnx needs the extra onnx: pip install -e '.[onnx]' in the checkout") from None
    model = _ByName(heads.cpu()).eval()
    shapes = input_shapes(heads, channels, size)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch to its own developers
        program = torch.onnx.export(
            model, (), kwargs=_random_inputs(shapes, 2), dynamic_shapes={name: {0: batch} for name in shapes},
            output_names=["heatmaps"], opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    if program is None:
        raise CheckpointError("torch made no ONNX program of the heads")
    program.model.metadata_props.update(metadata)
    inputs = _random_inputs(shapes, 3)
    with torch.inference_mode():
        wanted = model(**inputs)
    with replacing(path) as temporary:
        program.save(temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        difference = float((torch.from_numpy(found) - wanted).abs().max())
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{path} is not written: onnxruntime's heatmaps differ from torch's by {difference:.2g}, more than "
                f"{TOLERANCE:g}"
            )
    return difference


def _random_inputs(shapes: Mapping[str, tuple[int, ...]], batch: int) -> dict[str, Tensor]:
    """Maps from 0 to 1; the last reference of the first sample is missing."""
    draw = torch.Generator().manual_seed(0)
    inputs = {name: torch.rand(batch, *shape, generator=draw) for name, shape in shapes.items()}
    if "similarity" in inputs:
        inputs["similarity"][0, -1] = -torch.inf
        inputs["references"][0, -1] = 0
    return inputs
