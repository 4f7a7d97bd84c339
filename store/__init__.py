"""What is on disk: features, tables, indices and the records of the stages that wrote them. Knows no torch.

import store
s = store.open("work/demo")
s.table()               # pandas: one row per proposal
s.features(video)       # arrays of one video
"""

from store.errors import (
    AlreadyCommitted,
    CheckpointError,
    ConfigError,
    CorruptData,
    DataError,
    DiskFull,
    GLPoseError,
    NotCommitted,
    RecordMismatch,
    StoreError,
    TrainingError,
)
from store.features import FeatureWriter, VideoFeatures
from store.folder import Attempt, Commit, StageFolder
from store.reader import Store
from store.reader import open_store as open
from store.samples import Sample
from store.schema import FeatureSchema

__all__ = [
    "AlreadyCommitted",
    "Attempt",
    "CheckpointError",
    "Commit",
    "ConfigError",
    "CorruptData",
    "DataError",
    "DiskFull",
    "FeatureSchema",
    "FeatureWriter",
    "GLPoseError",
    "NotCommitted",
    "RecordMismatch",
    "Sample",
    "StageFolder",
    "Store",
    "StoreError",
    "TrainingError",
    "VideoFeatures",
    "open",
]
