"""The storage wrapper, on a local folder and on a real S3 server."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cutting_proxy import CuttingProxy
from fault_proxy import FaultProxy
from s3_server import S3Server, free_ports

from finf_core.errors import FinfError, InputError, StorageError
from tasks import s3_clients, storage

TABLE = pa.table({"id": list(range(1000)), "text": [f"row {i}" for i in range(1000)]})
MEGABYTE = 2**20


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet, local and remote."""
    if request.param == "local":
        return str(tmp_path / "store" / "run")
    return f"{request.getfixturevalue('s3_bucket')}/store/run"


@pytest.fixture
def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer)
    return buffer.getvalue()


def _names(objects: list[storage.StoredObject], folder: str) -> list[str]:
    return [item.uri.removeprefix(f"{folder}/") for item in objects]


def _put_many(server: S3Server, bucket_uri: str, prefix: str, count: int) -> None:
    """By another client than the one under test."""
    bucket = bucket_uri.removeprefix("s3://")
    with closing(server.client()) as client, ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda i: client.put_object(Bucket=bucket, Key=f"{prefix}{i:05d}.parquet", Body=b"x"), range(count)
            )
        )


# --- names ---


def test_parts_are_joined_with_single_slashes() -> None:
    assert storage.join("s3://bucket", "a", "b/c.parquet") == "s3://bucket/a/b/c.parquet"
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.join("/", "a") == "/a"
    assert storage.join("relative/", "a") == "relative/a"


@pytest.mark.parametrize("part", ["..", "../x", "a/../../b", "", "/etc", "a//b", "a/", ".", "./a"])
def test_a_part_that_could_leave_the_folder_is_refused(part: str) -> None:
    with pytest.raises(InputError, match="cannot be joined"):
        storage.join("s3://bucket/run", part)


def test_nothing_is_joined_to_an_empty_uri() -> None:
    with pytest.raises(InputError, match="empty URI"):
        storage.join("", "etc")


def test_a_password_in_a_uri_is_refused_without_repeating_it() -> None:
    with pytest.raises(InputError) as refused:
        storage.read_bytes("s3://key:hunter2@bucket/x")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", ""])
def test_a_uri_that_no_client_knows_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/key"):
        storage.exists(uri)


# --- whole objects ---


def test_bytes_come_back_as_published(folder: str) -> None:
    uri = storage.join(folder, "deep", "ä b+c%20.bin")
    assert not storage.exists(uri)
    storage.publish_bytes(uri, b"\x00first" * 1000)
    storage.publish_bytes(uri, b"second")
    assert storage.exists(uri)
    assert storage.exists(folder)
    assert storage.read_bytes(uri) == b"second"


def test_of_several_first_writers_one_is_first(folder: str) -> None:
    uri = storage.join(folder, "run", "settled.json")
    with ThreadPoolExecutor(8) as writers:
        was_first = list(writers.map(lambda number: storage.publish_first(uri, b"%d" % number), range(8)))
    assert was_first.count(True) == 1
    assert storage.read_bytes(uri) == b"%d" % was_first.index(True)
    assert storage.list_names(storage.join(folder, "run")) == {"settled.json"}


def test_what_is_removed_is_gone_and_may_be_removed_again(folder: str) -> None:
    uri = storage.join(folder, "run", "a.json")
    storage.publish_bytes(uri, b"x")
    for _ in range(2):
        storage.remove(uri)
        assert not storage.exists(uri)


def test_an_empty_object_is_an_object(folder: str) -> None:
    uri = storage.join(folder, "empty")
    storage.publish_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""
    assert storage.list_names(folder) == {"empty"}


def test_objects_of_many_megabytes_come_back(folder: str) -> None:
    data = os.urandom(60 * MEGABYTE)  # above the block size and the multipart threshold of s3fs
    storage.publish_bytes(storage.join(folder, "big"), data)
    assert storage.read_bytes(storage.join(folder, "big")) == data


def test_a_large_object_is_one_put(s3_bucket: str, s3_server: S3Server) -> None:
    storage.publish_bytes(f"{s3_bucket}/big", bytes(110 * MEGABYTE))
    with closing(s3_server.client()) as client:
        etag = client.head_object(Bucket=s3_bucket.removeprefix("s3://"), Key="big")["ETag"]
    assert "-" not in etag  # the mark of a multipart upload


def test_a_table_comes_back_whole_and_by_column(folder: str) -> None:
    uri = storage.join(folder, "table.parquet")
    storage.publish_table(uri, TABLE)
    assert storage.read_table(uri).equals(TABLE)
    assert storage.read_table(uri, columns=["text"]).equals(TABLE.select(["text"]))
    with storage.open_parquet(uri) as parquet:
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_column_that_is_not_there_is_named(folder: str) -> None:
    uri = storage.join(folder, "table.parquet")
    storage.publish_table(uri, TABLE)
    with pytest.raises(InputError, match=r"table\.parquet has no column \['body'\]; it has id, text"):
        storage.read_table(uri, columns=["id", "body"])
    with storage.open_parquet(uri) as parquet, pytest.raises(InputError, match="body"):
        storage.read_row_group(parquet, 0, ["body"], uri)


READERS: dict[str, Callable[[str], object]] = {
    "bytes": storage.read_bytes,
    "table": storage.read_table,
    "listing": storage.list_objects,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_missing_is_named(folder: str, reader: str) -> None:
    uri = storage.join(folder, "missing.parquet")
    with pytest.raises(InputError, match=r"missing\.parquet") as refused:
        READERS[reader](uri)
    assert uri in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut short", "page"])
def test_a_corrupt_parquet_file_is_an_input_error(folder: str, parquet_bytes: bytes, damage: str) -> None:
    half = len(parquet_bytes) // 2
    data = {
        "garbage": b"hello" * 100,
        "empty": b"",
        "cut short": parquet_bytes[:half],
        "page": parquet_bytes[:40] + bytes(half - 40) + parquet_bytes[half:],
    }[damage]
    uri = storage.join(folder, "shard.parquet")
    storage.publish_bytes(uri, data)
    with pytest.raises(InputError, match=r"shard\.parquet: not a readable Parquet file \(.+\)"):
        storage.read_table(uri)


# --- listings ---


def test_a_folder_lists_the_parquet_files_below_it(folder: str) -> None:
    for name in ("b.parquet", "deep/a.parquet", "notes.txt", "a.parquet"):
        storage.publish_bytes(storage.join(folder, name), b"12345")
    found = storage.list_objects(folder)
    assert _names(found, folder) == ["a.parquet", "b.parquet", "deep/a.parquet"]
    assert {item.size_bytes for item in found} == {5}
    assert storage.list_objects(f"{folder}/") == found


def test_a_glob_lists_what_it_matches(folder: str) -> None:
    for name in ("en-0.parquet", "en-1.parquet", "de-0.parquet", "en-2.jsonl", "deep/en-3.parquet"):
        storage.publish_bytes(storage.join(folder, name), b"1")
    assert _names(storage.list_objects(f"{folder}/en-*.parquet"), folder) == ["en-0.parquet", "en-1.parquet"]
    assert _names(storage.list_objects(f"{folder}/**/*.parquet"), folder) == [
        "de-0.parquet",
        "deep/en-3.parquet",
        "en-0.parquet",
        "en-1.parquet",
    ]


def test_one_object_lists_itself_whatever_its_kind(folder: str) -> None:
    uri = storage.join(folder, "queries.jsonl")
    storage.publish_bytes(uri, b"{}")
    [found] = storage.list_objects(uri)
    assert (found.uri, found.size_bytes) == (uri, 2)


@pytest.mark.parametrize("pattern", ["", "/*.parquet", "/x.parquet"])
def test_a_pattern_without_a_match_is_named(folder: str, pattern: str) -> None:
    storage.publish_bytes(storage.join(folder, "readme.txt"), b"x")
    with pytest.raises(InputError) as refused:
        storage.list_objects(folder + pattern)
    assert f"nothing matches {folder}{pattern}:" in str(refused.value)


def test_new_content_of_the_same_length_has_another_etag(folder: str) -> None:
    uri = storage.join(folder, "a.parquet")
    storage.publish_bytes(uri, b"one")
    [before] = storage.list_objects(uri)
    assert storage.list_objects(uri) == [before]
    storage.publish_bytes(uri, b"two")
    [after] = storage.list_objects(uri)
    assert (after.uri, after.size_bytes) == (before.uri, before.size_bytes)
    assert after.etag != before.etag


def test_names_are_those_directly_in_the_folder(folder: str) -> None:
    for name in ("a", "b.parquet", "deep/c"):
        storage.publish_bytes(storage.join(folder, name), b"1")
    assert storage.list_names(folder) == {"a", "b.parquet"}
    assert storage.list_names(f"{folder}/") == {"a", "b.parquet"}


def test_a_missing_folder_has_no_names(folder: str) -> None:
    assert storage.list_names(folder) == set()
    storage.publish_bytes(folder, b"an object, not a folder")
    assert storage.list_names(folder) == set()


def test_markers_of_folders_are_no_objects(s3_bucket: str, s3_server: S3Server) -> None:
    with closing(s3_server.client()) as client:
        for key in ("run/", "run/sub/", "run/a.parquet"):
            client.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key=key, Body=b"")
    assert storage.list_names(f"{s3_bucket}/run") == {"a.parquet"}
    assert _names(storage.list_objects(f"{s3_bucket}/run/*"), s3_bucket) == ["run/a.parquet"]


def test_listings_of_more_than_a_page_are_complete_and_fresh(s3_bucket: str, s3_server: S3Server) -> None:
    _put_many(s3_server, s3_bucket, "scores/", 1100)  # a page of S3 holds 1000
    names = storage.list_names(f"{s3_bucket}/scores")
    assert names == {f"{i:05d}.parquet" for i in range(1100)}
    assert len(storage.list_objects(f"{s3_bucket}/scores")) == 1100
    with closing(s3_server.client()) as client:  # another machine's work
        client.delete_object(Bucket=s3_bucket.removeprefix("s3://"), Key="scores/00000.parquet")
        client.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key="scores/new.parquet", Body=b"x")
    assert storage.list_names(f"{s3_bucket}/scores") == names - {"00000.parquet"} | {"new.parquet"}
    storage.publish_bytes(f"{s3_bucket}/scores/newer.parquet", b"x")
    assert len(storage.list_names(f"{s3_bucket}/scores")) == 1101
    assert len(storage.list_objects(f"{s3_bucket}/scores/*.parquet")) == 1101


# --- whole or not at all ---

PUBLISH = """
import resource, signal, sys
from tasks import storage
uri, num_bytes, limit_bytes, dies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "killed"
data = bytes(num_bytes)
if limit_bytes:
    if dies:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills the writer at the limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
storage.publish_bytes(uri, data)
"""


def _publisher(uri: str, num_bytes: int, limit_bytes: int = 0, how: str = "raises") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PUBLISH, uri, str(num_bytes), str(limit_bytes), how]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_a_local_write_that_breaks_off_leaves_nothing_finished(tmp_path: Path, how: str) -> None:
    uri = str(tmp_path / "out.parquet")
    with _publisher(uri, 4 * MEGABYTE, limit_bytes=MEGABYTE, how=how) as process:
        stderr = process.communicate(timeout=60)[1]
    if how == "killed":
        assert process.returncode == -signal.SIGXFSZ
        assert [path.stat().st_size for path in tmp_path.iterdir()] == [MEGABYTE]  # it was in the middle
    else:
        assert "StorageError" in stderr
        assert list(tmp_path.iterdir()) == []
    assert storage.list_names(str(tmp_path)) == set()
    assert not storage.exists(uri)
    with pytest.raises(InputError, match="nothing matches"):
        storage.list_objects(f"{tmp_path}/*")


def test_a_local_object_that_is_replaced_is_never_seen_in_part(tmp_path: Path) -> None:
    uri, contents = str(tmp_path / "object"), {bytes([i]) * MEGABYTE for i in range(30)}
    storage.publish_bytes(uri, bytes(MEGABYTE))
    seen: set[bytes] = set()
    writing = threading.Event()

    def read() -> None:
        while not writing.is_set():
            seen.add(storage.read_bytes(uri))

    reader = threading.Thread(target=read)
    reader.start()
    for data in contents:
        storage.publish_bytes(uri, data)
    writing.set()
    reader.join()
    assert seen <= contents


def test_a_writer_killed_in_the_middle_of_its_put_leaves_nothing(
    s3_bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[subprocess.Popen[str]] = []
    with CuttingProxy(s3_server.endpoint, max_sent_bytes=MEGABYTE, on_cut=lambda: writers[0].kill()) as proxy:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            with _publisher(f"{s3_bucket}/run/out.parquet", 20 * MEGABYTE) as process:
                writers.append(process)
        assert process.returncode == -signal.SIGKILL
        assert proxy.num_cuts == 1
    assert storage.list_names(f"{s3_bucket}/run") == set()
    assert not storage.exists(f"{s3_bucket}/run/out.parquet")


def test_a_put_that_is_cut_every_time_is_a_storage_error_and_leaves_nothing(
    s3_bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CuttingProxy(s3_server.endpoint, max_sent_bytes=MEGABYTE) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StorageError, match="run/out"):
            storage.publish_bytes(f"{s3_bucket}/run/out", bytes(5 * MEGABYTE))
    assert storage.list_names(f"{s3_bucket}/run") == set()


# --- reading little ---


def test_one_column_of_one_row_group_is_a_part_of_the_object(
    s3_bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"id": list(range(4000)), "text": [os.urandom(500).hex() for _ in range(4000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=1000)
    storage.publish_bytes(f"{s3_bucket}/shard.parquet", buffer.getvalue())
    with CuttingProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with storage.open_parquet(f"{s3_bucket}/shard.parquet") as parquet:
            ids = storage.read_row_group(parquet, 2, ["id"], f"{s3_bucket}/shard.parquet")
    assert ids["id"].to_pylist() == list(range(2000, 3000))
    assert proxy.num_bytes["received"] < len(buffer.getvalue()) / 20


# --- folders ---


def test_a_folder_is_copied_with_everything_below_it(folder: str, tmp_path: Path) -> None:
    contents = {"config.json": b"{}", "model.safetensors": os.urandom(8 * MEGABYTE), "sub/tokenizer.json": b"[]"}
    for name, data in contents.items():
        storage.publish_bytes(storage.join(folder, name), data)
    local = tmp_path / "cache" / "model"
    storage.download_folder(folder, local)
    assert {str(path.relative_to(local)): path.read_bytes() for path in local.rglob("*") if path.is_file()} == contents
    assert [path.name for path in local.parent.iterdir()] == ["model"]


def test_a_copy_that_is_there_is_left_alone(folder: str, tmp_path: Path) -> None:
    storage.publish_bytes(storage.join(folder, "a"), b"new")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(b"old")
    storage.download_folder(folder, tmp_path / "model")
    assert (tmp_path / "model" / "a").read_bytes() == b"old"


def test_a_copy_that_breaks_off_leaves_no_folder(
    s3_bucket: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish_bytes(f"{s3_bucket}/model/a", b"small")
    storage.publish_bytes(f"{s3_bucket}/model/b", bytes(4 * MEGABYTE))
    with CuttingProxy(s3_server.endpoint, max_received_bytes=MEGABYTE) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StorageError):
            storage.download_folder(f"{s3_bucket}/model", tmp_path / "cache" / "model")
    assert proxy.num_cuts >= 1
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_copies_at_once_agree(s3_bucket: str, tmp_path: Path) -> None:
    storage.publish_bytes(f"{s3_bucket}/model/a", bytes(MEGABYTE))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: storage.download_folder(f"{s3_bucket}/model", tmp_path / "model"), range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").stat().st_size == MEGABYTE


def test_a_folder_with_nothing_in_it_is_not_downloaded(folder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing or empty"):
        storage.download_folder(folder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_object_named_to_climb_out_of_the_folder_is_refused(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = (
        "<Contents><Key>model/../../evil</Key><Size>1</Size><ETag>x</ETag></Contents>"  # SeaweedFS refuses such keys
    )
    listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>"
    with closing(_answering(_http("200 OK", listing))) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(InputError, match="no file name here"):
            storage.download_folder(f"{s3_bucket}/model", tmp_path / "cache" / "model")
    assert not (tmp_path / "evil").exists()
    assert list((tmp_path / "cache").iterdir()) == []


# --- errors of the server ---

OPERATIONS: dict[str, Callable[[str], object]] = {
    "list_objects": lambda bucket: storage.list_objects(f"{bucket}/run/*.parquet"),
    "list_folder": lambda bucket: storage.list_objects(f"{bucket}/run"),
    "list_names": lambda bucket: storage.list_names(f"{bucket}/run"),
    "exists": lambda bucket: storage.exists(f"{bucket}/run/a.parquet"),
    "read_bytes": lambda bucket: storage.read_bytes(f"{bucket}/run/a.parquet"),
    "publish_bytes": lambda bucket: storage.publish_bytes(f"{bucket}/run/b.parquet", b"x"),
    "read_table": lambda bucket: storage.read_table(f"{bucket}/run/a.parquet"),
    "download_folder": lambda bucket: storage.download_folder(f"{bucket}/run", Path("/nonexistent/never")),
}
main_operations = pytest.mark.parametrize("operation", ["list_names", "publish_bytes", "read_bytes", "read_table"])


def _fails(operation: str, bucket: str, kind: type[FinfError]) -> str:
    """The one-line text of the error; it names the place and holds no credential."""
    with pytest.raises(kind) as failed:
        OPERATIONS[operation](bucket)
    assert type(failed.value) is kind
    text = str(failed.value)
    assert f"{bucket}/run" in text
    assert "\n" not in text
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert os.environ.get(name, "no value") not in text
    return text


WRONG_CREDENTIALS: dict[str, dict[str, str | None]] = {
    "secret": {"AWS_SECRET_ACCESS_KEY": "wrong-Secret-1234567"},
    "key": {"AWS_ACCESS_KEY_ID": "UNKNOWNKEY1234567"},
    "token": {"AWS_ACCESS_KEY_ID": "UNKNOWNKEY1234567", "AWS_SESSION_TOKEN": "wrong-Token-1234567"},
    "none": {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
    "half": {"AWS_SECRET_ACCESS_KEY": None},
    "profile": {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_PROFILE": "no-such-profile"},
}


@pytest.mark.parametrize("wrong", WRONG_CREDENTIALS)
def test_wrong_credentials_are_an_input_error(s3_bucket: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish_table(f"{s3_bucket}/run/a.parquet", TABLE)  # the right ones work first: nothing is remembered
    for name, value in WRONG_CREDENTIALS[wrong].items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    for operation in OPERATIONS:
        text = _fails(operation, s3_bucket, InputError)
        assert text.startswith("access denied to s3://"), operation
        assert "AWS_ACCESS_KEY_ID" in text


def test_credentials_put_right_work_at_once(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish_table(f"{s3_bucket}/run/a.parquet", TABLE)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-Secret-1234567")
        _fails("read_bytes", s3_bucket, InputError)
        _fails("read_table", s3_bucket, InputError)
    assert storage.read_bytes(f"{s3_bucket}/run/a.parquet")
    assert storage.read_table(f"{s3_bucket}/run/a.parquet").equals(TABLE)


def test_the_credentials_of_a_profile_are_found(
    s3_bucket: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    keys = f"aws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    credentials.write_text(f"[scans]\n{keys}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "scans")
    storage.publish_table(f"{s3_bucket}/a.parquet", TABLE)
    assert storage.read_table(f"{s3_bucket}/a.parquet").equals(TABLE)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://user:hunter2@127.0.0.1:1", "ftp://127.0.0.1", "http://"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_that_is_none_is_refused_by_name(
    s3_bucket: str, name: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, endpoint)
    for operation in ("read_bytes", "read_table"):
        with pytest.raises(InputError, match=f"{name} must read") as refused:
            OPERATIONS[operation](s3_bucket)
        assert "hunter2" not in str(refused.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same timeouts, shorter; the clients are made anew before and after."""
    _forget_clients()
    for name, seconds in {"CONNECT_SECONDS": 1, "SILENCE_SECONDS": 1, "PUT_SECONDS": 4}.items():
        monkeypatch.setattr(s3_clients, name, seconds)
    yield
    _forget_clients()


def _forget_clients() -> None:
    s3_clients._cached_s3fs.cache_clear()
    s3_clients._cached_arrow.cache_clear()


def _bounded(operation: str, bucket: str, seconds: float) -> None:
    started = time.monotonic()
    _fails(operation, bucket, StorageError)
    assert time.monotonic() - started < seconds


@main_operations
def test_a_server_that_is_not_there_is_a_storage_error(
    s3_bucket: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    _bounded(operation, s3_bucket, seconds=15)


@main_operations
@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_answers_is_a_storage_error(
    s3_bucket: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _bounded(operation, s3_bucket, seconds=30)


def _answering(answer: bytes) -> socket.socket:
    """A server with one answer to everything."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # closed by the test
            while True:
                connection, _ = listener.accept()
                with connection, suppress(ConnectionError):
                    connection.recv(65_536)
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def _http(status: str, body: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode()


ANSWERS = {
    "500": (_http("500 Internal Server Error"), StorageError),
    "503": (_http("503 Slow Down", "<Error><Code>SlowDown</Code><Message>slow</Message></Error>"), StorageError),
    "429": (_http("429 Too Many Requests"), StorageError),
    "nothing": (b"", StorageError),
    "403": (_http("403 Forbidden", "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"), InputError),
    "400": (_http("400 Bad Request", "<Error><Code>InvalidArgument</Code><Message>no</Message></Error>"), InputError),
    "expired": (
        _http("400 Bad Request", "<Error><Code>ExpiredToken</Code><Message>old</Message></Error>"),
        StorageError,
    ),
    "late": (_http("403 Forbidden", "<Error><Code>RequestExpired</Code><Message>old</Message></Error>"), StorageError),
}


@main_operations
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_server_says_decides_who_must_act(
    s3_bucket: str, operation: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, kind = ANSWERS[answer]
    with closing(_answering(text)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        _fails(operation, s3_bucket, kind)


@pytest.mark.parametrize("operation", ["read_bytes", "read_table"])
def test_an_answer_that_breaks_off_is_a_storage_error(
    s3_bucket: str, s3_server: S3Server, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish_table(f"{s3_bucket}/run/a.parquet", pa.table({"x": [os.urandom(MEGABYTE) for _ in range(3)]}))
    with CuttingProxy(s3_server.endpoint, max_received_bytes=MEGABYTE) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        _fails(operation, s3_bucket, StorageError)
    assert proxy.num_cuts >= 1


def test_one_break_is_repaired_by_reading_again(
    s3_bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * MEGABYTE)
    storage.publish_bytes(f"{s3_bucket}/a", data)
    with CuttingProxy(s3_server.endpoint, max_received_bytes=MEGABYTE) as proxy:
        proxy._on_cut = lambda: proxy._limits.update(received=None)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert storage.read_bytes(f"{s3_bucket}/a") == data
    assert proxy.num_cuts == 1


def test_many_threads_share_the_clients(s3_bucket: str) -> None:
    storage.publish_table(f"{s3_bucket}/a.parquet", TABLE)
    with ThreadPoolExecutor(16) as pool:
        tables = list(pool.map(lambda _: storage.read_table(f"{s3_bucket}/a.parquet"), range(64)))
        names = list(pool.map(lambda _: storage.list_names(s3_bucket), range(64)))
    assert all(table.equals(TABLE) for table in tables)
    assert names == [{"a.parquet"}] * 64


def test_a_name_that_is_too_long_is_an_input_error(tmp_path: Path) -> None:
    for operation in (storage.read_bytes, storage.exists, lambda uri: storage.publish_bytes(uri, b"x")):
        with pytest.raises(InputError, match="too long"):
            operation(str(tmp_path / ("a" * 300)))


@pytest.mark.parametrize("pays", [True, False])
def test_who_pays_is_said_in_every_request(
    pays: bool, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket}/folder/table.parquet"
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("FINF_S3_REQUESTER_PAYS", "1" if pays else "")
        storage.publish_table(uri, pa.table({"a": [1, 2, 3]}))
        assert [found.uri for found in storage.list_objects(f"{s3_bucket}/folder/*.parquet")] == [uri]
        parquet = storage.open_parquet(uri)
        assert storage.read_row_group(parquet, 0, ["a"], uri).num_rows == 3
    assert {method for method, _ in proxy.heard} >= {"GET", "PUT"}
    assert {headers.get("x-amz-request-payer") for _, headers in proxy.heard} == {"requester" if pays else None}
