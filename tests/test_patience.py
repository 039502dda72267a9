"""Waiting for storage, on a real S3 server that really goes away."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cutting_proxy import CuttingProxy
from s3_server import S3Server

from finf_core.errors import InputError, StorageError
from tasks import patience, storage
from tasks.patience import patient


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_SECONDS", 0.2)


@pytest.fixture
def bucket_behind_a_door(
    s3_bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, CuttingProxy]]:
    with CuttingProxy(s3_server.endpoint) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.endpoint)
        yield s3_bucket, door


def test_storage_that_comes_back_is_waited_for_and_the_wait_is_told(
    bucket_behind_a_door: tuple[str, CuttingProxy],
) -> None:
    bucket, door = bucket_behind_a_door
    storage.publish_bytes(f"{bucket}/a.bin", b"there")
    door.shut()
    threading.Timer(6, door.open).start()  # the clients themselves sit out a second or two
    heard: list[str] = []
    with patient(60, heard.append):
        assert storage.read_bytes(f"{bucket}/a.bin") == b"there"
        assert storage.list_names(bucket) == {"a.bin"}
    assert heard
    assert all(f"{bucket}/a.bin" in line for line in heard)


def test_patience_ends_and_without_it_there_is_no_wait(bucket_behind_a_door: tuple[str, CuttingProxy]) -> None:
    bucket, door = bucket_behind_a_door
    door.shut()
    for seconds in (0.0, 4.0):
        heard: list[str] = []
        started = time.monotonic()
        with patient(seconds, heard.append), pytest.raises(StorageError):
            storage.exists(f"{bucket}/a.bin")
        assert bool(heard) == bool(seconds)
        assert time.monotonic() - started < 30
    with pytest.raises(StorageError):
        storage.exists(f"{bucket}/a.bin")


def test_what_no_wait_can_help_is_said_at_once(s3_bucket: str) -> None:
    heard: list[str] = []
    with patient(60, heard.append), pytest.raises(InputError):
        storage.read_bytes(f"{s3_bucket}/missing.bin")
    assert heard == []


def test_a_full_disk_is_named_and_waited_for_until_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        (disk / "other").write_bytes(bytes(200_000))
        heard: list[str] = []

        def make_room() -> None:
            time.sleep(1)
            (disk / "other").unlink()

        room = threading.Thread(target=make_room)
        room.start()
        with patient(60, heard.append):
            storage.publish_bytes(str(disk / "store" / "a.bin"), bytes(150_000))
        room.join()
        assert "no space left" in heard[0]
        assert "a.bin" in heard[0]
        assert storage.list_names(str(disk / "store")) == {"a.bin"}
        assert [file.name for file in (disk / "store").iterdir()] == ["a.bin"], "a part of it was left behind"
    finally:
        subprocess.run(["umount", disk], check=True)
        shutil.rmtree(disk)
