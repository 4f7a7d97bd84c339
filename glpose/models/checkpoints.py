"""Checkpoints: other people's files into our networks, our own as safetensors, and digests that name weights.

Every file is read as plain tensors; nothing in it is executed. HRNet weights load from every layout in public use:

    source                           layout                        HRNet's names stand after
    official pose_hrnet_*.pth        flat                          nothing
    official checkpoint.pth          best_state_dict, state_dict   nothing, module.
    mmpose                           meta, state_dict              backbone.; its head's after head. or keypoint_head.
    DCPose, PoseWarper, their kin    flat or state_dict            module., rough_pose_estimation_net., ...
    timm, ImageNet classifiers       flat                          nothing; there is no layer for heatmaps
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from glpose.models.glpose import GLPoseHeads
from glpose.models.hrnet import HRNet
from glpose.options import HeadOptions
from store.atomic import replacing
from store.errors import CheckpointError

if TYPE_CHECKING:
    from glpose.models.cascade_rcnn import CascadeRCNN

# Weights that come with the package: name -> path inside it.
SHIPPED = {
    "demo": "weights/hrnet_demo.safetensors",
    "demo-detector": "weights/cascade_rcnn_demo.safetensors",
    "demo-heads": "weights/heads_demo.safetensors",
}
PACKAGE = Path(__file__).parent.parent

HEADS_METADATA = ("heads", "channels", "offsets", "joints", "num_joints", "backbone", "space")

WRAPPERS = ("best_state_dict", "state_dict", "model")  # where training checkpoints keep their tensors; the first wins

# Tells an HRNet, and what stands before its names.
HRNET_TENSOR = re.compile(r"(|.*\.)stage2\.\d+\.branches\.0\.\d+\.conv\d\.weight")
# Its own modules: within them every tensor must be known, anything else belongs to other networks and is left out.
HRNET_MODULE = re.compile(r"(conv1|bn1|conv2|bn2|layer1|transition[123]|stage[234]|final_layer)\.")
# Known parts of its kin that we do not build: further fusion rows of the last module, the classifier's final_layer.
HRNET_UNUSED = re.compile(r"stage4\.2\.fuse_layers\.[123]\.|final_layer\.\d+\.")
# Tells a whole network from one that ends at the features: stage 4 and what only stage 4 reads.
HRNET_STAGE4 = re.compile(r"stage3\.3\.fuse_layers\.[12]\.|transition3\.|stage4\.")


class _Skipped:
    """Stands in for what training checkpoints hold beside tensors: numpy's scores and colours, mmengine's logs."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Unpickled as `_Skipped`, never as what they are: an unpickled dtype can be forged into one that reads any address.
_SKIPPED_VALUES: list[Any] = [
    (_Skipped, "numpy.dtype"),
    (_Skipped, "numpy.ndarray"),
    (_Skipped, "numpy.core.multiarray.scalar"),  # numpy 1
    (_Skipped, "numpy.core.multiarray._reconstruct"),
    (_Skipped, "numpy._core.multiarray.scalar"),  # numpy 2
    (_Skipped, "numpy._core.multiarray._reconstruct"),
    (_Skipped, "mmengine.logging.history_buffer.HistoryBuffer"),  # in every training checkpoint of mmdetection 3.x
    (_Skipped, "builtins.getattr"),  # by which that pickles its methods; nothing is looked up
]


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """The file that a name of SHIPPED or a path means. CheckpointError where there is none."""
    if isinstance(name_or_path, str) and name_or_path in SHIPPED:
        path = PACKAGE / SHIPPED[name_or_path]
        if not path.is_file():
            raise CheckpointError(
                f"the shipped checkpoint {name_or_path!r} is not in this installation: {path} is missing"
            )
        return path
    path = Path(name_or_path)
    if not path.is_file():
        what = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}; shipped checkpoints are: {', '.join(SHIPPED)}")
    return path


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read name -> tensor, on the CPU, from a safetensors file or a torch.save file of any layout above.

    Only tensors are read: a pickle that needs other objects is refused. Raises CheckpointError, naming the path, for a
    file that is missing, truncated, damaged, refused or without tensors.
    """
    path = resolve_checkpoint(path)
    try:
        with open(path, "rb") as handle:
            start = handle.read(2)
        if start == b"PK" or start[:1] == b"\x80":  # a zip archive, or the bare pickle of torch < 1.6
            with torch.serialization.safe_globals(_SKIPPED_VALUES):
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = safetensors.torch.load_file(path)
    except Exception as error:  # damaged bytes raise anything: EOFError, struct.error, KeyError, RuntimeError, ...
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign:
            raise CheckpointError(
                f"{path} is refused: it holds a {foreign[1]}, and unpickling more than tensors can run any code.\n"
                "If you trust it, load it with torch.load(..., weights_only=False) and save its state_dict alone."
            ) from None
        reason = re.sub(r"(?s).*WeightsUnpickler error:", "", str(error)).strip().split("\n")[0]
        raise CheckpointError(
            f"{path} is not a whole checkpoint (safetensors or torch.save): {reason or type(error).__name__}"
        ) from error
    return _unwrap(content, str(path))


def _unwrap(content: Any, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, be they flat or one level down."""
    if isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        for candidate in (*inner, content):
            tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
    raise CheckpointError(f"{source} holds no state dict: no tensors by name, flat or under {', '.join(WRAPPERS)}")


def load_hrnet(source: str | Path | Mapping[str, Any], *, width: int | None = None) -> HRNet:
    """Build the HRNet that a checkpoint holds: float32, CPU, eval mode, sharing no memory with its source.

    source: a file, a name of SHIPPED, or the dict that such a file holds. Width, joints and stages (3 for our small
    networks, which end at the features) are read from the tensors. Without a final_layer, as in classifiers, num_joints
    is 0: `features` works and `forward` raises. width: what the caller needs, checked.

    Raises CheckpointError for a file that `read_state_dict` refuses, another width, or tensors that are missing,
    misshapen or, within HRNet's own modules, unknown. num_batches_tracked may be missing.
    """
    if isinstance(source, Mapping):
        where, tensors = "the state dict", _unwrap(source, "the state dict")
    else:
        where, tensors = str(source), read_state_dict(source)
    tensors, found_width = _hrnet_tensors(tensors, where)
    if width is not None and found_width != width:
        raise CheckpointError(f"{where}: the checkpoint is W{found_width}, W{width} was asked for")

    stages = 4 if any(HRNET_STAGE4.match(name) for name in tensors) else 3
    joints = tensors["final_layer.weight"].shape[0] if "final_layer.weight" in tensors else 0
    with torch.random.fork_rng(devices=[]):  # loading must not change what is drawn after it
        model = HRNet(found_width, joints, stages)
    expected = model.state_dict()
    if listed := misfits(tensors, expected):
        raise CheckpointError(f"{where} does not fit HRNet-W{found_width} with {stages} stages: tensors {listed}")
    model.load_state_dict(expected | tensors)  # copies, and converts half precision; counters may be the new network's
    return model.eval()


def _hrnet_tensors(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], int]:
    """HRNet's tensors out of a checkpoint's, under their official names, and the network's width."""
    matches = [match for name in tensors if (match := HRNET_TENSOR.fullmatch(name)) and tensors[name].ndim == 4]
    prefixes = sorted({match[1] for match in matches})
    if not prefixes:
        raise CheckpointError(f"{where} holds no HRNet; its tensors: {_some('in all', list(tensors))}")
    if len(prefixes) > 1:
        raise CheckpointError(f"{where} holds {len(prefixes)} HRNets, under {', '.join(prefixes)}: pass a dict of one")
    prefix = prefixes[0]
    root = prefix.removesuffix("backbone.")
    heads = [root + "head.", root + "keypoint_head."] if root != prefix else []

    found = {}
    for name, tensor in tensors.items():
        own = name[len(prefix) :] if name.startswith(prefix) else ""
        for head in heads:
            if name.startswith(head + "final_layer."):
                own = name[len(head) :]
        if HRNET_MODULE.match(own) and not HRNET_UNUSED.match(own):
            found[own] = tensor
    return found, tensors[matches[0][0]].shape[0]


def _some(what: str, names: Sequence[str]) -> str:
    """'12 missing (a, b, c, ...)', or nothing."""
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def feature_tensors(model: HRNet) -> dict[str, Tensor]:
    """The tensors that `model.features` uses in eval mode, by official name: what identifies a feature space.

    The same for a whole network and for its cut (stages=3); num_batches_tracked and final_layer are not among them.
    Raises CheckpointError for a network whose batch norms are folded.
    """
    with torch.random.fork_rng(devices=[]):
        names = [name for name in HRNet(1, num_joints=0, stages=3).state_dict() if "num_batches_tracked" not in name]
    tensors = model.state_dict()
    if any(name not in tensors for name in names):
        raise CheckpointError("the HRNet's batch norms are folded: take its feature tensors before fold_batch_norm")
    return {name: tensors[name] for name in names}


def tensors_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hex digits, of names in sorted order, dtypes, shapes and values; device and strides do not matter."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata as safetensors; a reader sees the old file or the new one, never a part of either."""
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    data = _in_order(safetensors.torch.save(own, dict(metadata)))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(data)


def _in_order(data: bytes) -> bytes:
    """Safetensors bytes with their metadata sorted: the library's order is random, and equal contents must give equal
    bytes.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata that `save_checkpoint` wrote. CheckpointError for a file that is not whole safetensors."""
    path = resolve_checkpoint(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def read_heads_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of heads as `train` saved them. CheckpointError where the file holds none."""
    metadata = read_metadata(path)
    if missing := [key for key in HEADS_METADATA if key not in metadata]:
        raise CheckpointError(f"{path} holds no GLPose heads (no {missing[0]!r} in its metadata); is it a backbone?")
    return metadata


def read_head_options(path: str | Path) -> HeadOptions:
    """What heads are like, as `train` saved them. CheckpointError where the file holds none, or they are malformed."""
    try:
        return HeadOptions.model_validate_json(read_heads_metadata(path)["heads"])
    except ValueError as error:  # pydantic's
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: what it says of its heads is malformed ({reason}); train again") from None


def load_heads(path: str | Path, *, space: str) -> GLPoseHeads:
    """Heads as `train` saved them, in eval mode. space: the feature-space id of the features they are to read.

    CheckpointError where the file holds no heads, or heads trained on features of another space.
    """
    metadata = read_heads_metadata(path)
    if metadata["space"] != space:
        raise CheckpointError(
            f"{path} was trained on features of {metadata['backbone']} (space {metadata['space'][:12]}); these "
            f"features are of space {space[:12]}: extract with that backbone, or train again"
        )
    try:
        options = HeadOptions.model_validate_json(metadata["heads"])
        offsets = tuple(json.loads(metadata["offsets"]))
        heads = GLPoseHeads(int(metadata["channels"]), int(metadata["num_joints"]), offsets, options)
        heads.load_state_dict(read_state_dict(path))
    except (ValueError, RuntimeError) as error:  # pydantic's and JSON's errors are ValueErrors
        raise CheckpointError(f"{path}: the heads do not fit their own description ({error}); train again") from None
    return heads.eval()


def load_cascade_rcnn(source: str | Path | Mapping[str, Any]) -> CascadeRCNN:
    """Build the Cascade R-CNN that a checkpoint holds: float32, CPU, eval mode, sharing no memory with its source.

    source: a file of mmdetection 2.x or 3.x or one of ours, or the dict that such a file holds. Backbone and number of
    classes are read from the tensors; the first class must be person. Mask heads are left out.

    Raises CheckpointError for a file that `read_state_dict` refuses, another network, tensors that are missing,
    misshapen or unknown, and mmdetection's caffe-style weights.
    """
    # Here, for torchvision takes a second to import and most users of this module need none of it.
    from glpose.models.cascade_checkpoints import cascade_from_tensors

    if isinstance(source, Mapping):
        return cascade_from_tensors(_unwrap(source, "the state dict"), "the state dict")
    if "caffe" in Path(source).name:  # their tensors have the same names and shapes, so only the name tells
        raise CheckpointError(
            f"{source} is of mmdetection's caffe style, which takes its input and its strides otherwise; "
            "take the checkpoint of the same name without caffe"
        )
    model = cascade_from_tensors(read_state_dict(source), str(source))
    if (size := _trained_size(source)) is not None:
        model.size = size
    return model


def _trained_size(path: str | Path) -> tuple[int, int] | None:
    """(long, short) px that `train-detector` fitted frames into; None for other people's files."""
    try:
        long, short = json.loads(read_metadata(path)["size"])
    except (CheckpointError, KeyError):
        return None
    return int(long), int(short)


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What keeps tensors from being the expected ones, as one line, or nothing: missing, misshapen, unknown.

    num_batches_tracked may be missing.
    """
    shapes = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    unknown = [name for name in tensors if name not in expected]
    found = [_some("missing", missing), _some("misshapen", shapes), _some("unknown", unknown)]
    return "; ".join(filter(None, found))
