"""The backbone's own last layer, for what reads its features with it: some heads, and retrieval by pose."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from glpose.data.dataset import joint_set
from glpose.options import HeadOptions
from glpose.single_frame import feature_layer
from stages.config import PipelineConfig


def last_layer(config: PipelineConfig) -> nn.Conv2d:
    """The layer of the pipeline's backbone that makes logits of its joints. CheckpointError where it has none."""
    return feature_layer(config.extract.checkpoint, joint_set(config.data))


def heads_layer(config: PipelineConfig, heads: Sequence[HeadOptions]) -> nn.Conv2d | None:
    """What `train_heads` needs beside the features: `last_layer` where any of these heads read it."""
    return last_layer(config) if any(own.reads_layer for own in heads) else None


def pose_layer(config: PipelineConfig) -> nn.Conv2d | None:
    """What `stored_embeddings` needs beside the features: `last_layer` where people are compared by pose."""
    return last_layer(config) if config.index.embedding == "pose" else None
