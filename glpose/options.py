"""Every option and its default, in one place: frozen classes that refuse unknown keys. Imports nothing heavy.

Defaults follow the paper, or what it most defensibly means (docs/method.md); each ambiguous reading is a named option.
What changes a stage's outputs by more than rounding is in its record; speed settings, which never are, live in
`RuntimeOptions` and `ClusterOptions`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEMO_CLIPS = Path(__file__).parent / "data" / "rendered" / "demo"


class Options(BaseModel):
    """Base of all option classes: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _home(cls, value: Any) -> Any:
        """Paths may begin with ~, which no shell sees in a file or behind --set KEY=."""
        return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


# ------------------------------------------------------------------------------------------------------------- data
class SplitOptions(Options):
    """Which videos and frames make up the training or the evaluation split."""

    subset: str = Field(
        default="", description="subfolder of the annotations (PoseTrack: train, val, test); empty: none"
    )
    videos: str = Field(default="*", description="shell pattern of video names")
    frames: tuple[int, int | None] = Field(
        default=(0, None), description="first frame and end (exclusive; null: the last)"
    )

    @model_validator(mode="after")
    def _frames_in_order(self) -> SplitOptions:
        start, stop = self.frames
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"frames [{start}, {stop}] is not a range: give [first, end) with first >= 0")
        return self


class PoseTrack18Data(Options):
    """A PoseTrack18-style data set: `annotations/SUBSET/VIDEO.json` beside the images that they name."""

    kind: Literal["posetrack18"] = "posetrack18"
    root: Path = Field(description="the data set's folder")
    annotations: str = Field(default="annotations", description="folder of the annotation files, below root")
    train: SplitOptions | None = SplitOptions(subset="train")
    eval: SplitOptions | None = SplitOptions(subset="val")


class PoseTrack21Data(Options):
    """PoseTrack21: `posetrack_data/SUBSET/VIDEO.json` in PoseTrack18's form, beside the images that they name."""

    kind: Literal["posetrack21"] = "posetrack21"
    root: Path = Field(description="the data set's folder")
    annotations: str = Field(default="posetrack_data", description="folder of the annotation files, below root")
    train: SplitOptions | None = SplitOptions(subset="train")
    eval: SplitOptions | None = SplitOptions(subset="val")


class PoseTrack17Data(Options):
    """PoseTrack2017: `annotations/SUBSET/VIDEO.json` in the annolist form, or `.mat`, beside the images that they name.

    A `.mat` beside a JSON file of its name is not read. One that holds several videos gives each its own name, and its
    images are those of the folder of that name.
    """

    kind: Literal["posetrack17"] = "posetrack17"
    root: Path = Field(description="the data set's folder")
    annotations: str = Field(default="annotations", description="folder of the annotation files, below root")
    images: str = Field(default="", description="folder that image names are relative to, below root; empty: root")
    train: SplitOptions | None = SplitOptions(subset="train")
    eval: SplitOptions | None = SplitOptions(subset="val")


class JHMDBData(Options):
    """JHMDB or Sub-JHMDB as distributed; its split files say which clips are for training and which for testing."""

    kind: Literal["jhmdb"] = "jhmdb"
    root: Path = Field(description="the data set's folder")
    splits: Literal["sub_splits", "splits"] = Field(
        default="sub_splits", description="folder of the split files: Sub-JHMDB's 316 clips, or all 928"
    )
    split: int = Field(default=1, ge=1, le=3, description="which of the three splits; the paper averages over them")
    annotations: str = Field(default="joint_positions", description="folder of the joints, below root")
    images: str = Field(default="Rename_Images", description="folder of the frames, below root")
    videos: str = Field(
        default="ReCompress_Videos", description="folder of the clips as AVI, below root, for clips without PNGs"
    )
    masks: str = Field(default="puppet_mask", description="folder of the masks that boxes are taken from, below root")
    train: SplitOptions | None = SplitOptions()
    eval: SplitOptions | None = SplitOptions()

    @model_validator(mode="after")
    def _no_subset(self) -> JHMDBData:
        if any(split is not None and split.subset for split in (self.train, self.eval)):
            raise ValueError("`subset` has no meaning here: the split files say which clips are train and test")
        return self


class CocoData(Options):
    """Data of one's own: COCO-style `annotations/SUBSET.json`, of any number of videos, with a joint set of its own."""

    kind: Literal["coco"] = "coco"
    root: Path = Field(description="the data set's folder")
    joints: Path = Field(description="the joint set's YAML: names, flip pairs, groups, sigmas (docs/data.md)")
    annotations: str = Field(default="annotations", description="folder of the annotation files, below root")
    images: str = Field(default="", description="folder that image names are relative to, below root; empty: root")
    train: SplitOptions | None = SplitOptions(subset="train")
    eval: SplitOptions | None = SplitOptions(subset="val")


class FolderData(Options):
    """Video files and folders of images below `root`, or a list of them; no annotation, so nothing to train on."""

    kind: Literal["folder"] = "folder"
    root: Path = Field(default=Path("."), description="folder of the videos")
    files: tuple[str, ...] = Field(default=(), description="paths below root (or absolute); empty: everything in root")
    train: None = Field(default=None, description="always null")
    eval: SplitOptions | None = SplitOptions()


class RenderedData(Options):
    """Clips of skinned people, drawn by the `render` stage and then read as a PoseTrack18-style set.

    With `root` nothing is drawn, and the options below it are of no use.
    """

    kind: Literal["rendered"] = "rendered"
    root: Path | None = Field(
        default=None, description="folder of clips drawn before, or `demo`: those that ship (a folder: ./demo)"
    )
    train_clips: int = Field(default=8, ge=0, description="clips of the train split")
    eval_clips: int = Field(default=4, ge=0, description="clips of the eval split")
    train_set: Literal["pretrain", "train"] = Field(default="train", description="whose bodies and seeds to train on")
    eval_set: Literal["val", "test"] = Field(default="val", description="whose bodies and seeds to evaluate on")
    frames: int = Field(default=40, ge=1, description="of each clip")
    fps: float = Field(default=25.0, ge=1, le=240, description="frames a second: how far things move in between")
    height: int = Field(default=270, ge=64, description="px")
    width: int = Field(default=480, ge=64, description="px")
    people: tuple[int, int] = Field(default=(2, 4), description="least and most in a clip")
    occluders: tuple[int, int] = Field(default=(1, 4), description="least and most in a clip")
    hardness: float = Field(default=1.0, ge=0, le=3, description="factor on noise, defocus and compression")
    recurring: bool = Field(default=True, description="whether actions repeat within an evaluation clip")
    photos: Path | None = Field(default=None, description="folder of pictures to stand before; null: drawn scenes")
    label_every: int = Field(default=1, ge=1, description="frames of which one is annotated, as in PoseTrack's val: 4")
    encoding: Literal["jpeg", "mp4"] = Field(default="jpeg", description="an image per frame, or a file per clip")
    seed: int = Field(default=0, ge=0, description="of scenes, clothes and motion; added to that of the set")

    @field_validator("root", mode="before")
    @classmethod
    def _shipped(cls, value: Any) -> Any:
        return DEMO_CLIPS if value == "demo" else value

    @property
    def files(self) -> PoseTrack18Data:
        """How clips in a folder are read."""
        assert self.root is not None
        return PoseTrack18Data(root=self.root, eval=SplitOptions(subset="eval"))


DataOptions = Annotated[
    PoseTrack18Data | PoseTrack17Data | PoseTrack21Data | JHMDBData | CocoData | FolderData | RenderedData,
    Field(discriminator="kind"),
]


# ----------------------------------------------------------------------------------------------------------- stages
DETECTORS = frozenset({"cascade_rcnn", "torchvision", "python"})  # sources that look at the frames


class BoxOptions(Options):
    """Where the person boxes of one split come from."""

    source: Literal["annotations", "file", "cascade_rcnn", "torchvision", "python"] = Field(
        default="annotations", description="annotations, file, or a detector: cascade_rcnn, torchvision, python"
    )
    file: Path | None = Field(default=None, description="COCO results JSON, for `source: file`")

    @model_validator(mode="after")
    def _file_given(self) -> BoxOptions:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("`source: file` and `file: PATH` belong together")
        return self


class DetectorOptions(Options):
    """The detector, and what is kept of its boxes."""

    checkpoint: str | None = Field(
        default=None,
        description="its weights: a path, or `demo-detector`; cascade_rcnn: mmdetection's, or of train-detector",
    )
    model: str | None = Field(
        default=None, description="torchvision: fasterrcnn_resnet50_fpn_v2 ...; python: module:function"
    )
    size: tuple[int, int] | None = Field(
        default=None, description="long, short side, px, that frames are fitted into; null: the detector's own"
    )
    nms: float = Field(default=0.5, gt=0, le=1, description="of people who overlap by more (IoU) the best is kept")
    max_people: int | None = Field(default=None, ge=1, description="the best of every frame; null: all")
    cap_all_classes: bool = Field(
        default=False,
        description="cascade_rcnn: of all classes' 100 best boxes, as mmdetection; loses people in crowds",
    )
    every: int = Field(default=1, ge=1, description="look at frames 0, n, 2n, ... only; others show nobody")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of cascade_rcnn's layers"
    )


class DetectOptions(Options):
    """Person boxes: annotated ones by default; the paper validates on detections, DCPose's of score 0.2 or more."""

    train: BoxOptions = BoxOptions()
    eval: BoxOptions = BoxOptions()
    min_score: float = Field(default=0.2, ge=0, le=1, description="boxes below this score are dropped")
    detector: DetectorOptions = DetectorOptions()
    strict: bool = Field(
        default=False, description="fail a video with an unreadable frame, instead of going on; not part of the record"
    )

    @model_validator(mode="after")
    def _detector_given(self) -> DetectOptions:
        sources, detector = {self.train.source, self.eval.source}, self.detector
        if len(sources & DETECTORS) > 1:
            raise ValueError("train and eval take their boxes from two detectors: there is one `detector`")
        if "cascade_rcnn" in sources and detector.checkpoint is None:
            raise ValueError(
                "`source: cascade_rcnn` needs detector.checkpoint, a file of mmdetection or train-detector"
            )
        if "torchvision" in sources and (detector.model is None or detector.checkpoint is None):
            raise ValueError(
                "`source: torchvision` needs detector.model, such as fasterrcnn_resnet50_fpn_v2, "
                "and detector.checkpoint, its weights as a file"
            )
        if "python" in sources and (detector.model is None or ":" not in detector.model):
            raise ValueError("`source: python` needs detector.model, as module:function")
        return self


class WarpOptions(Options):
    """Random affines as the HRNet lineage draws them; the ranges are the paper's."""

    rotation: float = Field(default=45.0, ge=0, description="N(0, rotation) degrees, clipped to +-rotation, p = 0.6")
    scale: tuple[float, float] = Field(default=(0.65, 1.35), description="N(1, 0.35) clipped to this range")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability")

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> WarpOptions:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} is not a range of sizes above 0")
        return self


class AugmentationOptions(WarpOptions):
    """Random crops of a person: those affines, and half bodies."""

    half_body: float = Field(
        default=0.3, ge=0, le=1, description="probability, for people with more than 8 joints in view"
    )


class ExtractOptions(Options):
    """Backbone features of every proposal and of its box in the neighbouring frames."""

    checkpoint: str = Field(default="demo", description="HRNet weights: a path, or the name of weights that ship")
    width: int | None = Field(default=None, description="refuse checkpoints of another HRNet width; null: take any")
    crop_size: tuple[int, int] = Field(default=(384, 288), description="height, width, px; multiples of 16")
    crop_scale: float = Field(default=1.25, gt=0, description="enlargement of the box (§ 3.2)")
    k: int = Field(default=4, ge=0, le=64, description="local frames on each side")
    edge: Literal["repeat_key", "clamp"] = Field(
        default="repeat_key", description="past a clip's edge: key frame, or last one"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="that the network computes in")
    dtype: Literal["uint8", "float16"] = Field(default="uint8", description="that features are stored in")
    codec: Literal["crc32c", "zstd"] = Field(
        default="crc32c", description="of stored maps; zstd for slow links and object stores"
    )
    views: int = Field(
        default=1, ge=1, le=64, description="of each proposal of videos with a train split: clean, the rest augmented"
    )
    augmentation: AugmentationOptions = AugmentationOptions()
    view_seed: int = Field(default=0, ge=0, description="draws the augmented views")
    mirror: bool = Field(
        default=False,
        description="store the mirrored crop too, of videos with an eval split, for eval.flip; not part of the record",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> ExtractOptions:
        if any(side <= 0 or side % 16 for side in self.crop_size):
            raise ValueError(f"crop_size {list(self.crop_size)} must be multiples of 16 pixels")
        return self


TAKES_MOST_SIMILAR = frozenset({"most_similar", "other_video"})  # of index.select, whatever the pool


class IndexOptions(Options):
    """Non-local references: the pool they are drawn from and how they are ranked (Eq. 3)."""

    n: int = Field(default=6, ge=0, le=256, description="references kept per proposal")
    scope: Literal["video", "dataset"] = Field(
        default="video", description="references of the same video (the paper's), or of any video of the same split"
    )
    pool: int | Literal["all"] = Field(
        default=20, description="proposals drawn at random per proposal, or all in scope"
    )
    select: Literal["most_similar", "least_similar", "random", "other_video", "oracle"] = Field(
        default="most_similar",
        description="which of the pool; as controls, others than the paper's: oracle is nearest by true pose",
    )
    causal: bool = Field(default=False, description="pools of earlier frames alone, for streams")
    exclude_window: int = Field(default=4, ge=0, description="frames on each side that are local, not non-local")
    embedding: Literal["pooled", "pose"] = Field(
        default="pooled",
        description="what people are compared by: pooled features (Eq. 3), or where the backbone sees their joints",
    )
    similarity: Literal["inner_product", "cosine"] = Field(default="inner_product", description="of embeddings (Eq. 3)")
    min_score: float = Field(default=0.0, ge=0, le=1, description="boxes below this score are not references")
    seed: int = Field(default=0, ge=0, description="draws the fixed pool of every proposal")

    @model_validator(mode="after")
    def _pool_holds_n(self) -> IndexOptions:
        if isinstance(self.pool, int) and self.pool < self.n:
            raise ValueError(f"a pool of {self.pool} cannot give n = {self.n} references")
        return self

    @model_validator(mode="after")
    def _scope_fits(self) -> IndexOptions:
        if self.select == "other_video" and self.scope == "video":
            raise ValueError("select other_video looks for references in the other videos: it needs scope dataset")
        if self.causal and self.scope == "dataset":
            raise ValueError("causal needs scope video: frames of other videos are neither earlier nor later")
        return self


class HeadOptions(Options):
    """Everything after the backbone: local and non-local weights, aggregation, enhancement, detection head."""

    k: int = Field(default=4, ge=0, description="local frames on each side that are used")
    n: int = Field(default=6, ge=0, description="non-local references that are used")
    causal: bool = Field(default=False, description="local frames of offsets -k..-1 alone, for streams")
    inputs: Literal["features", "key_copies"] = Field(
        default="features", description="of local and non-local slots; key_copies, a control: the key frame in all"
    )
    weighted: bool = Field(
        default=True, description="false, a control: plain concatenation, without the weights of Eq. 2 and 3"
    )
    local_weight: Literal["inverse", "linear", "exponential", "uniform"] = Field(
        default="inverse", description="T of Eq. 2: 1 / |offset|, k + 1 - |offset|, exp(1 - |offset|), 1"
    )
    normalise_local: bool = Field(default=False, description="make the local weights sum to 1")
    temperature: float = Field(default=1.0, gt=0, description="divides similarities before their softmax")
    per_channel: bool = Field(default=False, description="Eq. 3's Hadamard product unsummed: one softmax per channel")
    blocks: int = Field(default=3, ge=1, description="ResNet basic blocks of the aggregation (Eq. 4)")
    width: int | None = Field(default=None, ge=1, description="channels of the aggregate; null: the backbone's")
    enhancement: bool = Field(
        default=True,
        description="heatmaps from enhanced features (Eq. 5); false: from the aggregate, as the text of § 3.4 has it",
    )
    mask: Literal["spatial", "channel"] = Field(
        default="spatial", description="psi of Eq. 5: one mask, or one per channel"
    )
    combine: Literal["block", "sum"] = Field(
        default="block", description="A of Eq. 5: concatenate and a basic block, or add"
    )
    head: Literal["mlp", "3x3", "5x5"] = Field(
        default="3x3", description="kernel of the detection head; mlp: 1x1, an MLP at each location"
    )
    prior: Literal["none", "key", "frames"] = Field(
        default="none",
        description="heatmaps that the heads correct: the backbone's own of the key frame, or all frames', fused",
    )
    align: Literal["none", "pose"] = Field(
        default="none",
        description="warp local frames and references onto the key frame's pose, as the backbone's last layer sees it",
    )
    init_std: float = Field(default=0.001, gt=0, description="new convolution weights: N(0, std)")

    @property
    def aligns(self) -> bool:
        """Whether what they see is warped: copies of the key frame are in place already."""
        return self.align != "none" and self.inputs == "features" and (self.k > 0 or self.n > 0)

    @property
    def reads_layer(self) -> bool:
        """Whether they need the backbone's own last layer: for a prior, or to see poses with."""
        return self.prior != "none" or self.aligns

    @model_validator(mode="after")
    def _sum_fits(self) -> HeadOptions:
        if self.enhancement and self.combine == "sum" and self.width is not None:
            raise ValueError("combine: sum adds the aggregate to the features: leave width null")
        return self


def index_problem(heads: HeadOptions, index: IndexOptions) -> str | None:
    """What is wrong with giving heads the references of such an index, in words; None where nothing is."""
    if not heads.n:
        return None
    if heads.causal and not index.causal:
        return "causal heads need index.causal: references would be of later frames too"
    if heads.per_channel and index.similarity != "inner_product":
        return "per_channel weighs by inner products: it needs index.similarity inner_product"
    if heads.per_channel and index.embedding != "pooled":
        return "per_channel weighs by products of features: it needs index.embedding pooled"
    if index.select not in TAKES_MOST_SIMILAR and heads.n != index.n:
        return (
            f"index.select {index.select} chooses index.n = {index.n} references, of which heads of n = {heads.n} "
            "would see the most similar: give both the same number"
        )
    return None


class TrainOptions(Options):
    """Training of the heads on stored features (§ 4.1 of the paper; batch size, where the paper is silent, 32)."""

    heads: HeadOptions = HeadOptions()
    single_frame: bool = Field(
        default=True, description="train the single-frame row (k = 0, n = 0, no enhancement) as well"
    )
    epochs: int = Field(default=20, ge=1, description="passes over the training split")
    batch_size: int = Field(default=32, ge=2, description="proposals a step, of all processes together")
    lr: float = Field(default=1e-3, gt=0, description="of Adam, at first")
    milestones: tuple[int, ...] = Field(default=(6, 12, 18), description="epochs after which the learning rate drops")
    gamma: float = Field(default=0.1, gt=0, description="factor of each drop")
    sigma: float = Field(default=3.0, gt=0, description="of the target Gaussian, at a heatmap 72 wide")
    joints: Literal["annotated", "visible"] = Field(default="annotated", description="v_m of Eq. 6")
    redraw_pool: bool = Field(default=True, description="draw new pools every epoch (where index.pool is a number)")
    augment: Literal["none", "views", "warp"] = Field(
        default="none",
        description="views: one of extract.views at random; warp: random affine warps of key and local features",
    )
    warp: WarpOptions = WarpOptions()
    validation: float = Field(
        default=0.0, ge=0, lt=1, description="share of the training videos held out to choose the best epoch on"
    )
    window: int | None = Field(
        default=None, ge=1, description="train on whole videos of so many proposals at a time; null: all, if they fit"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="that layers compute in")
    seed: int = Field(default=0, ge=0, description="of the weights, batches and augmentation")


def redraws(train: TrainOptions, index: IndexOptions) -> bool:
    """Whether training draws pools, and so references, anew every epoch: not where everyone in scope is the pool."""
    return train.redraw_pool and isinstance(index.pool, int)


PCK_ALPHA = 0.2  # Sub-JHMDB's


class PCKOptions(Options):
    """PCK, the metric of Sub-JHMDB, and beside OKS of data of one's own."""

    alpha: float = Field(default=PCK_ALPHA, gt=0, description="a joint within alpha x the person's size is right")
    size: Literal["box", "torso"] = Field(
        default="box", description="max(w, h) of the annotated box, or left shoulder to right hip (jhmdb)"
    )


class EvalOptions(Options):
    """How heatmaps become poses and how these are scored."""

    score: Literal["product", "heatmap"] = Field(
        default="product", description="joint score: heatmap maximum x box score, or alone"
    )
    joints: Literal["annotated", "visible"] = Field(
        default="annotated", description="joints that count; poseval: annotated"
    )
    decode: Literal["argmax", "dark"] = Field(
        default="argmax", description="heatmap to point: argmax with a quarter-pixel shift, or DARK (CVPR 2020)"
    )
    flip: bool = Field(default=False, description="average with the heatmaps of the mirrored crop (extract.mirror)")
    k: int | None = Field(
        default=None, ge=0, description="keep fewer local frames than trained heads have; null: all of them"
    )
    n: int | None = Field(
        default=None, ge=0, description="keep fewer references than trained heads have; null: all of them"
    )
    pck: PCKOptions = Field(default=PCKOptions(), description="of data that is scored by PCK (jhmdb, coco)")
    checkpoint: Literal["last", "best"] = Field(
        default="last", description="weights of the last epoch, or of the best on train.validation's videos"
    )
    submission: bool = Field(
        default=False, description="also zip the predictions as the PoseTrack test server takes them"
    )
    overlay: bool = Field(default=True, description="draw an overlay video and a contact sheet")
    heads: str | None = Field(
        default=None,
        description="heads of finetune, `demo-heads`, or others of this feature space, as a row of their own",
    )
    single_frame_hrnet: str | None = Field(
        default=None, description="an HRNet's checkpoint whose own heatmaps, of the images, are a row of their own"
    )


class PredictOptions(Options):
    """Poses of a video of one's own: which networks look at which of its frames, and what is drawn.

    How crops and references are made is said by the heads' checkpoint.
    """

    heads: str = Field(default="demo-heads", description="trained heads: a path, or `demo-heads`, which ship")
    backbone: str = Field(default="demo", description="HRNet whose features the heads read: a path, or `demo`")
    detector: str = Field(
        default="demo-detector", description="Cascade R-CNN: a path, or `demo-detector`; or FILE.py:FUNCTION"
    )
    boxes: Path | None = Field(default=None, description="COCO results JSON to take boxes from, in place of a detector")
    min_score: float = Field(default=DetectOptions().min_score, ge=0, le=1, description="boxes below it are dropped")
    start: int = Field(default=0, ge=0, description="first frame, from 0")
    end: int | None = Field(default=None, ge=1, description="frame to end before; null: after the last")
    every: int = Field(default=1, ge=1, description="look at frames start, start + n, start + 2n ... only")
    video: bool = Field(default=True, description="draw an overlay video")
    show_boxes: bool = Field(default=False, description="draw boxes with people's numbers, too")

    @model_validator(mode="after")
    def _frames_in_order(self) -> PredictOptions:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"frames {self.start} to {self.end} are none: end must be after start")
        return self


class CropOptions(Options):
    """The crop store: images of every proposal of the train split, with room around the box, to fine-tune on.

    Size, enlargement and local frames are those of `extract`.
    """

    rotation: float = Field(default=45.0, ge=0, le=180, description="largest rotation of a view that a crop holds")
    scale: float = Field(default=1.35, gt=0, description="largest region of a view, of the proposal's own")
    half_body: bool = Field(default=True, description="hold the views of either half of the body too")
    density: float = Field(default=1.0, gt=0, description="stored pixels for each pixel of a view of scale 1")
    encoding: Literal["jpeg", "raw"] = Field(default="jpeg", description="of stored crops")
    quality: int = Field(default=95, ge=1, le=100, description="of JPEG")


class FinetuneOptions(AugmentationOptions):
    """The backbone reopened: it and the trained heads learn on, from augmented crops of the crop store.

    Joints, sigma and the redrawing of pools are those of `train`.
    """

    epochs: int = Field(default=4, ge=1, description="passes over the training split")
    batch_size: int = Field(default=8, ge=1, description="proposals; each is 1 + 2k + n crops")
    lr: float = Field(default=1e-4, ge=0, description="of the heads, its peak")
    backbone_lr: float = Field(default=1e-5, ge=0, description="of stage 3, its peak; 0: the backbone stays as it is")
    lr_decay: float = Field(default=1.0, gt=0, le=1, description="factor from stage 3 to stage 2, and on to the stem")
    grad: Literal["all", "key"] = Field(
        default="all", description="crops whose features carry gradients to the backbone: all, or the key frame's"
    )
    batch_norm: Literal["frozen", "trained"] = Field(
        default="frozen", description="the backbone's statistics; public code lets them drift (docs/finetuning.md)"
    )
    similarity: Literal["current", "stored"] = Field(
        default="current", description="softmax weights of references: from the backbone as it is, or as it was"
    )
    augment_references: bool = Field(
        default=False, description="cut references with an augmentation of their own each, not as they are stored"
    )
    checkpointing: bool = Field(default=False, description="keep fewer activations and compute them twice: less memory")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="that layers compute in")
    seed: int = Field(default=0, ge=0, description="of batches and augmentation")


class AblateOptions(Options):
    """Table 4 of the paper: rows that each change one option of `train.heads`, trained by the recipe in `train`.

    No part of a record: a row is the same whatever other rows and seeds are asked for.
    """

    rows: str = Field(default="*", description="shell patterns of row names, separated by commas: k=*, head=5x5")
    seeds: int = Field(default=1, ge=1, description="trainings per row: train.seed, train.seed + 1, ...")
    k: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), description="values of the rows k=...")
    n: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4, 5, 6), description="values of the rows n=...")

    @model_validator(mode="after")
    def _values_differ(self) -> AblateOptions:
        for name, values in (("k", self.k), ("n", self.n)):
            if len(set(values)) < len(values) or min(values, default=0) < 0:
                raise ValueError(f"{name} {list(values)}: give different values, 0 or more")
        return self


class EvidenceOptions(Options):
    """What `glpose-stage evidence` trains and scores (docs/evidence.md). No part of a record, as of `ablate`."""

    rows: str = Field(default="*", description="shell patterns of row names, separated by commas: k=*, oracle*")


class PretrainOptions(AugmentationOptions):
    """Single-frame HRNet training, on rendered frames (the weights that ship as `demo`) or on a data set's people."""

    source: Literal["rendered", "data"] = Field(
        default="rendered", description="people of rendered frames, or the annotated people of the train split"
    )
    width: int = Field(default=16, ge=4, description="channels of branch 0: 32 and 48 are the public ones")
    stages: Literal[3, 4] = Field(default=3, description="3: heatmaps from stage-3 branch 0; 4: the whole HRNet")
    init: str | None = Field(default=None, description="checkpoint to start from: what fits of it is taken")
    crop_size: tuple[int, int] = Field(default=(192, 144), description="height, width, px")
    crop_scale: float = Field(default=1.25, gt=0, description="enlargement of the box")
    frames: int = Field(default=12_000, ge=1, description="of source: rendered, drawn before it begins")
    epochs: int = Field(default=20, ge=1, description="how often everyone is seen")
    steps: int | None = Field(default=None, ge=1, description="null: as many as epochs make")
    batch_size: int = Field(default=16, ge=2, description="crops a step")
    lr: float = Field(default=1e-3, gt=0, description="of Adam, its peak; with init rather 1e-4")
    sigma: float = Field(default=3.0, gt=0, description="of the target Gaussian, heatmap px")
    loss: Literal["mse", "cross_entropy"] | None = Field(
        default=None,
        description="mse: Eq. 6; cross_entropy: over the grid, leaves the all-zero plateau far sooner; null: "
        "cross_entropy on rendered frames, mse on data",
    )
    eval_people: int = Field(
        default=1000, ge=0, description="of the eval split, evenly spaced, that source: data is measured on"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="that layers compute in")
    seed: int = Field(default=0, ge=0, description="of the weights, order and augmentation")

    @property
    def loss_taken(self) -> Literal["mse", "cross_entropy"]:
        """The loss that `loss` means."""
        return self.loss or ("cross_entropy" if self.source == "rendered" else "mse")

    @model_validator(mode="after")
    def _crop_fits(self) -> PretrainOptions:
        multiple = 16 if self.stages == 3 else 32
        if any(side <= 0 or side % multiple for side in self.crop_size):
            size = list(self.crop_size)
            raise ValueError(f"crop_size {size} must be multiples of {multiple} pixels for stages: {self.stages}")
        return self


class TrainDetectorOptions(Options):
    """Cascade R-CNN training on the boxes of the train split or of rendered frames; makes a checkpoint for `detect`."""

    source: Literal["data", "rendered"] = Field(
        default="data", description="the annotated frames of the train split, or rendered ones, as `demo-detector` was"
    )
    frames: int = Field(default=4000, ge=1, description="of source: rendered, drawn before it begins")
    architecture: str = Field(
        default="resnet18_half", description="of a new network: resnet18_half, resnet18_narrow, resnet50, ..."
    )
    init: str | None = Field(
        default=None, description="checkpoint to start from, mmdetection's or one of these; sets the architecture"
    )
    size: tuple[int, int] = Field(
        default=(640, 384), description="long, short side, px, that frames are fitted into; multiples of 32"
    )
    steps: int = Field(default=6000, ge=1, description="of the whole training")
    batch_size: int = Field(default=4, ge=1, description="frames a step")
    lr: float = Field(default=1e-3, gt=0, description="of AdamW, its peak; with init rather 1e-4")
    weight_decay: float = Field(default=1e-4, ge=0, description="of AdamW")
    batch_norm: Literal["trained", "frozen"] | None = Field(
        default=None, description="its statistics; null: frozen with init, else trained"
    )
    regions: int = Field(default=256, ge=1, description="drawn per frame for each of the three heads")
    scale: tuple[float, float] = Field(default=(0.5, 1.5), description="range of sizes, of the fitted one")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a mirrored frame")
    colour: float = Field(default=0.4, ge=0, lt=1, description="largest change of brightness, contrast, saturation")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="that layers compute in")
    eval_frames: int = Field(
        default=200, ge=0, description="frames of the eval split, evenly spaced, that AP is measured on"
    )
    seed: int = Field(default=0, ge=0, description="of the weights, order and regions drawn")

    @model_validator(mode="after")
    def _size_fits(self) -> TrainDetectorOptions:
        long, short = self.size
        if short <= 0 or long < short or long % 32 or short % 32:
            raise ValueError(f"size {list(self.size)} must be [long, short], multiples of 32 pixels")
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale {list(self.scale)} is not a range of sizes above 0")
        return self


class RuntimeOptions(Options):
    """Speed settings: never part of a record, as they change outputs by rounding at most."""

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 ...")
    batch_size: int = Field(
        default=32, ge=1, description="crops per forward pass of the backbone; proposals per pass of the heads"
    )
    frames: int = Field(default=4, ge=1, description="frames per forward pass of the detector")
    tf32: bool = Field(
        default=True,
        description="on a GPU, float32 convolutions round to 10 bits (TF32), as PyTorch has it; false: in full, "
        "slower, and of what is made from then on",
    )
    residency: Literal["auto", "device", "host", "disk"] = Field(
        default="auto", description="where features are kept while heads use them; auto: where they fit"
    )
    tensorboard: bool = Field(default=True, description="write training curves for it below work/logs")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch; null: its own choice, at most the cores given"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="of pretrain, train-detector and finetune: processes that draw frames, threads that read frames or "
        "crops; null: one for each core given",
    )
    together: int | None = Field(
        default=None, ge=1, description="rows of an ablation trained in one pass over the features; null: all of a seed"
    )


# ---------------------------------------------------------------------------------------------------------- cluster
class NoCluster(Options):
    """Everything in the process of the command itself."""

    kind: Literal["none"] = "none"


class LocalCluster(Options):
    """Worker processes on this machine, a video at a time each; on a machine with GPUs each has one to itself."""

    kind: Literal["local"] = "local"
    workers: int | None = Field(
        default=None, ge=1, description="processes; null: one per GPU, without a GPU one per four cores"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of each worker; null: runtime.threads, or the cores divided"
    )
    dashboard: bool = Field(default=True, description="Dask's pages about the workers, where bokeh is installed")


class RunningCluster(Options):
    """A Dask scheduler that runs already, with workers that see the same data and work folders."""

    kind: Literal["address"] = "address"
    address: str = Field(description="the scheduler's, as tcp://HOST:PORT")

    @model_validator(mode="after")
    def _address_is_one(self) -> RunningCluster:
        scheme, separator, rest = self.address.partition("://")
        if not separator or scheme not in ("tcp", "tls", "ucx", "ws", "wss") or not rest:
            raise ValueError(f"address {self.address!r} is none of a Dask scheduler: give tcp://HOST:PORT")
        return self


class SlurmCluster(Options):
    """Slurm jobs, one worker each, through dask-jobqueue; the scheduler runs in the process of the command itself."""

    kind: Literal["slurm"] = "slurm"
    workers: int = Field(default=1, ge=1, description="jobs")
    cores: int = Field(default=8, ge=1, description="of each job; its CPU threads, unless runtime.threads is set")
    memory: str = Field(default="32GB", description="of each job")
    gpus: int = Field(default=0, ge=0, le=1, description="of each job; for more GPUs ask for more workers")
    walltime: str = Field(default="24:00:00", description="of each job")
    queue: str | None = Field(default=None, description="partition; null: Slurm's default")
    account: str | None = Field(default=None, description="who pays; null: Slurm's default")
    interface: str | None = Field(default=None, description="network that all nodes share, such as ib0; null: any")
    directives: tuple[str, ...] = Field(default=(), description="further #SBATCH options, such as --exclude=node3")
    prologue: tuple[str, ...] = Field(default=(), description="shell lines before a worker starts: module load ...")
    logs: Path = Field(default=Path("slurm-logs"), description="folder of what the jobs print")


ClusterOptions = Annotated[
    NoCluster | LocalCluster | RunningCluster | SlurmCluster,
    Field(discriminator="kind"),
]
