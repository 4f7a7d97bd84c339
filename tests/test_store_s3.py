"""Stores in S3, against a real S3 interface on this machine: the same commits, pipelines and checks as in a folder."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from small_pipelines import attempts as attempts_of
from small_pipelines import commit_digests, glpose_stage, write_dataset, write_pipeline

import store
from store import attempts, ranges
from store.attempts import REMOTE_LIFETIME
from store.errors import AlreadyCommitted, CorruptData, NotCommitted, StoreError
from store.folder import Commit, StageFolder
from store.places import Place, is_store_failure, place, publish_if_absent, read_text, swap
from store.record import Record, make_record

RECORD = make_record("extract", 1, {"k": 4}, {})
OTHER = make_record("extract", 1, {"k": 2}, {})


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    """Address of an S3 server of this test module, named in the environment as users name theirs."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    running.start()
    names = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    yield names["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    running.stop()


@pytest.fixture
def root(server: str, request: pytest.FixtureRequest) -> Place:
    """An empty prefix of a bucket."""
    import boto3

    with contextlib.suppress(Exception):
        boto3.client("s3", endpoint_url=server).create_bucket(Bucket="glpose-test")
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return place(f"s3://glpose-test/{name}")


def write(stage: StageFolder, unit: str, text: str, replace: Commit | None = None) -> Commit:
    with stage.writing(RECORD, unit, "inputs", replace=replace) as attempt:
        (attempt.path / "sub").mkdir()
        (attempt.path / "sub" / "a.txt").write_text(text)
        attempt.meta = {"text": text}
    return stage.commit_of(RECORD, unit)


# ------------------------------------------------------------------------------------------------------------ places
@pytest.mark.parametrize("url", ["http://host/x", "s3:/bucket", "s3://", "s3://bucket", "gs://bucket/x"])
def test_other_urls_are_refused(url: str) -> None:
    if "://" not in url:
        assert isinstance(place(url), Path)
        return
    with pytest.raises(StoreError, match="a store is a folder or s3://BUCKET/PREFIX"):
        place(url)


def test_publishing_has_one_winner(root: Place) -> None:
    path, won = root / "a.json", []
    barrier = threading.Barrier(4)

    def publish(number: int) -> None:
        barrier.wait()
        if publish_if_absent(path, str(number)):
            won.append(number)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and read_text(path) == str(won[0])


def test_a_swap_needs_the_old_contents(root: Place) -> None:
    path = root / "a.json"
    assert not swap(path, "old", "new")
    publish_if_absent(path, "old")
    assert not swap(path, "other", "new") and read_text(path) == "old"
    assert swap(path, "old", "new") and read_text(path) == "new"


# ----------------------------------------------------------------------------------------------------------- commits
def test_commits_and_attempts(root: Place) -> None:
    stage = StageFolder(root / "extract")
    assert stage.record_in_force() is None and stage.commits(RECORD) == {} and stage.clean() == []
    stage.begin(RECORD)
    stage.begin(OTHER)  # the first stays in force
    assert stage.record_in_force() == RECORD
    first = write(stage, "a", "one")
    assert stage.commits(RECORD) == {"a": first} and stage.faults(first) == []
    assert read_text(stage.attempt_path(first) / "sub" / "a.txt") == "one"
    with pytest.raises(AlreadyCommitted):
        write(stage, "a", "two")
    second = write(stage, "a", "two", replace=first)
    assert stage.commit_of(RECORD, "a") == second and second.attempt != first.attempt
    with pytest.raises(AlreadyCommitted):
        write(stage, "a", "three", replace=first)
    stage.put_in_force(OTHER, RECORD)
    assert stage.record_in_force() == OTHER
    with pytest.raises(StoreError, match="another run"):
        stage.put_in_force(RECORD, make_record("extract", 1, {"k": 9}, {}))
    stage.withdraw(RECORD, second)
    with pytest.raises(NotCommitted):
        stage.commit_of(RECORD, "a")


def test_a_failed_writer_leaves_nothing(root: Place) -> None:
    stage = StageFolder(root / "extract")
    stage.begin(RECORD)
    with pytest.raises(KeyboardInterrupt), stage.writing(RECORD, "a", "") as attempt:
        (attempt.path / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert stage.commits(RECORD) == {} and not (stage.path / "data" / "a").exists()


def test_only_old_uploads_without_a_commit_are_swept(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageFolder(root / "extract")
    stage.begin(RECORD)
    kept = write(stage, "a", "one")
    now, long_ago = time.time(), int((time.time() - 2 * REMOTE_LIFETIME) * 1e9)
    left = stage.path / "data" / "a" / f"{long_ago:x}-00000000"
    (left / "x.txt").write_text("left by a kill")
    (stage.path / "data" / "a" / "my notes" / "x.txt").write_text("of no attempt")
    assert stage.clean() == []  # begun long ago, and uploaded just now
    monkeypatch.setattr(attempts.time, "time", lambda: now + REMOTE_LIFETIME + 60)
    assert [path.name for path in stage.clean()] == [left.name]
    assert read_text(stage.attempt_path(kept) / "sub" / "a.txt") == "one"
    assert {path.name for path in (stage.path / "data" / "a").iterdir()} == {kept.attempt, "my notes"}


def test_what_s3_refuses_is_told_as_its_failure(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    answers = iter(["ConditionalRequestConflict", "ConditionalRequestConflict", "", "AccessDenied"])

    def put(*_: object, **__: object) -> None:
        if code := next(answers):
            try:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")
            except ClientError as error:
                raise PermissionError(f"S3 says {code}") from error  # as s3fs hands it on

    monkeypatch.setattr(root.fs, "pipe_file", put)  # pyright: ignore[reportAttributeAccessIssue]
    assert publish_if_absent(root / "a.json", "x")  # after two conflicts
    with pytest.raises(PermissionError) as refused:
        publish_if_absent(root / "b.json", "x")
    assert is_store_failure(refused.value) and not is_store_failure(PermissionError("of this machine"))


def test_reading_maps_needs_no_boto3(root: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", train=["a"], evaluate=["c"])
    there = ("--set", f"work={root}")
    for stage in ("detect", "extract"):
        assert glpose_stage(write_pipeline(tmp_path), stage, *there)[0] == 0
    for name in [name for name in sys.modules if name.split(".")[0] == "boto3"] + ["boto3"]:
        monkeypatch.setitem(sys.modules, name, None)  # the s3 extra does not bring it, and moto does
    ranges._bucket.cache_clear()
    assert store.open(str(root)).features("a").key([0]).shape[0] == 1


def test_a_server_that_is_gone(root: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", train=["a"], evaluate=["c"])
    there = ("--set", f"work={root}")
    for stage in ("detect", "extract"):
        assert glpose_stage(write_pipeline(tmp_path), stage, *there)[0] == 0
    reader = store.open(str(root)).features("a").reader("key")
    out = np.zeros((1, *reader.layout.shape[2:]), reader.layout.dtype)

    class Gone:
        def get_range(self, *_: object, **__: object) -> None:
            from obstore.exceptions import GenericError

            raise GenericError("connection refused")

        get_ranges = get_range

    monkeypatch.setattr(ranges, "_bucket", lambda *_: Gone())
    with pytest.raises(StoreError, match=r"features of 'a': key/.* cannot be read .*connection refused"):
        reader.read_into(out, [0])


def test_damage_is_found(root: Place) -> None:
    stage = StageFolder(root / "extract")
    stage.begin(RECORD)
    commit = write(stage, "a", "one")
    path = stage.attempt_path(commit) / "sub" / "a.txt"
    for content, words in (("two", "does not match its checksum"), ("longer", "has 6 bytes, 3 were committed")):
        path.write_text(content)
        assert stage.faults(commit) == [f"sub/a.txt {words}"]
    path.unlink()
    assert stage.faults(commit) == ["sub/a.txt is missing"]


def test_a_newer_format_is_refused(root: Place) -> None:
    stage = StageFolder(root / "extract")
    publish_if_absent(root / "extract" / "stage.json", '{"format": 99, "record": {}}')
    with pytest.raises(StoreError, match="store format 99"):
        stage.record_in_force()


# ---------------------------------------------------------------------------------------------------------- pipeline
def test_a_whole_pipeline(root: Place, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    config = write_pipeline(tmp_path)
    there = ("--set", f"work={root}")
    for work in ((), there):
        code, printed = glpose_stage(config, "run", *work)
        assert code == 0, printed
    digests = commit_digests(tmp_path / "work")
    in_s3 = {name: StageFolder(root / name) for name in digests}
    for name in ("detect", "extract", "index"):  # the same bytes as in the folder
        assert {u: c.digest for u, c in commits(in_s3[name]).items()} == digests[name]
    local, remote = store.open(tmp_path / "work"), store.open(str(root))
    assert remote.videos == local.videos == ["a", "b", "c"]
    assert remote.table(keypoints=False).equals(local.table(keypoints=False))
    assert remote.describe().equals(local.describe())
    assert np.array_equal(remote.features("a").local([1, 0]), local.features("a").local([1, 0]))
    assert remote.verify() == []
    code, printed = glpose_stage(config, "run", *there)
    assert code == 0 and printed.count(" 0 to do") == 5
    assert "finished" in glpose_stage(config, "verify", *there)[1]
    assert glpose_stage(config, "status", *there)[1].count(" 0 to do") == 5


def test_damaged_units_are_made_again(root: Place, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", train=["a"], evaluate=["c"])
    config = write_pipeline(tmp_path)
    there = ("--set", f"work={root}")
    for stage in ("detect", "extract"):
        assert glpose_stage(config, stage, *there)[0] == 0
    folder = StageFolder(root / "extract")
    before = commits(folder)
    shard = folder.attempt_path(before["a"]) / "features.zarr" / "key" / "c" / "0" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    code, printed = glpose_stage(config, "verify", *there)
    assert code == 1 and "extract a: proposal 0, view 0: key does not match its checksum" in printed
    with pytest.raises(CorruptData, match="'a' are damaged: key of proposal 0"):
        store.open(str(root)).features("a").key()
    assert glpose_stage(config, "verify", "--repair", *there)[0] == 1
    assert "1 done, 1 to do" in glpose_stage(config, "extract", *there)[1]
    assert commits(folder)["a"].digest == before["a"].digest
    assert attempts_of(tmp_path / "work", "extract") == {}


def test_a_bucket_that_is_not_there(server: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", train=["a"], evaluate=["c"])
    code, printed = glpose_stage(write_pipeline(tmp_path), "detect", "--set", "work=s3://no-such-bucket/x")
    assert code == 1 and "s3://no-such-bucket/x cannot be reached" in printed and "Traceback" not in printed
    with pytest.raises(StoreError, match="cannot be reached"):
        store.open("s3://no-such-bucket/x")


def commits(folder: StageFolder) -> dict[str, Commit]:
    record: Record | None = folder.record_in_force()
    return {} if record is None else folder.commits(record)
