"""Every error a user can cause, as one tree; the message is one or two plain lines: what, where, what to do.

GLPoseError
├── StoreError          what is on disk is missing, damaged or belongs to something else
│   ├── RecordMismatch    a stage's outputs were made with other parameters
│   ├── NotCommitted      a video (or a whole stage) has no finished output
│   ├── AlreadyCommitted  another writer finished the same unit first
│   ├── CorruptData       stored bytes, tables or counts contradict their commit record
│   └── DiskFull          there is no room to write; what is finished stays
├── DataError           videos, frames, annotations or boxes that cannot be used
├── CheckpointError     weights that do not fit, or features of another backbone
├── TrainingError       training that cannot start or cannot go on
├── ClusterError        workers, or a scheduler, that cannot be started, reached or used
└── ConfigError         pipelines.yaml, --set or a command line that cannot be understood
"""

from __future__ import annotations


class GLPoseError(Exception):
    """Root of all errors with a message meant for the user; `glpose-stage` prints it and exits with 1."""


class StoreError(GLPoseError):
    """What is on disk is missing, damaged or belongs to something else."""


class RecordMismatch(StoreError):
    """A stage's outputs were made with other parameters than the ones asked for."""


class NotCommitted(StoreError):
    """A video, or a whole stage, has no finished output."""


class AlreadyCommitted(StoreError):
    """Another writer published the same unit first; nothing of this writer's is visible."""


class CorruptData(StoreError):
    """Stored bytes, tables or counts contradict their commit record."""


class DiskFull(StoreError):
    """There is no room to write a unit; what is finished stays, and no other unit is worth trying."""


class DataError(GLPoseError):
    """A video, frame, annotation file or box that cannot be used."""


class CheckpointError(GLPoseError):
    """Weights that do not fit the network, or features that come from another backbone."""


class TrainingError(GLPoseError):
    """Training that cannot start or cannot go on."""


class ClusterError(GLPoseError):
    """Workers, or a scheduler, that cannot be started, reached or used; what is finished stays."""


class ConfigError(GLPoseError):
    """pipelines.yaml, --set or a command line that cannot be understood; `glpose-stage` exits with 2."""
