"""Files, records and stage folders: whole or absent, one winner, nothing of a loser."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import IO

import pytest

from store import atomic, attempts, folder
from store.atomic import replacing, write_json
from store.errors import AlreadyCommitted, CorruptData, DiskFull, NotCommitted, StoreError
from store.folder import Commit, StageFolder, check_unit_name
from store.places import Place, publish_if_absent, read_json
from store.record import Record, canonical_json, difference, file_digest, fingerprint, make_record

RECORD = make_record("extract", 1, {"k": 4}, {})
OTHER = make_record("extract", 1, {"k": 2}, {})


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    stage = StageFolder(tmp_path / "extract")
    stage.begin(RECORD)
    return stage


def write(stage: StageFolder, unit: str, text: str, record: Record = RECORD, replace: Commit | None = None) -> Commit:
    with stage.writing(record, unit, "inputs", replace=replace) as attempt:
        (attempt.path / "sub").mkdir()
        (attempt.path / "sub" / "a.txt").write_text(text)
        attempt.meta = {"text": text}
    return stage.commit_of(record, unit)


def content(stage: StageFolder, unit: str, record: Record = RECORD) -> str:
    return (stage.attempt_path(stage.commit_of(record, unit)) / "sub" / "a.txt").read_text()


def files_below(path: Place) -> list[str]:
    assert isinstance(path, Path)
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir())


# ------------------------------------------------------------------------------------------------------------ atomic
def test_replacing_puts_a_whole_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with replacing(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert files_below(tmp_path) == ["new/a.txt"]


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["a.txt"]


def test_publish_if_absent_has_one_winner_among_many(tmp_path: Path) -> None:
    path, won = tmp_path / "a.json", []
    barrier = threading.Barrier(8)

    def publish(number: int) -> None:
        barrier.wait()
        if publish_if_absent(path, f"{number}" * 1000):
            won.append(number)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert path.read_text() == f"{won[0]}" * 1000
    assert files_below(tmp_path) == ["a.json"]


def test_json_round_trip_absent_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(NotCommitted, match=r"a\.json does not exist"):
        read_json(path)
    write_json(path, {"a": [1, None, "é"]})
    assert read_json(path) == {"a": [1, None, "é"]}
    for damaged in (b'{"a": [1', b"", b"\xff\xfe\x00"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptData, match=r"a\.json is damaged"):
            read_json(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_outside_a_unit_is_told_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)

    def full(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic, "sync_file", full)
    with pytest.raises(DiskFull, match=r"disk is full while writing .*a\.json"):
        write_json(path, 2)
    with pytest.raises(DiskFull, match=r"disk is full while writing .*b\.json"):
        publish_if_absent(tmp_path / "b.json", "2")
    assert read_json(path) == 1
    assert files_below(tmp_path) == ["a.json"]


# ----------------------------------------------------------------------------------------------------------- records
def test_fingerprint_does_not_change_between_versions_or_spellings() -> None:
    record = make_record("index", 3, {"b": [1, 2.5, None, True], "a": {"y": "é", "x": 1e-3}}, {"extract": RECORD})
    swapped = make_record("index", 3, {"a": {"x": 1e-3, "y": "é"}, "b": (1, 2.5, None, True)}, {"extract": RECORD})
    assert fingerprint(record) == fingerprint(swapped) == fingerprint(json.loads(json.dumps(record)))
    # what is on people's disks was named by this very digest
    assert fingerprint(record) == "778c401b152082a684549d33e4778a3558385b48bbe4bcf31594d200dbc9ce9d"


def test_fingerprint_refuses_what_json_cannot_hold() -> None:
    for value in (float("nan"), float("inf"), {1, 2}, Path("a")):
        with pytest.raises((ValueError, TypeError)):
            fingerprint({"a": value})


def test_difference_names_parameters_by_their_own_stage() -> None:
    detect = make_record("detect", 1, {"min_score": 0.2, "file": "0" * 64}, {})
    detect2 = make_record("detect", 2, {"min_score": 0.2000001, "file": "a" * 64}, {})
    old = make_record("extract", 1, {"k": 4, "edge": {"kind": "clamp", "gone": 1}}, {"detect": detect})
    new = make_record("extract", 1, {"k": 2, "edge": {"kind": "clamp"}, "width": None}, {"detect": detect2})
    assert difference(old, new) == [
        "detect code version: 1 -> 2",
        "detect.file: 000000000000 -> aaaaaaaaaaaa",
        "detect.min_score: 0.2 -> 0.2000001",
        "extract.edge.gone: 1 -> nothing",
        "extract.k: 4 -> 2",
        "extract.width: nothing -> null",
    ]
    assert difference(old, old) == []


@pytest.mark.parametrize("pair", [({}, {"a": None}), ({"a": 1}, {"a": 1.0}), ({"a": 1}, {"a": True}), ({}, {"a": {}})])
def test_difference_is_empty_only_where_fingerprints_agree(pair: tuple[dict, dict]) -> None:
    old, new = (make_record("index", 1, parameters, {}) for parameters in pair)
    assert fingerprint(old) != fingerprint(new)
    assert len(difference(old, new)) == 1


def test_canonical_json_and_file_digest(tmp_path: Path) -> None:
    assert canonical_json({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"\\u00e9"],"b":1}'
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ------------------------------------------------------------------------------------------------------------- units
@pytest.mark.parametrize(
    "name", ["..", ".", "", "/abs", "a/b", "a\\b", ".hidden", "a.", "a ", "-a", "a\n", "é", "a" * 201]
)
def test_names_that_are_no_folder_names_are_refused(stage: StageFolder, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be used as a folder name"):
        check_unit_name(name)
    with pytest.raises(StoreError), stage.writing(RECORD, name, ""):
        pytest.fail("the block must not run")
    with pytest.raises(StoreError):
        stage.commit_of(RECORD, name)
    assert not (stage.path / "data").exists()


@pytest.mark.parametrize("name", ["000001_mpii", "a.b.json", "x=1@2 +", "A" * 200])
def test_odd_but_sound_names_come_back(stage: StageFolder, name: str) -> None:
    write(stage, name, "x")
    assert list(stage.commits(RECORD)) == [name]
    stage.link_latest(stage.commits(RECORD))
    assert (stage.path / "latest" / name / "sub" / "a.txt").read_text() == "x"


def test_nothing_is_visible_before_the_block_ends(stage: StageFolder) -> None:
    with stage.writing(RECORD, "a", "digest of inputs") as attempt:
        (attempt.path / "a.txt").write_text("x")
        assert stage.commits(RECORD) == {}
        with pytest.raises(NotCommitted, match="no finished output for 'a'"):
            stage.commit_of(RECORD, "a")
    commit = stage.commits(RECORD)["a"]
    assert commit == stage.commit_of(RECORD, "a")
    assert (commit.unit, commit.inputs, commit.bytes, list(commit.files)) == ("a", "digest of inputs", 1, ["a.txt"])
    assert files_below(stage.attempt_path(commit)) == ["a.txt"]
    assert files_below(stage.path / "data") == [f"a/{commit.attempt}/a.txt"]


def test_digest_depends_on_contents_and_not_on_the_attempt(stage: StageFolder) -> None:
    one, same, other = (write(stage, unit, text) for unit, text in (("a", "x"), ("b", "x"), ("c", "y")))
    assert one.digest == same.digest != other.digest
    assert one.attempt != same.attempt


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_nothing(stage: StageFolder, error: type[BaseException]) -> None:
    before = files_below(stage.path)
    with pytest.raises(error), stage.writing(RECORD, "a", "") as attempt:
        (attempt.path / "a.txt").write_text("x")
        raise error
    assert files_below(stage.path) == before
    assert list(stage.path.glob("data/a/*")) == []
    assert write(stage, "a", "later").meta == {"text": "later"}


def test_interrupt_right_after_publishing_keeps_the_unit(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = StageFolder._publish

    def interrupted(*arguments: object) -> None:
        publish(*arguments)  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    monkeypatch.setattr(StageFolder, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(stage, "a", "x")
    assert content(stage, "a") == "x"


def test_two_writers_of_one_unit(stage: StageFolder) -> None:
    barrier, outcomes = threading.Barrier(2), {}

    def run(text: str) -> None:
        try:
            with stage.writing(RECORD, "a", "") as attempt:
                (attempt.path / "sub").mkdir()
                (attempt.path / "sub" / "a.txt").write_text(text)
                (attempt.path / f"only_{text}").write_text(text)
                barrier.wait()
            outcomes[text] = "won"
        except AlreadyCommitted:
            outcomes[text] = "lost"

    threads = [threading.Thread(target=run, args=(text,)) for text in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes.values()) == ["lost", "won"]
    winner = next(text for text, outcome in outcomes.items() if outcome == "won")
    commit = stage.commit_of(RECORD, "a")
    assert content(stage, "a") == winner
    assert list(commit.files) == [f"only_{winner}", "sub/a.txt"]
    assert [p.name for p in stage.path.glob("data/a/*")] == [commit.attempt]


def test_finished_unit_is_not_written_again(stage: StageFolder) -> None:
    write(stage, "a", "first")
    with pytest.raises(AlreadyCommitted, match="finished by another run"):
        write(stage, "a", "second")
    assert content(stage, "a") == "first"


def test_stale_commit_is_replaced_once(stage: StageFolder) -> None:
    stale = write(stage, "a", "old")
    write(stage, "a", "new", replace=stale)
    assert content(stage, "a") == "new"
    with pytest.raises(AlreadyCommitted, match="replaced by another run"):
        write(stage, "a", "third", replace=stale)
    assert content(stage, "a") == "new"
    # a reader that holds the old commit still finds its files, until clean
    assert (stage.attempt_path(stale) / "sub" / "a.txt").read_text() == "old"
    assert stage.clean() == [stage.attempt_path(stale)]
    assert content(stage, "a") == "new"


def test_records_stand_beside_each_other(stage: StageFolder) -> None:
    write(stage, "a", "k4")
    stage.begin(OTHER)
    write(stage, "a", "k2", record=OTHER)
    assert stage.record_in_force() == RECORD
    stage.put_in_force(OTHER, expected=RECORD)
    assert stage.record_in_force() == OTHER
    assert (content(stage, "a"), content(stage, "a", OTHER)) == ("k4", "k2")
    stage.put_in_force(OTHER, expected=RECORD)  # another run has done the same meanwhile
    with pytest.raises(StoreError, match="other parameters in force meanwhile"):
        stage.put_in_force(make_record("extract", 1, {"k": 1}, {}), expected=RECORD)
    stage.link_latest(stage.commits(RECORD))
    stage.link_latest(stage.commits(OTHER))
    assert (stage.path / "latest" / "a" / "sub" / "a.txt").read_text() == "k2"
    assert stage.clean() == []


def test_clean_removes_orphans_only(stage: StageFolder) -> None:
    kept = write(stage, "a", "x")
    orphan = stage.path / "data" / "a" / "17-dead"
    orphan.mkdir()
    (orphan / "half.bin").write_bytes(b"1")
    empty = stage.path / "data" / "b" / "18-dead"
    empty.mkdir(parents=True)
    (stage.path / "data" / "b" / "18-dead.writing").touch()
    (stage.path / "data" / "b" / "my notes").mkdir()  # no attempt is called so
    with stage.writing(RECORD, "c", "") as attempt:
        (attempt.path / "a.txt").write_text("x")
        assert stage.clean() == [orphan, empty]
        assert attempt.path.is_dir()
    assert content(stage, "a") == "x"
    assert stage.clean() == []
    assert set(stage.commits(RECORD)) == {"a", "c"}
    left = sorted(p.parent.name + "/" + p.name for p in stage.path.glob("data/*/*"))
    assert left == [f"a/{kept.attempt}", "b/my notes", f"c/{stage.commit_of(RECORD, 'c').attempt}"]


def test_clean_keeps_what_is_published_while_it_looks(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = attempts.abandoned

    def slowly(path: Path) -> bool:
        writer.close()  # the writer ends between two steps of clean
        return abandoned(path)

    def attempt() -> Generator[None]:
        with stage.writing(RECORD, "a", "") as fresh:
            (fresh.path / "a.txt").write_text("x")
            try:
                yield
            except GeneratorExit:
                return

    writer = attempt()
    next(writer)
    monkeypatch.setattr(folder, "abandoned", slowly)
    assert stage.clean() == []
    assert (stage.attempt_path(stage.commit_of(RECORD, "a")) / "a.txt").read_text() == "x"


def test_killed_writer_is_invisible_and_swept(stage: StageFolder) -> None:
    program = (
        "import os, sys, json\nfrom pathlib import Path\nfrom store.folder import StageFolder\n"
        "with StageFolder(Path(sys.argv[1])).writing(json.loads(sys.argv[2]), 'a', '') as attempt:\n"
        "    (attempt.path / 'a.txt').write_text('half')\n"
        "    print('writing', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(stage.path), json.dumps(RECORD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert stage.clean() == []  # the writer lives, in another process
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert stage.commits(RECORD) == {}
    assert len(stage.clean()) == 1
    assert files_below(stage.path / "data") == []
    assert write(stage, "a", "again").meta == {"text": "again"}


def test_locks_of_nfs(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """There flock is a lock of bytes, for which the file must be open for writing."""
    flock = fcntl.flock

    def of_nfs(handle: IO[str], operation: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    first = write(stage, "a", "x")
    write(stage, "a", "y", replace=first)
    with stage.writing(RECORD, "b", "") as attempt:
        (attempt.path.parent / "17-dead").mkdir()
        (attempt.path.parent / "17-dead.writing").write_text("")
        assert sorted(path.name for path in stage.clean()) == sorted([first.attempt, "17-dead"])
        assert attempt.path.is_dir()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(stage: StageFolder, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kept = write(stage, "a", "x")

    def without(handle: IO[str], operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    (stage.path / "data" / "a" / "17-dead.writing").write_text("")
    (stage.path / "data" / "a" / "17-dead").mkdir()
    for attempt in (
        lambda: write(stage, "b", "x"),
        lambda: write(stage, "a", "y", replace=kept),
        lambda: stage.withdraw(RECORD, kept),
        stage.clean,
    ):
        with pytest.raises(StoreError, match=r"its file system has no locks \(.*\), which writing outputs needs"):
            attempt()
    assert content(stage, "a") == "x" and set(stage.commits(RECORD)) == {"a"}


# ------------------------------------------------------------------------------------------------------ damage, limits
def test_newer_format_is_refused_by_name(stage: StageFolder) -> None:
    pointer = stage.path / "stage.json"
    value = json.loads(pointer.read_text())
    pointer.write_text(json.dumps({**value, "format": 99}))
    with pytest.raises(StoreError, match="extract has store format 99; this program reads up to 1"):
        stage.record_in_force()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": "x", "record": {}}', "null"])
def test_damaged_pointer(stage: StageFolder, text: str) -> None:
    (stage.path / "stage.json").write_text(text)
    with pytest.raises(CorruptData, match=r"stage\.json"):
        stage.record_in_force()


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "null", "{}", '{"unit": "a", "attempt": "b", "inputs": "", "meta": {}, "files": []}',
             '{"unit": "a", "attempt": "b", "inputs": "", "meta": {}, "files": {"a": [1]}}']
)  # fmt: skip
def test_damaged_commit(stage: StageFolder, text: str) -> None:
    write(stage, "a", "x")
    path = next(stage.path.glob("commit/*/a.json"))
    path.write_text(text)
    for read in (lambda: stage.commits(RECORD), lambda: stage.commit_of(RECORD, "a"), stage.clean):
        with pytest.raises(CorruptData, match=r"a\.json .*delete it and run the stage again"):
            read()


def test_full_disk_leaves_nothing_and_says_so(stage: StageFolder) -> None:
    write(stage, "a", "x")
    told = pytest.raises(DiskFull, match="disk is full while writing 'b' of extract")
    with told, stage.writing(RECORD, "b", "") as attempt:
        (attempt.path / "a.txt").write_text("x")
        with open("/dev/full", "wb") as full:  # the kernel's own error
            full.write(b"1")
    assert list(stage.commits(RECORD)) == ["a"]
    assert content(stage, "a") == "x"
    assert list(stage.path.glob("data/b/*")) == []


def test_full_disk_found_while_syncing(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "sync_file", full)
        with pytest.raises(DiskFull):
            write(stage, "a", "x")
    assert stage.commits(RECORD) == {}
    assert files_below(stage.path / "data") == []


def test_other_errors_of_the_system_stay_what_they_are(stage: StageFolder) -> None:
    with pytest.raises(PermissionError), stage.writing(RECORD, "a", ""):
        raise PermissionError(errno.EACCES, "no")
