"""Writers that are killed at random moments: what is committed is whole, everything else is absent."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import store
from store.features import FeatureWriter
from store.folder import StageFolder
from store.record import make_record
from store.schema import FeatureSchema
from store.tables import write_table

KILLS = 30
VIDEOS = [f"video-{number:03d}" for number in range(150)]
RECORD = make_record("extract", 1, {"k": 2}, {})
SCHEMA = FeatureSchema(
    channels=8, height=24, width=18, stride=4, offsets=(-2, -1, 1, 2), codec="zstd", backbone="b", space="s"
)
CHILD = """
import sys
sys.path.insert(0, {tests!r})
import test_store_kills
print("ready", flush=True)
test_store_kills.write_missing(test_store_kills.Path({root!r}))
"""


def write_missing(root: Path) -> None:
    """Write and commit every video that is not committed."""
    stage = StageFolder(root / "extract")
    stage.begin(RECORD)
    for video in VIDEOS:
        if video in stage.commits(RECORD):
            continue
        count = 30 + VIDEOS.index(video) % 40
        rng = np.random.default_rng(VIDEOS.index(video))
        with stage.writing(RECORD, video, "") as attempt:
            with FeatureWriter(attempt.path, SCHEMA, count) as writer:
                for _ in range(count):
                    maps = np.maximum(rng.standard_normal((1, 5, 8, 24, 18), np.float32), 0)
                    writer.append(maps[:, 0], maps[:, 1:])
            number = np.arange(count)
            table = {
                "video": [video] * count, "proposal": number, "frame": number // 2, "person": number % 2, "x1": number,
                "y1": number, "x2": number + 9, "y2": number + 9, "score": number * 0 + 1.0,
                "source": ["annotation"] * count, "split": ["train"] * count, "keypoints": [None] * count,
            }  # fmt: skip
            write_table(attempt.path, "proposals", pd.DataFrame(table))
            attempt.meta = {"proposals": count}


@pytest.mark.slow
def test_killed_writers_leave_whole_videos_and_nothing_else(tmp_path: Path) -> None:
    root, stage = tmp_path / "killed", StageFolder(tmp_path / "killed" / "extract")
    moments, killed, orphans, before, longest = random.Random(0), 0, 0, 0, 0.1
    command = [sys.executable, "-c", CHILD.format(tests=str(Path(__file__).parent), root=str(root))]
    while killed < KILLS:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.0, longest))
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL, "the writer was through before it was killed: give it more videos"
        killed += 1
        committed = stage.commits(RECORD)
        longest = longest * 1.2 if len(committed) == before else 0.1  # s; a busy machine commits nothing in so short
        before = len(committed)
        if committed:
            opened = store.open(root)
            assert opened.videos == sorted(committed) and opened.verify() == []
        orphans += len(stage.clean())
    assert 0 < len(stage.commits(RECORD)) < len(VIDEOS) and orphans > 0
    write_missing(root)
    write_missing(tmp_path / "quiet")
    quiet = StageFolder(tmp_path / "quiet" / "extract")
    digests = {video: commit.digest for video, commit in stage.commits(RECORD).items()}
    assert digests == {video: commit.digest for video, commit in quiet.commits(RECORD).items()}
    assert store.open(root).verify() == [] and stage.clean() == []
    print(f"{killed} kills, {orphans} attempts left behind and swept")
